"""The models that a worker process has loaded: each once, by the identity that a batch's generation asks for."""

from __future__ import annotations

import logging
from collections import OrderedDict
from time import perf_counter

from pipeline.decode import DecodeLimits
from pipeline.decoding_children import children_of
from pipeline.embedders.options import Weights
from pipeline.embedding_service import EmbeddingService
from storage.errors import ModelMismatch
from storage.records import ModelIdentity
from storage.settings import Settings

_LOG = logging.getLogger(__name__)

_MOST_LOADED = 2  # the active generation's and one that is being built


class LoadedModels:
    """Loads at first use and keeps the last two. For one thread: the one that runs tasks."""

    def __init__(self, settings: Settings, *, weights: Weights = "packed") -> None:
        self._settings, self._weights = settings, weights
        self._children = children_of(settings)  # ends by itself with this object or the process
        self._loaded: OrderedDict[ModelIdentity, EmbeddingService] = OrderedDict()

    def get(self, wanted: ModelIdentity) -> EmbeddingService:
        """The service with exactly this identity.

        Raises ModelMismatch when the files here make another one, ModelUnavailable or UnsupportedModel when they
        cannot be loaded.
        """
        if wanted not in self._loaded:
            while len(self._loaded) >= _MOST_LOADED:
                self._loaded.popitem(last=False)
            self._loaded[wanted] = self._load(wanted)
        self._loaded.move_to_end(wanted)
        return self._loaded[wanted]

    def _load(self, wanted: ModelIdentity) -> EmbeddingService:
        started = perf_counter()
        settings = self._settings
        service = EmbeddingService(
            wanted.name,
            device=settings.device,
            dtype=settings.dtype,
            batch_size=settings.batch_size,
            backend=settings.backend,
            like=wanted,
            weights=self._weights,
            limits=DecodeLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
            children=self._children,
        )
        if service.identity != wanted:
            raise ModelMismatch(
                f"this worker's '{wanted.name}' is {service.identity}, the collection's vectors are of {wanted}: "
                "give the worker the same checkpoint"
            )
        _LOG.info("loaded %s in %.1f s", wanted, perf_counter() - started)
        return service
