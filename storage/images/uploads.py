"""Where pictures are kept that somebody sent: the setting `uploads_address`. Knows neither HTTP nor jobs."""

from __future__ import annotations

from pathlib import Path

from storage.images.backend import StorageBackend
from storage.images.local import LocalStorage
from storage.images.locate import open_source
from storage.settings import Settings


def open_uploads(settings: Settings, collection: str) -> StorageBackend:
    """Open the place that keeps a collection's uploaded pictures; a folder is made if need be. Raises StorageError."""
    root, most = settings.uploads_root, settings.max_image_bytes
    if "://" in root:
        return open_source(f"{root.rstrip('/')}/{collection}", max_bytes=most)
    return LocalStorage(Path(root).expanduser() / collection, max_bytes=most)
