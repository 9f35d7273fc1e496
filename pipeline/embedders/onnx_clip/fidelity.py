"""How true int8 vectors are to float32 ones, measured on the user's own pictures; below a floor it is refused.

How much a network loses by rounding depends on its weights and on what it is shown, so no number from elsewhere counts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.embedders.base import Vectors
from pipeline.errors import InvalidQuery, ModelError

# The floors, see docs/models.md: below them, int8 changes what people find.
LEAST_COSINE = 0.99  # of all but the worst hundredth of the pictures, and of every probing text
LEAST_AGREEMENT = 0.90  # share of the ten nearest pictures that are the same
LEAST_IMAGES = 50  # with fewer, ten neighbours are most of them, and agree whatever the vectors are

PROBING_TEXTS = (
    "a photo of a cat",
    "two people walking on a beach at sunset",
    "a red bicycle leaning against a white wall",
    "food",
    "a black and white portrait of an old man with a hat",
    "an empty street at night in the rain",
    "close-up of a flower with water drops on its petals",
    "a screenshot of a web page with a table of numbers",
)

_FILE = "fidelity.json"
_NEIGHBOURS = 10
_LOW_PERCENT = 1.0


@dataclass(frozen=True)
class FidelityReport:
    """Cosines between both vectors of each picture or text; `agreement` is the mean share of equal ten nearest."""

    images: int
    cosine_mean: float
    cosine_low: float  # the first percentile
    cosine_least: float
    text_cosine_least: float
    agreement: float
    accepted: bool = False  # a person has decided to use it all the same

    @property
    def passed(self) -> bool:
        """Whether every floor is kept."""
        cosines = min(self.cosine_low, self.text_cosine_least)
        return self.images >= LEAST_IMAGES and cosines >= LEAST_COSINE and self.agreement >= LEAST_AGREEMENT

    def __str__(self) -> str:
        return (
            f"{self.images} pictures: cosine {self.cosine_mean:.5f} in the mean, {self.cosine_low:.5f} for all but 1 "
            f"%, {self.cosine_least:.5f} at worst; texts {self.text_cosine_least:.5f} at worst; "
            f"{self.agreement:.1%} of the ten nearest are the same"
        )


def compare(
    exact: tuple[Vectors, Vectors], rounded: tuple[Vectors, Vectors], *, accepted: bool = False
) -> FidelityReport:
    """Compare (pictures, texts) in two precisions, each (n, dimension) of unit length, in the same order.

    Raises InvalidQuery for fewer than 50 pictures.
    """
    (pictures, texts), (rounded_pictures, rounded_texts) = exact, rounded
    if len(pictures) < LEAST_IMAGES:
        raise InvalidQuery(f"{len(pictures)} pictures are too few to measure by; give at least {LEAST_IMAGES}")
    cosines = np.einsum("ij,ij->i", pictures, rounded_pictures)
    return FidelityReport(
        images=len(pictures),
        cosine_mean=float(cosines.mean()),
        cosine_low=float(np.percentile(cosines, _LOW_PERCENT)),
        cosine_least=float(cosines.min()),
        text_cosine_least=float(np.einsum("ij,ij->i", texts, rounded_texts).min()),
        agreement=_agreement(_nearest(pictures), _nearest(rounded_pictures)),
        accepted=accepted,
    )


def write_report(folder: Path, report: FidelityReport) -> None:
    """Keep the report with the export that it is of."""
    (folder / _FILE).write_text(json.dumps(asdict(report), indent=2), encoding="utf-8")


def read_report(folder: Path) -> FidelityReport | None:
    """The report of an export; None when it was not measured, or is damaged: it can be measured again."""
    try:
        return FidelityReport(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def check_fidelity(folder: Path, name: str) -> None:
    """Raise ModelError unless this int8 export keeps the floors, or a person has accepted it below them."""
    report = read_report(folder)
    command = f"visual-search models prepare {name} --backend onnx-int8 --images FOLDER"
    if report is None:
        raise ModelError(f"how true int8 is for {name} was not measured on this machine: run `{command}`")
    if not (report.passed or report.accepted):
        raise ModelError(
            f"int8 is too far from float32 for {name} ({report}; the floors are cosine {LEAST_COSINE} and "
            f"{LEAST_AGREEMENT:.0%}): use the backend onnx, or accept it with `{command} --accept`"
        )


def _nearest(vectors: Vectors) -> list[set[int]]:
    """The ten nearest others of each row."""
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    return [set(row.tolist()) for row in np.argpartition(-near, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]]


def _agreement(expected: list[set[int]], found: list[set[int]]) -> float:
    shared = [len(wanted & got) for wanted, got in zip(expected, found, strict=True)]
    return sum(shared) / (_NEIGHBOURS * len(shared))
