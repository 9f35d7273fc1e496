"""`visual-search audit`: what of a source is not indexed, and why; which vectors have no source."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.indexing.selection import SourceSelection
from visual_search.cli.options import (
    AsJson,
    CollectionName,
    ConfigFile,
    DataDir,
    Exclude,
    IdPrefix,
    Include,
    open_existing,
    settings_from,
)
from visual_search.cli.output import ExitCode, console, print_json, print_table

EXAMPLES = """
**Examples**

`visual-search audit ~/Pictures`

`visual-search audit s3://my-bucket/photos --collection shop --json`

Give --id-prefix, --include and --exclude as they were given to `index`.
"""
_FINDINGS_SHOWN = 50


def command(  # noqa: PLR0913 - one parameter per command-line option
    source: Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix.", metavar="SOURCE")],
    *,
    id_prefix: IdPrefix = "",
    include: Include = None,
    exclude: Exclude = None,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare a source with the catalog, the vectors and the index. Exit code 1 when anything is unexplained."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        report = images.audit(source, SourceSelection(id_prefix, include or (), exclude or ()))
    if as_json:
        print_json(report.model_dump() | {"clean": report.clean, "by_problem": report.by_problem()})
    else:
        rows = [(one.problem, one.image_id, one.detail) for one in report.findings[:_FINDINGS_SHOWN]]
        if rows:
            print_table(["problem", "image", "why"], rows)
        if len(report.findings) > _FINDINGS_SHOWN:
            console().print(f"… {len(report.findings)} findings in all, --json lists them")
        verdict = "[green]clean[/]" if report.clean else "[bold red]not clean[/]"
        counts = ", ".join(f"{count} {problem}" for problem, count in sorted(report.by_problem().items()))
        console().print(
            f"{verdict}: {report.listed} images in the source, {report.indexed} indexed, "
            f"{report.vectors} vectors in the collection" + (f"; {counts}" if counts else ""),
            soft_wrap=True,
        )
    raise typer.Exit(ExitCode.ALL_GOOD if report.clean else ExitCode.FAILED)
