"""The models of the query worker: loaded in the background while the main thread goes on asking the loaded ones."""

from __future__ import annotations

from threading import Lock
from time import monotonic

from pipeline.embedding_service import EmbeddingService
from storage.records import ModelIdentity
from storage.settings import Settings
from workers.models import LoadedModels

_FAILED_SECONDS = 30.0  # until a model is tried again: each try takes seconds, in which no search would be answered


class PreloadedModels(LoadedModels):
    """As `LoadedModels`, for several threads: a model that is there is had at once, whatever is being loaded."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._loading = Lock()
        self._ready: dict[ModelIdentity, EmbeddingService] = {}  # replaced as a whole, never changed
        self._failed: dict[ModelIdentity, tuple[float, Exception]] = {}  # when it failed, and why

    def get(self, wanted: ModelIdentity) -> EmbeddingService:
        """The service with exactly this identity; waits while it is loaded. Raises as `LoadedModels.get`.

        What could not be loaded is not tried again for half a minute: the same error is raised at once.
        """
        found = self._ready.get(wanted)
        return self._loaded_now(wanted) if found is None else found

    def _loaded_now(self, wanted: ModelIdentity) -> EmbeddingService:
        failed_at, error = self._failed.get(wanted, (0.0, None))
        if error is not None and monotonic() - failed_at < _FAILED_SECONDS:
            raise error.with_traceback(None)
        with self._loading:
            try:
                service = super().get(wanted)
            except Exception as reason:  # whatever it is, it is remembered and raised
                self._failed[wanted] = monotonic(), reason
                raise
            self._failed.pop(wanted, None)
            self._ready = dict(self._loaded)
            return service
