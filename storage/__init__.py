"""Keeps: images (local, S3), the SQL catalog with its vectors, FAISS indexes. Knows no Celery, no Redis and no HTTP."""
