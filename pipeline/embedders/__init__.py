"""Embedders: each turns prepared pictures (and, where it can, texts) into unit-length vectors."""
