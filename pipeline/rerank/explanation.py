"""How a page came about, step by step: the data model, and the recorder that fills it while the page is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from pipeline.results import SearchResult

if TYPE_CHECKING:
    from pipeline.rerank.stream import Stream  # it loads NumPy, which who only asks does not need

_DROP_NOTHING = ("normalize", "diversity")  # what they have read and not passed on yet is only waiting


class StepTrace(BaseModel):
    """What one rerank step did to one result: score and rank (from 1; None: not ranked there) before and after."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: str
    score_before: float
    score_after: float
    rank_before: int | None = None
    rank_after: int | None = None


class Explanation(BaseModel):
    """How a page came about: steps in order with what they dropped, and each result's way through them.

    Only the steps that were asked for stand here, and `page` at the end, whose dropped ones are those before the
    offset. A step's dropped ones were read and left out before the page was full. A filter that SQL has answered
    stands first: it has dropped all images of the index that do not match, and nothing was ranked before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: list[str] = Field(default_factory=list)
    dropped: dict[str, int] = Field(default_factory=dict)  # by step
    results: dict[str, list[StepTrace]] = Field(default_factory=dict)  # by image id, for the page's results


@dataclass
class _Tap:
    """What came out of a step: ranks from 1 and scores by image id."""

    step: str
    ranks: dict[str, int] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    ended: bool = False  # the step has no more to give

    def flow(self, stream: Stream) -> Stream:
        for result in stream:
            self.ranks[result.image_id] = len(self.ranks) + 1
            self.scores[result.image_id] = result.score
            yield result
        self.ended = True

    def dropped_of(self, before: _Tap) -> int:
        """How many of what the step has read will not come out of it any more."""
        if self.step in _DROP_NOTHING:
            return 0
        if self.ended:
            return len(before.ranks) - len(self.ranks)
        # steps that drop keep the order: what stands behind the last one out may still come
        last = max((before.ranks[image_id] for image_id in self.ranks), default=0)
        return last - len(self.ranks)


class StepRecorder:
    """Watches the streams between the steps of one page. Without a recorder the steps run as ever."""

    def __init__(self, *, filtered_out: int | None = None) -> None:
        """`filtered_out`: so many images of the index a filter has left out before the search (None: no filter)."""
        self._filtered_out = filtered_out
        self._taps: list[_Tap] = []

    def watch(self, step: str, stream: Stream) -> Stream:
        """Pass the stream on that comes out of this step; the first one is what the index answered."""
        tap = _Tap(step)
        self._taps.append(tap)
        return tap.flow(stream)

    def explanation(self, page: Sequence[SearchResult]) -> Explanation:
        """What was seen, for this page."""
        pairs = list(zip(self._taps, self._taps[1:], strict=False))
        steps = [after.step for _, after in pairs]
        dropped = {after.step: after.dropped_of(before) for before, after in pairs}
        if self._filtered_out is not None:
            steps = ["filter", *steps]
            dropped["filter"] = self._filtered_out
        dropped["page"] = page[0].rank - 1 if page else len(self._taps[-1].ranks)
        return Explanation(
            steps=[*steps, "page"],
            dropped={step: dropped[step] for step in (*steps, "page")},
            results={result.image_id: self._way(result) for result in page},
        )

    def _way(self, result: SearchResult) -> list[StepTrace]:
        name, found = result.image_id, self._taps[0]
        way = [] if self._filtered_out is None else [_trace("filter", found.scores[name], None, found, name)]
        for before, after in zip(self._taps, self._taps[1:], strict=False):
            way.append(_trace(after.step, before.scores[name], before.ranks[name], after, name))
        last = self._taps[-1]
        page = StepTrace(
            step="page",
            score_before=last.scores[name],
            score_after=result.score,
            rank_before=last.ranks[name],
            rank_after=result.rank,
        )
        return [*way, page]


def _trace(step: str, score: float, rank: int | None, after: _Tap, image_id: str) -> StepTrace:
    return StepTrace(
        step=step,
        score_before=score,
        score_after=after.scores[image_id],
        rank_before=rank,
        rank_after=after.ranks[image_id],
    )
