"""The web page and its files, read once at the start: what is not in the folder then cannot be asked for."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

WEB = Path(__file__).parents[1] / "web"

_TYPES = {  # said here, since a system may map endings to anything
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class WebFile:
    """One file as it is sent; browsers ask again each time, and get it only when it has changed."""

    content: bytes
    packed: bytes  # by gzip
    media_type: str
    digest: str

    def reply(self, request: Request) -> Response:
        """The file, packed for whoever takes that, or 304 when the browser has this very one."""
        packs = _takes_gzip(request.headers.get("accept-encoding", ""))
        etag = f'"{self.digest}-gzip"' if packs else f'"{self.digest}"'
        headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        if packs:
            return Response(self.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.media_type)
        return Response(self.content, headers=headers, media_type=self.media_type)


def read_files(folder: Path) -> Mapping[str, WebFile]:
    """The files of the folder by name; those of other kinds are none of the page's."""
    return {path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in _TYPES and path.is_file()}


def page_router(folder: Path = WEB) -> APIRouter:
    """`/`, `/static/{name}` and `/favicon.ico`, open to everybody."""
    files = read_files(folder)
    router = APIRouter(include_in_schema=False)

    async def page(request: Request) -> Response:
        return files["index.html"].reply(request)

    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].reply(request)

    async def icon(request: Request) -> Response:
        return files["favicon.svg"].reply(request)

    router.add_api_route("/", page, methods=["GET", "HEAD"])
    router.add_api_route("/static/{name}", static, methods=["GET", "HEAD"])
    router.add_api_route("/favicon.ico", icon, methods=["GET", "HEAD"])
    return router


def _read(path: Path) -> WebFile:
    content = path.read_bytes()
    packed = gzip.compress(content, mtime=0)
    return WebFile(content, packed, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:32])


def _takes_gzip(accepted: str) -> bool:
    """Whether a header `Accept-Encoding` names gzip, and not with the weight 0."""
    for one in accepted.lower().split(","):
        name, _, weight = one.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False
