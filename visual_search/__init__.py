"""Visual Search: exact image search over your own photos. The public names; see docs/library.md.

Names are loaded at first use, so that `import visual_search` is instant and a program that only reads results
never loads FAISS or torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from visual_search.version import __version__

if TYPE_CHECKING:
    from pipeline.audit import AuditReport
    from pipeline.embedding_service import EmbeddingService
    from pipeline.evaluate import EvaluationResult, ModelEvaluator, evaluate_model
    from pipeline.indexing.report import IndexReport
    from pipeline.indexing.selection import SourceSelection
    from pipeline.indexing_service import IndexingService
    from pipeline.rerank import Reranker, RerankOptions
    from pipeline.results import SearchResult, SearchResults
    from pipeline.search import NearestNeighborSearch
    from query_service.async_client import AsyncSearchClient
    from query_service.client import SearchClient
    from query_service.protocol import QueryPart, SearchAnswer
    from storage.embedding_vector import EmbeddingVector
    from storage.errors import VisualSearchError
    from storage.filters import And, Equals, Exists, In, Not, Or, Range
    from storage.images.local import LocalStorage
    from storage.images.s3 import S3Storage
    from storage.records import ImageMetadata, ModelIdentity
    from storage.settings import Settings, load_settings
    from storage.vector_index import VectorIndex
    from visual_search.collection import ImageCollection
    from visual_search.query import Query
    from workers.job_client import JobClient

_HOMES = {
    "And": "storage.filters",
    "AsyncSearchClient": "query_service.async_client",
    "AuditReport": "pipeline.audit",
    "EmbeddingService": "pipeline.embedding_service",
    "EmbeddingVector": "storage.embedding_vector",
    "Equals": "storage.filters",
    "EvaluationResult": "pipeline.evaluate",
    "Exists": "storage.filters",
    "ImageCollection": "visual_search.collection",
    "ImageMetadata": "storage.records",
    "In": "storage.filters",
    "IndexReport": "pipeline.indexing.report",
    "IndexingService": "pipeline.indexing_service",
    "JobClient": "workers.job_client",
    "LocalStorage": "storage.images.local",
    "ModelEvaluator": "pipeline.evaluate",
    "ModelIdentity": "storage.records",
    "NearestNeighborSearch": "pipeline.search",
    "Not": "storage.filters",
    "Or": "storage.filters",
    "Query": "visual_search.query",
    "QueryPart": "query_service.protocol",
    "Range": "storage.filters",
    "RerankOptions": "pipeline.rerank",
    "Reranker": "pipeline.rerank",
    "S3Storage": "storage.images.s3",
    "SearchAnswer": "query_service.protocol",
    "SearchClient": "query_service.client",
    "SearchResult": "pipeline.results",
    "SearchResults": "pipeline.results",
    "Settings": "storage.settings",
    "SourceSelection": "pipeline.indexing.selection",
    "VectorIndex": "storage.vector_index",
    "VisualSearchError": "storage.errors",
    "evaluate_model": "pipeline.evaluate",
    "load_settings": "storage.settings",
}

__all__ = [
    "And",
    "AsyncSearchClient",
    "AuditReport",
    "EmbeddingService",
    "EmbeddingVector",
    "Equals",
    "EvaluationResult",
    "Exists",
    "ImageCollection",
    "ImageMetadata",
    "In",
    "IndexReport",
    "IndexingService",
    "JobClient",
    "LocalStorage",
    "ModelEvaluator",
    "ModelIdentity",
    "NearestNeighborSearch",
    "Not",
    "Or",
    "Query",
    "QueryPart",
    "Range",
    "RerankOptions",
    "Reranker",
    "S3Storage",
    "SearchAnswer",
    "SearchClient",
    "SearchResult",
    "SearchResults",
    "Settings",
    "SourceSelection",
    "VectorIndex",
    "VisualSearchError",
    "__version__",
    "evaluate_model",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'visual_search' has no attribute '{name}'")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
