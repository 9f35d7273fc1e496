"""`visual-search reindex`: another model, or a rebuild, with no interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.errors import InvalidQuery
from pipeline.reindex import Gate, ReindexReport
from storage.catalog import Generation, JobProgress
from storage.settings import Settings
from visual_search.cli.job_output import job_line, print_job
from visual_search.cli.options import AsJson, CollectionName, ConfigFile, DataDir, open_existing, settings_from
from visual_search.cli.output import ExitCode, console, error_console, print_json
from visual_search.cli.progress import indexing_progress
from visual_search.reindexing import ReindexPlan, reindex
from workers.job_client import JobClient
from workers.submitting.queued_reindex import QueuedPlan

EXAMPLES = """
**Examples**

`visual-search reindex --model openai/clip-vit-large-patch14`

`visual-search reindex --model ./my-checkpoint --gate ground_truth.json --metric recall@10 --max-drop 0.01`

`visual-search reindex --model openai/clip-vit-large-patch14 --queue`

`visual-search reindex --rebuild`
"""


def command(  # noqa: PLR0913 - one parameter per command-line option
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Embed all stored images with this model.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the generation anew from its stored vectors; no model needed.")
    ] = False,
    gate: Annotated[
        Path | None, typer.Option("--gate", help="Ground truth: switch only if the metric does not drop too far.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="recall@K, precision@K, ndcg@K, success@K, map or mrr.")] = (
        "recall@10"
    ),
    max_drop: Annotated[float, typer.Option("--max-drop", min=0.0, help="Allowed drop; 0.01 is one point.")] = 0.0,
    switch: Annotated[bool, typer.Option(help="Switch when done; --no-switch only builds.")] = True,
    queue: Annotated[
        bool, typer.Option("--queue", help="Let the embed workers do it, beside their other jobs.")
    ] = False,
    wait: Annotated[
        bool, typer.Option(help="With --queue: wait and switch; --no-wait only queues, the same command again goes on.")
    ] = True,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Build a new generation beside the active one, then switch. Searches go on; interrupted, the same command goes on.

    The earlier generation stays on standby for `generations rollback`, until `generations prune`.
    """
    if (model is None) == (not rebuild):
        raise InvalidQuery("give either --model NAME or --rebuild")
    if queue and model is None:
        raise InvalidQuery("--queue is for --model: a rebuild copies stored vectors, which no worker can speed up")
    if not wait and not queue:
        raise InvalidQuery("--no-wait goes with --queue")
    measured = Gate(gate, metric, max_drop) if gate is not None else None
    settings = settings_from(config, data_dir)
    if queue and model is not None:
        reindex_by_queue(settings, collection, QueuedPlan(model, measured, switch), wait=wait, as_json=as_json)
    with open_existing(settings, collection) as images:
        with indexing_progress(None, quiet=as_json) as show:
            report = reindex(images, ReindexPlan(model, measured, switch), show)
        now_active = images.generation
    print_report(report, now_active, as_json=as_json)


def reindex_by_queue(
    settings: Settings, collection: str | None, plan: QueuedPlan, *, wait: bool, as_json: bool
) -> NoReturn:
    """Queue a round and, unless told not to wait, all that follow; then switch."""
    with JobClient(settings, create=False) as jobs:
        change = jobs.reindex(plan, collection=collection)
        queued = None if wait else change.submit()
        if queued is not None:
            print_job(queued, as_json=as_json)
            raise typer.Exit(ExitCode.ALL_GOOD)
        with round_progress(quiet=as_json) as show:  # with --no-wait too: nothing is missing, only the switch
            report = change.run(show)
        now_active = jobs.catalog.generations.active(change.target.collection_id)
    print_report(report, now_active, as_json=as_json)


@contextmanager
def round_progress(*, quiet: bool) -> Iterator[Callable[[JobProgress], None]]:
    """Yield what shows a queued round on standard error: in place on a terminal, a line a change elsewhere."""
    output, shown = error_console(), ""
    if quiet:
        yield lambda _progress: None
    elif output.is_terminal:
        with output.status("") as status:
            yield lambda progress: status.update(job_line(progress).replace("[", r"\["))
    else:

        def show(progress: JobProgress) -> None:
            nonlocal shown
            line = f"job {progress.job.id} {job_line(progress)}"
            if line != shown:
                output.print(line, markup=False, soft_wrap=True)
            shown = line

        yield show


def print_report(report: ReindexReport, now_active: Generation | None, *, as_json: bool) -> NoReturn:
    """Print what a reindex did, and exit with the code that says so."""
    if as_json:
        print_json(report.model_dump())
    else:
        if report.gate is not None:
            console().print(f"gate passed: {report.gate.metric} {report.gate.active:.4f} -> {report.gate.new:.4f}")
        done = f"switched: searches use {now_active.model if now_active else 'none'}" if report.switched else "built"
        console().print(
            f"generation {report.generation_id}: {report.embedded} embedded, {report.reused} reused, "
            f"{report.copied} copied, {report.failed} failed; {done}",
            markup=False,
        )
    raise typer.Exit(ExitCode.SOME_IMAGES_FAILED if report.failed else ExitCode.ALL_GOOD)
