"""What the benchmarks share: fresh processes, spreads, tables, and the JSON that is kept of a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
MIB = 1024 * 1024

_T = TypeVar("_T")


def in_fresh_process(function: Callable[..., _T], *arguments: Any) -> _T:
    """Run the function in a process of its own, so that its memory and imports are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median with minimum and maximum."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title, box=None, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)


def keep(name: str, figures: Mapping[str, Any]) -> None:
    """Write the figures with what they were measured on to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **figures,
    }
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(document, indent=2) + "\n")
    Console().print(f"written to benchmarks/results/{target.name}")
