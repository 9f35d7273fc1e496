"""The page of the HTTP API, made from its OpenAPI document: every address with parameters, body, reply and scope."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from query_service.http.api_docs import openapi_of
from query_service.http.app import create_app
from query_service.http.service import HttpService
from storage.settings import Settings

_INTRODUCTION = """# HTTP reference

Every address of the HTTP API. This page is written by `make references` from the OpenAPI document that the service
itself serves as `/openapi.json`; do not edit it. How to use the API, with examples to copy, keys, limits and errors:
[HTTP API](http.md).
"""
_LONG = 100  # characters of an example that stands on one line

Schema = Mapping[str, Any]


def page() -> str:
    """The whole page. The description is complete without any connection, so none of the service's parts is there."""
    unconnected: Any = None
    app = create_app(HttpService(Settings(), jobs=unconnected, searches=unconnected, ping_redis=unconnected))
    document = openapi_of(app)
    lines = [_INTRODUCTION]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _operation(method.upper(), path, operation)
    lines += ["## Objects", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += _object(name, schema)
    return "\n".join(lines)


def _operation(method: str, path: str, operation: Schema) -> Iterator[str]:
    yield from (f"## {method} {path}", "")
    yield from (operation.get("description") or operation["summary"] + ".", "")
    scope = next((next(iter(one)) for one in operation.get("security", [])), "").removesuffix("_key")
    yield from (f"Scope: `{scope}`." if scope else "Open: no key is needed.", "")
    if operation.get("parameters"):
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in operation["parameters"]:
            name = f"`{one['name']}`" + (" (required)" if one.get("required") else "")
            yield f"| {name} | {one['in']} | {_type(one['schema'])} | {_meaning(one.get('schema'))} |"
        yield ""
    for content, media in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body, `{content}`:", "")
        yield from _fields(media["schema"])
        yield from _example(media)
    yield from _replies(operation["responses"])


def _replies(replies: Schema) -> Iterator[str]:
    yield from ("| reply | is |", "|---|---|")
    for status, reply in replies.items():
        kinds = [
            f"{_type(media['schema'])} (`{content}`)" if media.get("schema") else f"`{content}`"
            for content, media in reply.get("content", {}).items()
        ]
        what = "; ".join([reply["description"].rstrip("."), *kinds])
        yield f"| {'other' if status == 'default' else status} | {what} |"
    yield ""


def _object(name: str, schema: Schema) -> Iterator[str]:
    yield from (f"### {name}", "")
    if schema.get("description"):
        yield from (" ".join(schema["description"].split()), "")
    yield from _fields(schema)


def _fields(schema: Schema) -> Iterator[str]:
    if "properties" not in schema:
        yield from (_type(schema), "")
        return
    yield from ("| field | type | meaning |", "|---|---|---|")
    yield from _rows(schema, "")
    yield ""


def _rows(schema: Schema, before: str) -> Iterator[str]:
    """One row for each field; those of an object inside, or of a list of objects, follow with their path."""
    for name, one in schema["properties"].items():
        required = " (required)" if name in schema.get("required", []) else ""
        yield f"| `{before}{name}`{required} | {_type(one)} | {_meaning(one)} |"
        inner = one.get("items", one)
        if "properties" in inner:
            yield from _rows(inner, f"{before}{name}{'[]' if 'items' in one else ''}.")


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(one) for one in choices))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "anything")) + (f" ({schema['format']})" if "format" in schema else "")


def _meaning(schema: Schema | None) -> str:
    schema = schema or {}
    parts = [" ".join(schema.get("description", "").split()), _bounds(schema)]
    if schema.get("default") not in (None, "", [], {}):
        parts.append(f"default `{json.dumps(schema['default'])}`")
    return "; ".join(part.rstrip(".") for part in parts if part).replace("|", "\\|")


def _bounds(schema: Schema) -> str:
    """Bounds of the value itself or of its one alternative that is not null."""
    one = next(one for one in schema.get("anyOf", [schema]) if one.get("type") != "null")
    words = {
        "minimum": "at least {:g}",
        "exclusiveMinimum": "above {:g}",
        "maximum": "at most {:g}",
        "minLength": "at least {:g} characters",
        "maxLength": "at most {:g} characters",
        "maxItems": "at most {:g} entries",
    }
    said = (text.format(one[key]) for key, text in words.items() if key in one)
    return ", ".join("not empty" if text == "at least 1 characters" else text for text in said)


def _example(media: Schema) -> Iterator[str]:
    examples = [one["value"] for one in media.get("examples", {}).values()] or [
        media[k] for k in ("example",) if k in media
    ]
    for example in examples:
        short = json.dumps(example, ensure_ascii=False)
        text = short if len(short) <= _LONG else json.dumps(example, ensure_ascii=False, indent=2)
        yield from ("```json", text, "```", "")
