"""`visual-search images`: list, show and delete indexed images."""

from __future__ import annotations

from typing import Annotated

import typer

from storage.filters import parse_filter
from visual_search.cli.options import (
    AsJson,
    CollectionName,
    ConfigFile,
    DataDir,
    open_existing,
    settings_from,
)
from visual_search.cli.output import ExitCode, console, error_console, print_json, print_table

app = typer.Typer(help="List, show and delete indexed images.", no_args_is_help=True)


@app.command("list", epilog="`visual-search images list --prefix 2024/ --filter label=dress -n 20`")
def list_(  # noqa: PLR0913 - one parameter per command-line option
    *,
    prefix: Annotated[str, typer.Option("--prefix", help="Only ids that start so.")] = "",
    filter_: Annotated[str | None, typer.Option("--filter", "-f", help="As in `search`.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many.")] = None,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List indexed images in the order of their ids."""
    chosen = parse_filter(filter_) if filter_ is not None else None
    with open_existing(settings_from(config, data_dir), collection) as images:
        found = list(images.images(prefix=prefix, filter_=chosen, limit=limit))
    if as_json:
        print_json([image.model_dump(mode="json") for image in found])
        return
    rows = [(image.image_id, f"{image.width}x{image.height}", image.format, str(image.bytes)) for image in found]
    print_table(["image", "pixels", "format", "bytes"], rows)
    console().print(f"{len(found)} images")


@app.command("show", epilog="`visual-search images show 2024/cat.jpg`")
def show(
    image_id: str,
    *,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show everything that is known of one image."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        image = images.image(image_id)
    document = image.model_dump(mode="json")
    if as_json:
        print_json(document)
        return
    print_table(["field", "value"], [(name, str(value)) for name, value in document.items()])


@app.command("delete", epilog="`visual-search images delete 2024/cat.jpg 2024/dog.jpg`")
def delete(
    image_ids: Annotated[list[str], typer.Argument(metavar="IMAGE_ID...")],
    *,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Take images out of the collection; their files stay, and later runs of `index` leave them out."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        live = set(images.catalog.images.get_many(images.record.id, image_ids))
        forgotten = sorted(images.catalog.failures.among(images.record.id, image_ids).keys() - live)
        unknown = sorted(set(image_ids) - live - set(forgotten))
        deleted = images.delete_images(image_ids)
    if as_json:
        print_json({"deleted": deleted, "failures_forgotten": forgotten, "unknown": unknown})
    else:
        console().print(f"{deleted} deleted from the collection")
        if forgotten:
            console().print(f"{len(forgotten)} failures forgotten")
        for image_id in unknown:
            error_console().print(f"no image '{image_id}'", markup=False)
    raise typer.Exit(ExitCode.FAILED if unknown else ExitCode.ALL_GOOD)
