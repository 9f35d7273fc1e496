"""CLIP-family checkpoints: what loads, what is refused, and that vectors equal transformers' own."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import IMAGE_SIDE, save_tiny_clip, save_tiny_siglip
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel, SiglipModel
from transformers.utils import logging as transformers_logging

from pipeline.embedders.clip import ClipEmbedder
from pipeline.embedders.fingerprint import sha256_of_file
from pipeline.embedders.registry import load_embedder
from pipeline.embedders.unit_length import unit_rows
from pipeline.embedding_service import EmbeddingService
from pipeline.errors import InvalidQuery, ModelError, ModelUnavailable, UnsupportedModel

SEED = 3
TEXTS = ["a photo of a cat", "red", "a dog", "a photo of a red dog of a cat " * 5]
CLIP_VARIANTS = {"clip-legacy-eos": True, "clip": False}


def pixels(count: int) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    return list(np.random.default_rng(SEED).normal(size=(count, 3, IMAGE_SIDE, IMAGE_SIDE)).astype(np.float32))


def unit(output: Any) -> np.ndarray[Any, Any]:
    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    return np.asarray((features / features.norm(dim=-1, keepdim=True)).numpy())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    clips = {name: save_tiny_clip(root / name, legacy_eos=legacy) for name, legacy in CLIP_VARIANTS.items()}
    return {**clips, "siglip": save_tiny_siglip(root / "siglip")}


@pytest.fixture(scope="module")
def embedder(folders: dict[str, Path]) -> ClipEmbedder:
    return ClipEmbedder.load(str(folders["clip"]), device="cpu", batch_size=3)


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A checkpoint of its own for a test to damage."""
    return Path(shutil.copytree(folders["clip"], tmp_path / "copied"))


def rewrite(path: Path, **changed: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changed}), encoding="utf-8")


@pytest.mark.parametrize("name", [*CLIP_VARIANTS, "siglip"])
def test_image_and_text_vectors_equal_transformers_own_model(folders: dict[str, Path], name: str) -> None:
    folder = folders[name]
    ours = ClipEmbedder.load(str(folder), device="cpu")
    model = (SiglipModel if name == "siglip" else CLIPModel).from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    if name == "siglip":  # trained without a mask
        tokens = {"input_ids": tokens["input_ids"]}
    with torch.inference_mode():
        images = unit(model.get_image_features(pixel_values=torch.from_numpy(np.stack(pixels(5)))))
        texts = unit(model.get_text_features(**{key: tokens[key] for key in tokens if key != "token_type_ids"}))
    np.testing.assert_allclose(ours.embed_prepared(pixels(5)), images, atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(TEXTS), texts, atol=1e-5)


@pytest.mark.parametrize("dimension", [8, 40])
def test_the_dimension_is_the_checkpoints_own(tmp_path: Path, dimension: int) -> None:
    embedder = ClipEmbedder.load(str(save_tiny_clip(tmp_path / "model", dimension)), device="cpu")
    assert embedder.identity.dimension == dimension
    assert embedder.embed_prepared(pixels(2)).shape == (2, dimension)
    assert embedder.embed_texts(["a cat"]).shape == (1, dimension)
    assert embedder.embed_texts([]).shape == embedder.embed_prepared([]).shape == (0, dimension)


def test_vectors_are_float32_of_unit_length(embedder: ClipEmbedder) -> None:
    for vectors in (embedder.embed_prepared(pixels(7)), embedder.embed_texts(TEXTS)):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_batch_size_changes_nothing(embedder: ClipEmbedder, folders: dict[str, Path]) -> None:
    one_by_one = ClipEmbedder.load(str(folders["clip"]), device="cpu", batch_size=1)
    assert (embedder.batch_size, one_by_one.batch_size) == (3, 1)
    np.testing.assert_allclose(embedder.embed_prepared(pixels(7)), one_by_one.embed_prepared(pixels(7)), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_texts(TEXTS), one_by_one.embed_texts(TEXTS), atol=1e-6)


def test_the_service_embeds_pictures_and_texts_through_it(folders: dict[str, Path]) -> None:
    service = EmbeddingService(str(folders["clip"]), device="cpu", backend="torch")
    pictures = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue")]
    assert service.embed_images(pictures).shape == (2, 24)
    assert service.embed_text("a red cat").shape == (24,)
    assert service.prepare(pictures[0]).pixels.shape == (3, IMAGE_SIDE, IMAGE_SIDE)


def test_many_threads_get_what_one_gets(embedder: ClipEmbedder) -> None:
    """Setting a tokenizer's padding from two threads at once fails without a lock."""
    batches = [[text] * (1 + n % 3) for n, text in enumerate(TEXTS * 5)]
    alone = [embedder.embed_texts(batch) for batch in batches]
    with ThreadPoolExecutor(max_workers=8) as pool:
        together = list(pool.map(embedder.embed_texts, batches))
    for expected, got in zip(alone, together, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_batches_of_pictures_on_many_threads_give_what_one_gives(embedder: ClipEmbedder) -> None:
    """On a GPU two batches are under way at once."""
    batches = [pixels(count) for count in (1, 2, 3, 4, 5)] * 2
    alone = [embedder.embed_prepared(batch) for batch in batches]
    with ThreadPoolExecutor(max_workers=4) as pool:
        together = list(pool.map(embedder.embed_prepared, batches))
    for expected, got in zip(alone, together, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("texts", [[""], ["a cat", "  \n"], "a cat", [None]])
def test_a_text_without_words_is_an_invalid_query(embedder: ClipEmbedder, texts: Any) -> None:
    with pytest.raises(InvalidQuery):
        embedder.embed_texts(texts)


def test_a_vector_that_is_not_finite_is_an_error(embedder: ClipEmbedder) -> None:
    with pytest.raises(ModelError, match="no usable vector"):
        embedder.embed_prepared([np.full((3, IMAGE_SIDE, IMAGE_SIDE), np.nan, dtype=np.float32)])


def test_a_device_without_memory_left_says_what_helps(embedder: ClipEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(**_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(embedder._model, "get_image_features", no_memory)
    with pytest.raises(ModelError, match="smaller batch size"):
        embedder.embed_prepared(pixels(1))


def test_a_batch_too_large_for_the_device_is_halved_and_gives_the_same_vectors(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = ClipEmbedder.load(str(folders["clip"]), device="cpu", batch_size=8)
    features = embedder._model.get_image_features
    sizes: list[int] = []

    def room_for_two(*, pixel_values: torch.Tensor) -> Any:
        sizes.append(len(pixel_values))
        if len(pixel_values) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return features(pixel_values=pixel_values)

    expected = np.concatenate([embedder.embed_prepared(pixels(5)[start : start + 2]) for start in (0, 2, 4)])
    monkeypatch.setattr(embedder._model, "get_image_features", room_for_two)
    np.testing.assert_array_equal(embedder.embed_prepared(pixels(5)), expected)
    assert (sizes, embedder.batch_size) == ([5, 2, 2, 1], 2)


def test_on_a_cpu_the_model_gets_exactly_the_stacked_pictures(embedder: ClipEmbedder) -> None:
    """Byte for byte: the way of a GPU changes nothing here."""
    batch = pixels(2)
    with torch.inference_mode():
        features = embedder._model.get_image_features(pixel_values=torch.from_numpy(np.stack(batch)))
    array = (features if isinstance(features, torch.Tensor) else features.pooler_output).numpy()
    assert embedder.embed_prepared(batch).tobytes() == unit_rows(array).tobytes()


def test_bfloat16_gives_nearly_the_same_vectors(embedder: ClipEmbedder, folders: dict[str, Path]) -> None:
    half = ClipEmbedder.load(str(folders["clip"]), device="cpu", dtype="bfloat16")
    cosines = (half.embed_prepared(pixels(4)) * embedder.embed_prepared(pixels(4))).sum(axis=1)
    assert cosines.min() > 0.99
    assert half.identity == embedder.identity


@pytest.mark.parametrize(("device", "dtype"), [("abacus", "auto"), ("meta", "auto"), ("cpu", "int8")])
def test_an_unknown_device_or_dtype_is_an_error(folders: dict[str, Path], device: str, dtype: str) -> None:
    with pytest.raises(ModelError, match="choose auto"):
        load_embedder(str(folders["clip"]), device=device, dtype=dtype)


def test_auto_finds_a_device(folders: dict[str, Path]) -> None:
    assert ClipEmbedder.load(str(folders["clip"])).embed_prepared(pixels(1)).shape == (1, 24)


def test_identity_names_folder_weights_and_preprocessing(embedder: ClipEmbedder, folders: dict[str, Path]) -> None:
    identity = embedder.identity
    assert (identity.name, identity.revision) == (str(folders["clip"].resolve()), "local")
    assert identity.weights_fingerprint == sha256_of_file(folders["clip"] / "model.safetensors")


def test_other_weights_other_preprocessing_and_another_tokenizer_are_other_models(copied: Path, tmp_path: Path) -> None:
    before = ClipEmbedder.load(str(copied), device="cpu").identity
    weights = copied / "model.safetensors"
    save_file({**load_file(weights), "logit_scale": torch.tensor(1.0)}, weights, metadata={"format": "pt"})
    other_weights = ClipEmbedder.load(str(copied), device="cpu").identity
    assert other_weights.weights_fingerprint != before.weights_fingerprint
    assert other_weights.preprocessing_fingerprint == before.preprocessing_fingerprint
    rewrite(copied / "preprocessor_config.json", resample=2)
    other_filter = ClipEmbedder.load(str(copied), device="cpu").identity
    assert other_filter.preprocessing_fingerprint != before.preprocessing_fingerprint
    with (copied / "merges.txt").open("a", encoding="utf-8") as merges:
        merges.write("c a\n")
    rewrite(copied / "vocab.json", ca=300)
    other_tokens = ClipEmbedder.load(str(copied), device="cpu").identity
    assert other_tokens.preprocessing_fingerprint != other_filter.preprocessing_fingerprint


def test_sharded_weights_give_the_same_vectors(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = save_tiny_clip(tmp_path / "sharded", legacy_eos=False, shard_size="40KB")
    assert not (folder / "model.safetensors").exists()
    whole, sharded = (ClipEmbedder.load(str(path), device="cpu") for path in (folders["clip"], folder))
    np.testing.assert_array_equal(whole.embed_prepared(pixels(2)), sharded.embed_prepared(pixels(2)))
    next(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(UnsupportedModel, match="incomplete"):
        ClipEmbedder.load(str(folder))


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="pytorch_model.bin.*can run code"):
        ClipEmbedder.load(str(copied))


def test_weights_of_one_tower_only_are_refused(copied: Path) -> None:
    """Transformers would fill the other tower with random numbers, and searching would find random pictures."""
    weights = copied / "model.safetensors"
    vision = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("text_")}
    save_file(vision, weights, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match="lack parts"):
        ClipEmbedder.load(str(copied), device="cpu")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_weights_are_refused(copied: Path, share: float) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    with pytest.raises(UnsupportedModel):
        ClipEmbedder.load(str(copied), device="cpu")


def test_weights_of_other_shapes_than_the_configuration_are_refused(copied: Path) -> None:
    rewrite(copied / "config.json", projection_dim=99)
    with pytest.raises(UnsupportedModel, match="cannot be loaded"):
        ClipEmbedder.load(str(copied), device="cpu")


@pytest.mark.parametrize("model_type", ["bert", "chinese_clip", None])
def test_a_model_of_another_family_is_refused_by_its_type(copied: Path, model_type: str | None) -> None:
    rewrite(copied / "config.json", model_type=model_type, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(UnsupportedModel, match=repr(model_type)):
        ClipEmbedder.load(str(copied))


def test_siglip_towers_that_do_not_meet_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["siglip"], tmp_path / "siglip"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["projection_size"] = 48
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = load_file(folder / "model.safetensors")
    weights["text_model.head.weight"], weights["text_model.head.bias"] = torch.zeros(48, 32), torch.zeros(48)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match="one space"):
        ClipEmbedder.load(str(folder), device="cpu")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_configuration_is_refused(copied: Path, content: str) -> None:
    (copied / "config.json").write_text(content)
    with pytest.raises(UnsupportedModel, match="JSON"):
        ClipEmbedder.load(str(copied))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no config.json"):
        ClipEmbedder.load(str(tmp_path))


@pytest.mark.parametrize("missing", [("merges.txt",), ("vocab.json", "merges.txt", "tokenizer_config.json")])
def test_a_checkpoint_without_a_whole_tokenizer_is_refused(copied: Path, missing: tuple[str, ...]) -> None:
    """Transformers 5 would make one that knows no words, and every text would embed alike."""
    for name in missing:
        (copied / name).unlink()
    with pytest.raises(UnsupportedModel, match="no tokenizer"):
        ClipEmbedder.load(str(copied), device="cpu")


def test_a_damaged_tokenizer_is_refused(copied: Path) -> None:
    (copied / "vocab.json").write_text("[]")
    with pytest.raises(UnsupportedModel, match="vocab.json"):
        ClipEmbedder.load(str(copied), device="cpu")


def test_a_sentencepiece_tokenizer_says_what_to_install(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["siglip"], tmp_path / "siglip"))
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"no such model")
    rewrite(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    with pytest.raises(UnsupportedModel, match=r"visual-search\[siglip\]"):
        ClipEmbedder.load(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "a/b/c", "not a name"])
def test_a_missing_folder_is_named_with_the_choices(name: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"Choices: \(1\).*\(2\).*\(3\).*baseline"):
        ClipEmbedder.load(name)


def test_loading_is_silent_and_leaves_global_settings_alone(
    folders: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    def settings() -> tuple[Any, ...]:
        shown = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
        return *shown, torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()

    before = settings()
    ClipEmbedder.load(str(folders["clip"]), device="cpu")
    assert settings() == before
    assert capfd.readouterr() == ("", "")
