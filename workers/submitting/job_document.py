"""A job as a JSON document: the same one wherever jobs are shown. Knows no output."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from storage.catalog import JobProgress

COUNTS = ("indexed", "reused", "refreshed", "unchanged", "deleted", "failed", "removed", "pending")


def job_document(progress: JobProgress) -> dict[str, Any]:
    """What was asked, its state, counts, rate in images per second and ETA in seconds; times are datetimes."""
    document = asdict(progress.job)
    del document["counts"], document["request_key"]
    counts = {name: getattr(progress, name) for name in ("listed", *COUNTS)}
    return document | {
        "counts": counts,
        "batches_left": progress.batches_left,
        "rate": round(progress.rate, 2),
        "eta_seconds": None if progress.eta_seconds is None else round(progress.eta_seconds, 1),
        "is_over": progress.is_over,
    }
