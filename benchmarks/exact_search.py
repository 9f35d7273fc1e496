"""Exact search of the vector index against FAISS IndexFlatL2 as it comes, side by side in one process.

Every case is asked of both in turn, several rounds; the table has the median with least and most, and the ratio of
each round. Both answer the same: checked once for each case. Machine limits stand below it: one multiplication of
all vectors (BLAS), and reading them once. Threads are those of OMP_NUM_THREADS, by default all cores.
A stage of `make bench`, which leaves some cases out; all: python benchmarks/exact_search.py [--vectors N [N ...]]
[--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
from measuring import keep
from report import as_dict, show_table
from stage import LEAST_REPEATS, Given, Row, Table

from storage.vector_index import Hit, VectorIndex

DIMENSION = 512
K = 10
SEED = 1
BLOCK = 50_000
REST_SECONDS = 0.05
LARGE = 1_000_000
CLOSE = 1e-4  # what FAISS's float32 sums may be off; ours are float64

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Found = tuple[Vectors, np.ndarray[Any, np.dtype[np.int64]]]


@dataclass(frozen=True)
class Case:
    """One way of asking, of ours and of FAISS; `goal` is the ratio that is aimed for (0: none)."""

    name: str
    goal: float
    ours: Callable[[], list[list[Hit]]]
    theirs: Callable[[], Found]


def unit(rows: Vectors) -> Vectors:
    """The rows at length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(count: int) -> tuple[VectorIndex, faiss.IndexFlatL2, Vectors]:
    """The same random vectors in both indexes, and 256 queries: half near a stored vector, half anywhere."""
    rng = np.random.default_rng(SEED)
    ours, theirs = VectorIndex(DIMENSION), faiss.IndexFlatL2(DIMENSION)
    near: list[Vectors] = []
    for start in range(0, count, BLOCK):
        rows = unit(rng.standard_normal((min(BLOCK, count - start), DIMENSION), dtype=np.float32))
        ours.add_many([f"photos/{start + place:08d}.jpg" for place in range(len(rows))], rows)
        theirs.add(rows)
        near.append(rows[:256])
    stored = np.concatenate(near)
    stored = stored[rng.choice(len(stored), 128)]
    noise = rng.standard_normal((256, DIMENSION), dtype=np.float32)
    return ours, theirs, unit(np.concatenate([stored + 0.03 * noise[:128], noise[128:]])[rng.permutation(256)])


def cases(ours: VectorIndex, theirs: faiss.IndexFlatL2, queries: Vectors) -> list[Case]:
    """Everything that is asked of one size of index."""
    made = [
        Case(f"{count} quer{'y' if count == 1 else 'ies'}", goal, *_plain(ours, theirs, queries[:count]))
        for count, goal in ((1, 1.9), (4, 0.0), (16, 4.0), (64, 8.0), (256, 0.0))
    ]
    for share in (0.01, 0.1, 0.5):
        chosen = np.random.default_rng(SEED).choice(theirs.ntotal, int(share * theirs.ntotal), replace=False)
        for count, goal in ((1, 0.0), (16, 0.0), (64, 10.0), (256, 10.0)):
            name = f"{count} of {share:.0%}"
            made.append(Case(name, goal, *_filtered(ours, theirs, queries[:count], chosen)))
    return made


def _plain(ours: VectorIndex, theirs: faiss.IndexFlatL2, queries: Vectors) -> tuple[Any, Any]:
    return partial(ours.search_many, queries, K), partial(theirs.search, queries, K)


def _filtered(ours: VectorIndex, theirs: faiss.IndexFlatL2, queries: Vectors, chosen: Any) -> tuple[Any, Any]:
    """A filter is a set of ids, as a catalog gives them; FAISS knows numbers only, so its user looks them up first."""
    row_of = {f"photos/{place:08d}.jpg": place for place in range(theirs.ntotal)}
    only = {f"photos/{place:08d}.jpg" for place in chosen.tolist()}

    def ask() -> Any:
        rows = np.fromiter(map(row_of.__getitem__, only), np.int64, len(only))
        return theirs.search(queries, K, params=faiss.SearchParameters(sel=faiss.IDSelectorBatch(rows)))

    return partial(ours.search_many, queries, K, only=only), ask


def check(case: Case) -> None:
    """Stop unless both find the same distances, and the same images where distances differ clearly."""
    hits, (distances, places) = case.ours(), case.theirs()
    for found, near, rows in zip(hits, distances, places, strict=True):
        off = np.abs(np.array([hit.distance for hit in found]) - near).max()
        if off > CLOSE:
            raise SystemExit(f"{case.name}: distances differ by {off}")
        same = [hit.image_id == f"photos/{row:08d}.jpg" for hit, row in zip(found, rows, strict=True)]
        gaps = np.diff(near, append=np.inf, prepend=-np.inf)
        if not all(same[place] or gaps[place : place + 2].min() < CLOSE for place in range(len(same))):
            raise SystemExit(f"{case.name}: other images were found")


def seconds_of(call: Callable[[], object]) -> float:
    """How long one call takes, after a rest: OpenMP's threads go on spinning after a search of FAISS."""
    time.sleep(REST_SECONDS)
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def limits(theirs: faiss.IndexFlatL2, queries: Vectors, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one plain multiplication with all vectors, and of reading them once."""
    rows = faiss.rev_swig_ptr(theirs.get_xb(), theirs.ntotal * DIMENSION).reshape(-1, DIMENSION)
    calls: dict[str, Callable[[], object]] = {"read once (max)": rows.max}
    for count in (1, 16, 64, 256):
        calls[f"multiply {count}"] = partial(np.matmul, rows, np.ascontiguousarray(queries[:count].T))
    return {name: [1000 * seconds_of(call) for _ in range(rounds)] for name, call in calls.items()}


def timed(count: int, rounds: int, wanted: frozenset[str] = frozenset()) -> tuple[list[Row], list[Row]]:
    """Ask everything (or what is wanted) of an index of so many vectors: ours beside FAISS, and beside the machine."""
    ours, theirs, queries = filled(count)
    made = [case for case in cases(ours, theirs, queries) if not wanted or case.name in wanted]
    for case in made:
        check(case)  # warms both up
    times: dict[str, list[tuple[float, float]]] = {case.name: [] for case in made}
    for _ in range(rounds):
        for case in made:
            times[case.name].append((1000 * seconds_of(case.ours), 1000 * seconds_of(case.theirs)))
    rows = []
    for case in made:
        mine, other = (list(column) for column in zip(*times[case.name], strict=True))
        rows.append(Row(case.name, "ms", mine, "FAISS", other, case.goal or None))
    below = limits(theirs, queries, rounds)
    reached = {row.what: row.ours for row in rows}
    beside = [("1 query", "read once (max)"), *((f"{many} queries", f"multiply {many}") for many in (16, 64, 256))]
    return rows, [
        Row(name, "ms", reached[name], limit, below[limit], limit=True) for name, limit in beside if name in reached
    ]


def measure(given: Given) -> list[Table]:
    """The tables of `make bench`."""
    wanted = {f"{count} of {share}" for count in (1, 64) for share in ("1%", "10%", "50%")}
    wanted |= {"1 query", "16 queries", "64 queries"}
    tables = []
    for count in (20_000, 50_000) if given.quick else (100_000, 1_000_000):
        rows, limits_ = timed(count, given.repeats if count < LARGE else LEAST_REPEATS, frozenset(wanted))
        title = f"{count:,} vectors of {DIMENSION}, k = {K}, {faiss.omp_get_max_threads()} threads"
        tables += [
            Table(f"{title}: IndexFlatL2 as it comes, filtered with IDSelectorBatch", rows, [CHECKED]),
            Table(f"{title}: share of what the machine can do", limits_, [MULTIPLIED]),
        ]
    return tables


CHECKED = "before anything is timed both must find the same distances, and the same images but for ties"
MULTIPLIED = (
    "one product of all vectors with the queries by numpy's BLAS on all cores; for one query, reading them once"
)


def main() -> None:
    """Measure each size and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="20,000 vectors, 3 rounds, nothing kept")
    arguments = parser.parse_args()
    kept = {}
    for count in (20_000,) if arguments.quick else arguments.vectors:
        rows, reached = timed(count, 3 if arguments.quick else arguments.rounds)
        tables = Table(f"{count:,} vectors", rows), Table("share of what the machine can do", reached)
        for table in tables:
            show_table(table)
        kept[str(count)] = [as_dict(table) for table in tables]
    if not arguments.quick:
        threads = faiss.omp_get_max_threads()
        keep("exact_search", {"threads": threads, "faiss": faiss.__version__, "numpy": np.__version__, "vectors": kept})


if __name__ == "__main__":
    main()
