"""Vectors in SQL: their bytes, the changes feed, tombstones and published snapshots."""
