"""What every embedder promises, checked on the baseline and on a CLIP checkpoint."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pictures import picture

from pipeline.embedders.base import Embedder
from pipeline.embedders.registry import load_embedder
from pipeline.errors import TextNotSupported

SIZES = [(96, 72), (40, 200), (1, 1), (300, 30)]


@pytest.fixture(scope="module", params=["baseline", "clip", "onnx"])
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    if request.param == "baseline":
        return load_embedder("baseline")
    from checkpoints import save_tiny_clip

    folder: Path = save_tiny_clip(tmp_path_factory.mktemp("clip"))
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
    backend = "onnx" if request.param == "onnx" else "torch"
    return load_embedder(str(folder), device="cpu", dtype="float32", backend=backend)


def _vectors(embedder: Embedder, count: int) -> np.ndarray:
    return embedder.embed_prepared([embedder.prepare(picture(seed)) for seed in range(count)])


def test_vectors_are_float32_rows_of_unit_length_and_of_the_dimension_told(embedder: Embedder) -> None:
    vectors = _vectors(embedder, 3)
    assert (vectors.shape, vectors.dtype) == ((3, embedder.identity.dimension), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_rows_come_in_order_and_do_not_depend_on_their_company(embedder: Embedder) -> None:
    together = _vectors(embedder, 4)
    for seed, vector in enumerate(together):
        (alone,) = embedder.embed_prepared([embedder.prepare(picture(seed))])
        np.testing.assert_allclose(alone, vector, atol=1e-5)


def test_different_pictures_have_different_vectors(embedder: Embedder) -> None:
    cosines = _vectors(embedder, 4) @ _vectors(embedder, 4).T
    assert np.all(cosines[~np.eye(4, dtype=bool)] < 0.9999)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_and_shape_can_be_prepared(embedder: Embedder, size: tuple[int, int]) -> None:
    (vector,) = embedder.embed_prepared([embedder.prepare(picture(1, size))])
    assert np.isfinite(vector).all()


@pytest.mark.parametrize("shade", [0, 255])
def test_a_picture_without_content_has_a_vector_too(embedder: Embedder, shade: int) -> None:
    plain = picture(1).point(lambda _value: shade)
    (vector,) = embedder.embed_prepared([embedder.prepare(plain)])
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_pictures_are_prepared_on_many_threads_at_once(embedder: Embedder) -> None:
    pictures = [picture(seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(embedder.prepare, pictures))
    for one, again in zip(prepared, map(embedder.prepare, pictures), strict=True):
        np.testing.assert_array_equal(one, again)


def test_words_are_embedded_alike_or_refused_in_words(embedder: Embedder) -> None:
    try:
        vectors = embedder.embed_texts(["a cat", "a dog"])
    except TextNotSupported:
        return
    assert (vectors.shape, vectors.dtype) == ((2, embedder.identity.dimension), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_identity_says_all_that_tells_models_apart(embedder: Embedder) -> None:
    identity = embedder.identity
    assert identity.name
    assert identity.weights_fingerprint
    assert identity.preprocessing_fingerprint
    assert embedder.batch_size >= 1
