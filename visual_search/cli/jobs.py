"""`visual-search jobs`: queued jobs, how far they are, and what may be done about them."""

from __future__ import annotations

from typing import Annotated

import typer

from visual_search.cli.job_output import exit_code_of_job, follow, print_job, print_jobs
from visual_search.cli.options import AsJson, CollectionName, ConfigFile, DataDir, settings_from
from visual_search.cli.output import error_console
from workers.job_client import JobClient

app = typer.Typer(help="Queued jobs: list, show, watch, cancel, try failed images again.", no_args_is_help=True)

JobId = Annotated[int, typer.Argument(help="The job's number.", metavar="JOB")]


@app.command("list", epilog="`visual-search jobs list --json`")
def list_(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 20,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List jobs and runs, newest first; of all collections unless one is named."""
    with JobClient(settings_from(config, data_dir), create=False) as jobs:
        print_jobs(list(jobs.list(collection=collection, limit=limit)), as_json=as_json)


@app.command("show", epilog="`visual-search jobs show 7`")
def show(job: JobId, *, data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show one job: state, counts, rate and ETA."""
    with JobClient(settings_from(config, data_dir), create=False) as jobs:
        print_job(jobs.get(job), as_json=as_json)


@app.command("watch", epilog="`visual-search jobs watch 7`")
def watch(job: JobId, *, data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show progress until the job is over; exit code 3 means that some images failed, 1 that it was cancelled."""
    with JobClient(settings_from(config, data_dir), create=False) as jobs:
        progress = follow(jobs.watch(job), quiet=as_json)
    print_job(progress, as_json=as_json)
    raise typer.Exit(exit_code_of_job(progress))


@app.command("cancel", epilog="`visual-search jobs cancel 7`")
def cancel(job: JobId, *, data_dir: DataDir = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Cancel a job. What is indexed stays; a batch that a worker has in hand still counts."""
    with JobClient(settings_from(config, data_dir), create=False) as jobs:
        progress = jobs.cancel(job)
    print_job(progress, as_json=as_json)
    if progress.job.state != "cancelled" and not as_json:
        error_console().print(f"[yellow]notice:[/] job {job} was over already: there was nothing to cancel")


@app.command("retry-failed", epilog="`visual-search jobs retry-failed 7`")
def retry_failed(
    job: Annotated[
        int | None, typer.Argument(help="Only failed images of this job; else the collection's.", metavar="JOB")
    ] = None,
    *,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Queue failed images again, as one job; one whose file is gone stays failed, until `images delete` forgets it."""
    with JobClient(settings_from(config, data_dir), create=False) as jobs:
        queued = list(jobs.retry_failed(job, collection=collection))
    print_jobs(queued, as_json=as_json)
    if not queued and not as_json:
        error_console().print(
            "[yellow]notice:[/] nothing to try again; folders and links are looked at by a new submit"
        )
