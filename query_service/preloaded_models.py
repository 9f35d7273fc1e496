"""The models of the query worker: loaded in the background while the main thread goes on asking the loaded ones."""

from __future__ import annotations

from threading import Lock

from pipeline.embedding_service import EmbeddingService
from storage.records import ModelIdentity
from storage.settings import Settings
from workers.models import LoadedModels


class PreloadedModels(LoadedModels):
    """As `LoadedModels`, for several threads: a model that is there is had at once, whatever is being loaded."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._loading = Lock()
        self._ready: dict[ModelIdentity, EmbeddingService] = {}  # replaced as a whole, never changed

    def get(self, wanted: ModelIdentity) -> EmbeddingService:
        """The service with exactly this identity; waits while it is loaded. Raises as `LoadedModels.get`."""
        found = self._ready.get(wanted)
        if found is None:
            with self._loading:
                found = super().get(wanted)
                self._ready = dict(self._loaded)
        return found
