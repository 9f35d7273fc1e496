"""Pictures sent over HTTP: checked as a whole, stored one after another, queued as one job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from typing_extensions import Self

from pipeline.errors import InvalidQuery
from query_service.http.access import requires
from query_service.http.service import HttpService, Service
from query_service.http.storable_text import storable
from storage.attributes import normal_attributes
from storage.catalog import JobProgress
from storage.errors import DuplicateImageId, ImageTooLarge, InvalidAttribute, InvalidImageId
from storage.images.keys import key_of, segments_of
from storage.records import Attributes, image_id_problem
from workers.submitting.job_document import job_document

MOST_FILES = 1000  # of one request
_MOST_FIELD_BYTES = 4 * 1024 * 1024  # of the attributes
_MOST_NAME_BYTES = 255  # of each part of an id between slashes: it becomes a file name
_FIELDS = ("image", "image_id", "attributes", "collection")

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "image_id": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "One for each file, in their order; by default the file names.",
                        },
                        "attributes": {
                            "type": "string",
                            "description": "JSON: an object with the attributes of each image, by image id.",
                        },
                        "collection": {"type": "string"},
                    },
                },
                "example": {"image_id": ["cats/tom.jpg"], "attributes": '{"cats/tom.jpg": {"label": "cat"}}'},
            }
        },
    }
}

router = APIRouter(prefix="/v1", tags=["images"], dependencies=[requires("submit")])


@router.post("/images", status_code=202, openapi_extra=_BODY)
async def upload(request: Request, service: Service) -> Mapping[str, Any]:
    """Store pictures and queue them for the embed workers; the reply is their job.

    An id that is there already gets the new picture. A file that is no picture is listed in the failures.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "send pictures as multipart/form-data, in files named `image`")
    limits = {"max_files": MOST_FILES, "max_fields": MOST_FILES + 2, "max_part_size": _MOST_FIELD_BYTES}
    async with request.form(**limits) as form:
        wanted = Upload.of(form, service.settings.max_image_bytes)
        return job_document(await asyncio.to_thread(_submit, service, wanted))


def _submit(service: HttpService, wanted: Upload) -> JobProgress:
    return service.jobs.submit_uploads(
        wanted.pictures, collection=wanted.collection, attributes=wanted.attributes or None
    )


@dataclass(frozen=True)
class Upload:
    """What one request sends, found in order."""

    pictures: Pictures
    attributes: Mapping[str, Attributes]
    collection: str | None

    @classmethod
    def of(cls, form: FormData, most_bytes: int) -> Self:
        """Check the form. Raises InvalidQuery, InvalidImageId, DuplicateImageId, InvalidAttribute, ImageTooLarge."""
        for name in form:
            if name not in _FIELDS:
                raise InvalidQuery(f"{name[:100]}: a form has {', '.join(_FIELDS)} only")
        files = [one for one in form.getlist("image") if isinstance(one, UploadFile)]
        if not files or len(files) != len(form.getlist("image")):
            raise InvalidQuery("send at least one file named `image`")
        _check_sizes(files, most_bytes)
        ids = _ids(files, _texts(form, "image_id"))
        return cls(Pictures(dict(zip(ids, files, strict=True))), _attributes(form, ids), _collection(form))


class Pictures(Mapping[str, bytes]):
    """The files by image id; each is read from the disk, where large ones wait, when its turn comes."""

    def __init__(self, files: Mapping[str, UploadFile]) -> None:
        self._files = files

    def __getitem__(self, image_id: str) -> bytes:
        file = self._files[image_id].file
        file.seek(0)
        return file.read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _check_sizes(files: Sequence[UploadFile], most_bytes: int) -> None:
    for number, file in enumerate(files):
        if (file.size or 0) > most_bytes:
            raise ImageTooLarge(
                f"image {number} has {file.size or 0:,} bytes, at most {most_bytes:,} are read (max_image_bytes)"
            )


def _ids(files: Sequence[UploadFile], given: Sequence[str]) -> Sequence[str]:
    if given and len(given) != len(files):
        raise InvalidQuery(f"{len(files)} files and {len(given)} image_id: give one for each file, or none")
    ids = given or [_name_of(file) for file in files]
    for image_id in ids:
        _check_id(image_id)
    if len(set(ids)) != len(ids):
        twice = next(one for number, one in enumerate(ids) if one in ids[:number])
        raise DuplicateImageId(f"the image id {twice!r} is there twice")
    return ids


def _name_of(file: UploadFile) -> str:
    """The name alone: some programs send the path on their own disk with it."""
    return (file.filename or "").replace("\\", "/").rpartition("/")[2]


def _check_id(image_id: str) -> None:
    """Before anything is stored. Raises InvalidImageId, InvalidQuery, InvalidKey for `..` and its like."""
    problem = image_id_problem(storable(image_id))
    if problem is None and image_id.endswith("/"):
        problem = "an image id that is uploaded does not end in a slash"
    if problem is not None:
        raise InvalidImageId(problem)
    if any(len(part.encode()) > _MOST_NAME_BYTES for part in segments_of(key_of(image_id), windows=False)):
        raise InvalidImageId(f"between slashes, the id of an uploaded image has at most {_MOST_NAME_BYTES} bytes")


def _attributes(form: FormData, ids: Sequence[str]) -> Mapping[str, Attributes]:
    texts = _texts(form, "attributes")
    if not texts:
        return {}
    try:
        found = json.loads(texts[-1])
    except (ValueError, RecursionError) as error:
        raise InvalidAttribute("the attributes are no JSON") from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise InvalidAttribute('attributes are an object by image id: {"cat.jpg": {"label": "cat"}}')
    unknown = sorted(set(found) - set(ids))
    if unknown:
        raise InvalidAttribute(f"attributes are given for {unknown[0]!r}, which is none of the images")
    return {image_id: normal_attributes(of_image) for image_id, of_image in found.items()}


def _collection(form: FormData) -> str | None:
    names = _texts(form, "collection")
    return names[-1] if names and names[-1] else None


def _texts(form: FormData, name: str) -> Sequence[str]:
    return [one for one in form.getlist(name) if isinstance(one, str)]
