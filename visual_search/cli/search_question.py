"""What the search command is asked with: pictures, ids and words, wanted and unwanted, as parts of one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InvalidQuery
from query_service.protocol import QueryPart
from query_service.transport.asking import picture_part
from visual_search.query import Query


@dataclass(frozen=True)
class Sought:
    """Pictures by path, ids of indexed images, words; in the order of the command line within each kind."""

    pictures: Sequence[Path] = ()
    image_ids: Sequence[str] = ()
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.pictures) + len(self.image_ids) + len(self.texts)

    def check(self) -> None:
        """Raise InvalidQuery for a picture that is not there."""
        for picture in self.pictures:
            if not picture.is_file():
                raise InvalidQuery(f"no picture at {picture}")

    def parts(self, most_bytes: int, weight: float) -> list[QueryPart]:
        """Each as a part of this weight. Raises ImageNotFound, ImageTooLarge, InvalidQuery."""
        pictures = [picture_part(picture, most_bytes, weight) for picture in self.pictures]
        ids = [QueryPart(image_id=image_id, weight=weight) for image_id in self.image_ids]
        return [*pictures, *ids, *(QueryPart(text=text, weight=weight) for text in self.texts)]

    def words(self) -> list[str]:
        """Each as a heading names it."""
        return [*(one.name for one in self.pictures), *self.image_ids, *(f"“{text}”" for text in self.texts)]

    def first(self) -> Query:
        """The first one, as a query by itself."""
        if self.pictures:
            return Query(image=self.pictures[0])
        return Query(image_id=self.image_ids[0]) if self.image_ids else Query(text=self.texts[0])


@dataclass(frozen=True)
class SearchedFor:
    """All that a search is to be like, and unlike."""

    like: Sought
    unlike: Sought

    def check(self) -> None:
        """Raise InvalidQuery when there is nothing to look for, or a picture is not there."""
        if not self.like:
            wanted = "at least one of --image, --id or --text"
            raise InvalidQuery(
                f"--not-… alone describes nothing: add {wanted}" if self.unlike else f"ask with {wanted}"
            )
        self.like.check()
        self.unlike.check()

    def parts(self, most_bytes: int) -> tuple[QueryPart, ...]:
        """What is wanted with weight 1, what is not with weight -1."""
        return (*self.like.parts(most_bytes, 1.0), *self.unlike.parts(most_bytes, -1.0))

    @property
    def single(self) -> Query | None:
        """The query when it is a single one; None when several things are mixed."""
        return self.like.first() if len(self.like) == 1 and not self.unlike else None

    def heading(self) -> str:
        """For people: “red” + cat.jpg - “night”."""
        return " - ".join([" + ".join(self.like.words()), *self.unlike.words()])
