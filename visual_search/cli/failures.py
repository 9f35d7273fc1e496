"""`visual-search failures`: every image that could not be indexed, why, and another try."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from visual_search.cli.options import (
    AsJson,
    CollectionName,
    ConfigFile,
    DataDir,
    open_existing,
    settings_from,
)
from visual_search.cli.output import ExitCode, console, print_json, print_table
from visual_search.cli.progress import indexing_progress

app = typer.Typer(
    help="Images that could not be indexed: list them with their reasons, try again.", no_args_is_help=True
)


@app.command("list", epilog="`visual-search failures list --json`")
def list_(
    *,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List every image that could not be indexed, with its reason."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        found = images.failures()
    if as_json:
        print_json([asdict(failure) for failure in found])
        return
    rows = [(one.image_id, one.reason, str(one.attempts), one.message) for one in found]
    if rows:
        print_table(["image", "reason", "attempts", "message"], rows)
    console().print(f"{len(found)} failures")


@app.command("retry", epilog="`visual-search failures retry --attributes labels.csv`")
def retry(
    *,
    attributes: Annotated[
        Path | None,
        typer.Option("--attributes", help="A sidecar whose attributes replace those that the failures kept."),
    ] = None,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Try every failed image again; one whose file is gone stays, until `images delete` forgets it."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        with indexing_progress(None, quiet=as_json) as show:
            report = images.retry_failures(show, attributes)
        remaining = images.failures()
    if as_json:
        print_json(report.model_dump())
    else:
        console().print(
            f"{report.retried} tried again: {report.indexed} indexed, {report.failed} failed"
            + (
                f"; {report.folders} folders or links that could not be read: `index` looks again"
                if report.folders
                else ""
            )
        )
        for failure in remaining[:10]:
            console().print(f"  {failure.image_id}: {failure.reason}: {failure.message}", markup=False, soft_wrap=True)
    raise typer.Exit(ExitCode.SOME_IMAGES_FAILED if report.failed else ExitCode.ALL_GOOD)
