"""What diversity (MMR), near-duplicate removal and min_score do to vectors recorded from the real CLIP ViT-B/32.

Two tables of pages of ten among 691 images: asked with 500 captions (one right photo each), and asked with 500
CIFAR-10 pictures (right: same label). All measures, MRR included, see the page only.
Usage: python benchmarks/rerank_recorded_clip.py [SHARED_FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pipeline.evaluate import evaluate_rankings
from pipeline.rerank import RerankOptions
from pipeline.search import NearestNeighborSearch
from storage.vector_index import VectorIndex

DEFAULT_SHARED = Path(__file__).resolve().parents[2] / "shared"
VECTORS = Path("data") / "recorded-clip" / "recorded_clip_vitb32.npz"
TOP_K = 10
DIVERSITIES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
NEAR_DUPLICATES = (0.97, 0.95, 0.9, 0.85)

Vectors = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Questions:
    """Query vectors with names, what is right for each, and which image each leaves out."""

    names: list[str]
    vectors: Vectors
    truth: dict[str, list[str]]
    excluded: list[list[str]]


def load(shared: Path) -> tuple[NearestNeighborSearch, Questions, Questions]:
    """Read the vectors and make the index, the captions and the pictures to ask with."""
    with np.load(shared / VECTORS, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    ids = [Path(path).stem for path in data["image_path"].tolist()]
    index = VectorIndex(512)
    index.add_many(ids, data["image_embeds"])
    return NearestNeighborSearch(index), captions_of(data), pictures_of(data, ids)


def captions_of(data: dict[str, Any]) -> Questions:
    """The 500 captions; right is the one photo described."""
    rows = np.flatnonzero(data["text_set"] == "flickr8k")
    names = [f"caption {row}" for row in rows]
    truth = {name: [str(image)] for name, image in zip(names, data["text_image_id"][rows], strict=True)}
    return Questions(names, data["text_embeds"][rows], truth, [[] for _ in names])


def pictures_of(data: dict[str, Any], ids: Sequence[str]) -> Questions:
    """The 500 CIFAR-10 pictures; right are all others of the same label, itself is left out."""
    rows = np.flatnonzero(data["image_set"] == "cifar10")
    names = [ids[row] for row in rows]
    labels = dict(zip(names, data["image_label"][rows].tolist(), strict=True))
    truth = {name: [i for i in names if i != name and labels[i] == labels[name]] for name in names}
    return Questions(names, data["image_embeds"][rows], truth, [[name] for name in names])


def mean_cosine(search: NearestNeighborSearch, image_ids: Sequence[str]) -> float | None:
    """How alike the results of a page are among each other; None with fewer than two."""
    if len(image_ids) < 2:
        return None
    vectors = search.index.reconstruct_many(image_ids)
    return float((vectors @ vectors.T)[np.triu_indices(len(image_ids), k=1)].mean())


def measure(search: NearestNeighborSearch, questions: Questions, options: RerankOptions) -> dict[str, float]:
    """Ask everything once with these options."""
    started = perf_counter()
    pages = [
        search.search_page(vector, options, exclude=excluded)
        for vector, excluded in zip(questions.vectors, questions.excluded, strict=True)
    ]
    seconds = perf_counter() - started
    rankings = {name: page.image_ids for name, page in zip(questions.names, pages, strict=True)}
    alike = [value for page in pages if (value := mean_cosine(search, page.image_ids)) is not None]
    return evaluate_rankings(questions.truth, rankings, [1, 5, TOP_K]).means | {
        "results": float(np.mean([len(page) for page in pages])),
        "alike": float(np.mean(alike)) if alike else float("nan"),
        "milliseconds": 1000 * seconds / len(pages),
    }


def settings(min_scores: Sequence[float]) -> dict[str, RerankOptions]:
    """Name each row of the table."""
    rows = {"plain": RerankOptions(top_k=TOP_K)}
    rows |= {f"diversity {d}": RerankOptions(top_k=TOP_K, diversity=d) for d in DIVERSITIES}
    rows |= {f"near duplicates {t}": RerankOptions(top_k=TOP_K, near_duplicate_threshold=t) for t in NEAR_DUPLICATES}
    rows |= {f"min_score {score}": RerankOptions(top_k=TOP_K, min_score=score) for score in min_scores}
    together = RerankOptions(
        top_k=TOP_K, diversity=0.3, near_duplicate_threshold=0.95, min_score=min_scores[len(min_scores) // 2]
    )
    return rows | {f"0.3, 0.95 and {together.min_score}": together}


def show(
    title: str, measures: Sequence[str], rows: dict[str, RerankOptions], ask: Callable[[RerankOptions], Any]
) -> None:
    """Print one table; `alike` is the mean cosine between two results of a page (lower is more varied)."""
    columns = [*measures, "alike", "results", "milliseconds"]
    print(f"\n{title}\n{'':<22}" + "".join(f"{name:>14}" for name in columns))
    for name, options in rows.items():
        values = ask(options)
        print(f"{name:<22}" + "".join(f"{values[column]:>14.3f}" for column in columns))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", nargs="?", type=Path, default=DEFAULT_SHARED, help="folder with data/recorded-clip")
    shared = parser.parse_args().shared
    if not (shared / VECTORS).is_file():
        parser.error(f"there is no {shared / VECTORS}")
    search, captions, pictures = load(shared)
    show(
        "Captions to photos (one right answer)",
        ["recall@1", "recall@5", "recall@10", "mrr"],
        settings([0.2, 0.25, 0.3]),
        lambda options: measure(search, captions, options),
    )
    show(
        "Pictures to pictures of the same label",
        ["precision@1", "precision@5", "precision@10", "mrr"],
        settings([0.7, 0.8, 0.9]),
        lambda options: measure(search, pictures, options),
    )


if __name__ == "__main__":
    main()
