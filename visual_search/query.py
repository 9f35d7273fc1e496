"""The question that a collection in this process is asked: one image, one stored id, or words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import InvalidQuery

if TYPE_CHECKING:
    from pipeline.embedding_service import ImageInput


@dataclass(frozen=True)
class Query:
    """What to look for: exactly one of an image, a stored image's id, or words."""

    image: ImageInput | None = field(default=None, repr=False)
    image_id: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.image, self.image_id, self.text)) != 1:
            raise InvalidQuery("ask with exactly one of: an image, an image id, a text")
