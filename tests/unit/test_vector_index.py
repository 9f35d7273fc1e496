"""The vector index: what goes in, what is refused, what comes out, and that threads may share it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from storage import exact_search
from storage.errors import (
    DuplicateImageId,
    IndexFileError,
    InvalidVector,
    UnknownImageId,
    VectorIndexError,
)
from storage.index_files import read_attachment
from storage.records import ModelIdentity
from storage.vector_index import Hit, VectorIndex

DIMENSION = 8
SEED = 20240501


def unit_vectors(count: int, dimension: int = DIMENSION, seed: int = SEED) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def axis(position: int, sign: float = 1.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[position] = sign
    return vector


def index_of(count: int, dimension: int = DIMENSION) -> VectorIndex:
    index = VectorIndex(dimension)
    index.add_many([f"i{number:04d}" for number in range(count)], unit_vectors(count, dimension))
    return index


def model(name: str = "m", dimension: int = DIMENSION) -> ModelIdentity:
    return ModelIdentity(
        name=name, revision="r", weights_fingerprint="w", preprocessing_fingerprint="p", dimension=dimension
    )


def test_a_new_index_is_empty_and_answers_with_nothing() -> None:
    index = VectorIndex()
    assert (len(index), index.dimension, index.ids(), index.model) == (0, 512, [], None)
    query = unit_vectors(1, 512)
    assert index.search(query[0]) == []
    assert index.search_many(query) == [[]]
    assert index.reconstruct_many([]).shape == (0, 512)


def test_distances_are_squared_and_a_vector_is_at_zero_from_itself() -> None:
    index = VectorIndex(DIMENSION)
    index.add_many(["same", "right angle", "opposite"], np.stack([axis(0), axis(1), axis(0, -1.0)]))
    assert index.search(axis(0)) == [Hit("same", 0.0), Hit("right angle", 2.0), Hit("opposite", 4.0)]


def test_lists_of_numbers_are_accepted_as_vectors() -> None:
    index = VectorIndex(2)
    index.add("a", [1, 0])
    index.add_many(["b", "c"], [[0.6, 0.8], np.array([0, 1], dtype=np.float32)])
    assert [hit.image_id for hit in index.search([1.0, 0.0])] == ["a", "b", "c"]


def test_empty_batches_do_nothing() -> None:
    index = index_of(3)
    index.add_many([], [])
    index.upsert_many([], np.empty((0, DIMENSION), dtype=np.float32))
    index.remove_many([])
    assert len(index) == 3
    assert index.search_many([]) == []


@pytest.mark.parametrize("dimension", [0, -1, 2.5, "512", True, None])
def test_a_dimension_that_is_no_positive_whole_number_is_refused(dimension: Any) -> None:
    with pytest.raises(VectorIndexError, match="whole number"):
        VectorIndex(dimension)


@pytest.mark.parametrize("k", [0, -3, 1.5, "10", True, None])
def test_a_k_that_is_no_positive_whole_number_is_refused(k: Any) -> None:
    with pytest.raises(VectorIndexError, match="k, the number of hits"):
        index_of(2).search(axis(0), k)


def test_a_numpy_integer_may_be_k() -> None:
    assert len(index_of(5).search(axis(0), np.int64(2))) == 2  # type: ignore[arg-type]


BAD_VECTORS = {
    "float64": (axis(0).astype(np.float64), "float32"),
    "float64 arrays in a list": ([axis(0).astype(np.float64)], "float32"),
    "float16": (axis(0).astype(np.float16), "float32"),
    "swapped bytes": (axis(0).astype(">f4"), "float32"),
    "too short": (axis(0)[:4], "shape"),
    "a matrix": (np.stack([axis(0), axis(1)]), "shape"),
    "a number": (1.0, "shape"),
    "NaN": (axis(0) * np.float32("nan"), "NaN"),
    "infinity": (axis(0, np.inf), "NaN or infinity"),
    "a number beyond float32": ([1e300, *[0.0] * 7], "NaN or infinity"),
    "squares beyond float32": (axis(0, 3e38), "length"),
    "zero": (np.zeros(DIMENSION, dtype=np.float32), "length 0"),
    "not unit length": (axis(0, 1.01), "length 1.01"),
    "words": (["x"] * DIMENSION, "numbers"),
    "truth values": ([True] + [False] * 7, "numbers"),
    "None": (None, "numbers"),
    "ragged": ([[1.0], [1.0, 0.0]], "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_a_bad_vector_is_refused_everywhere_and_changes_nothing(case: str) -> None:
    vector, message = BAD_VECTORS[case]
    index = index_of(3)
    before = index.reconstruct_many(index.ids())
    for call in (index.add, index.upsert):
        with pytest.raises(InvalidVector, match=message):
            call("i0001x", vector)
    with pytest.raises(InvalidVector, match=message):
        index.search(vector)
    assert np.array_equal(index.reconstruct_many(index.ids()), before)


def test_lengths_within_a_thousandth_of_one_are_accepted() -> None:
    index = VectorIndex(DIMENSION)
    index.add_many(["short", "long"], np.stack([axis(0, 0.9991), axis(1, 1.0009)]))
    assert len(index) == 2


def test_the_bad_row_of_a_batch_is_named_and_none_is_added() -> None:
    index = index_of(3)
    rows = unit_vectors(3, seed=1)
    rows[1] *= 2
    with pytest.raises(InvalidVector, match="'dog'"):
        index.add_many(["cat", "dog", "cow"], rows)
    with pytest.raises(InvalidVector, match="row 1"):
        index.search_many(rows)
    with pytest.raises(InvalidVector, match="2 image ids but 3 vectors"):
        index.upsert_many(["cat", "dog"], unit_vectors(3))
    with pytest.raises(InvalidVector, match=r"shape \(n, 8\)"):
        index.search_many(np.empty((0, 3), dtype=np.float32))
    assert len(index) == 3


@pytest.mark.parametrize("image_id", ["", None, 7, b"x"])
def test_an_id_that_is_no_filled_string_is_refused(image_id: Any) -> None:
    index = index_of(1)
    for call in (index.add, index.upsert):
        with pytest.raises(VectorIndexError, match="non-empty string"):
            call(image_id, axis(0))
    assert len(index) == 1


def test_one_string_is_not_taken_for_a_list_of_ids() -> None:
    index = index_of(3)
    for call in (
        lambda: index.add_many("ab", unit_vectors(2)),
        lambda: index.remove_many("ab"),
        lambda: index.reconstruct_many("ab"),
        lambda: index.search(axis(0), only="ab"),
        lambda: index.search(axis(0), exclude="ab"),
    ):
        with pytest.raises(VectorIndexError, match="put it in a list"):
            call()


def test_adding_an_id_twice_is_refused_and_nothing_is_added() -> None:
    index = index_of(2)
    with pytest.raises(DuplicateImageId, match="'i0001' is in the index already"):
        index.add_many(["new", "i0001"], unit_vectors(2))
    for call in (index.add_many, index.upsert_many):
        with pytest.raises(DuplicateImageId, match="'new' is given twice"):
            call(["new", "other", "new"], unit_vectors(3))
    with pytest.raises(DuplicateImageId):
        index.add("i0000", axis(0))
    assert sorted(index.ids()) == ["i0000", "i0001"]


def test_upsert_adds_what_is_new_and_replaces_what_is_there() -> None:
    index = index_of(3)
    index.upsert_many(["new", "i0001"], np.stack([axis(3), axis(4)]))
    index.upsert("i0000", axis(5))
    assert len(index) == 4
    assert np.array_equal(index.reconstruct_many(["new", "i0001", "i0000"]), np.stack([axis(3), axis(4), axis(5)]))
    assert np.array_equal(index.reconstruct("i0002"), unit_vectors(3)[2])


def test_removing_leaves_every_other_vector_under_its_own_id() -> None:
    rows = unit_vectors(6)
    index = index_of(6)
    index.remove("i0005")
    index.remove_many(["i0000", "i0004", "i0001"])
    assert sorted(index.ids()) == ["i0002", "i0003"]
    assert "i0000" not in index
    assert "i0002" in index
    assert np.array_equal(index.reconstruct_many(["i0003", "i0002"]), rows[[3, 2]])
    index.add("again", rows[0])
    assert index.search(rows[0], 1) == [Hit("again", 0.0)]


def test_an_index_can_be_emptied_and_filled_again() -> None:
    index = index_of(4)
    index.remove_many(index.ids())
    assert index.search(axis(0)) == []
    index.add("a", axis(0))
    assert index.search(axis(0)) == [Hit("a", 0.0)]


def test_removing_an_unknown_id_removes_nothing() -> None:
    index = index_of(2)
    with pytest.raises(UnknownImageId, match="'nobody'"):
        index.remove_many(["i0000", "nobody"])
    with pytest.raises(DuplicateImageId):
        index.remove_many(["i0000", "i0000"])
    assert len(index) == 2


def test_unknown_ids_are_clear_errors_when_asked_for() -> None:
    index = index_of(2)
    for call in (index.reconstruct, index.search_by_id, index.remove):
        with pytest.raises(UnknownImageId, match="'nobody' is not in the index"):
            call("nobody")


def test_reconstruct_returns_a_copy() -> None:
    index = index_of(2)
    vector = index.reconstruct("i0000")
    vector[:] = 0
    assert np.array_equal(index.reconstruct("i0000"), unit_vectors(2)[0])
    assert vector.dtype == np.float32


def test_search_by_id_leaves_itself_out_unless_asked() -> None:
    index = index_of(30)
    assert index.search_by_id("i0003", 1, exclude_query=False) == [Hit("i0003", 0.0)]
    hits = index.search_by_id("i0003", 40)
    assert len(hits) == 29
    assert "i0003" not in [hit.image_id for hit in hits]
    index.add("twin", index.reconstruct("i0003"))
    assert index.search_by_id("i0003", 1) == [Hit("twin", 0.0)]


@pytest.mark.parametrize("k", [1, 5, 300, 10**12])
def test_k_beyond_the_size_returns_everything_and_never_pads(k: int) -> None:
    index = index_of(200)
    hits = index.search(axis(0), k)
    assert len(hits) == len({hit.image_id for hit in hits}) == min(k, 200)
    assert index.search_many([axis(0)], k) == [hits]


def test_only_and_exclude_ignore_ids_that_are_not_there() -> None:
    index = index_of(50)
    chosen = ["i0001", "i0002", "i0003", "nobody"]
    hits = index.search(axis(0), only=chosen, exclude={"i0002", "no one"})
    assert sorted(hit.image_id for hit in hits) == ["i0001", "i0003"]
    assert index.search(axis(0), only=[]) == []
    assert index.search_many([axis(0)], only={"nobody"}) == [[]]


def test_every_way_of_filtering_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered rows (one block or several), a bitmap and many excluded ids answer as a plain ranking."""
    index = index_of(600)
    queries = unit_vectors(5, seed=3)
    chosen = [f"i{number:04d}" for number in range(0, 600, 2)]
    others = [f"i{number:04d}" for number in range(1, 600, 2)]
    wanted = [[hit for hit in hits if hit.image_id in set(chosen)][:7] for hits in index.search_many(queries, 600)]
    assert index.search_many(queries, 7, only=chosen) == wanted
    assert [index.search(query, 7, only=chosen) for query in queries] == wanted
    assert [index.search(query, 7, exclude=others) for query in queries] == wanted
    monkeypatch.setattr(exact_search, "GATHER_ROWS", 10)  # smaller limits take the paths of large collections
    assert index.search_many(queries, 7, only=chosen) == wanted
    assert [index.search(query, 7, only=chosen) for query in queries] == wanted
    assert [index.search(query, 7, exclude=others) for query in queries] == wanted


def test_ties_are_ordered_by_id_also_at_the_cut_whatever_the_insertion_order() -> None:
    ids = [f"t{number:04d}" for number in range(500)]
    vectors = np.concatenate([np.tile(axis(0), (400, 1)), np.tile(axis(1), (100, 1))])
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(500)
        index = VectorIndex(DIMENSION)
        index.add_many([ids[place] for place in order], vectors[order])
        assert index.search(axis(0), 10) == [Hit(image_id, 0.0) for image_id in ids[:10]]
        assert [hit.image_id for hit in index.search(axis(0), 405)] == ids[:405]
        assert index.search_by_id("t0003", 3) == [Hit("t0000", 0.0), Hit("t0001", 0.0), Hit("t0002", 0.0)]
        assert index.search_many([axis(1)] * 3, 2) == [[Hit("t0400", 0.0), Hit("t0401", 0.0)]] * 3


@pytest.mark.parametrize("dimension", [1, 2, 3, 100, 512, 768])
def test_a_batch_answers_to_the_last_bit_as_single_queries_do(dimension: int) -> None:
    index = index_of(400, dimension)
    queries = unit_vectors(70, dimension, seed=4)
    assert index.search_many(queries, 9) == [index.search(query, 9) for query in queries]


def test_near_ties_that_float32_cannot_tell_apart_are_ordered_exactly() -> None:
    """FAISS's own distances put most of these in another order, and leave right ones out at the cut."""
    noise = np.random.default_rng(SEED).standard_normal((1500, 512)) * 1e-6 / np.sqrt(512)
    rows = (unit_vectors(1, 512) + noise).astype(np.float32)
    index = VectorIndex(512)
    index.add_many([f"n{number:04d}" for number in range(1500)], rows)
    queries = unit_vectors(10, 512, seed=9)
    wanted = [hits[:20] for hits in index.search_many(queries, 1500)]  # all of them: FAISS has no say
    exact = ((rows.astype(np.float64) - queries[0]) ** 2).sum(axis=1)
    assert [hit.distance for hit in wanted[0]] == pytest.approx(np.sort(exact)[:20], abs=1e-14)
    assert index.search_many(queries, 20) == wanted
    assert [index.search(query, 20) for query in queries] == wanted


@pytest.mark.parametrize("deviation", [1e-6, 9e-4])
def test_vectors_of_slightly_different_lengths_are_ranked_by_distance_not_by_angle(deviation: float) -> None:
    """The engine compares angles; what lengths can change is looked at again, exactly."""
    rng = np.random.default_rng(SEED)
    rows = unit_vectors(2000, 64) * (1 + deviation * rng.uniform(-1, 1, (2000, 1)).astype(np.float32))
    rows[1000:] = rows[:1000] * (1 + deviation * rng.uniform(-0.1, 0.1, (1000, 1)).astype(np.float32))
    index = VectorIndex(64)
    index.add_many([f"n{number:04d}" for number in range(2000)], rows)
    queries = unit_vectors(10, 64, seed=9)
    answers = index.search_many(queries, 25)
    for query, hits in zip(queries, answers, strict=True):
        exact = ((rows.astype(np.float64) - query) ** 2).sum(axis=1)
        assert [hit.image_id for hit in hits] == [f"n{number:04d}" for number in np.argsort(exact, kind="stable")[:25]]
    assert [index.search(query, 25) for query in queries] == answers


def test_ids_are_counted_whatever_they_are() -> None:
    index = index_of(5)
    assert index.count(["i0001", "nobody", "i0002"]) == 2
    assert index.count({"i0001"}) == 1
    assert 7 not in index
    with pytest.raises(VectorIndexError, match="put it in a list"):
        index.count("i0001")


def test_a_batch_beyond_the_memory_limit_is_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(300)
    queries = unit_vectors(40, seed=5)
    wanted = index.search_many(queries, 4)
    monkeypatch.setattr(exact_search, "MAX_FETCHED", 100)
    assert index.search_many(queries, 4) == wanted
    monkeypatch.undo()
    monkeypatch.setattr(exact_search, "MAX_QUERIES", 7)
    assert index.search_many(queries, 4) == wanted


def test_the_thread_count_of_faiss_is_put_back_after_a_single_query() -> None:
    before = faiss.omp_get_max_threads()
    index_of(50).search(axis(0), 3)
    assert faiss.omp_get_max_threads() == before


def test_the_model_must_fit_the_dimension() -> None:
    index = VectorIndex(DIMENSION, model=model())
    assert index.model == model()
    index.model = None
    with pytest.raises(VectorIndexError, match="8-d"):
        index.model = model(dimension=9)
    with pytest.raises(VectorIndexError):
        VectorIndex(4, model=model())


@pytest.mark.parametrize("count", [0, 1, 100])
def test_a_saved_index_loads_as_it_was(tmp_path: Path, count: int) -> None:
    index = index_of(count)
    index.model = model()
    index.save(tmp_path / "a" / "b", attachments={"settings.json": b"{}"})
    loaded = VectorIndex.load(str(tmp_path / "a" / "b"), expected_model=model())
    assert (loaded.ids(), loaded.dimension, loaded.model) == (index.ids(), DIMENSION, model())
    assert np.array_equal(loaded.reconstruct_many(index.ids()), index.reconstruct_many(index.ids()))
    assert loaded.search(axis(0)) == index.search(axis(0))
    assert read_attachment(tmp_path / "a" / "b", "settings.json") == b"{}"
    loaded.upsert("later", axis(2))
    assert loaded.search(axis(2), 1) == [Hit("later", 0.0)]


def test_ids_of_any_script_and_undecodable_file_names_survive_saving(tmp_path: Path) -> None:
    ids = ["猫.jpg", "a\nb", "caf\u00e9", "caf\udce9.jpg"]
    index = VectorIndex(DIMENSION)
    index.add_many(ids, unit_vectors(4))
    index.save(tmp_path)
    assert VectorIndex.load(tmp_path).ids() == ids


@pytest.mark.parametrize("count", [0, 3])
def test_the_saved_vectors_are_a_standard_faiss_file(tmp_path: Path, count: int) -> None:
    index_of(count).save(tmp_path)
    [path] = tmp_path.glob("*-vectors.faiss")
    plain = faiss.read_index(str(path))
    assert type(plain) is faiss.IndexFlatL2
    assert (plain.d, plain.ntotal) == (DIMENSION, count)
    assert path.read_bytes() == faiss.serialize_index(plain).tobytes()
    if count:
        assert np.array_equal(plain.reconstruct_n(0, count), unit_vectors(count))


def test_an_index_of_another_model_is_refused_when_one_is_expected(tmp_path: Path) -> None:
    index = index_of(2)
    index.save(tmp_path / "none")
    index.model = model("other")
    index.save(tmp_path / "other")
    with pytest.raises(IndexFileError, match="no known model"):
        VectorIndex.load(tmp_path / "none", expected_model=model())
    with pytest.raises(IndexFileError, match="other"):
        VectorIndex.load(tmp_path / "other", expected_model=model())
    assert VectorIndex.load(tmp_path / "other").model == model("other")


def test_threads_may_add_remove_search_and_save_at_once(tmp_path: Path) -> None:
    """FAISS alone crashes when searched while it grows; the lock makes each answer true of one moment."""
    index = index_of(200)
    fixed = [f"i{number:04d}" for number in range(200)]
    rows = unit_vectors(400, seed=6)
    done = threading.Event()
    answers: list[list[Hit]] = []

    def ask() -> None:
        while not done.is_set():
            answers.append(index.search(axis(0), 5, only=fixed))
            index.search_many(rows[:8], 3)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for thread in askers:
        thread.start()
    for number, row in enumerate(rows):
        index.upsert(f"n{number}", row)
        if number % 3 == 0:
            index.remove(f"n{number}")
        if number % 100 == 0:
            index.save(tmp_path)
    done.set()
    for thread in askers:
        thread.join()
    assert len(index) == 200 + 400 - 134
    assert answers
    assert all(answer == answers[0] for answer in answers)
    VectorIndex.load(tmp_path)
