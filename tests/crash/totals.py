"""What all runs of the crash loop together did and came to, and how that is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

# What the roles' logs say when a fault really hit something
SEEN = {
    "no snapshot of generation": "a snapshot could not be written",
    "is loaded anew": "an index found its mapped snapshot changed",
    "is passed over": "a damaged snapshot was passed over",
    "another aggregator writes now": "a writer found itself replaced",
    "the lease ran out and is lost": "a worker found its lease lost",
    "delivered again, or cancelled": "a batch came twice and was not committed again",
    "scheduled sync of": "a scheduled sync ran",
}


@dataclass
class Totals:
    """What all runs together did and came to."""

    faults: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    hit_a_running_job: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    deleted: int = 0
    submitted: int = 0
    indexed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    problems: int = 0

    def told(self, runs: int, seconds: float) -> str:
        """The report that ends the program."""
        failed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.failed.items())) or "none"
        lines = [
            f"\n{runs} runs in {seconds:.0f} s, {self.deaths} processes died and were started again",
            f"the last fault came before the job was over in {self.hit_a_running_job} of {runs} runs",
            *(f"  {count:4} {name}" for name, count in sorted(self.faults.items())),
            *(f"  {count:4} {name}: SKIPPED, not possible on this machine" for name, count in self.skipped.items()),
            *(f"  {count:4} in the logs: {what}" for what, count in sorted(self.seen.items())),
            f"{self.submitted} images submitted, {self.indexed} indexed, {self.deleted} deleted meanwhile",
            f"failed with a reason: {failed}",
            f"lost {self.lost}, doubled {self.doubled}, other problems {self.problems}",
        ]
        return "\n".join(lines)
