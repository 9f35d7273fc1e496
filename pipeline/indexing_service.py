"""The library's way to index: pictures in, stored and searchable at once; no SQL and no queue needed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from pipeline.decode import upright_rgb
from pipeline.embedders.base import Pixels
from pipeline.embedding_service import EmbeddingService, ImageInput
from pipeline.errors import IdTaken
from pipeline.indexing.chunks import chunks
from pipeline.indexing.source import IMAGE_SUFFIXES
from storage.attributes import normal_attributes
from storage.errors import (
    ImageNotFound,
    IndexFileError,
    InvalidImageId,
    ModelMismatch,
    StorageDenied,
    StorageError,
    VisualSearchError,
)
from storage.images.backend import StorageBackend
from storage.index_files import read_attachment
from storage.records import Attributes, ImageMetadata, image_id_problem
from storage.vector_index import VectorIndex

_METADATA_FILE = "metadata.json"


@dataclass(frozen=True)
class _Described:
    """One picture ready for the model: where its file goes, what is known of it, and its input."""

    key: str
    metadata: ImageMetadata
    pixels: Pixels


@dataclass
class BatchReport:
    """What `index_images` did: the metadata of what was indexed, and the error of each image that was not."""

    indexed: list[ImageMetadata] = field(default_factory=list)
    failures: dict[str, VisualSearchError] = field(default_factory=dict)


class IndexingService:
    """Stores images, embeds them and keeps a VectorIndex and their metadata in step, all in this process.

    `metadata` maps image ids to what is known of them; pass `indexing_service.metadata_of` to
    NearestNeighborSearch so that results carry attributes. Raises ModelMismatch when the index holds vectors
    of another model.
    """

    def __init__(self, storage: StorageBackend, embedding_service: EmbeddingService, index: VectorIndex) -> None:
        _check_same_model(embedding_service, index)
        self.storage = storage
        self.embedding_service = embedding_service
        self.index = index
        self.metadata: dict[str, ImageMetadata] = {}
        self._owners: dict[str, str] = {}  # stored address -> image id
        index.model = embedding_service.identity

    def index_image(self, image: ImageInput, image_id: str, attributes: Attributes | None = None) -> ImageMetadata:
        """Store and index one picture (file path, encoded bytes or a PIL image), replacing what had this id.

        Encoded bytes and files are stored as they are; a PIL image is stored as PNG, as it is embedded: upright, RGB.
        Raises DecodeError or StorageError; the index is then as it was.
        """
        report = self.index_images([(image_id, image)], attributes={image_id: attributes or {}})
        if image_id in report.failures:
            raise report.failures[image_id]
        return report.indexed[0]

    def index_images(
        self,
        images: Iterable[tuple[str, ImageInput]],
        attributes: Mapping[str, Attributes] | None = None,
    ) -> BatchReport:
        """Store and index many pictures in model batches; one bad picture fails alone, in the report."""
        report = BatchReport()
        for batch in chunks(images, self.embedding_service.batch_size):
            entries = []
            for image_id, image in batch:
                try:
                    data = _encoded(image)
                    entries.append((data, self._describe(image_id, data, (attributes or {}).get(image_id))))
                except VisualSearchError as error:
                    report.failures[image_id] = error
            self._index(entries, report, store=True)
        return report

    def index_storage(self, prefix: str = "") -> BatchReport:
        """Index every image file that the storage holds under the prefix; the key becomes the image id."""
        report = BatchReport()
        listed = (one.key for one in self.storage.list(prefix) if _looks_like_image(one.key))
        for keys in chunks(listed, self.embedding_service.batch_size):
            entries = []
            for key in keys:
                try:
                    data = self.storage.get(key)
                    entries.append((data, self._describe(key, data, None, key=key)))
                except VisualSearchError as error:
                    report.failures[key] = error
            self._index(entries, report, store=False)
        return report

    def remove_image(self, image_id: str) -> None:
        """Take an image out of the index; its stored file stays. Raises UnknownImageId."""
        self.index.remove(image_id)
        self.metadata.pop(image_id, None)

    def metadata_of(self, image_ids: Sequence[str]) -> dict[str, ImageMetadata]:
        """The metadata of those ids that are known."""
        return {image_id: self.metadata[image_id] for image_id in image_ids if image_id in self.metadata}

    def save_index(self, path: str | Path) -> None:
        """Save index, model identity and metadata into a folder, all or nothing."""
        rows = [entry.model_dump(mode="json") for entry in self.metadata.values()]
        self.index.save(path, attachments={_METADATA_FILE: json.dumps(rows).encode()})

    @classmethod
    def load_index(
        cls, path: str | Path, storage: StorageBackend, embedding_service: EmbeddingService
    ) -> IndexingService:
        """Carry on with a saved index. Raises IndexFileError, or ModelMismatch when another model made it."""
        service = cls(storage, embedding_service, VectorIndex.load(path))
        try:
            rows = json.loads(read_attachment(path, _METADATA_FILE))
            entries = [ImageMetadata.model_validate(row) for row in rows]
        except ValueError as error:
            raise IndexFileError(f"{path}: the metadata beside the index cannot be read: {error}") from error
        service.metadata = {entry.image_id: entry for entry in entries}
        service._owners = {entry.source_uri: entry.image_id for entry in entries}
        return service

    def _describe(
        self, image_id: str, data: bytes, attributes: Attributes | None, key: str | None = None
    ) -> _Described:
        problem = image_id_problem(image_id)
        if problem is not None:
            raise InvalidImageId(problem)
        prepared = self.embedding_service.prepare(data)
        key = key or _key_of(image_id, prepared.format)
        owner = self._owners.setdefault(self.storage.uri(key), image_id)
        if owner != image_id:
            raise IdTaken(f"image id '{image_id}' would be stored as '{key}', which holds the image '{owner}'")
        metadata = ImageMetadata(
            image_id=image_id,
            source_uri=self.storage.uri(key),
            sha256=hashlib.sha256(data).hexdigest(),
            width=prepared.width,
            height=prepared.height,
            format=prepared.format,
            bytes=len(data),
            attributes=normal_attributes(attributes or {}),
        )
        return _Described(key, metadata, prepared.pixels)

    def _index(self, entries: list[tuple[bytes, _Described]], report: BatchReport, *, store: bool) -> None:
        if not entries:
            return
        vectors = self.embedding_service.embed_prepared([entry.pixels for _, entry in entries])
        for (data, entry), vector in zip(entries, vectors, strict=True):
            image_id = entry.metadata.image_id
            try:
                if store:
                    self.storage.put(entry.key, data)
            except StorageError as error:
                report.failures[image_id] = error
                continue
            self.index.upsert(image_id, vector)
            self.metadata[image_id] = entry.metadata
            report.indexed.append(entry.metadata)


def _check_same_model(service: EmbeddingService, index: VectorIndex) -> None:
    if index.dimension != service.dimension:
        raise ModelMismatch(
            f"the index holds {index.dimension}-d vectors, {service.identity} makes {service.dimension}-d ones: "
            f"use VectorIndex(dimension={service.dimension})"
        )
    if len(index) and index.model is not None and index.model != service.identity:
        raise ModelMismatch(f"the index was made by {index.model}, not by {service.identity}: load that model")


def _encoded(image: ImageInput) -> bytes:
    """The picture's file as it is, or a PNG of a picture that has none."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        upright_rgb(image).picture.save(buffer, format="PNG")
        return buffer.getvalue()
    try:
        return Path(image).read_bytes()
    except FileNotFoundError as error:
        raise ImageNotFound(f"no file at {image}") from error
    except OSError as error:
        raise StorageDenied(f"cannot read {image}: {error.strerror}") from error


def _key_of(image_id: str, format_: str) -> str:
    """The id itself when it ends like an image file, else with the ending of its format."""
    return image_id if _looks_like_image(image_id) else f"{image_id}.{format_.lower()}"


def _looks_like_image(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES
