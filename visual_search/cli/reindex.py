"""`visual-search reindex`: another model, or a rebuild, with no interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import InvalidQuery
from pipeline.reindex import Gate
from visual_search.cli.options import AsJson, CollectionName, ConfigFile, DataDir, open_existing, settings_from
from visual_search.cli.output import ExitCode, console, print_json
from visual_search.cli.progress import indexing_progress
from visual_search.reindexing import ReindexPlan, reindex

EXAMPLES = """
**Examples**

`visual-search reindex --model openai/clip-vit-large-patch14`

`visual-search reindex --model ./my-checkpoint --gate ground_truth.json --metric recall@10 --max-drop 0.01`

`visual-search reindex --rebuild`
"""


def command(  # noqa: PLR0913 - one parameter per command-line option
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Embed all stored images with this model.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the generation anew from its stored vectors; no model needed.")
    ] = False,
    gate: Annotated[
        Path | None, typer.Option("--gate", help="Ground truth: switch only if the metric does not drop too far.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="recall@K, precision@K, ndcg@K, success@K, map or mrr.")] = (
        "recall@10"
    ),
    max_drop: Annotated[float, typer.Option("--max-drop", min=0.0, help="Allowed drop; 0.01 is one point.")] = 0.0,
    switch: Annotated[bool, typer.Option(help="Switch when done; --no-switch only builds.")] = True,
    collection: CollectionName = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Build a new generation beside the active one, then switch. Searches go on; interrupted, it carries on.

    The earlier generation stays on standby for `generations rollback`, until `generations prune`.
    """
    if (model is None) == (not rebuild):
        raise InvalidQuery("give either --model NAME or --rebuild")
    plan = ReindexPlan(model, Gate(gate, metric, max_drop) if gate is not None else None, switch)
    with open_existing(settings_from(config, data_dir), collection) as images:
        with indexing_progress(None, quiet=as_json) as show:
            report = reindex(images, plan, show)
        now_active = images.generation
    if as_json:
        print_json(report.model_dump())
    else:
        if report.gate is not None:
            console().print(f"gate passed: {report.gate.metric} {report.gate.active:.4f} -> {report.gate.new:.4f}")
        done = f"switched: searches use {now_active.model if now_active else 'none'}" if report.switched else "built"
        console().print(
            f"generation {report.generation_id}: {report.embedded} embedded, {report.reused} reused, "
            f"{report.copied} copied, {report.failed} failed; {done}",
            markup=False,
        )
    raise typer.Exit(ExitCode.SOME_IMAGES_FAILED if report.failed else ExitCode.ALL_GOOD)
