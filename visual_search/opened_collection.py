"""A collection that is open, and the one model that it is bound to; knows neither sources nor searching."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self

from pipeline.decode import DecodeLimits
from pipeline.decoding_children import children_of
from pipeline.embedders.checkpoint import canonical_name
from pipeline.embedding_service import EmbeddingService
from storage.catalog import CollectionRecord, Generation, catalog_exists, catalog_of, catalog_place
from storage.errors import ModelMismatch, UnknownCollection
from storage.settings import Settings, load_settings


class OpenedCollection:
    """The catalog, the collection's record, and its model, which is loaded when it is needed first."""

    def __init__(self, name: str | None = None, *, settings: Settings | None = None, create: bool = True) -> None:
        self.settings = settings or load_settings()
        self.name = name or self.settings.collection
        if not create and not catalog_exists(self.settings):
            raise UnknownCollection(
                f"nothing is indexed in {catalog_place(self.settings)} yet: "
                "run `visual-search index FOLDER`, or name another --data-dir"
            )
        self.catalog = catalog_of(self.settings)
        try:
            self.record: CollectionRecord = (
                self.catalog.collections.ensure(self.name) if create else self.catalog.collections.get(self.name)
            )
        except Exception:
            self.catalog.close()
            raise
        self._service: EmbeddingService | None = None
        self.children = children_of(self.settings)  # in which pictures are decoded, if the settings ask for it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the catalog, end decoding processes; the object is done."""
        if self.children is not None:
            self.children.close()
        self.catalog.close()

    @property
    def generation(self) -> Generation | None:
        """The active generation, None while the collection is empty and no model is bound to it."""
        return self.catalog.generations.active(self.record.id)

    @property
    def embedding_service(self) -> EmbeddingService:
        """The model of this collection, loaded at first use. Raises ModelMismatch when its files changed."""
        return self._service_for(self.generation)

    def check_model(self, name: str) -> None:
        """Raise ModelMismatch when the collection holds vectors of another model than this one."""
        generation = self.generation
        if generation is not None and canonical_name(name) != generation.model.name:
            raise ModelMismatch(
                f"collection '{self.name}' holds vectors of {generation.model}, not of '{name}': vectors of two "
                "models cannot be compared. Leave --model out, index into another --collection, or change the "
                "model of this one with `visual-search reindex --model`"
            )

    def _service_for(self, generation: Generation | None) -> EmbeddingService:
        """The model of a generation (None: of the settings); checked at each use, for generations may switch."""
        if self._service is None or (generation is not None and self._service.identity != generation.model):
            self._service = self._load_service(generation)
        return self._service

    def _load_service(self, generation: Generation | None) -> EmbeddingService:
        name = generation.model.name if generation is not None else self.settings.model
        service = EmbeddingService(
            name,
            device=self.settings.device,
            dtype=self.settings.dtype,
            batch_size=self.settings.batch_size,
            backend=self.settings.backend,
            decoding=self.settings.decoding,
            like=generation.model if generation is not None else None,
            limits=DecodeLimits(max_bytes=self.settings.max_image_bytes, max_pixels=self.settings.max_image_pixels),
            children=self.children,
        )
        if generation is not None and generation.model != service.identity:
            raise ModelMismatch(
                f"collection '{self.name}' holds vectors of {generation.model}, but '{name}' is now "
                f"{service.identity}: restore that checkpoint, or index into another --collection"
            )
        return service

    def _generation_or_new(self) -> Generation:
        generation = self.generation
        if generation is None:
            return self.catalog.generations.ensure_active(self.record.id, self._service_for(None).identity)
        return generation
