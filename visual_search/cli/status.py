"""`visual-search status`: what is in the catalog, and how the processes get on."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

import typer

from storage.catalog import catalog_exists, catalog_of, catalog_place
from storage.settings import Settings
from visual_search.cli.job_output import duration
from visual_search.cli.options import AsJson, ConfigFile, DataDir, settings_from
from visual_search.cli.output import ExitCode, console, print_json, print_table
from visual_search.overview import CollectionOverview, overview_of
from workers.signs.health import QueueHealth, health_here, queue_health, rows_of

EXAMPLES = """
**Examples**

`visual-search status --json`

`visual-search status --check` (exit code 1 when a process is stuck, or missing while work waits)

`visual-search status --check --here` (of this machine's or container's processes only, without a question to SQL or
Redis; `python -m workers.probe` is the same for probes, and starts quicker)
"""

_COLUMNS = ["process", "host:pid", "state", "doing", "done", "got on", "gave a sign"]


def command(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 when a process is stuck or missing, for health checks.")
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="Only the processes of this machine or container, by what they left here.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the catalog, its collections, the last runs, and every process by the work that it gets done."""
    settings = settings_from(config, data_dir)
    if here:
        _here(settings, check=check, as_json=as_json)
        return
    health = queue_health(settings)
    _show_catalog(settings, health, as_json=as_json)
    if not as_json:
        _show_health(health)
    if check and not health.healthy:
        raise typer.Exit(ExitCode.FAILED)


def _here(settings: Settings, *, check: bool, as_json: bool) -> None:
    health = health_here(settings)
    if as_json:
        print_json({**health.model_dump(mode="json"), "healthy": health.healthy, "ready": health.ready})
    elif health.roles:
        print_table(_COLUMNS, rows_of(health.roles))
    else:
        console().print("no process has left a sign here", markup=False)
    if check and not health.healthy:
        raise typer.Exit(ExitCode.FAILED)


def _show_health(health: QueueHealth) -> None:
    if health.server:
        console().print(health.server, markup=False, soft_wrap=True)
        return
    if health.roles:
        print_table(_COLUMNS, rows_of(health.roles))
    waiting = ", ".join(f"{count} {name}" for name, count in health.waiting.items() if count)
    console().print(f"waiting in the queues: {waiting or 'nothing'}", markup=False, soft_wrap=True)


def _show_catalog(settings: Settings, health: QueueHealth, *, as_json: bool) -> None:
    if not catalog_exists(settings):
        if as_json:
            document = {"data_dir": str(settings.data_dir), "collections": [], "last_runs": []}
            print_json({**document, "queues": health.model_dump(mode="json"), "healthy": health.healthy})
        else:
            console().print(f"nothing is indexed in {catalog_place(settings)} yet", markup=False, soft_wrap=True)
        return
    with catalog_of(settings) as catalog:
        overview = overview_of(catalog, settings)
    if as_json:
        document = overview.model_dump(mode="json")
        print_json({**document, "queues": health.model_dump(mode="json"), "healthy": health.healthy})
        return
    place = f"data folder {overview.data_dir}" if settings.database_url is None else f"database {overview.catalog}"
    console().print(
        f"{place} ({overview.catalog_bytes / 1e6:.1f} MB)",
        markup=False,
        soft_wrap=True,
    )
    print_table(
        ["collection", "images", "failures", "model", "changes", "snapshot"],
        [
            (one.name, str(one.images), str(one.failures), one.model, str(one.last_seq), _snapshot_of(one))
            for one in overview.collections
        ],
    )
    print_table(
        ["last runs", "state", "started", "source", "counts"],
        [
            (
                run.kind,
                run.state,
                run.started_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
                run.source,
                ", ".join(f"{count} {name}" for name, count in run.counts.items() if count),
            )
            for run in overview.last_runs
        ],
    )


def _snapshot_of(collection: CollectionOverview) -> str:
    if collection.snapshot_seq is None or collection.snapshot_at is None:
        return "none"
    age = (datetime.now(timezone.utc) - collection.snapshot_at).total_seconds()
    behind = collection.last_seq - collection.snapshot_seq
    return f"{duration(age)} old, {behind} changes behind" if behind else f"{duration(age)} old"
