"""Changing the model by the queue: jobs of kind `reindex` fill a generation, then it is measured and switched to.

Each round queues every image that the new generation is missing; the next one takes what came meanwhile. All state
stands in SQL: whatever is killed, the same request finds the generation and the unfinished job and goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import InvalidQuery, ReindexIncomplete
from pipeline.reindex import Gate, ReindexReport, by_address, switch
from storage.catalog import REINDEX, Generation, JobOptions, JobProgress, JobRequest
from storage.settings import Settings
from workers.submitting.model_identity import identity_of
from workers.submitting.planner import Placed
from workers.submitting.submit import Submission

LOOK_SECONDS = 0.5  # between two looks at a round

OnRound = Callable[[JobProgress], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueuedPlan:
    """To which model a collection is to change, what has to be measured first, and whether to switch at the end."""

    model: str
    gate: Gate | None = None
    switch: bool = True


class QueuedReindex:
    """One change of the model. `submit` queues a round and returns; `run` waits for all of them and switches."""

    def __init__(self, submission: Submission, settings: Settings, collection: str, plan: QueuedPlan) -> None:
        """Begin the generation, or find it begun; loads the model once, to know which one it is.

        Raises UnknownCollection, InvalidQuery (the collection is empty, or of that model already),
        ModelUnavailable, UnsupportedModel.
        """
        self._submission = submission
        self._catalog = submission.catalog
        self._plan = plan
        record = self._catalog.collections.get(collection)
        active = self._catalog.generations.active(record.id)
        if active is None:
            raise InvalidQuery(f"collection '{collection}' is empty: there is nothing to reindex")
        identity = identity_of(plan.model, settings)
        if identity == active.model:
            raise InvalidQuery(f"the collection is of {active.model} already; --rebuild makes its generation anew")
        self._active = active
        self.target: Generation = self._catalog.lifecycle.begin(record.id, identity)
        options = JobOptions(batch_images=settings.batch_images)
        source = f"stored images, for {identity.name}"
        self._request = JobRequest(record.id, self.target.id, REINDEX, source, options)

    def submit(self) -> JobProgress | None:
        """Queue what the new generation is missing, or take up the job that does; None when nothing is missing."""
        job = self._catalog.jobs.unfinished(self._request)
        if job is None and not self._catalog.lifecycle.missing_count(self.target.id):
            return None
        return self._submission.placed(self._request, self.target, self._missing(job.listed_until if job else ""))

    def run(self, on_progress: OnRound | None = None) -> ReindexReport:
        """Queue rounds until nothing is missing, then pass the gate and switch.

        Raises GateFailed, ReindexIncomplete (some images cannot be embedded, or a round was cancelled); the active
        generation is then as it was.
        """
        report = ReindexReport(generation_id=self.target.id)
        gate, stuck = self._plan.gate, False
        while True:
            done = self._round(report, on_progress)
            stuck = done is not None and done.failed > 0 and not done.indexed + done.reused
            if done is not None and not stuck:
                continue  # once more, for what came meanwhile and for what may have failed by chance
            if not self._plan.switch:
                return report
            try:
                return switch(self._catalog, report, self._active, gate)
            except ReindexIncomplete:
                if stuck:
                    raise
                log.info("images came while the new generation was measured: one more round")
                gate = None if report.gate is not None else gate

    def _round(self, report: ReindexReport, on_progress: OnRound | None) -> JobProgress | None:
        """One round to its end, counted in the report; None when there was nothing to do."""
        progress = self.submit()
        if progress is None:
            report.failed = 0
            return None
        while True:
            if on_progress is not None:
                on_progress(progress)
            if progress.is_over:
                break
            time.sleep(LOOK_SECONDS)
            progress = self._catalog.jobs.get(progress.job.id)
        if progress.job.state != "finished":
            raise ReindexIncomplete(
                f"job {progress.job.id} is {progress.job.state}: the active generation stays, what was embedded is "
                "kept; the same command goes on with the rest"
            )
        report.embedded += progress.indexed
        report.reused += progress.reused
        report.failed = progress.failed
        return progress

    def _missing(self, after: str) -> Iterator[Placed]:
        for image in self._catalog.lifecycle.missing(self.target.id, after=after):
            yield image.image_id, by_address(image)
