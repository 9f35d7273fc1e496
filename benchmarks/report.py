"""The tables of `make bench` in the terminal, as JSON and as Markdown. Knows no stage."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import show
from stage import Row, Table

_COLUMNS = ("what", "unit", "ours", "against", "theirs", "ratio", "aim", "met")


def show_table(table: Table) -> None:
    """Print a table and its notes."""
    show(table.title, _COLUMNS, [cells(row) for row in table.rows])
    for note in table.notes:
        print(f"  {note}")


def as_dict(table: Table) -> dict[str, Any]:
    """Everything of a table, with every repeat's number."""
    rows = [
        {
            **{name: getattr(row, name) for name in ("what", "unit", "against", "aim", "more_is_better", "limit")},
            "ours": list(row.ours),
            "theirs": list(row.theirs),
            "ratios": row.ratios,
            "met": row.met,
            "cells": cells(row),
        }
        for row in table.rows
    ]
    return {"title": table.title, "rows": rows, "notes": list(table.notes)}


def cells(row: Row) -> tuple[str, ...]:
    """A row as it is printed: medians, with the smallest and the largest."""
    ratio = _ratio(row) if row.theirs else ""
    return (row.what, row.unit, _spread(row.ours), row.against, _spread(row.theirs), ratio, _aim(row), _met(row))


def markdown(stages: Sequence[Mapping[str, Any]]) -> str:
    """All tables of a run as a Markdown page; `stages` as the runner keeps them."""
    parts = [f"{machine()}."]
    for stage in stages:
        parts += [f"## {stage['stage']}: {stage['shows']}", *stage_markdown(stage)]
    return "\n\n".join(parts) + "\n"


def stage_markdown(stage: Mapping[str, Any]) -> list[str]:
    """The tables of one stage."""
    if "failed" in stage:
        return [f"This stage failed: {stage['failed']}"]
    parts = [f"```\n{stage['text']}\n```"] if stage["text"] else []
    for table in stage["tables"]:
        lines = [f"**{table['title']}**", "", f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
        lines += [f"| {' | '.join(row['cells'])} |" for row in table["rows"]]
        parts.append("\n".join(lines))
        if table["notes"]:
            parts.append("\n".join(f"- {note}" for note in table["notes"]))
    return parts


def machine() -> str:
    """The processor, cores and versions that numbers were measured with."""
    cpus = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in cpus.read_text().splitlines() if line.startswith("model name")]
        if (cpus.exists())
        else [platform.processor()]
    )
    return f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), Python {platform.python_version()}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, middle, high = (_number(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def _number(value: float) -> str:
    """Three digits or so; more where a number is near 1, as cosines are."""
    if 0.9 <= value < 1:
        return f"{value:.6f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}"


def _ratio(row: Row) -> str:
    scale, digits = (100, 0) if row.limit else (1, 2)
    middle, low, high = (f"{scale * pick(row.ratios):.{digits}f}" for pick in (statistics.median, min, max))
    return f"{middle} {'%' if row.limit else 'x'} ({low}-{high})"


def _aim(row: Row) -> str:
    if row.aim is None:
        return ""
    if row.theirs:
        return f"{100 * row.aim:g} %" if row.limit else f"{row.aim:g} x"
    return f"{'at least' if row.more_is_better else 'at most'} {row.aim:g}"


def _met(row: Row) -> str:
    return "" if row.met is None else "yes" if row.met else "**no**"
