"""`visual-search index`: make a folder or a bucket prefix searchable."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from pipeline.indexing.report import IndexReport
from pipeline.indexing.selection import SourceSelection, source_at
from storage.catalog import FailureRecord
from visual_search.cli.options import (
    AsJson,
    CollectionName,
    ConfigFile,
    DataDir,
    Exclude,
    IdPrefix,
    Include,
    settings_from,
)
from visual_search.cli.output import ExitCode, console, error_console, print_json
from visual_search.cli.progress import counter, indexing_progress
from visual_search.collection import ImageCollection
from workers.machine.run_owners import interrupted_by_sigterm

EXAMPLES = """
**Examples**

`visual-search index ~/Pictures`

`visual-search index s3://my-bucket/photos --collection shop --attributes products.csv`

`visual-search index ./photos --model baseline --include '2024/*'`
"""
_FAILURES_SHOWN = 10


def command(  # noqa: PLR0913 - one parameter per command-line option
    source: Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix.", metavar="SOURCE")],
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Hub name, checkpoint folder, or `baseline`.  [env: VISUAL_SEARCH_MODEL]"),
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option("--attributes", help="CSV or JSON Lines file with attributes per image (column `image_id`)."),
    ] = None,
    id_prefix: IdPrefix = "",
    include: Include = None,
    exclude: Exclude = None,
    restore_deleted: Annotated[
        bool, typer.Option("--restore-deleted", help="Index again what `images delete` took out.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images per model call.")] = None,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Index a folder or a bucket prefix. Unchanged images are skipped; interrupted, the same command resumes.

    Exit code 3 means that it finished but some images failed: `visual-search failures list` says why.
    """
    settings = settings_from(config, data_dir, model=model, batch_size=batch_size)
    selection = SourceSelection(id_prefix, include or (), exclude or (), attributes)
    listed = source_at(source, selection, settings.max_image_bytes)  # first: a wrong address leaves nothing behind
    started = datetime.now(timezone.utc)
    with interrupted_by_sigterm(), ImageCollection(collection, settings=settings) as images:
        if model is not None:
            images.check_model(model)
        with indexing_progress(counter(listed), quiet=as_json) as show:
            report = images.index(source, selection, restore_deleted=restore_deleted, on_progress=show)
        failures = [one for one in images.failures() if one.last_at >= started] if report.failed else []
        if as_json:
            print_json(report.model_dump() | {"collection": images.name})
        else:
            _print_report(report, images, failures)
    raise typer.Exit(ExitCode.SOME_IMAGES_FAILED if report.failed else ExitCode.ALL_GOOD)


def _print_report(report: IndexReport, images: ImageCollection, failures: list[FailureRecord]) -> None:
    rate = report.done / report.seconds if report.seconds else 0.0
    model = images.generation.model.name if images.generation else images.settings.model
    out = console()
    out.print(
        f"[bold]{report.listed}[/] images listed in {report.seconds:.1f} s ({rate:.0f}/s), model {model}: "
        f"[green]{report.indexed} indexed[/], {report.reused} reused, {report.refreshed} refreshed, "
        f"{report.unchanged} unchanged, {report.deleted} deleted, "
        + (f"[bold red]{report.failed} failed[/]" if report.failed else "0 failed"),
        soft_wrap=True,
    )
    if not report.listed:
        error_console().print("nothing here ends like an image file; --include '**' takes every file")
    if report.attributes_unused:
        error_console().print(
            f"[yellow]notice:[/] {report.attributes_unused} rows of the attributes file name no listed image"
        )
    for failure in failures[:_FAILURES_SHOWN]:
        out.print(f"  {failure.image_id}: {failure.reason}: {failure.message}", markup=False, soft_wrap=True)
    if len(failures) > _FAILURES_SHOWN:
        out.print(f"  … {len(failures)} failures in all: `visual-search failures list`")
