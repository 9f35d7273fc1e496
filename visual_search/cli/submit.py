"""`visual-search submit`: queue a folder or a bucket prefix for the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.indexing.selection import SourceSelection
from visual_search.cli.job_output import exit_code_of_job, follow, print_job
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
from visual_search.cli.output import ExitCode
from workers.job_client import JobClient

EXAMPLES = """
**Examples**

`visual-search submit ~/Pictures --wait`

`visual-search submit s3://my-bucket/photos --collection shop --mirror --priority 5`
"""


def command(  # noqa: PLR0913 - one parameter per command-line option
    source: Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix.", metavar="SOURCE")],
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model of a new collection.  [env: VISUAL_SEARCH_MODEL]"),
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
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Remove images that came from this source and are gone from it.")
    ] = False,
    batch_images: Annotated[
        int | None,
        typer.Option("--batch-images", min=1, help="Images per queued batch.  [env: VISUAL_SEARCH_BATCH_IMAGES]"),
    ] = None,
    priority: Annotated[int, typer.Option("--priority", min=0, max=9, help="9 goes first, 0 last.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the job is done.")] = False,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Queue a folder or a bucket prefix for the embed workers; returns when all of it is listed.

    Unchanged images are skipped, and the same command again makes no second work: it takes up its unfinished job.
    With --wait, exit code 3 means that some images failed: `visual-search failures list` says why.
    """
    settings = settings_from(config, data_dir, model=model, batch_images=batch_images)
    selection = SourceSelection(id_prefix, include or (), exclude or (), attributes)
    with JobClient(settings) as jobs:
        progress = jobs.submit(
            source,
            selection,
            collection=collection,
            priority=priority,
            mirror=mirror,
            restore_deleted=restore_deleted,
        )
        if wait:
            progress = follow(jobs.watch(progress.job.id), quiet=as_json)
    print_job(progress, as_json=as_json)
    raise typer.Exit(exit_code_of_job(progress) if wait else ExitCode.ALL_GOOD)
