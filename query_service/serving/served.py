"""Which collections are searched now, and how they follow the catalog: all SQL of it on threads of its own.

The following threads fetch and load; what they have is applied by the thread that searches, between two batches
(`current`), so that no batch sees half a change or two generations. Knows no Redis.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Thread
from time import monotonic

from pipeline.replica import IndexReplica
from query_service.answers.asked import Served
from query_service.metrics import REPLICA_IMAGES, REPLICA_LAG, REPLICA_SEQ
from query_service.serving.followed import Followed
from storage.catalog import Catalog, CollectionRecord, Generation
from storage.errors import VisualSearchError
from storage.snapshots import SnapshotStore
from workers.machine.logs import about

POLL_SECONDS = 0.25  # one small SQL query: how late a change is seen whose hint was lost
_RETRY_SECONDS = 5.0  # after a load that failed
_SHORT_RETRY_SECONDS = 1.0  # the same, where waiting helps
_LAST_SECONDS = 3.0  # for the following thread, to end
LOADING_THREADS = "load"  # begins the names of the threads that load
_BOOT_THREADS = 2  # a large collection that is loading does not keep a small one waiting

_log = logging.getLogger(__name__)


class ServedCollections:
    """Follows every collection that can be searched; use it as a context.

    `prepare` is called with each generation before it is searched first, on a loading thread: it loads the model.
    """

    def __init__(self, catalog: Catalog, snapshots: SnapshotStore, prepare: Callable[[Generation], None]) -> None:
        self._catalog = catalog
        self._snapshots = snapshots
        self._prepare = prepare
        self._stop, self._wake, self._looked = Event(), Event(), Event()
        self._followed: dict[int, Followed] = {}  # by generation; the follower's
        self._loads: dict[int, Future[Followed]] = {}
        self._not_before: dict[int, float] = {}
        self._unavailable = False
        # Replaced as a whole by the follower, so that the searching thread reads them without a lock
        self._table: Mapping[str, tuple[Served, Followed]] = {}
        self._loading: frozenset[str] = frozenset()  # names of collections that cannot be searched yet
        self._broken: frozenset[str] = frozenset()  # those that the searching thread found so; the follower follows
        self._pool = ThreadPoolExecutor(_BOOT_THREADS, thread_name_prefix=LOADING_THREADS)
        self._thread = Thread(target=self._follow, name="follow", daemon=True)

    def __enter__(self) -> ServedCollections:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(_LAST_SECONDS)  # else SQL is silent; the thread keeps no process from ending
        self._pool.shutdown(wait=False, cancel_futures=True)

    def current(self) -> dict[str, Served]:
        """What is searched from now on, up to date with all that was fetched; for the thread that searches."""
        table = self._table
        for _, followed in table.values():
            followed.apply()
        self._broken = frozenset(name for name, (_, followed) in table.items() if followed.broken)
        return {name: served for name, (served, _) in table.items() if name not in self._broken}

    def loading(self) -> frozenset[str] | None:
        """Names of collections that can be searched later; None before the first look: any may be one then."""
        return self._loading | self._broken if self._looked.is_set() else None

    def is_loading(self, name: str) -> bool:
        """Whether this is one of them."""
        names = self.loading()
        return names is None or name in names

    def hint(self) -> None:
        """Something changed: look now, not with the next poll. Any thread may call it."""
        self._wake.set()

    def wait_until_loaded(self, seconds: float, stop: Event) -> bool:
        """Wait, so long at most, until every collection there is now can be searched; whether that is so."""
        end = monotonic() + seconds
        while not stop.is_set() and monotonic() < end:
            if self._looked.is_set() and not self._loading:
                return True
            stop.wait(0.02)
        return False

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except VisualSearchError as error:
                if not self._unavailable:
                    _log.warning("searches go on with what is in memory: %s", error)
                self._unavailable = True
            except Exception:  # noqa: BLE001 - the thread must live, or what is searched would grow old in silence
                _log.exception("the catalog could not be followed; searches go on with what is in memory")
                self._stop.wait(_RETRY_SECONDS)
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()

    def _look(self) -> None:
        active = self._catalog.generations.all_active()
        if self._unavailable:
            _log.info("the catalog can be followed again")
            self._unavailable = False
        for _, generation in active:
            self._guarded(self._keep_up, generation)
        self._publish(active)
        self._forget_others({generation.id for _, generation in active})
        self._looked.set()

    def _guarded(self, step: Callable[[Generation], None], generation: Generation) -> None:
        """A generation that cannot be read (a damaged row, its vectors gone) keeps no other from being followed."""
        if monotonic() < self._not_before.get(generation.id, 0.0):
            return
        try:
            step(generation)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other collections are searched on
            _log.warning("cannot be followed or loaded now: %r", error, extra=about(generation=generation.id))
            will_pass = isinstance(error, VisualSearchError) and error.retryable
            self._not_before[generation.id] = monotonic() + (_SHORT_RETRY_SECONDS if will_pass else _RETRY_SECONDS)

    def _forget_others(self, wanted: set[int]) -> None:
        """Generations that are active no more go, unless one is searched until its successor is loaded."""
        shown = {followed.replica.generation.id for _, followed in self._table.values()}
        for generation_id in self._followed.keys() - wanted:
            if generation_id in shown:  # deletions count until then
                self._guarded(self._fetch, self._followed[generation_id].replica.generation)
            else:
                del self._followed[generation_id]
        for generation_id in [one for one, load in self._loads.items() if one not in wanted and load.done()]:
            del self._loads[generation_id]

    def _fetch(self, generation: Generation) -> None:
        self._followed[generation.id].fetch()

    def _keep_up(self, generation: Generation) -> None:
        followed = self._followed.get(generation.id)
        if followed is not None and generation.last_seq < followed.fetched_seq:
            _log.warning(
                "the catalog stands at change %d, the index at %d: it was restored from an older copy, loading anew",
                generation.last_seq,
                followed.fetched_seq,
                extra=about(generation=generation.id),
            )
            followed = None
        if followed is None or followed.broken:
            self._followed.pop(generation.id, None)
            followed = self._loaded(generation)
        elif followed.replica.is_of_changed_files() or followed.replica.can_rest_anew(self._snapshots):
            followed = self._loaded(generation) or followed  # once it is loaded
        if followed is not None and followed.fetched_seq < generation.last_seq:
            followed.fetch()

    def _loaded(self, generation: Generation) -> Followed | None:
        """The replica once it is loaded; until then None. Raises what kept it from being loaded.

        One that comes in place of another, also of another generation, first has all changes: no search goes back.
        """
        load = self._loads.get(generation.id)
        if load is None:
            self._loads[generation.id] = self._pool.submit(self._load, generation)
            return None
        if not load.done():
            return None
        if load.exception() is None and self._is_shown(generation):
            load.result().fetch()  # should this fail, what is loaded waits for the next look
        del self._loads[generation.id]
        self._followed[generation.id] = load.result()
        return self._followed[generation.id]

    def _is_shown(self, generation: Generation) -> bool:
        shown = self._table.values()
        return any(one.collection.id == generation.collection_id and not followed.broken for one, followed in shown)

    def _load(self, generation: Generation) -> Followed:
        started = monotonic()
        replica = IndexReplica.boot(self._catalog, generation, self._snapshots)
        self._prepare(generation)
        _log.info(
            "loaded %d images at change %d in %.1f s",
            len(replica.index),
            replica.seq,
            monotonic() - started,
            extra=about(generation=generation.id),
        )
        self.hint()
        return Followed(replica)

    def _publish(self, active: list[tuple[CollectionRecord, Generation]]) -> None:
        """Show each collection's active generation once it is loaded, until then the one that was shown before."""
        table: dict[str, tuple[Served, Followed]] = {}
        for collection, generation in active:
            followed = self._followed.get(generation.id)
            before = self._table.get(collection.name)
            if followed is not None and not followed.broken:
                if before is not None and before[1] is followed:
                    table[collection.name] = before
                else:
                    table[collection.name] = Served(collection, generation, followed.replica), followed
                    _log.info("searched from now on", extra=about(collection=collection.name, generation=generation.id))
            elif before is not None and before[0].collection.id == collection.id and not before[1].broken:
                table[collection.name] = before
        for gone in self._table.keys() - table.keys():
            for gauge in (REPLICA_SEQ, REPLICA_IMAGES, REPLICA_LAG):
                gauge.remove(gone)
        loading = frozenset(collection.name for collection, _ in active) - table.keys()
        self._loading |= loading  # at no moment a collection is in neither: searches would be told that there is none
        self._table = table
        self._loading = loading
        _measure(active, table)


def _measure(active: list[tuple[CollectionRecord, Generation]], table: Mapping[str, tuple[Served, Followed]]) -> None:
    for collection, generation in active:
        if collection.name in table:
            replica = table[collection.name][0].replica
            REPLICA_SEQ.labels(collection.name).set(replica.seq)
            REPLICA_IMAGES.labels(collection.name).set(len(replica.index))
            REPLICA_LAG.labels(collection.name).set(max(0, generation.last_seq - replica.seq))
