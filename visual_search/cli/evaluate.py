"""`visual-search evaluate`: Recall@K, Precision@K, mAP, MRR, nDCG@K and success@K on a ground truth file."""

from __future__ import annotations

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
from visual_search.cli.output import console, print_json

EXAMPLES = """
**Examples**

`visual-search evaluate ground_truth.json`

`visual-search evaluate ground_truth.json -k 1 -k 5 --output results.json`

The file: `{"queries": [{"query_id": "q1.jpg", "ground_truth": ["img1.jpg", "img2.jpg"]}]}`, ids as they are indexed.
"""


def command(  # noqa: PLR0913 - one parameter per command-line option
    ground_truth: Annotated[Path, typer.Argument(help="JSON file with queries and their relevant images.")],
    *,
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Cut-offs; repeatable. Default: 1 5 10 20.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write everything needed to repeat the run, per query.",
            rich_help_panel="Output",
        ),
    ] = None,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Measure search quality: each query is an indexed image, left out of its own results."""
    with open_existing(settings_from(config, data_dir), collection) as images:
        result = images.evaluate(ground_truth, sorted(set(k or (1, 5, 10, 20))), output)
        if as_json:
            print_json(result.model_dump(mode="json"))
            return
        out = console()
        out.print(result.summary(), markup=False, soft_wrap=True)
        out.print(f"\n{result.table()}", markup=False, soft_wrap=True)
        if output is not None:
            out.print(f"per query: {output.resolve()}", markup=False, soft_wrap=True)
