"""`visual-search submit`: queue a folder, a bucket prefix or a list of images for the workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import InvalidQuery
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
from visual_search.cli.output import ExitCode, error_console
from workers.job_client import JobClient
from workers.submitting.submit import ATTRIBUTES_UNUSED

EXAMPLES = """
**Examples**

`visual-search submit ~/Pictures --wait`

`visual-search submit s3://my-bucket/photos --collection shop --mirror --priority 5`

`find ~/Pictures -newer last-time -name '*.jpg' | visual-search submit --list - ~/Pictures`
"""


def command(  # noqa: PLR0913 - one parameter per command-line option
    source: Annotated[
        str | None, typer.Argument(help="A folder, or s3://bucket/prefix; with --list by default `.`.")
    ] = None,
    *,
    list_file: Annotated[
        str | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Only the images that this file names, one a line: names below SOURCE, absolute paths, file://, "
            "s3:// or (of hosts in `url_hosts`) http(s) addresses; `-` is standard input.",
        ),
    ] = None,
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
    """Queue a folder, a bucket prefix or a list of images for the embed workers; returns when all of it is listed.

    Unchanged images are skipped, and the same command again makes no second work: it takes up its unfinished job.
    With --wait, exit code 3 means that some images failed: `visual-search failures list` says why.
    """
    if source is None and list_file is None:
        raise InvalidQuery("give a folder or s3://bucket/prefix, or --list FILE")
    if list_file is not None and mirror:
        raise InvalidQuery("--mirror compares a whole source; a --list names only some of its images")
    settings = settings_from(config, data_dir, model=model, batch_images=batch_images)
    selection = SourceSelection(id_prefix, include or (), exclude or (), attributes)
    with JobClient(settings) as jobs:
        if list_file is not None:
            progress = jobs.submit_list(
                list_file,
                source,
                selection,
                collection=collection,
                priority=priority,
                restore_deleted=restore_deleted,
            )
        else:
            progress = jobs.submit(
                str(source),
                selection,
                collection=collection,
                priority=priority,
                mirror=mirror,
                restore_deleted=restore_deleted,
            )
        if wait:
            progress = follow(jobs.watch(progress.job.id), quiet=as_json)
    print_job(progress, as_json=as_json)
    if unused := progress.job.counts.get(ATTRIBUTES_UNUSED, 0):
        error_console().print(f"[yellow]notice:[/] {unused} rows of the attributes file name no listed image")
    raise typer.Exit(exit_code_of_job(progress) if wait else ExitCode.ALL_GOOD)
