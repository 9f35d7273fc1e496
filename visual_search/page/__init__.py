"""Writes search results as one HTML file with pictures inside, to open in any browser or to send on."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pipeline.decode import decode_image
from pipeline.errors import DecodeError
from pipeline.results import SearchResults
from storage.errors import StorageError, VisualSearchError
from storage.images.locate import ImageReader
from visual_search.collection import ImageCollection
from visual_search.query import Query
from visual_search.version import __version__

_THUMBNAIL_PIXELS = 320  # longest side; sharp at the 220 CSS pixels of the grid
_JPEG_QUALITY = 82


class PageNotWritten(VisualSearchError):
    """Raised when a results page cannot be written where it was asked for. Name another place."""

    reason = "page_not_written"


@dataclass(frozen=True)
class Section:
    """One query of the page: its heading, its own picture if it has one, and what was found."""

    heading: str
    picture: str | None  # a data: URI
    results: SearchResults


def write_results_page(path: Path, query: Query, results: SearchResults, collection: ImageCollection) -> None:
    """Write the answer to one query. A picture that cannot be read any more is shown as missing, never left out."""
    write_page(path, "Search results", [section_of(query, results, collection)], collection.reader())


def section_of(query: Query, results: SearchResults, collection: ImageCollection) -> Section:
    """The query with its own picture beside its results."""
    if query.text is not None:
        return Section(f"“{query.text}”", None, results)
    if query.image_id is not None:
        uri = collection.image(query.image_id).source_uri
        return Section(f"like {query.image_id}", _thumbnail_of(uri, collection.reader()), results)
    picture = query.image
    data = Path(picture).read_bytes() if isinstance(picture, str | Path) else picture
    name = Path(picture).name if isinstance(picture, str | Path) else "this picture"
    return Section(f"like {name}", thumbnail(data) if isinstance(data, bytes) else None, results)


def write_page(path: Path, title: str, sections: list[Section], reader: ImageReader, notice: str | None = None) -> None:
    """Write several queries into one page."""
    environment = Environment(loader=PackageLoader("visual_search.page"), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("results.html").render(
        title=title,
        notice=notice,
        version=__version__,
        sections=[
            (section, [(result, _thumbnail_of(result.source_uri, reader)) for result in section.results.results])
            for section in sections
        ],
    )
    target = path.expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html, encoding="utf-8")
    except OSError as error:
        raise PageNotWritten(f"cannot write the page to {target}: {error.strerror or error}") from error


def thumbnail(data: bytes) -> str:
    """A small JPEG of the picture as a data: URI. Raises DecodeError."""
    picture = decode_image(data).picture
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _thumbnail_of(uri: str, reader: ImageReader) -> str | None:
    try:
        return thumbnail(reader.read(uri))
    except (StorageError, DecodeError):
        return None  # the template says that the file is gone
