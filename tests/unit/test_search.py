"""Questions in every form to a real index, with the model-free embedder where a picture is asked with."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.embedding_service import EmbeddingService
from pipeline.errors import InvalidQuery, TextNotSupported
from pipeline.rerank import RerankOptions
from pipeline.search import NearestNeighborSearch
from storage.errors import InvalidVector, ModelMismatch, UnknownImageId
from storage.filters import Equals
from storage.records import ImageMetadata, ModelIdentity
from storage.vector_index import VectorIndex

ANGLES = {"a": 0, "b": 10, "c": 25, "d": 60, "e": 120}  # degrees; nearest to a: b, c, d, e


def unit(degrees: float) -> np.ndarray:
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=np.float32)


@pytest.fixture
def index() -> VectorIndex:
    index = VectorIndex(2)
    for image_id, angle in ANGLES.items():
        index.add(image_id, unit(angle))
    return index


@pytest.fixture
def service(index: VectorIndex) -> NearestNeighborSearch:
    return NearestNeighborSearch(index)


@pytest.fixture(scope="module")
def baseline() -> EmbeddingService:
    return EmbeddingService("baseline")


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(baseline: EmbeddingService) -> NearestNeighborSearch:
    """Five stored pictures, searched with the model that embedded them."""
    index = VectorIndex(baseline.dimension, model=baseline.identity)
    index.add_many([f"p{n}" for n in range(5)], baseline.embed_images([picture(n) for n in range(5)]))
    return NearestNeighborSearch(index, baseline)


def test_a_stored_image_finds_the_others_nearest_first(service: NearestNeighborSearch) -> None:
    results = service.search_by_id(image_id="a", query_id="search_001", k=3, exclude_query=True)
    assert results.query_id == "search_001"
    assert [(r.rank, r.image_id) for r in results.results] == [(1, "b"), (2, "c"), (3, "d")]


def test_a_stored_image_finds_itself_first_when_not_excluded(service: NearestNeighborSearch) -> None:
    results = service.search_by_id("a", k=2, exclude_query=False)
    assert results.image_ids == ["a", "b"]
    assert results[0].distance == 0.0


def test_raw_scores_are_negative_distances(service: NearestNeighborSearch) -> None:
    results = service.search_by_id("a", k=4)
    assert not results.normalized
    assert all(result.score == -result.distance for result in results.results)
    assert results[0].distance == pytest.approx(2 - 2 * math.cos(math.radians(10)), abs=1e-6)


def test_k_above_the_size_of_the_collection_gives_all(service: NearestNeighborSearch) -> None:
    assert service.search_by_id("a", k=1000).image_ids == ["b", "c", "d", "e"]
    assert len(service.search_by_vector(unit(0), k=1000)) == 5


def test_an_unknown_id_is_named(service: NearestNeighborSearch) -> None:
    with pytest.raises(UnknownImageId, match="'nobody'"):
        service.search_by_id("nobody")


@pytest.mark.parametrize("k", [0, -1, True, 2.5, "3"])
def test_a_k_that_makes_no_sense_is_refused(service: NearestNeighborSearch, k: int) -> None:
    with pytest.raises(InvalidQuery, match="k, the number of results"):
        service.search_by_vector(unit(0), k=k)


def test_numpys_whole_numbers_are_good_for_k(service: NearestNeighborSearch) -> None:
    assert len(service.search_by_vector(unit(0), k=np.int64(2))) == 2


def test_a_vector_of_another_shape_is_refused(service: NearestNeighborSearch) -> None:
    with pytest.raises(InvalidVector):
        service.search_by_vector(np.ones(3, dtype=np.float32))


def test_an_empty_index_gives_empty_results() -> None:
    service = NearestNeighborSearch(VectorIndex(2))
    assert service.search_by_vector(unit(0)).results == []
    assert service.search_page(unit(0), RerankOptions(diversity=0.5)).results == []
    assert service.search_many(unit(0)[None], ["q"])[0].results == []


def test_a_search_can_be_kept_to_some_ids_and_leave_some_out(service: NearestNeighborSearch) -> None:
    results = service.search_by_vector(unit(0), k=10, only={"a", "c", "e", "nobody"}, exclude=["c"])
    assert results.image_ids == ["a", "e"]
    assert service.search_by_id("a", only=["a", "d"]).image_ids == ["d"]


def test_equal_distances_are_ordered_by_id_whatever_came_first() -> None:
    index = VectorIndex(2)
    for image_id in ("c", "a", "d", "b"):
        index.add(image_id, unit(45))
    assert NearestNeighborSearch(index).search_by_vector(unit(0), k=2).image_ids == ["a", "b"]


def test_query_ids_default_to_what_was_asked(pictures: NearestNeighborSearch, tmp_path: Path) -> None:
    path = tmp_path / "query.png"
    picture(0).save(path)
    assert pictures.search_by_id("p0").query_id == "p0"
    assert pictures.search_by_image(path).query_id == str(path)
    assert pictures.search_by_image(picture(0)).query_id == "image"
    assert pictures.search_by_vector(pictures.index.reconstruct("p0")).query_id == "vector"


def test_a_picture_is_found_by_bytes_path_and_opened_picture(pictures: NearestNeighborSearch, tmp_path: Path) -> None:
    path, buffer = tmp_path / "query.png", io.BytesIO()
    picture(3).save(path)
    picture(3).save(buffer, format="PNG")
    for image in (path, str(path), buffer.getvalue(), picture(3)):
        best = pictures.search_by_image(image, query_id="q", k=1)
        assert (best.query_id, best.image_ids) == ("q", ["p3"])
        assert best[0].distance == pytest.approx(0, abs=1e-5)


def test_a_search_by_picture_can_leave_ids_out(pictures: NearestNeighborSearch) -> None:
    assert "p3" not in pictures.search_by_image(picture(3), exclude=["p3"]).image_ids


def test_text_with_a_model_that_knows_none_is_refused(pictures: NearestNeighborSearch) -> None:
    with pytest.raises(TextNotSupported):
        pictures.search_by_text("a red dress")


def test_a_picture_or_text_without_a_model_is_refused_with_what_to_do(service: NearestNeighborSearch) -> None:
    with pytest.raises(InvalidQuery, match=r"by an image needs .*embedding_service=EmbeddingService"):
        service.search_by_image(picture(0))
    with pytest.raises(InvalidQuery, match="by a text needs"):
        service.search_by_text("a red dress")


def test_a_bad_k_is_refused_before_the_picture_is_embedded(pictures: NearestNeighborSearch) -> None:
    with pytest.raises(InvalidQuery):
        pictures.search_by_image(b"no picture at all", k=0)


def test_a_model_of_another_dimension_than_the_index_is_refused(baseline: EmbeddingService) -> None:
    with pytest.raises(ModelMismatch, match="2-d vectors"):
        NearestNeighborSearch(VectorIndex(2), baseline)


def another_model(baseline: EmbeddingService) -> ModelIdentity:
    return baseline.identity.model_copy(update={"weights_fingerprint": "other"})


def test_another_model_of_the_same_dimension_is_refused(baseline: EmbeddingService) -> None:
    with pytest.raises(ModelMismatch, match="the queries would be of"):
        NearestNeighborSearch(VectorIndex(512, model=another_model(baseline)), baseline)


def test_a_model_set_on_the_index_later_is_checked_as_well(baseline: EmbeddingService) -> None:
    index = VectorIndex(512)
    service = NearestNeighborSearch(index, baseline)
    index.model = another_model(baseline)
    with pytest.raises(ModelMismatch):
        service.search_by_image(picture(0))


def test_results_name_the_model_that_was_asked(pictures: NearestNeighborSearch, baseline: EmbeddingService) -> None:
    assert pictures.model == baseline.identity
    assert pictures.search_by_id("p0").model == baseline.identity


def test_a_batch_of_vectors_is_answered_as_one_by_one(service: NearestNeighborSearch) -> None:
    vectors = np.stack([unit(angle) for angle in (0, 50, 100)])
    answers = service.search_many(vectors, ["x", "y", "z"], k=3)
    assert answers == [service.search_by_vector(v, q, 3) for v, q in zip(vectors, "xyz", strict=True)]


def test_a_batch_can_be_kept_to_some_ids(service: NearestNeighborSearch) -> None:
    (answer,) = service.search_many(unit(0)[None], ["q"], only=["e", "d"])
    assert answer.image_ids == ["d", "e"]


def test_a_batch_of_none_has_no_answers(service: NearestNeighborSearch) -> None:
    assert service.search_many(np.empty((0, 2), dtype=np.float32), []) == []
    assert service.rank_many_by_id([], k=3) == []


def test_a_batch_needs_as_many_names_as_vectors(service: NearestNeighborSearch) -> None:
    with pytest.raises(InvalidQuery, match="1 query vectors but 2 query ids"):
        service.search_many(unit(0)[None], ["x", "y"])


def test_many_stored_images_are_ranked_by_ids_alone(service: NearestNeighborSearch) -> None:
    assert service.rank_many_by_id(["a", "e"], k=2) == [["b", "c"], ["d", "c"]]
    assert service.rank_many_by_id(["a"], k=2, exclude_query=False) == [["a", "b"]]


def test_results_carry_address_and_attributes_where_they_are_known(index: VectorIndex) -> None:
    asked: list[list[str]] = []

    def lookup(image_ids: Sequence[str]) -> Mapping[str, ImageMetadata]:
        asked.append(list(image_ids))
        known = ImageMetadata(image_id="b", source_uri="file:///b.jpg", attributes={"colour": "red"})
        return {"b": known} if "b" in image_ids else {}

    results = NearestNeighborSearch(index, metadata=lookup).search_by_id("a", k=2)
    assert [(r.source_uri, r.attributes) for r in results.results] == [
        ("file:///b.jpg", {"colour": "red"}),
        ("", {}),
    ]
    assert asked == [["b", "c"]]


@pytest.mark.parametrize("options", [{"filter": Equals(key="a", value=1)}, {"group_by": "a"}])
def test_options_on_attributes_need_a_metadata_lookup(
    service: NearestNeighborSearch, options: dict[str, object]
) -> None:
    with pytest.raises(InvalidQuery, match=r"metadata=\.\.\."):
        service.search_page(unit(0), RerankOptions.model_validate(options))


def test_a_page_has_its_query_id_scores_and_ranks(service: NearestNeighborSearch) -> None:
    page = service.search_page(unit(0), RerankOptions(top_k=2, offset=1), "q", exclude=["b"])
    assert (page.query_id, page.normalized) == ("q", True)
    assert [(r.rank, r.image_id) for r in page.results] == [(2, "c"), (3, "d")]
    assert page[0].score == pytest.approx(math.cos(math.radians(25)), abs=1e-6)


def test_a_raw_page_keeps_negative_distances(service: NearestNeighborSearch) -> None:
    page = service.search_page(unit(0), RerankOptions(normalize=False), only=["a", "e"])
    assert not page.normalized
    assert [r.score for r in page.results] == [-r.distance for r in page.results]
    assert page.image_ids == ["a", "e"]


def test_the_stream_asks_for_more_as_it_is_read(service: NearestNeighborSearch) -> None:
    stream = service.ranked(unit(0), first_fetch=1)
    assert [(result.rank, result.image_id) for result in stream] == list(enumerate("abcde", start=1))


def test_the_stream_yields_no_image_twice_when_the_index_changes_meanwhile(index: VectorIndex) -> None:
    """One image nearer than all comes in between the first and the second search, and one goes."""
    stream = NearestNeighborSearch(index).ranked(unit(0), first_fetch=2)
    read = [next(stream).image_id, next(stream).image_id]
    index.add("new", unit(1))
    index.remove("b")
    read += [result.image_id for result in stream]
    assert read == ["a", "b", "new", "c", "d", "e"]
