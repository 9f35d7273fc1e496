"""Indexing a source: list -> plan -> fetch -> decode -> embed -> commit, one file per step, overlapped."""
