"""Records of queued jobs: what is asked, its batches of image references, leases and results. Knows no SQL."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from storage.catalog.records import Generation, IndexBatch, JobRecord, JobState
from storage.records import Attributes

BatchState = Literal["pending", "leased", "done", "cancelled"]

OUTCOMES = ("indexed", "reused", "refreshed", "unchanged", "deleted", "failed")  # each listed image ends as one
REINDEX = "reindex"  # kind of a job that fills a generation beside the active one
FILE_LIST = "list"  # kind of a job whose images were named one by one, wherever they are
RETRY = "retry"  # kind of a job that tries again what stands in the failures, wherever it is
_BY_ADDRESS = (REINDEX, FILE_LIST, RETRY)  # their references' keys are whole addresses
UNFINISHED_JOB: tuple[JobState, ...] = ("listing", "running")
UNFINISHED_BATCH: tuple[BatchState, ...] = ("pending", "leased")


@dataclass(frozen=True)
class JobOptions:
    """How a job selects and treats its images; `batch_images` alone does not change what comes of it.

    `attributes_sha256` stands for the content of the attributes file, `items_sha256` for images that were named
    one by one. `mirror`: also remove images that were recorded from this source and that it no longer lists.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    id_prefix: str = ""
    attributes_sha256: str = ""
    items_sha256: str = ""
    batch_images: int = 128
    mirror: bool = False
    restore_deleted: bool = False

    def as_json(self) -> dict[str, Any]:
        """The options as the catalog stores them."""
        return asdict(self) | {"include": list(self.include), "exclude": list(self.exclude)}


@dataclass(frozen=True)
class JobRequest:
    """What one job is to do; `source` is a storage address, larger `priority` goes first."""

    collection_id: int
    generation_id: int
    kind: str
    source: str
    options: JobOptions = field(default_factory=JobOptions)
    priority: int = 0

    @property
    def key(self) -> str:
        """A sha256 that two requests share when they ask for the same result.

        Only a reindex is about a generation. Other images go where searches look by then, so a listing that was
        broken off is gone on with also after a switch.
        """
        deciding = {name: value for name, value in self.options.as_json().items() if name != "batch_images"}
        generation_id = self.generation_id if self.kind == REINDEX else None
        asked = [self.collection_id, generation_id, self.kind, self.source, deciding]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class BatchItem:
    """A reference to one image to embed: its id, where it is, and its attributes (None: those known stay)."""

    image_id: str
    key: str
    uri: str
    etag: str
    size_bytes: int
    attributes: Attributes | None = None

    def as_json(self) -> dict[str, Any]:
        """The item as the catalog stores it."""
        fields = asdict(self)
        if self.attributes is None:
            del fields["attributes"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> BatchItem:
        """Read what `as_json` wrote."""
        return cls(**fields)


@dataclass(frozen=True)
class LeasedBatch:
    """A batch that its holder alone works on while the lease runs; `token` proves it.

    `source` is the storage address that the items' keys belong to, unless they are read `by_address`.
    """

    id: int
    job_id: int
    collection_id: int
    generation: Generation
    source: str
    items: Sequence[BatchItem]
    token: int
    restore_deleted: bool
    attempts: int = 1
    kind: str = "index"

    @property
    def by_address(self) -> bool:
        """Whether each item's key is its whole address: the items may be of several stores."""
        return self.kind in _BY_ADDRESS


@dataclass(frozen=True)
class JobProgress:
    """How far a job is, in images. `pending` have no outcome yet; `removed` were gone from a mirrored source.

    `rate` is images per second over the newest finished batches (of a finished job: over all its time);
    `eta_seconds` is None while nothing can be said, as it is during the listing.
    """

    job: JobRecord
    listed: int
    indexed: int
    reused: int
    refreshed: int
    unchanged: int
    deleted: int
    failed: int
    removed: int
    pending: int
    batches_left: int
    rate: float
    eta_seconds: float | None

    @property
    def done(self) -> int:
        """How many listed images have an outcome that is committed."""
        return self.indexed + self.reused + self.refreshed + self.unchanged + self.deleted + self.failed

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: also no batch that was leased when the job was cancelled."""
        return self.job.state not in UNFINISHED_JOB and self.batches_left == 0


@dataclass(frozen=True)
class BatchResult:
    """What one worker made of one batch: outcomes to commit, and how many images had which outcome."""

    batch_id: int
    generation_id: int
    batch: IndexBatch
    counts: Mapping[str, int]


@dataclass(frozen=True)
class UnsentBatch:
    """A batch that waits and is in no queue, as far as the catalog knows."""

    batch_id: int
    priority: int


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found: expired leases, batches it split, images it gave up, batches to send (again).

    `waiting_since` is when the oldest job began that has a batch without a worker; None when no batch waits.
    """

    expired: int = 0
    split: int = 0
    given_up: int = 0
    to_send: Sequence[UnsentBatch] = ()
    waiting_since: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Lease:
    """The right to be the only one doing something; `epoch` is larger than that of every holder before."""

    name: str
    holder: str
    epoch: int
    seconds: float = 60.0


def add_counts(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """The sum of both, name by name."""
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}
