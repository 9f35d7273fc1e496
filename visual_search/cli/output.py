"""How commands print: JSON for programs, tables for people, errors on standard error, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.errors import InvalidQuery, SidecarError
from storage.errors import InvalidFilter, SettingsError, VisualSearchError


class ExitCode(IntEnum):
    """What the command tells its caller."""

    ALL_GOOD = 0
    FAILED = 1
    WRONG_USAGE = 2
    SOME_IMAGES_FAILED = 3
    INTERRUPTED = 130  # 128 + SIGINT, as shells have it


_PIPED_WIDTH = 4096  # what is piped or saved must not be cut or wrapped
_USAGE_ERRORS = (SettingsError, InvalidFilter, InvalidQuery, SidecarError)


def console() -> Console:
    """For what a person reads on standard output; made at each use so that redirections are seen."""
    interactive = sys.stdout.isatty()
    return Console(highlight=False, width=None if interactive else _PIPED_WIDTH, soft_wrap=not interactive)


def error_console() -> Console:
    """For progress, notices and errors; they go to standard error, so that output can be piped."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table; text that came from files is escaped, never read as markup."""
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"  # an id that is cut cannot be copied
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def exit_code_of(error: VisualSearchError) -> ExitCode:
    """Whether the caller asked wrongly, or the work failed."""
    return ExitCode.WRONG_USAGE if isinstance(error, _USAGE_ERRORS) else ExitCode.FAILED


def print_error(error: VisualSearchError, *, as_json: bool) -> None:
    """Say on standard error what went wrong."""
    if as_json:
        document = {"error": {"reason": error.reason, "message": str(error), "retryable": error.retryable}}
        sys.stderr.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        error_console().print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
