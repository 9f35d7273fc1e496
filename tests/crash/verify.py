"""Says what is wrong after a crash run: every submitted image indexed exactly once, or failed with a reason.

Works on plain data that `gather` reads, so that a test can show that it does complain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.replica import IndexReplica
from storage.catalog import Catalog, tables
from storage.snapshots import SnapshotStore

_TOLERANCE = 1e-6

Vector = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class State:
    """What SQL and the indexes made of it hold at the end."""

    live: Sequence[str]  # ids of image rows that are not deleted, as often as they stand there
    vectors: Mapping[str, Vector]  # of the active generation, tombstones left out
    seqs: Sequence[int]  # of all its feed rows
    failures: Mapping[str, str]  # image id to reason
    from_sql: Mapping[str, Vector]  # an index made of SQL alone
    from_snapshot: Mapping[str, Vector]  # one that booted from the newest whole snapshot
    counts: Mapping[str, int] = field(default_factory=dict)  # of the job, `listed` among them
    unfinished_batches: int = 0


@dataclass(frozen=True)
class Expected:
    """What was submitted: good images with the vectors that the embedded mode gives them, bad ones with reasons."""

    vectors: Mapping[str, Vector]
    failures: Mapping[str, str]
    deleted: frozenset[str] = frozenset()  # by the run itself, while it ran


@dataclass(frozen=True)
class Verdict:
    """Empty lists: all is well."""

    lost: list[str]
    doubled: list[str]
    problems: list[str]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.problems)


def judge(expected: Expected, state: State) -> Verdict:
    """Compare what was submitted with what is there."""
    wanted = set(expected.vectors) - expected.deleted
    times = Counter(state.live)
    lost = [one for one in wanted if one not in times and one not in state.failures]
    lost += [one for one in expected.failures if one not in state.failures]
    doubled = [one for one, count in times.items() if count > 1]
    return Verdict(sorted(lost), sorted(doubled), list(_problems(expected, state, wanted)))


def _problems(expected: Expected, state: State, wanted: set[str]) -> list[str]:
    found = []
    if unknown := set(state.live) - wanted:
        found.append(f"live, but never submitted or deleted: {sorted(unknown)[:5]}")
    if wrong := {one: reason for one, reason in state.failures.items() if expected.failures.get(one) != reason}:
        found.append(f"failed for another reason than expected: {dict(list(wrong.items())[:5])}")
    if both := set(state.live) & set(state.failures):
        found.append(f"both live and failed: {sorted(both)[:5]}")
    if len(set(state.seqs)) != len(state.seqs):
        found.append("two changes of the feed have the same number")
    if set(state.vectors) != set(state.live):
        found.append(f"images and vectors differ: {sorted(set(state.vectors) ^ set(state.live))[:5]}")
    found += _different("the embedded mode", {one: expected.vectors[one] for one in wanted}, state.vectors)
    found += _different("an index made of SQL", state.from_sql, state.vectors)
    found += _different("an index booted from a snapshot", state.from_snapshot, state.vectors)
    outcomes = sum(count for name, count in state.counts.items() if name not in ("listed", "removed"))
    if outcomes != state.counts.get("listed", 0):
        found.append(f"the job's counts do not add up: {dict(state.counts)}")
    if state.unfinished_batches:
        found.append(f"{state.unfinished_batches} batches are not done")
    return found


def _different(name: str, first: Mapping[str, Vector], second: Mapping[str, Vector]) -> list[str]:
    if set(first) != set(second):
        return [f"{name} holds other images: {sorted(set(first) ^ set(second))[:5]}"]
    wrong = [one for one, vector in first.items() if float(np.abs(vector - second[one]).max()) > _TOLERANCE]
    return [f"{name} has other vectors for {len(wrong)} images: {sorted(wrong)[:5]}"] if wrong else []


def gather(catalog: Catalog, snapshots: SnapshotStore, collection: str, job_id: int) -> State:
    """Read the state, the rows themselves and not what the catalog's own look-ups make of them."""
    collection_id = catalog.collections.get(collection).id
    generation = catalog.generations.active(collection_id)
    assert generation is not None
    images, vectors = tables.images.c, tables.vectors.c
    with catalog._database.read() as connection:
        live = tables.images.select().where(images.collection_id == collection_id, images.deleted_at.is_(None))
        ids = [row.image_id for row in connection.execute(live)]
        rows = tables.vectors.select().where(vectors.generation_id == generation.id)
        seqs, held = [], {}
        for row in connection.execute(rows):
            seqs.append(row.seq)
            if row.vector is not None:
                held[row.image_id] = np.frombuffer(row.vector, dtype="<f4")
    replica = IndexReplica(catalog, generation)
    replica.catch_up()
    booted = IndexReplica.boot(catalog, generation, snapshots)
    job = catalog.jobs.get(job_id)
    names = ("listed", "indexed", "reused", "refreshed", "unchanged", "deleted", "failed")
    return State(
        live=ids,
        vectors=held,
        seqs=seqs,
        failures={one.image_id: one.reason for one in catalog.failures.list(collection_id)},
        from_sql=_held(replica),
        from_snapshot=_held(booted),
        counts={name: getattr(job, name) for name in names},
        unfinished_batches=job.batches_left,
    )


def _held(replica: IndexReplica) -> dict[str, Vector]:
    ids = replica.index.ids()
    return dict(zip(ids, replica.index.reconstruct_many(ids), strict=True))
