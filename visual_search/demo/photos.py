"""Real photos for the demo, from the scikit-image package, with edited copies made on the fly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from PIL import Image, ImageOps

from storage.errors import ImageNotFound

# The photographs among the files that the scikit-image wheel itself holds (no download), under telling names.
_PHOTOS = {
    "astronaut.png": "people/astronaut",
    "camera.png": "people/photographer",
    "chelsea.png": "animals/cat",
    "coffee.png": "things/coffee-cup",
    "coins.png": "things/coins",
    "clock_motion.png": "things/clock",
    "motorcycle_left.png": "things/motorcycle-left",
    "motorcycle_right.png": "things/motorcycle-right",
    "rocket.jpg": "sky/rocket",
    "moon.png": "sky/moon",
    "hubble_deep_field.jpg": "sky/hubble-deep-field",
    "brick.png": "surfaces/brick",
    "grass.png": "surfaces/grass",
    "gravel.png": "surfaces/gravel",
    "page.png": "surfaces/book-page",
    "retina.jpg": "medical/retina",
    "ihc.png": "medical/tissue",
    "cell.png": "medical/cell",
}
_EDITED = (
    "animals/cat",
    "people/astronaut",
    "things/coffee-cup",
    "sky/rocket",
    "surfaces/gravel",
    "medical/retina",
)
_CROP_FRACTION = 0.1  # cut off at each side
_LOW_JPEG_QUALITY = 15


def _cropped(photo: Image.Image) -> Image.Image:
    dx, dy = int(photo.width * _CROP_FRACTION), int(photo.height * _CROP_FRACTION)
    return photo.crop((dx, dy, photo.width - dx, photo.height - dy))


_EDITS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "cropped": (_cropped, 90),
    "mirrored": (ImageOps.mirror, 90),
    "recompressed": (lambda photo: photo, _LOW_JPEG_QUALITY),
}


def write_sample_photos(folder: Path) -> Path:
    """Fill the folder with photos and edited copies; return a ground truth file: photo -> its copies.

    Raises ImageNotFound when scikit-image is not installed.
    """
    try:
        data = resources.files("skimage") / "data"
    except ModuleNotFoundError as error:
        raise ImageNotFound(
            "the sample photos come with scikit-image: `pip install 'visual-search[demo]'`, "
            "or use your own with --photos FOLDER"
        ) from error
    for name, target in _PHOTOS.items():
        destination = folder / f"{target}{Path(name).suffix}"
        destination.parent.mkdir(parents=True, exist_ok=True)
        with resources.as_file(data / name) as file:
            shutil.copyfile(file, destination)
    return _write_edits(folder)


def _write_edits(folder: Path) -> Path:
    queries = []
    originals = sorted(
        path for path in folder.rglob("*") if path.with_suffix("").relative_to(folder).as_posix() in _EDITED
    )
    for original in originals:
        copies = []
        with Image.open(original) as file:
            photo = file.convert("RGB")
        for edit, (apply, quality) in _EDITS.items():
            copy = folder / "copies" / f"{original.stem}-{edit}.jpg"
            copy.parent.mkdir(exist_ok=True)
            apply(photo).save(copy, quality=quality)
            copies.append(copy.relative_to(folder).as_posix())
        queries.append({"query_id": original.relative_to(folder).as_posix(), "ground_truth": copies})
    ground_truth = folder.parent / "ground_truth.json"
    ground_truth.write_text(json.dumps({"queries": queries}, indent=2))
    return ground_truth
