"""Progress of indexing: a live bar with rate and ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.indexing.report import IndexReport
from pipeline.indexing.source import Source
from storage.errors import StorageError
from visual_search.cli.output import error_console

_PLAIN_LINE_SECONDS = 10.0

OnProgress = Callable[[IndexReport], None]


@contextmanager
def indexing_progress(count: Callable[[], int] | None, *, quiet: bool = False) -> Iterator[OnProgress]:
    """Yield the callback that shows progress on standard error; `count` finds the total, on a thread of its own."""
    output = error_console()
    if quiet:
        yield lambda _report: None
    elif output.is_terminal:
        yield from _live(count)
    else:
        yield _plain()


def counter(source: Source) -> Callable[[], int]:
    """Counts what the source lists."""
    return lambda: sum(1 for _ in source.items())


def _live(count: Callable[[], int] | None) -> Iterator[OnProgress]:
    bar = Progress(
        TextColumn("[bold]indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[failed]}", style="yellow"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=error_console(),
    )
    with bar:
        task = bar.add_task("indexing", total=None, rate="", failed="")
        if count is not None:
            threading.Thread(target=_find_total, args=(bar, task, count), daemon=True).start()
        started = monotonic()

        def show(report: IndexReport) -> None:
            rate = f"{report.done / max(monotonic() - started, 1e-6):.1f} images/s"
            failed = f"{report.failed} failed" if report.failed else ""
            bar.update(task, completed=report.done, rate=rate, failed=failed)

        yield show


def _find_total(bar: Progress, task: TaskID, count: Callable[[], int]) -> None:
    try:
        bar.update(task, total=count())
    except StorageError:
        return  # the run itself meets the same error and reports it; the bar just has no total


def _plain() -> OnProgress:
    output = error_console()
    last = monotonic()

    def show(report: IndexReport) -> None:
        nonlocal last
        if monotonic() - last >= _PLAIN_LINE_SECONDS:
            last = monotonic()
            output.print(f"indexing: {report.done} of {report.listed} listed so far, {report.failed} failed")

    return show
