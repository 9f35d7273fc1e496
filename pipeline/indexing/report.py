"""What one run of indexing did: counts by outcome and seconds by stage."""

from __future__ import annotations

from pydantic import BaseModel, Field


class IndexReport(BaseModel):
    """Counts of one run. `listed` is the sum of the six outcomes once the run has finished.

    `stage_seconds`: list is wall seconds of the main thread; fetch, decode, embed and commit are seconds summed over
    the threads that did them while the main thread went on.
    """

    listed: int = 0
    indexed: int = 0  # embedded by the model
    reused: int = 0  # equal content was embedded before: its vector was taken
    refreshed: int = 0  # content unchanged, attributes, address or etag updated
    unchanged: int = 0
    deleted: int = 0  # deleted from the collection before; left so
    failed: int = 0
    failures_by_reason: dict[str, int] = Field(default_factory=dict)
    attributes_unused: int = 0  # sidecar rows that named no listed image
    seconds: float = 0.0
    stage_seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many listed images have an outcome that is committed."""
        return self.indexed + self.reused + self.refreshed + self.unchanged + self.deleted + self.failed

    def spend(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds

    def count(self, outcomes: dict[str, int], failure_reasons: list[str]) -> None:
        """Add committed outcomes, and the reasons of the failures among them."""
        for name, number in outcomes.items():
            setattr(self, name, getattr(self, name) + number)
        for reason in failure_reasons:
            self.failures_by_reason[reason] = self.failures_by_reason.get(reason, 0) + 1

    def counts(self) -> dict[str, int]:
        """The counts alone, as they are recorded with the job."""
        names = ("listed", "indexed", "reused", "refreshed", "unchanged", "deleted", "failed")
        return {name: getattr(self, name) for name in names}
