"""Reranking: small steps over a stream of results. Loads no FAISS, since the asking side needs the options.

The reranker itself is loaded at first use: who only asks loads not even NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.rerank.options import RerankOptions

if TYPE_CHECKING:
    from pipeline.rerank.reranker import Reranker

__all__ = ["RerankOptions", "Reranker"]


def __getattr__(name: str) -> Any:
    """Load the reranker (PEP 562)."""
    if name != "Reranker":
        raise AttributeError(f"module 'pipeline.rerank' has no attribute '{name}'")
    from pipeline.rerank.reranker import Reranker

    return Reranker
