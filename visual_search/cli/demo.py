"""`visual-search demo`: the first minute, on sample photos or one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from storage.settings import load_settings
from visual_search.demo.run import DemoPlan, run_demo

EXAMPLES = """
**Examples**

`visual-search demo`

`visual-search demo --photos ~/Pictures --model baseline`
"""


def command(
    *,
    photos: Annotated[Path | None, typer.Option("--photos", help="Your own folder instead of the samples.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything the demo writes.")] = Path(
        "demo-output"
    ),
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="By default CLIP, or `baseline` with a notice when CLIP cannot be had."),
    ] = None,
    system: Annotated[
        bool, typer.Option("--system/--no-system", help="Do it again with queue, workers and HTTP as processes.")
    ] = True,
) -> None:
    """Index real photos, search them, measure the results; then the same by the whole system of processes."""
    chosen = photos.expanduser() if photos else None
    run_demo(DemoPlan(output.expanduser(), chosen, model, system=system), load_settings())
