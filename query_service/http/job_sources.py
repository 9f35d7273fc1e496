"""Which sources jobs may be given over HTTP: whoever may submit could otherwise read any folder of the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from storage.errors import StorageDenied
from storage.images.file_uri import path_of_file_uri


def check_source(address: str, allowed: Sequence[str]) -> None:
    """Raise StorageDenied unless the address lies in one of those allowed; none means that every one is."""
    if allowed and not any(_within(address, root) for root in allowed):
        raise StorageDenied("this source is none of those that jobs may be given (job_sources)")


def _within(address: str, root: str) -> bool:
    if _scheme(address) != _scheme(root):
        return False
    if _scheme(address) == "s3":
        place, top = (text.partition("://")[2].rstrip("/") + "/" for text in (address, root))
        return place.startswith(top)
    return _folder(address).is_relative_to(_folder(root))


def _scheme(address: str) -> str:
    scheme, separator, _ = address.partition("://")
    return "file" if not separator else scheme.lower()


def _folder(address: str) -> Path:
    """The folder itself, whatever links and `..` lead to it."""
    path = path_of_file_uri(address) if "://" in address else address
    return Path(path).expanduser().resolve()
