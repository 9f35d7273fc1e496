"""The data models that every part shares: images, and the identity of the model that made their vectors.

Loads no NumPy: clients of the search service read these too, and are to start quickly.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

AttributeValue = str | int | float | bool | None | list[str]
Attributes = dict[str, AttributeValue]


MAX_IMAGE_ID_CHARACTERS = 1024  # S3 allows that many bytes
MAX_IMAGE_ID_BYTES = 2048  # as UTF-8; with an attribute's name of 512 it still fits PostgreSQL's index entry of 2,704
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_MAX_FAILURE_ID_BYTES = 2400  # more than an image id may have, so that a shortened id is never taken for an image's


def image_id_problem(image_id: str) -> str | None:
    """Say what keeps a text from being an image id; None when nothing does."""
    if not image_id:
        return "an image id is not empty"
    if len(image_id) > MAX_IMAGE_ID_CHARACTERS:
        return f"an image id has at most {MAX_IMAGE_ID_CHARACTERS} characters, this one has {len(image_id)}"
    if len(image_id.encode("utf-8", "surrogatepass")) > MAX_IMAGE_ID_BYTES:
        return f"an image id has at most {MAX_IMAGE_ID_BYTES} bytes as UTF-8, this one has more"
    if _CONTROL_CHARACTER.search(image_id):
        return "an image id holds no control characters"
    return None


def failure_id(image_id: str) -> str:
    """The id under which a failure is recorded: the same, but one too long for any index is cut and hashed.

    A shortened id stays what it is when shortened again, and is still no valid image id.
    """
    encoded = image_id.encode("utf-8", "surrogatepass")
    if len(encoded) <= _MAX_FAILURE_ID_BYTES:
        return image_id
    mark = "..." + hashlib.sha256(encoded).hexdigest()
    return encoded[: _MAX_FAILURE_ID_BYTES - len(mark)].decode("utf-8", "ignore") + mark


class ModelIdentity(BaseModel):
    """Which model made a vector: vectors are comparable only if every field agrees."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str
    revision: str  # hub commit, or "local" / "builtin"
    weights_fingerprint: str  # sha256 hex over the weight files (or over the code version of a built-in)
    preprocessing_fingerprint: str  # sha256 hex over everything that turns a picture or text into the model's input
    dimension: int = Field(gt=0)

    @property
    def fingerprint(self) -> str:
        """One sha256 hex over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.name} ({self.dimension}-d, {self.fingerprint[:12]})"


class ImageMetadata(BaseModel):
    """What is known of one image; width and height are in pixels after EXIF orientation."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    source_uri: str = ""
    etag: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    bytes: int = 0
    attributes: Attributes = Field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @field_validator("image_id")
    @classmethod
    def _usable_id(cls, value: str) -> str:
        problem = image_id_problem(value)
        if problem is not None:
            raise ValueError(problem)
        return value
