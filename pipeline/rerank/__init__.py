"""Reranking: small steps over a stream of results. Loads no FAISS, since the asking side needs the options."""

from pipeline.rerank.options import RerankOptions
from pipeline.rerank.reranker import Reranker

__all__ = ["RerankOptions", "Reranker"]
