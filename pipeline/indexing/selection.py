"""Which files of a store are meant, as a user says it, and the `Source` that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InvalidQuery
from pipeline.indexing.sidecar import read_sidecar
from pipeline.indexing.source import Source
from storage.images.allowed_sources import ANYWHERE, AllowedSources
from storage.images.locate import open_source


@dataclass(frozen=True)
class SourceSelection:
    """Which files of a source are meant, under which ids, with which attributes.

    `include` and `exclude` are shell patterns over the path inside the source; `attributes_file` is a CSV or
    JSON Lines sidecar.
    """

    id_prefix: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    attributes_file: str | Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.include, str) or isinstance(self.exclude, str):
            raise InvalidQuery("include and exclude are lists of patterns, not one text")


def source_at(
    address: str | Path, selection: SourceSelection, max_bytes: int, allowed: AllowedSources = ANYWHERE
) -> Source:
    """Open the source at an address. Raises StorageError when it is none or not allowed, SidecarError."""
    allowed.check(address)
    return Source(
        backend=open_source(address, max_bytes=max_bytes),
        id_prefix=selection.id_prefix,
        include=tuple(selection.include),
        exclude=tuple(selection.exclude),
        attributes=read_sidecar(Path(selection.attributes_file)) if selection.attributes_file else None,
    )
