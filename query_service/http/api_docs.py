"""The description of the API: /openapi.json for programs, /docs for people. Self-made: no script, no other host."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response

from query_service.http.page import read_files

_ABOUT = (
    "Exact image search over your own photos. Errors have one shape, "
    '`{"error": {"reason", "message", "retryable"}}`. Where the service has API keys, send one as '
    "`Authorization: Bearer KEY` or `X-API-Key: KEY`."
)
_LINE = 100  # characters of an example that stands on one line


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, made once; the scope that an operation needs is the name of its security."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version="v1", description=_ABOUT, routes=app.routes)
    return app.openapi_schema


def docs_router(app: FastAPI) -> APIRouter:
    """Open to everybody: it says nothing that the sources do not say."""
    router = APIRouter(include_in_schema=False)
    style = read_files(Path(__file__).parent)["docs.css"]

    async def openapi() -> Response:
        return Response(json.dumps(openapi_of(app), ensure_ascii=False), media_type="application/json")

    async def docs() -> Response:
        return Response(page_of(openapi_of(app)), media_type="text/html; charset=utf-8")

    async def docs_style(request: Request) -> Response:
        return style.reply(request)

    router.add_api_route("/openapi.json", openapi, methods=["GET", "HEAD"])
    router.add_api_route("/docs", docs, methods=["GET", "HEAD"])
    router.add_api_route("/docs.css", docs_style, methods=["GET", "HEAD"])
    return router


def page_of(schema: Mapping[str, Any]) -> str:
    """The description as a page; every text in it is escaped."""
    operations = [
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Visual Search: HTTP API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="docs.css">'
        f"</head><body><main><h1>Visual Search: HTTP API</h1><p>{_text(schema['info']['description'])}</p>"
        '<p><a href="openapi.json">openapi.json</a> · <a href=".">the web page</a></p>'
    )
    return head + "".join(operations) + "</main></body></html>"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    needs = "".join(f" <small>{_text(name)}</small>" for one in operation.get("security", []) for name in one)
    lines = [
        f'<section><h2><b class="{_text(method)}">{_text(method.upper())}</b> <code>{_text(path)}</code>{needs}</h2>',
        f"<p>{_prose(operation.get('summary', ''))}</p>",
    ]
    if operation.get("description"):
        lines.append(f"<p>{_prose(operation['description'])}</p>")
    parameters = operation.get("parameters", [])
    if parameters:
        lines.append(f"<dl>{''.join(_parameter(one) for one in parameters)}</dl>")
    lines += [f"<h3>{_text(name)}</h3><pre>{_text(_shown(value))}</pre>" for name, value in _examples(operation)]
    return "".join(lines) + "</section>"


def _parameter(one: Mapping[str, Any]) -> str:
    kind = one["in"] + (", needed" if one.get("required") else "")
    meaning = one.get("description") or one.get("schema", {}).get("description", "")
    return f"<dt><code>{_text(one['name'])}</code> <small>{_text(kind)}</small></dt><dd>{_prose(meaning)}</dd>"


def _examples(operation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the description shows of bodies: of the request first, then of the replies."""
    yield from _of_content("Request", operation.get("requestBody", {}).get("content", {}))
    for status, reply in operation.get("responses", {}).items():
        yield from _of_content(f"Reply {status}", reply.get("content", {}))


def _of_content(name: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for kind, media in content.items():
        if "example" in media:
            yield f"{name} ({kind})", media["example"]
        for title, one in media.get("examples", {}).items():
            yield f"{name} ({kind}): {one.get('summary', title)}", one.get("value")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= _LINE else json.dumps(value, indent=2, ensure_ascii=False)


def _text(value: object) -> str:
    return html.escape(str(value))


def _prose(value: object) -> str:
    """A text in which `this` is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", _text(value))
