"""Computes: decode, embed, index, search, rerank, evaluate. Knows no Celery, no Redis and no HTTP."""
