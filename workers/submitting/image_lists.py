"""What a list of images asks for: how it is read, and the request under which its job is entered. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import InvalidQuery
from pipeline.indexing.file_list import FileList
from pipeline.indexing.selection import SourceSelection, source_at
from pipeline.indexing.sidecar import read_sidecar
from storage.catalog import FILE_LIST, Generation, JobOptions, JobRequest
from storage.images.allowed_sources import AllowedSources
from storage.images.locate import open_source
from storage.records import Attributes
from storage.settings import Settings
from workers.submitting.submit import digest_of_attributes

WHOLE_ADDRESSES = "addresses"  # source of a job whose list has no source that names could be below


@dataclass(frozen=True)
class ImageLists:
    """Reads lists under these settings; each line is held against `allowed`."""

    settings: Settings
    allowed: AllowedSources

    def named(self, lines: BinaryIO, source: str | Path | None, selection: SourceSelection) -> FileList:
        """The images that these lines name. Raises InvalidQuery, StorageError, SidecarError."""
        if selection.include or selection.exclude:
            raise InvalidQuery("a list names its images itself: no include and no exclude")
        attributes: Mapping[str, Attributes] | None = None
        if source is not None:
            attributes = source_at(source, selection, self.settings.max_image_bytes, self.allowed).attributes
        elif selection.attributes_file is not None:
            attributes = read_sidecar(Path(selection.attributes_file))
        return FileList(
            lines,
            "" if source is None else str(source),
            selection.id_prefix,
            attributes,
            self.settings.max_image_bytes,
            self.settings.fetch_threads,
            self.allowed,
        )

    def request(
        self, named: FileList, generation: Generation, priority: int, *, restore_deleted: bool = False
    ) -> JobRequest:
        """The request of their job; the same list makes the same one."""
        options = JobOptions(
            id_prefix=named.id_prefix,
            attributes_sha256=digest_of_attributes(named.attributes),
            items_sha256=named.digest(),
            batch_images=self.settings.batch_images,
            restore_deleted=restore_deleted,
        )
        address = open_source(named.source).uri("") if named.source else WHOLE_ADDRESSES
        return JobRequest(generation.collection_id, generation.id, FILE_LIST, address, options, priority)
