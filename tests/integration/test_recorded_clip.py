"""Our index, search, reranking and metrics on vectors recorded from the real CLIP ViT-B/32, with known results.

The known numbers stand in the ABOUT.md beside the vectors. They may not be copied here, so the tests skip without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pipeline.evaluate import ModelEvaluator, evaluate_rankings
from pipeline.rerank import Reranker, RerankOptions
from pipeline.search import NearestNeighborSearch
from storage.filters import Equals
from storage.records import ImageMetadata
from storage.vector_index import VectorIndex

RECORDED = Path(__file__).parents[2].parent / "shared" / "data" / "recorded-clip" / "recorded_clip_vitb32.npz"
HALF_A_DIGIT = 5e-4  # the known results have three decimals
CIFAR_WORDS = {"automobile": "a car", "ship": "a boat"}  # these two classes have no recorded text of their own name

Vectors = np.ndarray[Any, np.dtype[np.float32]]


class Recorded(NamedTuple):
    """Images by id with set and label, and texts by position."""

    images: dict[str, ImageMetadata]
    image_vectors: Vectors
    texts: list[str]
    text_sets: list[str]
    described: list[str]  # the image id that a Flickr8k caption describes
    text_vectors: Vectors

    def ids_of(self, image_set: str) -> list[str]:
        return [image_id for image_id, image in self.images.items() if image.attributes["set"] == image_set]

    def label(self, image_id: str) -> str:
        return str(self.images[image_id].attributes["label"])

    def lookup(self, image_ids: Sequence[str]) -> Mapping[str, ImageMetadata]:
        return {image_id: self.images[image_id] for image_id in image_ids}


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    if not RECORDED.exists():
        pytest.skip("the recorded CLIP vectors are not here (shared/data/recorded-clip beside the repository)")
    with np.load(RECORDED, allow_pickle=False) as file:
        rows = zip(file["image_path"], file["image_set"], file["image_label"], strict=True)
        images = {Path(str(path)).stem: {"set": str(image_set), "label": str(label)} for path, image_set, label in rows}
        return Recorded(
            images={i: ImageMetadata(image_id=i, attributes=dict(own)) for i, own in images.items()},
            image_vectors=file["image_embeds"],
            texts=[str(text) for text in file["text"]],
            text_sets=[str(name) for name in file["text_set"]],
            described=[str(image_id) for image_id in file["text_image_id"]],
            text_vectors=file["text_embeds"],
        )


@pytest.fixture(scope="module")
def search(recorded: Recorded) -> NearestNeighborSearch:
    """A search over all 691 images."""
    index = VectorIndex(512)
    index.add_many(list(recorded.images), recorded.image_vectors)
    return NearestNeighborSearch(index, metadata=recorded.lookup)


def caption_means(recorded: Recorded, search: NearestNeighborSearch, only: Sequence[str] | None) -> dict[str, float]:
    """Ask with each of the 500 captions; the one right answer is the photo it describes."""
    captions = [n for n, name in enumerate(recorded.text_sets) if name == "flickr8k"]
    names = [f"caption {n}" for n in captions]
    answers = search.search_many(recorded.text_vectors[captions], names, k=100, only=only)
    truth = {name: [recorded.described[n]] for name, n in zip(names, captions, strict=True)}
    return evaluate_rankings(truth, {a.query_id: a.image_ids for a in answers}, [1, 5]).means


def test_captions_find_their_photos_among_a_hundred_as_known(recorded: Recorded, search: NearestNeighborSearch) -> None:
    means = caption_means(recorded, search, only=recorded.ids_of("flickr8k"))
    assert means["recall@1"] == pytest.approx(0.832, abs=HALF_A_DIGIT)
    assert means["recall@5"] == pytest.approx(0.990, abs=HALF_A_DIGIT)
    assert means["mrr"] == pytest.approx(0.900, abs=HALF_A_DIGIT)


def test_captions_find_their_photos_among_all_images_as_known(
    recorded: Recorded, search: NearestNeighborSearch
) -> None:
    means = caption_means(recorded, search, only=None)
    assert means["recall@1"] == pytest.approx(0.828, abs=HALF_A_DIGIT)
    assert means["recall@5"] == pytest.approx(0.986, abs=HALF_A_DIGIT)


def test_class_names_label_the_pictures_as_known(recorded: Recorded) -> None:
    """Zero-shot: an index of ten texts, asked with pictures. With "a ship" instead of "a boat" it would be 0.898."""
    cifar = recorded.ids_of("cifar10")
    labels = sorted({recorded.label(image_id) for image_id in cifar})
    lowered = [text.lower() for text in recorded.texts]
    rows = [lowered.index(CIFAR_WORDS.get(label, f"a {label}")) for label in labels]
    index = VectorIndex(512)
    index.add_many(labels, recorded.text_vectors[rows])
    positions = [n for n, image_id in enumerate(recorded.images) if image_id in set(cifar)]
    answers = NearestNeighborSearch(index).search_many(recorded.image_vectors[positions], cifar, k=1)
    right = [answer.image_ids == [recorded.label(answer.query_id)] for answer in answers]
    assert sum(right) / len(right) == pytest.approx(0.904, abs=HALF_A_DIGIT)


def test_the_nearest_other_picture_has_the_same_label_as_often_as_known(recorded: Recorded, tmp_path: Path) -> None:
    """Through the whole evaluation: the ground truth of a picture are all others of its label."""
    cifar = recorded.ids_of("cifar10")
    index = VectorIndex(512)
    rows = dict(zip(recorded.images, recorded.image_vectors, strict=True))
    index.add_many(cifar, np.stack([rows[image_id] for image_id in cifar]))
    queries = [
        {
            "query_id": one,
            "ground_truth": [i for i in cifar if i != one and recorded.label(i) == recorded.label(one)],
        }
        for one in cifar
    ]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"queries": queries}))
    result = ModelEvaluator(NearestNeighborSearch(index), [1]).evaluate(path)
    assert result.means["precision@1"] == pytest.approx(0.834, abs=HALF_A_DIGIT)
    assert len(result.queries) == 500


def test_a_saved_and_loaded_index_finds_the_same(
    recorded: Recorded, search: NearestNeighborSearch, tmp_path: Path
) -> None:
    search.index.save(tmp_path / "index")
    loaded = NearestNeighborSearch(VectorIndex.load(tmp_path / "index"))
    ids = recorded.ids_of("animals")
    assert loaded.rank_many_by_id(ids, 691) == search.rank_many_by_id(ids, 691)


def cosines_within(search: NearestNeighborSearch, image_ids: Sequence[str]) -> Vectors:
    """The cosine of every two of the images, each pair once."""
    vectors = search.index.reconstruct_many(image_ids)
    cosines: Vectors = (vectors @ vectors.T)[np.triu_indices(len(image_ids), k=1)]
    return cosines


def test_no_page_holds_near_duplicates_and_all_stay_full(recorded: Recorded, search: NearestNeighborSearch) -> None:
    options = RerankOptions(near_duplicate_threshold=0.9, top_k=20)
    for vector in recorded.image_vectors[::20]:
        page = search.search_page(vector, options)
        assert len(page) == 20
        assert cosines_within(search, page.image_ids).max() < 0.9


def test_diversity_makes_real_pages_more_varied(recorded: Recorded, search: NearestNeighborSearch) -> None:
    alike, varied = [], []
    for vector in recorded.image_vectors[::20]:
        alike.append(cosines_within(search, search.search_page(vector, RerankOptions()).image_ids).mean())
        page = search.search_page(vector, RerankOptions(diversity=0.5))
        varied.append(cosines_within(search, page.image_ids).mean())
    assert np.mean(varied) < np.mean(alike) - 0.05


def test_pages_of_all_options_together_fit_together_on_real_vectors(
    recorded: Recorded, search: NearestNeighborSearch
) -> None:
    options = RerankOptions(
        filter=Equals(key="set", value="cifar10"),
        min_score=0.6,
        near_duplicate_threshold=0.92,
        group_by="label",
        group_size=30,
        diversity=0.4,
    )
    vector = recorded.image_vectors[0]
    whole = search.search_page(vector, options.replace(top_k=200))
    pages = [search.search_page(vector, options.replace(top_k=40, offset=at)) for at in range(0, 200, 40)]
    assert [result for page in pages for result in page.results] == whole.results
    assert len(whole) > 80


def test_reranking_all_results_gives_the_first_page_of_the_search(
    recorded: Recorded, search: NearestNeighborSearch
) -> None:
    options = RerankOptions(diversity=0.3, near_duplicate_threshold=0.95, min_score=0.5, group_by="label", group_size=4)
    vector = recorded.image_vectors[3]
    everything = search.search_by_vector(vector, k=691)
    assert Reranker(search.index).rerank(everything, options) == search.search_page(vector, options)
