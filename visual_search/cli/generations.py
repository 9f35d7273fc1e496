"""`visual-search generations`: what models a collection has vectors of; switch, roll back, prune."""

from __future__ import annotations

from typing import Annotated

import typer

from storage.catalog import Generation
from storage.errors import UnknownGeneration
from storage.snapshots import prune_generations, snapshots_of
from visual_search.cli.options import AsJson, CollectionName, ConfigFile, DataDir, open_existing, settings_from
from visual_search.cli.output import console, print_json, print_table
from visual_search.cli.progress import indexing_progress
from visual_search.collection import ImageCollection
from visual_search.reindexing import roll_back

app = typer.Typer(help="Generations of vectors: list, activate, roll back, prune.", no_args_is_help=True)


@app.command("list", epilog="`visual-search generations list --json`")
def list_(
    *,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List the generations of a collection, oldest first, and how many images each has no vector for."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        rows = [_describe(images, one) for one in images.catalog.generations.list(images.record.id)]
    if as_json:
        print_json(rows)
        return
    print_table(
        ["generation", "state", "model", "changes", "missing"], [[str(cell) for cell in one.values()] for one in rows]
    )


@app.command("activate", epilog="`visual-search generations activate 2`")
def activate(  # noqa: PLR0913 - one parameter per command-line option
    generation: Annotated[int, typer.Argument(help="Number, as `generations list` shows it.")],
    *,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Switch although some images would not be found.")
    ] = False,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Switch searches to a generation, at once."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        if generation not in [one.id for one in images.catalog.generations.list(images.record.id)]:
            raise UnknownGeneration(f"collection '{images.name}' has no generation {generation}")
        allowed = images.catalog.lifecycle.missing_count(generation) if allow_missing else 0
        active = images.catalog.lifecycle.activate(generation, missing_allowed=allowed)
        _print_active(images, active, as_json=as_json)


@app.command("rollback", epilog="`visual-search generations rollback`")
def rollback(
    *,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the generation that was active before; what came since is embedded with its model first."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        with indexing_progress(None, quiet=as_json) as show:
            roll_back(images, show)
        active = images.generation
        if active is not None:
            _print_active(images, active, as_json=as_json)


@app.command("prune", epilog="`visual-search generations prune --unfinished`")
def prune(
    *,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Drop half-built generations too.")] = False,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete vectors and snapshots of generations on standby; they cannot be rolled back to any more."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        snapshots = snapshots_of(images.settings, images.catalog)
        pruned = prune_generations(images.catalog, snapshots, images.record.id, building=unfinished)
    if as_json:
        print_json([one.id for one in pruned])
    else:
        console().print(f"{len(pruned)} generations pruned")


def _describe(images: ImageCollection, generation: Generation) -> dict[str, int | str]:
    missing = 0 if generation.state == "retired" else images.catalog.lifecycle.missing_count(generation.id)
    return {
        "generation": generation.id,
        "state": generation.state,
        "model": str(generation.model),
        "last_seq": generation.last_seq,
        "missing": missing,
    }


def _print_active(images: ImageCollection, generation: Generation, *, as_json: bool) -> None:
    if as_json:
        print_json(_describe(images, generation))
    else:
        console().print(f"searches use generation {generation.id}: {generation.model}", markup=False)
