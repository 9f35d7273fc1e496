"""The engine of the query worker: a batch of requests to as many replies. Knows no Redis.

The stages are shared: one model call for all pictures and one for all texts, one index call for all requests
without a filter and one for each different filter, one look into SQL for all pages of a collection.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

from query_service.answers.asked import Asked, Served, error_reply, open_ones
from query_service.answers.batch_search import CollectionSearch
from query_service.answers.query_vectors import QueryVectors
from query_service.answers.stage_seconds import StageSeconds
from query_service.errors import DeadlineExceeded
from query_service.protocol import Provenance, SearchReply, SearchRequest
from storage.catalog import Catalog
from storage.errors import UnknownCollection
from storage.settings import allowed_threads
from workers.models import LoadedModels

__all__ = ["Answering", "Served"]

_DECODE_THREADS = 4  # at most: decoders release the GIL, and a batch seldom has more pictures


class Answering:
    """Answers batches of requests, one batch at a time, from one thread. Close it at shutdown."""

    def __init__(self, catalog: Catalog, models: LoadedModels, *, worker: str | None = None) -> None:
        self._catalog = catalog
        self._models = models
        self._worker = worker or f"{socket.gethostname()}:{os.getpid()}"
        threads = min(_DECODE_THREADS, allowed_threads())
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def close(self) -> None:
        """End the decoding threads; catalog and models are the caller's."""
        self._threads.shutdown()

    def answer(
        self, requests: Sequence[SearchRequest], served: Mapping[str, Served], still_wanted: Callable[[str], bool]
    ) -> list[SearchReply]:
        """Reply to each request, in order. Never raises: what goes wrong is the reply of those it concerns.

        `still_wanted(request_id)` is asked before embedding and before searching; False (its time is over, or it
        was cancelled) ends the request with `deadline_exceeded`. An answer is of the index as it stands at the
        provenance's `seq`: an image that SQL has deleted since is still a result, without address or attributes,
        until the replica catches up; so pages stay full and fit together.
        """
        started, seconds = perf_counter(), StageSeconds()
        known = {
            place: Asked(request, served[request.collection])
            for place, request in enumerate(requests)
            if request.collection in served
        }
        _drop_unwanted(known.values(), still_wanted)
        with seconds.of("embed"):
            self._embed(open_ones(known.values()))
        _drop_unwanted(known.values(), still_wanted)
        with seconds.of("search"):
            self._search(open_ones(known.values()), seconds)
        seconds.add("total", perf_counter() - started)
        provenances = {name: self._provenance(one, len(requests), seconds) for name, one in served.items()}
        return [
            _reply(known[place], provenances[request.collection]) if place in known else _unknown_collection(request)
            for place, request in enumerate(requests)
        ]

    def _embed(self, batch: Sequence[Asked]) -> None:
        for group in _grouped(batch, lambda asked: asked.served.generation.model):
            model = group[0].served.generation.model
            QueryVectors(partial(self._models.get, model), self._threads).embed(group)

    def _search(self, batch: Sequence[Asked], seconds: StageSeconds) -> None:
        for group in _grouped(batch, lambda asked: asked.request.collection):
            CollectionSearch(group[0].served, self._catalog, seconds).search(group)

    def _provenance(self, served: Served, batch_size: int, seconds: StageSeconds) -> Provenance:
        return Provenance(
            worker=self._worker,
            model=served.generation.model,
            generation_id=served.generation.id,
            seq=served.replica.seq,
            images=len(served.replica.index),
            batch_size=batch_size,
            stage_seconds=seconds.by_stage(),
        )


def _drop_unwanted(batch: Iterable[Asked], still_wanted: Callable[[str], bool]) -> None:
    for asked in open_ones(batch):
        if not still_wanted(asked.request.request_id):
            asked.fail(DeadlineExceeded("its time was over, or it was cancelled, before it could be answered"))


def _grouped(batch: Iterable[Asked], key: Callable[[Asked], Hashable]) -> list[list[Asked]]:
    groups: dict[Hashable, list[Asked]] = {}
    for asked in batch:
        groups.setdefault(key(asked), []).append(asked)
    return list(groups.values())


def _reply(asked: Asked, provenance: Provenance) -> SearchReply:
    try:
        return asked.reply(provenance)
    except Exception as error:  # noqa: BLE001 - results that cannot be told must not end the whole batch
        asked.fail(error)
        return SearchReply(request_id=asked.request.request_id, error=asked.error)


def _unknown_collection(request: SearchRequest) -> SearchReply:
    error = UnknownCollection(f"there is no searchable collection '{request.collection}'")
    return SearchReply(request_id=request.request_id, error=error_reply(error, request.request_id))
