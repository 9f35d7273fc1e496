"""Answers searches: query vectors, batches against the index, reranking. Knows no Redis."""
