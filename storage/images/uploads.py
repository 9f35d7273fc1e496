"""Where pictures are kept that somebody sent: the setting `uploads_address`. Knows neither HTTP nor jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import ImageTooLarge, InvalidKey, StorageError, StorageUnavailable, UploadsUnusable
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


@contextmanager
def kept_as_configured() -> Iterator[None]:
    """Tell a place that is missing or refuses from what is wrong with a picture. Raises UploadsUnusable in place of it.

    A bucket that is not there is no fault of who sends the picture, nor is a password that is not accepted.
    """
    try:
        yield
    except (InvalidKey, ImageTooLarge, StorageUnavailable):
        raise
    except StorageError as error:
        raise UploadsUnusable(f"uploads cannot be kept (uploads_address): {error}") from error
