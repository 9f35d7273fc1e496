"""The precisions that a model is exported in, and how each is written into a model's identity."""

from __future__ import annotations

from typing import Literal, get_args

from pipeline.embedders.fingerprint import sha256_of_settings

Precision = Literal["fp32", "int8"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Raised when the same checkpoint gives other graphs than before: it is then exported again.
EXPORT_VERSION = 1
# Raised when int8 gives other vectors than before: they are then another model's.
INT8_VERSION = 1

_INT8_MARK = "+int8"  # in the identity's revision, so that a collection says by itself what its vectors are


def marked_revision(revision: str, precision: Precision) -> str:
    """The revision that an identity records: float32 is what every backend computes, int8 is another model."""
    return revision + _INT8_MARK if precision == "int8" else revision


def precision_of(revision: str) -> Precision:
    """The precision that a recorded revision tells."""
    return "int8" if revision.endswith(_INT8_MARK) else "fp32"


def marked_weights(fingerprint: str, precision: Precision) -> str:
    """The weights' fingerprint of an identity: for int8 that of the checkpoint and of how it was rounded."""
    return sha256_of_settings({"int8": INT8_VERSION, "of": fingerprint}) if precision == "int8" else fingerprint
