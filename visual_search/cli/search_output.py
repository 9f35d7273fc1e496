"""How a search's answer is printed: results, where they come from, and how they came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rich.markup import escape

from pipeline.rerank.explanation import Explanation, StepTrace
from pipeline.results import SearchResults
from query_service.protocol import SearchAnswer
from visual_search.cli.output import console, error_console, print_table

ServedBy = Literal["service", "embedded"]


@dataclass(frozen=True)
class Found:
    """An answer, who gave it, and how long that took; `generation_id` and `images` say what was searched."""

    results: SearchResults
    served_by: ServedBy
    seconds: float
    generation_id: int
    images: int
    why: str = ""  # it was searched here, although it need not have been

    def as_json(self) -> dict[str, Any]:
        """For `--json`: the answer with `served_by` and `seconds`."""
        answer = self.results.model_dump(mode="json")
        if answer.get("explanation", True) is None:
            del answer["explanation"]
        return {**answer, "served_by": self.served_by, "seconds": round(self.seconds, 6)}

    def origin(self) -> str:
        """One line: who answered, with which model, from how many images, in what time."""
        model = self.results.model
        name = "" if model is None else f"model {model.name}, "
        stages = self.results.provenance.stage_seconds if isinstance(self.results, SearchAnswer) else {}
        search = f" (search {1000 * stages['search']:.1f})" if "search" in stages else ""
        why = f" ({self.why})" if self.why else ""
        return (
            f"{self.served_by}{why}: {name}generation {self.generation_id}, {self.images:,} images, "
            f"{1000 * self.seconds:.1f} ms{search}"
        )


def print_found(found: Found) -> None:
    """The results as a table, what is known of how they came about, and their origin on standard error."""
    _print_results(found.results)
    if isinstance(found.results, SearchAnswer) and found.results.explanation is not None:
        _print_explanation(found.results.explanation)
    error_console().print(escape(found.origin()), style="dim", soft_wrap=True)


def _print_results(results: SearchResults) -> None:
    if not results.results:
        console().print("no image matches")
        return
    columns = ["rank", "score", "image"]
    rows = [[str(result.rank), f"{result.score:.4f}", result.image_id] for result in results.results]
    if any(result.attributes for result in results.results):
        columns.append("attributes")
        for row, result in zip(rows, results.results, strict=True):
            row.append(", ".join(f"{key}={value}" for key, value in sorted(result.attributes.items())))
    print_table(columns, rows)


def _print_explanation(explanation: Explanation) -> None:
    """One row for each result, one column for each step: where it stood, and with which score, after the step."""
    columns = ["image", "found", *(_heading(step, explanation.dropped.get(step, 0)) for step in explanation.steps)]
    rows = [
        [image_id, _place(way[0].rank_before, way[0].score_before), *(_after(trace) for trace in way)]
        for image_id, way in explanation.results.items()
    ]
    console().print()
    print_table(columns, rows, title="rank and score after each step (=: as before)")


def _heading(step: str, dropped: int) -> str:
    return f"{step}\n{dropped:,} left out" if dropped else step


def _after(trace: StepTrace) -> str:
    if trace.score_after != trace.score_before:
        return _place(trace.rank_after, trace.score_after)
    return "=" if trace.rank_after == trace.rank_before else _rank(trace.rank_after)


def _place(rank: int | None, score: float) -> str:
    return f"{_rank(rank)}  {score:.4f}"


def _rank(rank: int | None) -> str:
    return "-" if rank is None else str(rank)
