"""The baseline descriptor and the service on top of it: what every embedder promises, without a model."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.decode import DecodeLimits
from pipeline.embedders.baseline import BaselineEmbedder
from pipeline.embedders.fingerprint import sha256_of_file, sha256_of_files, sha256_of_settings
from pipeline.embedders.registry import load_embedder
from pipeline.embedders.unit_length import unit_rows
from pipeline.embedding_service import EmbeddingService
from pipeline.errors import CorruptImage, ModelError, TextNotSupported, TooManyBytes, TooManyPixels
from storage.errors import ImageNotFound, StorageDenied, StorageUnavailable

SEED = 5


def photo(seed: int = SEED, side: int = 200) -> Image.Image:
    """Smooth blobs of colour: two seeds give two clearly different pictures."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)


def png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def service() -> EmbeddingService:
    return EmbeddingService("baseline")


def test_vectors_are_512_float32_of_unit_length(service: EmbeddingService) -> None:
    vectors = service.embed_images([photo(1), photo(2), photo(3)])
    assert (vectors.shape, vectors.dtype, service.dimension) == ((3, 512), np.float32, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_same_picture_gives_the_same_vector_alone_or_in_company(service: EmbeddingService) -> None:
    together = service.embed_images([photo(1), photo(2)])
    assert np.array_equal(together[0], service.embed_image(photo(1)))
    assert np.array_equal(together[1], EmbeddingService("baseline").embed_image(photo(2)))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (9, 200, 31)])
def test_a_plain_picture_has_a_vector_too(service: EmbeddingService, colour: tuple[int, int, int]) -> None:
    assert np.isfinite(service.embed_image(Image.new("RGB", (1, 1), colour))).all()


def test_edited_copies_are_nearer_than_other_pictures(service: EmbeddingService) -> None:
    print(f"seed {SEED}")
    original = service.embed_image(photo())
    others = service.embed_images([photo(seed) for seed in range(10, 30)]) @ original
    width, height = photo().size
    edits = {
        "mirrored": ImageOps.mirror(photo()),
        "small": photo().resize((48, 36)),
        "cropped": photo().crop((width // 8, height // 8, width * 7 // 8, height * 7 // 8)),
        "brighter": photo().point(lambda level: min(255, int(level * 1.05))),
    }
    for name, picture in edits.items():
        assert service.embed_image(picture) @ original > others.max(), name


def test_a_mirror_image_is_the_same_picture(service: EmbeddingService) -> None:
    assert service.embed_image(ImageOps.mirror(photo())) @ service.embed_image(photo()) > 0.9999


def test_the_descriptor_is_the_same_on_every_machine(service: EmbeddingService) -> None:
    """Written down: stored vectors and new ones must match, or BASELINE_VERSION must be raised."""
    vector = service.embed_image(photo())
    places = np.argsort(-vector, kind="stable")[:4]
    assert places.tolist() == [412, 419, 263, 413]
    np.testing.assert_allclose(
        vector[places],
        [0.19266200065612793, 0.18602800369262695, 0.17134599387645721, 0.17002999782562256],
        atol=1e-5,
    )


def test_identity_is_builtin_and_stable(service: EmbeddingService) -> None:
    identity = service.identity
    assert (identity.name, identity.revision, identity.dimension) == ("baseline", "builtin", 512)
    assert identity == BaselineEmbedder().identity


def test_texts_are_refused_with_what_to_do_instead(service: EmbeddingService) -> None:
    with pytest.raises(TextNotSupported, match="CLIP"):
        service.embed_text("a red shoe")
    with pytest.raises(TextNotSupported):
        service.embed_texts([])


def test_only_the_exact_name_is_the_baseline() -> None:
    assert load_embedder("baseline").identity.name == "baseline"
    with pytest.raises(ModelError):
        load_embedder("./Baseline")


def test_bytes_path_string_and_picture_give_the_same_vector(service: EmbeddingService, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(png(photo()))
    vectors = service.embed_images([png(photo()), file, str(file), photo()])
    assert all(np.array_equal(vectors[0], vector) for vector in vectors)


def test_preparing_tells_size_and_format(service: EmbeddingService) -> None:
    prepared = service.prepare(png(photo()))
    assert (prepared.width, prepared.height, prepared.format) == (200, 150, "PNG")
    assert (prepared.pixels.shape, prepared.pixels.dtype) == ((3, 64, 64), np.float32)
    assert service.embed_prepared([prepared.pixels]).shape == (1, 512)


def test_no_images_give_no_vectors(service: EmbeddingService) -> None:
    assert service.embed_images([]).shape == (0, 512)
    assert service.embed_prepared([]).shape == (0, 512)


def test_more_images_than_one_batch_keep_their_order() -> None:
    small_batches = EmbeddingService("baseline", batch_size=2)
    assert small_batches.batch_size == 2
    pictures = [photo(seed, 40) for seed in range(5)]
    assert np.array_equal(small_batches.embed_images(pictures), EmbeddingService("baseline").embed_images(pictures))


def test_a_refused_picture_raises(service: EmbeddingService) -> None:
    with pytest.raises(CorruptImage):
        service.embed_image(png(photo())[:200])


def test_limits_hold_for_files_and_pictures(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(png(photo()))
    with pytest.raises(TooManyBytes):
        EmbeddingService("baseline", limits=DecodeLimits(max_bytes=100)).prepare(file)
    with pytest.raises(TooManyPixels):
        EmbeddingService("baseline", limits=DecodeLimits(max_pixels=100)).prepare(photo())


def test_a_path_that_cannot_be_read_is_a_storage_error(service: EmbeddingService, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound):
        service.prepare(tmp_path / "missing.png")
    with pytest.raises(StorageDenied):
        service.prepare(tmp_path)
    with pytest.raises(StorageUnavailable):
        service.prepare(tmp_path / ("x" * 300))


def test_a_given_embedder_is_used_as_it_is() -> None:
    embedder = BaselineEmbedder()
    service = EmbeddingService(embedder=embedder)
    assert service.identity == embedder.identity
    assert service.batch_size == embedder.batch_size


def test_the_baseline_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pipeline.embedding_service import EmbeddingService; EmbeddingService('baseline');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_rows_that_are_not_finite_or_zero_are_an_error_and_no_vector() -> None:
    with pytest.raises(ModelError, match="1 of 2"):
        unit_rows(np.array([[1.0, 0.0], [np.nan, 1.0]]))
    with pytest.raises(ModelError):
        unit_rows(np.zeros((1, 3)))


def test_unit_rows_neither_overflow_nor_vanish() -> None:
    huge_and_tiny = np.array([[3e38, 0.0], [0.0, 1e-30]], dtype=np.float32)
    assert unit_rows(huge_and_tiny).tolist() == [[1, 0], [0, 1]]


def test_file_fingerprints_depend_on_bytes_and_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"abc")
    second.write_bytes(b"")
    # FIPS 180-2, appendix B.1
    assert sha256_of_file(first) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_files([first]) == sha256_of_file(first)
    assert sha256_of_files([first, second]) != sha256_of_files([second, first])


def test_settings_fingerprints_ignore_the_order_of_keys() -> None:
    assert sha256_of_settings({"a": 1, "b": (1.5, None)}) == sha256_of_settings({"b": [1.5, None], "a": 1})
    assert sha256_of_settings({"a": 1}) != sha256_of_settings({"a": 2})
