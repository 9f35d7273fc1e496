"""A saved index loads as it was and is a standard FAISS file."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from made_vectors import DIMENSION, axis, index_of, model, unit_vectors

from storage.errors import (
    IndexFileError,
)
from storage.index_files import read_attachment
from storage.vector_index import Hit, VectorIndex


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
