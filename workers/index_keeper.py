"""Keeps an index in step with each generation that is written to, and publishes its snapshots, beside the commits.

Knows no Redis. It runs on one thread of its own, so that commits wait for neither a large index nor a slow store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

from pipeline.replica import IndexReplica
from storage.catalog import Catalog
from storage.errors import IndexFileError, SnapshotDamaged, StorageError, VisualSearchError
from storage.snapshots import SnapshotStore
from workers.signs.metrics import FEED_LAG, INDEX_SEQ, SNAPSHOT_SEQ, SNAPSHOT_TIME, STAGE_SECONDS

_RETRY_SECONDS = 30.0  # after a snapshot that failed: a full disk is not hammered

_FORGET_SECONDS = 3600.0  # an index that nobody wrote to for so long leaves memory: its generation may be retired

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotPolicy:
    """Publish after so many changes, or after so long when anything changed at all."""

    changes: int
    seconds: float


@dataclass
class _Kept:
    replica: IndexReplica
    published_at: float
    written_at: float
    not_before: float = 0.0


class IndexKeeper:
    """Follows generations and publishes snapshots of them; close it at shutdown.

    `follow` and `close` belong to one thread. A snapshot that fails is logged and tried again later.
    """

    def __init__(self, catalog: Catalog, snapshots: SnapshotStore, policy: SnapshotPolicy) -> None:
        self._catalog = catalog
        self._snapshots = snapshots
        self._policy = policy
        self._touched: set[int] = set()
        self._kept: dict[int, _Kept] = {}  # touched by the running step alone
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._step: Future[None] | None = None

    def follow(self, generation_ids: Iterable[int] = ()) -> None:
        """Note which generations were written to, and let the thread catch up unless it still does; never waits.

        Call it now and then without ids: snapshots become due by time too. Raises what went wrong unexpectedly
        on the thread.
        """
        self._touched.update(generation_ids)
        if self._step is not None:
            if not self._step.done():
                return
            self._step.result()
        touched, self._touched = self._touched, set()
        self._step = self._pool.submit(self._catch_up, touched)

    def close(self) -> None:
        """Wait for what is being written, and stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def seqs(self) -> dict[int, int]:
        """Where the index of each followed generation stands."""
        return {generation_id: kept.replica.seq for generation_id, kept in list(self._kept.items())}

    def _catch_up(self, touched: set[int]) -> None:
        for generation_id in touched | set(self._kept):
            try:
                self._keep(generation_id, written=generation_id in touched)
            except VisualSearchError as error:
                # Commits go on: an index is only derived from them. It follows again with the next one, from the
                # beginning: after a catalog was restored from a copy, what the index holds is not to be trusted.
                self._kept.pop(generation_id, None)
                _forget_measures(generation_id)  # rather none than those of before
                _log.warning("the index of generation %d cannot follow now: %s", generation_id, error)

    def _keep(self, generation_id: int, *, written: bool) -> None:
        kept = self._kept.get(generation_id)
        if kept is None:
            kept = self._begin(generation_id)
        elif written or self._catalog.generations.get(generation_id).last_seq > kept.replica.seq:  # deletions, too
            kept.replica.catch_up()
            kept.written_at = monotonic()
        if self._is_due(kept):
            try:
                self._publish(kept)
            except SnapshotDamaged as error:
                _log.error("the index of generation %d is loaded anew: %s", generation_id, error)
                kept = self._begin(generation_id)
        self._measure(kept)
        if kept.replica.seq == kept.replica.snapshot_seq and monotonic() - kept.written_at >= _FORGET_SECONDS:
            del self._kept[generation_id]
            _forget_measures(generation_id)

    def _begin(self, generation_id: int) -> _Kept:
        generation = self._catalog.generations.get(generation_id)
        replica = IndexReplica.boot(self._catalog, generation, self._snapshots)
        kept = self._kept[generation_id] = _Kept(replica, monotonic(), monotonic())
        if (newest := self._catalog.snapshots.newest(generation_id)) is not None:
            SNAPSHOT_TIME.labels(str(generation_id)).set(newest.created_at.timestamp())
        _log.info("following generation %d from change %d", generation_id, replica.seq)
        return kept

    def _measure(self, kept: _Kept) -> None:
        name, replica = str(kept.replica.generation.id), kept.replica
        INDEX_SEQ.labels(name).set(replica.seq)
        SNAPSHOT_SEQ.labels(name).set(replica.snapshot_seq)
        FEED_LAG.labels(name).set(self._catalog.generations.get(replica.generation.id).last_seq - replica.seq)

    def _is_due(self, kept: _Kept) -> bool:
        moment = monotonic()
        changes = kept.replica.seq - kept.replica.snapshot_seq
        if not changes or moment < kept.not_before:
            return False
        return changes >= self._policy.changes or moment - kept.published_at >= self._policy.seconds

    def _publish(self, kept: _Kept) -> None:
        generation_id, started = kept.replica.generation.id, monotonic()
        try:
            kept.replica.publish(self._snapshots)
        except (StorageError, IndexFileError) as error:
            kept.not_before = monotonic() + _RETRY_SECONDS
            _log.error("no snapshot of generation %d, next try in %.0f s: %s", generation_id, _RETRY_SECONDS, error)
            return
        kept.published_at = monotonic()
        took = kept.published_at - started
        STAGE_SECONDS.labels("snapshot").observe(took)
        SNAPSHOT_TIME.labels(str(generation_id)).set_to_current_time()
        _log.info("snapshot of generation %d at change %d (%.1f s)", generation_id, kept.replica.seq, took)


def _forget_measures(generation_id: int) -> None:
    for gauge in (INDEX_SEQ, SNAPSHOT_SEQ, SNAPSHOT_TIME, FEED_LAG):
        gauge.remove_by_labels({"generation": str(generation_id)})
