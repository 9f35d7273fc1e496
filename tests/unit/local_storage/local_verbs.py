"""The verbs of a store called by name, and where a test of them can run."""

from __future__ import annotations

import os
import sys

import pytest

from storage.images.local import LocalStorage

VERBS = ["get", "stat", "exists", "delete", "put"]


posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX file types and permissions")


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc, and file names of any bytes")


def call(storage: LocalStorage, verb: str, key: str) -> object:
    return storage.put(key, b"data") if verb == "put" else getattr(storage, verb)(key)


def keys_of(storage: LocalStorage, prefix: str = "") -> list[str]:
    return [stored.key for stored in storage.list(prefix)]
