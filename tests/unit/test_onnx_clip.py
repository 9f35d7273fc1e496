"""CLIP through onnxruntime: vectors as torch gives them, one identity in float32, another in int8."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save_tiny_clip, save_tiny_siglip
from pictures import picture

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from transformers import AutoTokenizer

from pipeline.embedders.base import ThreadUse
from pipeline.embedders.checkpoint import find_checkpoint
from pipeline.embedders.clip import ClipEmbedder
from pipeline.embedders.onnx_clip.embedder import OnnxClipEmbedder, OnnxOptions
from pipeline.embedders.onnx_clip.fidelity import FidelityReport, compare, write_report
from pipeline.embedders.onnx_clip.tokens import ClipTokens
from pipeline.embedders.registry import load_both, load_embedder
from pipeline.embedding_service import EmbeddingService
from pipeline.errors import InvalidQuery, ModelError, UnsupportedModel
from pipeline.preprocess import ClipPreprocessing

SEED = 17
TEXTS = ["a photo of a cat", "red", "a dog <|endoftext|> of", "a photo of a red dog of a cat " * 5]
GOOD = FidelityReport(100, 0.999, 0.995, 0.99, 0.995, 0.95)


@pytest.fixture(scope="module", params=[True, False], ids=["legacy-eos", "eos"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"), legacy_eos=request.param)


def _onnx(folder: Path, precision: str = "fp32", weights: str = "packed") -> OnnxClipEmbedder:
    checkpoint = find_checkpoint(str(folder))
    return OnnxClipEmbedder(checkpoint, ClipPreprocessing.from_folder(folder), OnnxOptions(precision, 3, 1, weights))


def _vectors(embedder, count: int = 7):
    return embedder.embed_prepared([embedder.prepare(picture(seed)) for seed in range(count)])


def test_float32_vectors_and_identity_are_those_of_torch(folder: Path) -> None:
    ours, torchs = _onnx(folder), ClipEmbedder.load(str(folder), device="cpu")
    np.testing.assert_allclose(_vectors(ours), _vectors(torchs), atol=2e-6)
    np.testing.assert_allclose(ours.embed_texts(TEXTS), torchs.embed_texts(TEXTS), atol=2e-6)
    assert ours.identity == torchs.identity


def test_int8_is_near_and_another_model(folder: Path) -> None:
    exact, rounded = _onnx(folder), _onnx(folder, "int8")
    assert np.einsum("ij,ij->i", _vectors(exact), _vectors(rounded)).min() > 0.998
    assert np.einsum("ij,ij->i", exact.embed_texts(TEXTS), rounded.embed_texts(TEXTS)).min() > 0.99
    assert rounded.identity.weights_fingerprint != exact.identity.weights_fingerprint
    assert rounded.identity.revision == "local+int8"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_vector_does_not_depend_on_its_company(folder: Path, precision: str) -> None:
    embedder = _onnx(folder, precision)
    alone = np.concatenate([embedder.embed_prepared([embedder.prepare(picture(seed))]) for seed in range(7)])
    np.testing.assert_allclose(_vectors(embedder), alone, atol=1e-5)
    texts = np.concatenate([embedder.embed_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed_texts(TEXTS), texts, atol=1e-5)


@pytest.mark.parametrize(("precision", "off"), [("fp32", 1e-6), ("int8", 0.0)])
def test_weights_that_are_only_mapped_give_the_same_vectors(folder: Path, precision: str, off: float) -> None:
    packed, mapped = _onnx(folder, precision), _onnx(folder, precision, "mapped")
    np.testing.assert_allclose(_vectors(mapped), _vectors(packed), atol=off, rtol=0)
    np.testing.assert_allclose(mapped.embed_texts(TEXTS), packed.embed_texts(TEXTS), atol=off, rtol=0)
    assert mapped.identity == packed.identity


def test_token_ids_are_those_of_transformers(folder: Path) -> None:
    ours = ClipTokens(find_checkpoint(str(folder)), 16).encode(TEXTS)
    assert ours == AutoTokenizer.from_pretrained(folder)(TEXTS, truncation=True, max_length=16)["input_ids"]


def test_real_token_ids_are_those_of_transformers_for_odd_texts() -> None:
    real = Path(__file__).parents[2].parent / "shared" / "models" / "clip-vit-base-patch32"
    if not real.is_dir():
        pytest.skip("the real tokenizer is not beside the project")
    random = np.random.default_rng(SEED)
    letters = [*"abcXYZ 019\t\n.,!?'éÄßЖ🙂\u0301<|>#@", "<|endoftext|>", "it's", "I'LL", "naïve", "ﬁ"]
    texts = ["x" + "".join(random.choice(letters, size=random.integers(1, 120))) for _ in range(2000)]
    from tokenizers import Tokenizer

    ours = Tokenizer.from_file(str(real / "tokenizer.json"))
    ours.no_padding()
    ours.enable_truncation(77)
    print(f"seed {SEED}")
    theirs = AutoTokenizer.from_pretrained(real)(texts, truncation=True, max_length=77)["input_ids"]
    assert [encoding.ids for encoding in ours.encode_batch(texts)] == theirs


def test_calls_on_many_threads_at_once_give_what_one_call_gives(folder: Path) -> None:
    embedder = OnnxClipEmbedder(
        find_checkpoint(str(folder)), ClipPreprocessing.from_folder(folder), OnnxOptions(batch_size=3, threads=2)
    )
    assert embedder.thread_use == ThreadUse(decoding=2, calls=2, shared=True)
    prepared = [embedder.prepare(picture(seed)) for seed in range(40)]
    batches = [prepared[start : start + 5] for start in range(0, 40, 5)]
    with ThreadPoolExecutor(4) as pool:  # from the first call on: they also open the session together
        together = np.concatenate(list(pool.map(embedder.embed_on_calling_thread, batches)))
    np.testing.assert_allclose(together, embedder.embed_prepared(prepared), atol=1e-6)


def test_neither_torch_nor_transformers_is_loaded(folder: Path) -> None:
    program = (
        "import sys; from pipeline.embedding_service import EmbeddingService; from PIL import Image;"
        f"s = EmbeddingService({str(folder)!r}, device='cpu', backend='onnx');"
        "s.embed_image(Image.new('RGB', (60, 50))); s.embed_text('a cat');"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_existing_collection_keeps_its_decoding_and_precision(folder: Path) -> None:
    old = ClipEmbedder.load(str(folder), device="cpu").identity  # in full, float32
    assert EmbeddingService(str(folder), device="cpu", like=old, backend="onnx-int8").identity == old
    assert EmbeddingService(str(folder), device="cpu").identity != old
    rounded = _onnx(folder, "int8").identity
    assert EmbeddingService(str(folder), like=rounded).identity == rounded
    with pytest.raises(ModelError, match="torch cannot compute"):
        load_embedder(str(folder), backend="torch", like=rounded)


def test_a_new_int8_model_is_refused_until_it_is_measured_and_good(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "model", seed=5)
    with pytest.raises(ModelError, match="was not measured"):
        load_embedder(str(folder), backend="onnx-int8")
    _, rounded = load_both(str(folder))
    write_report(rounded.folder, replace(GOOD, agreement=0.5))
    with pytest.raises(ModelError, match="too far"):
        load_embedder(str(folder), backend="onnx-int8")
    write_report(rounded.folder, replace(GOOD, agreement=0.5, accepted=True))
    load_embedder(str(folder), backend="onnx-int8")
    write_report(rounded.folder, GOOD)
    assert load_embedder(str(folder), backend="onnx-int8").identity == rounded.identity


def test_fidelity_of_equal_vectors_is_perfect_and_needs_fifty_pictures() -> None:
    rows = np.random.default_rng(SEED).normal(size=(60, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    report = compare((rows, rows[:3]), (rows, rows[:3]))
    assert report.passed
    assert report.agreement == 1
    with pytest.raises(InvalidQuery, match="too few"):
        compare((rows[:49], rows), (rows[:49], rows))


def test_what_onnx_cannot_run_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no CLIP model"):
        load_embedder(str(save_tiny_siglip(tmp_path / "siglip")), backend="onnx")
    with pytest.raises(ModelError, match="runs on the CPU"):
        load_embedder(str(folder), backend="onnx", device="cuda")
