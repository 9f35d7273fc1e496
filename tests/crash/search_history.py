"""What a collection held at each of its changes, and what an answer must therefore say: brute force with numpy.

Knows no index, no Redis and no SQL: whoever writes records what was committed, and answers are compared with that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from query_service.protocol import SearchAnswer, SearchRequest
from storage.records import ModelIdentity

TOLERANCE = 1e-5  # float32 in the index, float64 here

Vector = np.ndarray[Any, Any]
State = Mapping[str, Vector]  # image id to (d,) float32


@dataclass
class _Change:
    """What one commit did; `seq` is the generation's number after it."""

    seq: int
    upserted: Mapping[str, Vector]
    removed: Sequence[str]


@dataclass
class _Kept:
    model: ModelIdentity
    changes: list[_Change] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=lambda: {0: {}})  # by seq, made when asked for


class SearchHistory:
    """The changes of every generation, in commit order. Threads may record and ask at once."""

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._lock = Lock()

    def begin(self, generation_id: int, model: ModelIdentity) -> None:
        """A new generation, which holds nothing yet."""
        self._kept[generation_id] = _Kept(model)

    def record(self, generation_id: int, seq: int, upserted: Mapping[str, Vector], removed: Sequence[str] = ()) -> None:
        """A commit took the generation to `seq`."""
        self._kept[generation_id].changes.append(_Change(seq, dict(upserted), list(removed)))

    def model(self, generation_id: int) -> ModelIdentity | None:
        """Whose vectors they are; None for a generation that was never begun."""
        kept = self._kept.get(generation_id)
        return None if kept is None else kept.model

    def state(self, generation_id: int, seq: int) -> State | None:
        """What it held at that change; None when no commit ended there."""
        with self._lock:
            kept = self._kept[generation_id]
            if seq not in kept.states:
                known = max(one for one in kept.states if one <= seq)
                held = dict(kept.states[known])
                for change in kept.changes:
                    if known < change.seq <= seq:
                        held.update(change.upserted)
                        for image_id in change.removed:
                            held.pop(image_id, None)
                        kept.states[change.seq] = dict(held)
            return kept.states.get(seq)


@dataclass(frozen=True)
class Asked:
    """A search as the judge sees it: by a vector or a stored image; `among` are the ids that its filter allows."""

    request: SearchRequest
    vector: Vector | None = None
    image_id: str = ""
    among: frozenset[str] | None = None


def problems(asked: Asked, answer: SearchAnswer, history: SearchHistory) -> list[str]:
    """What is wrong with an answer: nothing, if it is exact for what the catalog held at the change that it names."""
    told = answer.provenance
    model = history.model(told.generation_id)
    if model is None:
        return [f"generation {told.generation_id} was never begun"]
    if told.model != model or answer.model != model:
        return [f"generation {told.generation_id} is of {model}, the answer says {told.model}"]
    held = history.state(told.generation_id, told.seq)
    if held is None:
        return [f"no commit of generation {told.generation_id} ended with change {told.seq}"]
    found = [] if told.images == len(held) else [f"{len(held)} images were there, the answer says {told.images}"]
    query = asked.vector if asked.vector is not None else held.get(asked.image_id)
    if query is None:
        return [*found, f"{asked.image_id} was not there"]
    return found + _wrong_results(asked, answer, query, held)


def expected(asked: Asked, query: Vector, held: State) -> list[tuple[float, str]]:
    """The page: squared distances and ids, nearest first."""
    request = asked.request
    gone = set(request.exclude) | ({asked.image_id} if request.exclude_query else set())
    names = [name for name in held if name not in gone and (asked.among is None or name in asked.among)]
    if not names:
        return []
    rows = np.stack([held[name] for name in names]).astype(np.float64)
    distances = ((rows - query.astype(np.float64)) ** 2).sum(axis=1)
    ordered = sorted(zip(distances.tolist(), names, strict=True))
    offset = request.options.offset
    return ordered[offset : offset + request.options.top_k]


def _wrong_results(asked: Asked, answer: SearchAnswer, query: Vector, held: State) -> list[str]:
    wanted, found = expected(asked, query, held), []
    names = [one.image_id for one in answer.results]
    if len(names) != len(wanted):
        found.append(f"{len(wanted)} results belong on the page, it has {len(names)}")
    if len(set(names)) != len(names):
        found.append("a result comes twice")
    allowed = dict.fromkeys(held) if asked.among is None else dict.fromkeys(asked.among & held.keys())
    for place, (one, (distance, name)) in enumerate(zip(answer.results, wanted, strict=False)):
        if one.image_id not in allowed:
            found.append(f"{one.image_id} was not there, or the filter leaves it out")
            continue
        own = float(((held[one.image_id].astype(np.float64) - query.astype(np.float64)) ** 2).sum())
        if abs(own - one.distance) > TOLERANCE:
            found.append(f"{one.image_id} is {own:.6f} away, the answer says {one.distance:.6f}")
        if abs(distance - one.distance) > TOLERANCE:
            found.append(f"{name} belongs on place {place} ({distance:.6f}), there is {one.image_id} ({own:.6f})")
        if abs(one.score - (1 - one.distance / 2)) > TOLERANCE or one.rank != asked.request.options.offset + place + 1:
            found.append(f"score {one.score} and rank {one.rank} do not fit place {place}")
    return found
