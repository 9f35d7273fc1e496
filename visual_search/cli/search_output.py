"""How a search's answer is printed: results, where they come from, and how they came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rich.markup import escape

from pipeline.rerank.explanation import Explanation
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
    rows = [
        (
            str(result.rank),
            f"{result.score:.4f}",
            result.image_id,
            ", ".join(f"{key}={value}" for key, value in sorted(result.attributes.items())),
        )
        for result in results.results
    ]
    print_table(["rank", "score", "image", "attributes"], rows)


def _print_explanation(explanation: Explanation) -> None:
    dropped = [(step, f"{explanation.dropped.get(step, 0):,}") for step in explanation.steps]
    console().print()
    print_table(["step", "left out"], dropped, title="steps, in their order")
    for image_id, way in explanation.results.items():
        rows = [
            (
                trace.step,
                f"{trace.score_before:.4f} > {trace.score_after:.4f}",
                f"{_rank(trace.rank_before)} > {_rank(trace.rank_after)}",
            )
            for trace in way
        ]
        console().print()
        print_table(["step", "score", "rank"], rows, title=escape(image_id))


def _rank(rank: int | None) -> str:
    return "-" if rank is None else str(rank)
