"""Preprocessing: equal to transformers' own Pillow processors, for CLIP's and SigLIP's settings."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UnsupportedModel
from pipeline.preprocess import ClipPreprocessing

SEED = 11
CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224}
SIGLIP = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 224, "width": 224},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
}
SIZES = [(640, 480), (480, 640), (224, 224), (225, 223), (1, 1), (31, 400), (400, 31), (100, 75), (1001, 333)]


def reference_processor(family: str) -> Any:
    """Transformers' processor that works on Pillow pictures: its name has changed from version 4 to 5."""
    folder = {"CLIP": "clip", "Siglip": "siglip"}[family]
    for module, suffix in ((f"image_processing_pil_{folder}", "Pil"), (f"image_processing_{folder}", "")):
        try:
            loaded = importlib.import_module(f"transformers.models.{folder}.{module}")
        except ModuleNotFoundError:
            continue
        return getattr(loaded, f"{family}ImageProcessor{suffix}")
    pytest.fail(f"this transformers has no Pillow processor for {family}")


def reference(settings: dict[str, Any], picture: Image.Image) -> np.ndarray[Any, Any]:
    family = "CLIP" if settings["image_processor_type"].startswith("CLIP") else "Siglip"
    known = {name: value for name, value in settings.items() if name != "image_processor_type"}
    tensor = reference_processor(family)(**known)(picture, return_tensors="np")["pixel_values"][0]
    return np.asarray(tensor)


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with noise: like a photo, and sharp edges too."""
    random = np.random.default_rng(SEED)
    small = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noise = random.integers(-40, 40, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_the_tensor_equals_that_of_transformers_to_the_last_bit(
    settings: dict[str, Any], size: tuple[int, int]
) -> None:
    ours = ClipPreprocessing.from_settings(settings).apply(photo(*size))
    assert ours.dtype == np.float32
    assert ours.shape == (3, 224, 224)
    np.testing.assert_array_equal(ours, reference(settings, photo(*size)))


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 100, "crop_size": 80},
        {"size": {"shortest_edge": 60}, "crop_size": {"height": 91, "width": 40}},
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 60, "width": 81}},
        {"size": {"height": 50, "width": 70}, "do_center_crop": False},
        {"resample": 2},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 0.5, 0.25]},
    ],
)
def test_other_settings_equal_transformers_too(changed: dict[str, Any]) -> None:
    settings = {**CLIP, **changed}
    ours = ClipPreprocessing.from_settings(settings).apply(photo(200, 150))
    np.testing.assert_array_equal(ours, reference(settings, photo(200, 150)))


@pytest.mark.parametrize("size", [(3600, 200), (200, 3600), (300, 5111), (7, 3000)])
def test_a_very_long_picture_differs_by_rounding_only(size: tuple[int, int]) -> None:
    """Only its middle is resized, and Pillow may then take its two passes in the other order."""
    preprocessing = ClipPreprocessing.from_settings(CLIP)
    difference = np.abs(preprocessing.apply(photo(*size)) - reference(CLIP, photo(*size)))
    grey_level = 1 / 255 / min(preprocessing.std)
    print(f"seed {SEED}, in grey levels: mean {difference.mean() / grey_level}, most {difference.max() / grey_level}")
    assert difference.mean() < grey_level / 2


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 65_000)])
def test_an_absurdly_long_picture_costs_no_more_than_others(size: tuple[int, int]) -> None:
    """Resized whole, 1 x 100,000 pixels would become 224 x 22,400,000: 15 GB."""
    tensor = ClipPreprocessing().apply(Image.new("RGB", size, (255, 0, 0)))
    np.testing.assert_allclose(tensor, ClipPreprocessing().apply(Image.new("RGB", (9, 9), (255, 0, 0))))


def test_defaults_are_those_of_openai_clip() -> None:
    assert ClipPreprocessing.from_settings({}) == ClipPreprocessing()
    assert ClipPreprocessing.from_settings(CLIP) == ClipPreprocessing()


def test_old_names_and_bare_numbers_are_understood() -> None:
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3}
    assert ClipPreprocessing.from_settings(old) == ClipPreprocessing()
    siglip = ClipPreprocessing.from_settings({**SIGLIP, "size": 224})
    assert siglip.exact_size == (224, 224)
    assert ClipPreprocessing.from_settings({**SIGLIP, "size": [224, 224]}) == siglip


def test_settings_that_newer_transformers_writes_as_null_are_as_if_absent() -> None:
    settings = {**CLIP, "size": {"shortest_edge": 224, "height": None, "longest_edge": None}, "do_pad": None}
    assert ClipPreprocessing.from_settings(settings) == ClipPreprocessing()


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "ViTImageProcessor"},
        {"image_processor_type": "Siglip2ImageProcessor"},
        {**CLIP, "do_resize": False},
        {**CLIP, "do_normalize": False},
        {**CLIP, "do_pad": True},
        {**CLIP, "do_center_crop": False},
        {**CLIP, "size": {"shortest_edge": 224, "longest_edge": 300}},
        {**CLIP, "size": "large"},
        {**CLIP, "image_mean": [0.5]},
        {**CLIP, "resample": 17},
        {**CLIP, "crop_size": {"height": 224}},
    ],
)
def test_settings_that_are_not_understood_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel):
        ClipPreprocessing.from_settings(settings)


def test_settings_are_read_from_either_file_of_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="preprocessor_config.json"):
        ClipPreprocessing.from_folder(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {**CLIP, "size": 99}}))
    assert ClipPreprocessing.from_folder(tmp_path).shortest_edge == 99
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CLIP))
    assert ClipPreprocessing.from_folder(tmp_path).shortest_edge == 224
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="no JSON"):
        ClipPreprocessing.from_folder(tmp_path)


def test_the_fingerprint_tells_settings_apart_and_stays_the_same_otherwise() -> None:
    clip, siglip = ClipPreprocessing(), ClipPreprocessing.from_settings(SIGLIP)
    assert clip.fingerprint == ClipPreprocessing.from_settings(CLIP).fingerprint
    assert clip.fingerprint != siglip.fingerprint
    # written down: a change here means that all stored vectors count as another model's
    assert clip.fingerprint == "c09f6daa7715cafa7497f6a613d2d157dc8ed7133c83ba76577ea4f024b625d9"
