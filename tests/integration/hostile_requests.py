"""Requests that mean harm, for the queue in Redis and for HTTP, each with the reasons for which it may be refused.

Seeded: the same seed gives the same requests. `EMPTY` stands for what is no mistake but must find nothing.
"""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
from pictures import jpeg

EMPTY = "no results"
MALFORMED, INVALID = "malformed_message", "invalid_query"
_PATHS = ("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "..\\..\\secret", "a/../../b", "~root/.ssh/id_rsa")
_SQL = ("' OR 1=1 --", "x'; DROP TABLE images; --", '" OR ""="', "%", "_", "1) UNION SELECT sha256 FROM images --")
_TIMES = (0, -1, "soon", "1e9", "9" * 30, b"\xff", "")
_VERSIONS = (0, 2, -1, 1.0, True, "1", None, [1], {})
_STRANGE = ("\u202egpj.exe", "e\u0301" * 50, "👩‍👩‍👧‍👦" * 5, "\ufeff", "ﷺ" * 100, "İ")


@dataclass(frozen=True)
class Hostile:
    """One request: its name, what is sent, and the reasons that are right. `fields` stand beside it in Redis."""

    name: str
    data: bytes
    reasons: tuple[str, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    kind: str = "application/json"


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG (1 bit a pixel) that claims a size, whatever it holds."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def pictures() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """Pictures that are none, and the reasons."""
    whole, no_format = jpeg(5), ("unsupported_format",)
    bomb = png(16_000, 16_000, bytes(16_000 * 2_001))  # 256 million pixels in 32 KB
    gif = b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0x80, 0, 0) + bytes(6)
    gif += b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x44\x01\x00;"
    return {
        "one byte": (b"\xff", ("unsupported_format", "corrupt")),
        "words": (b"this is no picture", ("unsupported_format",)),
        "zeros": (bytes(10_000), ("unsupported_format",)),
        "half a JPEG": (whole[: len(whole) // 2], ("corrupt", "truncated")),
        "the head of a JPEG": (whole[:30], ("corrupt", "truncated", "unsupported_format")),
        "a JPEG of noise": (whole[:300] + bytes(range(256)) * 20, ("corrupt", "truncated")),
        "a claimed bomb": (png(50_000, 50_000), ("too_many_pixels",)),
        "a bomb": (bomb, ("too_many_pixels",)),
        "a GIF bomb": (gif, ("too_many_pixels",)),
        "the largest PNG": (png(2**31 - 1, 2**31 - 1), ("too_many_pixels", "corrupt")),
        "a PNG without size": (png(0, 0), ("corrupt", "unsupported_format")),
        "a PNG without pixels": (png(64, 64), ("corrupt", "truncated")),
        "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', no_format),
        "a PDF": (b"%PDF-1.4\n%%EOF", ("unsupported_format",)),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", no_format),
        "a ZIP": (b"PK\x03\x04" + bytes(100), ("unsupported_format",)),
        "a pickle": (b"cos\nsystem\n(S'touch /tmp/hacked'\ntR.", ("unsupported_format",)),
        "a TIFF that points at itself": (b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00", ("corrupt", *no_format)),
    }


def wrong_values(parts: str, k: tuple[str, str], time: str, near: str) -> Iterator[tuple[str, Any]]:
    """Fields with values of wrong types and sizes, by the names that they have there."""
    for value in ([], None, "x", 5, {}, [[]], ["x"], [None], [{}], [{"text": "x"}] * 17, [{"sql": "x"}]):
        yield parts, value
    for name, values in {
        k[0]: (-1, 0, 1001, 2**31, 2**63 - 1, "ten", 1.5, [1], {}),
        k[1]: (-1, 100_001, 2**63 - 1, "x", 0.5),
        time: (0, -1, 601, 1e300, "soon", [], float("nan"), float("inf")),
        near: (0, -0.1, 1.1, "x", float("nan")),
        "min_score": ("x", [], float("nan"), float("inf")),
        "diversity": (-0.1, 1.1, "x", float("nan")),
        "group_by": ("", 5, []),
        "group_size": (0, -1, "x"),
        "exclude": ("abc", [""] * 3, ["x" * 1025], ["x"] * 1001, [1], {"a": 1}),
        "explain": ("maybe", 7, []),
        "priority": ("urgent", 5, None, ["high"]),
        "collection": ("x" * 201, 5, [], {}),
        "no_such_field": (1, None, {"a": []}),
    }.items():
        for value in values:
            yield name, value


def wrong_parts(picture: str) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Single parts that are wrong, and for which reasons."""
    nan, infinite = float("nan"), float("inf")
    for weight in (0, nan, infinite, -infinite, 101, -101, 1e308, "heavy", [1], {}):
        yield f"weight {weight}", {"text": "x", "weight": weight}, (INVALID,)
    for row in ([], [nan] * 1024, [infinite] * 1024, ["x"], [[1.0]], [1.0] * 8193, "abc", {"0": 1}, [None], [1e999]):
        yield f"vector {str(row)[:20]}", {"vector": row}, (INVALID,)
    for row in ([1.0], [1.0] * 8192, [0.0] * 7):
        yield f"vector of {len(row)}", {"vector": row}, ("invalid_vector",)
    for words in ("", "x" * 4097, 5, ["x"], {}):
        yield f"text {str(words)[:9]}", {"text": words}, (INVALID,)
    for image_id in ("", "x" * 1025, 5, [], {"$ne": 1}):
        yield f"id {str(image_id)[:9]}", {"image_id": image_id}, (INVALID,)
    for image_id in (
        *_PATHS,
        *_SQL,
        *_STRANGE,
        "\x00",
        "a\nb",
        "*",
        "{}",
        "${jndi:ldap://x}",
        "{{7*7}}",
        "%00",
        "<script>",
    ):
        yield f"id {image_id[:9]!r}", {"image_id": image_id}, ("unknown_id",)
    yield "nothing", {}, (INVALID,)
    yield "two things", {"text": "x", "image_id": "y"}, (INVALID,)
    yield "a picture as a number", {picture: 5}, (INVALID,)
    yield "a picture as a list", {picture: [1, 2]}, (INVALID,)
    yield "a picture of nothing", {picture: b"" if picture == "image" else ""}, (INVALID,)


def filters() -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Filters that are wrong, and some that are right and must find nothing, whatever they look like."""
    wrong: tuple[Any, ...] = (
        {},
        {"op": "sql", "key": "a"},
        {"op": "equals"},
        {"op": "equals", "key": "", "value": 1},
        {"op": "in", "key": "a"},
        {"op": "equals", "key": "a", "value": [1]},
        {"op": "equals", "key": "a", "value": float("nan")},
        {"op": "equals", "key": "a", "value": 2**60},
        {"op": "range", "key": "a"},
        {"op": "range", "key": "a", "gt": "x"},
        {"op": "range", "key": "a", "gte": float("inf")},
        {"op": "in", "key": "a", "values": [[]] * 5000},
        {"op": "not"},
        {"op": "and", "filters": "x"},
        {"op": "or"},
        {"op": "equals", "key": "a" * 2000, "value": 1},
        {"op": "equals", "key": "a", "value": "\x00"},
        {"op": "or", "filters": [{"op": "exists", "key": "none"}] * 5000},
        {"op": "in", "key": "a", "values": ["x"] * 50_000},
        {"op": "exists", "key": "a", "sql": "1=1"},
        {"op": ["and"]},
        {"op": None},
    )
    for one in wrong:
        yield one, ("invalid_filter", INVALID)
    exists = {"op": "exists", "key": "none"}
    for kind in ("or", "and"):
        yield {"op": kind, "filters": [exists] * 60}, (EMPTY,)
    yield {"op": "in", "key": "a", "values": [f"x{number}" for number in range(1000)]}, (EMPTY,)
    yield _deep(30), (EMPTY,)
    for text in (*_SQL, *_PATHS, *_STRANGE):
        yield {"op": "equals", "key": text, "value": text}, (EMPTY,)
        yield {"op": "in", "key": "place", "values": [text]}, (EMPTY,)


def for_redis(seed: int) -> list[Hostile]:
    """Entries of the stream: messages as no client of ours would send them."""
    chance = random.Random(seed)
    good = {"v": 1, "parts": [{"image_id": "00.jpg"}], "timeout_seconds": 5.0}
    whole = msgpack.packb(good)
    found = [
        *(Hostile(f"cut at {at}", whole[:at], (MALFORMED,)) for at in sorted(chance.sample(range(len(whole)), 15))),
        *(Hostile(f"noise {n}", chance.randbytes(chance.randint(2, 300)), (MALFORMED,)) for n in range(15)),
        *(Hostile(f"version {v!r}", msgpack.packb({**good, "v": v}), (MALFORMED,)) for v in _VERSIONS),
        Hostile("no version", msgpack.packb({"parts": good["parts"]}), (MALFORMED,)),
        Hostile("an id of its own", msgpack.packb({**good, "request_id": "0" * 32}), (MALFORMED,)),
        Hostile("more behind it", whole + b"\x00", (MALFORMED,)),
        Hostile("a list", msgpack.packb([1, 2]), (MALFORMED,)),
        Hostile("keys that are numbers", msgpack.packb({**good, 5: 1}), (MALFORMED,)),
        Hostile(
            "text that is no UTF-8",
            msgpack.packb({**good, "collection": "X"}).replace(b"\xa1X", b"\xa1\xff"),
            (MALFORMED,),
        ),
        Hostile("an extension type", msgpack.packb({**good, "exclude": msgpack.ExtType(42, b"x")}), (INVALID,)),
        Hostile("a promised 4 GB", b"\x81\xa1v\xc6\xff\xff\xff\xff", (MALFORMED,)),
        Hostile("a map of 4 billion", b"\xdf\xff\xff\xff\xff", (MALFORMED,)),
        Hostile("deep lists", b"\x91" * 100_000 + b"\x00", (MALFORMED,)),
        Hostile("deep maps", b"\x81\xa1v" * 100_000 + b"\x01", (MALFORMED,)),
        Hostile("a pickle", b"\x80\x04\x95\x00.", (MALFORMED,)),
        Hostile("JSON", b'{"v": 1}', (MALFORMED,)),
        Hostile(
            "deep filters", msgpack.packb({**good, "options": {"filter": _deep(200)}}), (INVALID, "invalid_filter")
        ),
        Hostile("nothing", b"", (MALFORMED,)),
        *(Hostile(f"time {t!r}", whole, ("deadline_exceeded",), {"t": t}) for t in _TIMES),
    ]
    inside = {"top_k", "offset", "near_duplicate_threshold", "min_score", "diversity", "group_by", "group_size"}
    nothing = {"min_score", "diversity", "near_duplicate_threshold", "group_by"}
    for name, value in wrong_values("parts", ("top_k", "offset"), "timeout_seconds", "near_duplicate_threshold"):
        changed = {**good, "options": {name: value}} if name in inside else {**good, name: value}
        if not (value is None and name in nothing):
            found.append(Hostile(f"{name} = {str(value)[:30]}", msgpack.packb(changed), (INVALID,)))
    for name, part, reasons in wrong_parts("image"):
        found.append(Hostile(name, msgpack.packb({**good, "parts": [part]}, unicode_errors="surrogatepass"), reasons))
    for condition, reasons in filters():
        found.append(
            Hostile(f"filter {str(condition)[:40]}", msgpack.packb({**good, "options": {"filter": condition}}), reasons)
        )
    for name, (data, reasons) in pictures().items():
        found.append(Hostile(f"picture: {name}", msgpack.packb({**good, "parts": [{"image": data}]}), reasons))
    found += [
        _collection(name, msgpack.packb({**good, "collection": name})) for name in (*_SQL, *_PATHS, *_STRANGE, "a\x00b")
    ]
    return found


def without_ids() -> list[dict[str, Any]]:
    """Entries that nobody can be replied to: they are put aside."""
    return [
        {"m": b"x"},
        {"id": ""},
        {"id": b"\xff\xfe"},
        {"id": "../x"},
        {"id": "A" * 32},
        {"x": "y"},
        {"id": "0" * 33, "t": 5},
    ]


def for_http(seed: int) -> list[Hostile]:
    """Bodies of POST /v1/search."""
    chance = random.Random(seed)
    good: dict[str, Any] = {"query": [{"image_id": "00.jpg"}]}
    whole = json.dumps(good).encode()
    unreadable = ("invalid_request",)
    found = [
        *(Hostile(f"cut at {at}", whole[:at], unreadable) for at in sorted(chance.sample(range(len(whole)), 10))),
        *(Hostile(f"noise {n}", b"\xff" + chance.randbytes(100), unreadable) for n in range(5)),
        Hostile("deep lists", b"[" * 100_000, unreadable),
        Hostile("deep maps", b'{"a":' * 100_000, unreadable),
        Hostile("a list", b"[1]", (INVALID,)),
        Hostile("null", b"null", (INVALID,)),
        Hostile("msgpack", msgpack.packb({"v": 1}), unreadable, kind="application/json"),
        Hostile("XML", b"<x/>", ("unsupported_media_type",), kind="application/xml"),
        Hostile("deep filters", json.dumps({**good, "filter": _deep(90)}).encode(), (INVALID, "invalid_filter")),
        Hostile("half a character", b'{"collection": "\\ud800"}', unreadable),
        Hostile("a form that is none", b"\x00" * 100, unreadable, kind="multipart/form-data; boundary=x"),
        Hostile("a form without boundary", b"", unreadable, kind="multipart/form-data"),
    ]
    for name, value in wrong_values("query", ("k", "offset"), "timeout", "near_duplicates"):
        if value is not None or name in {"query", "priority", "no_such_field"}:  # else null is "not given"
            found.append(Hostile(f"{name} = {str(value)[:30]}", json.dumps({**good, name: value}).encode(), (INVALID,)))
    for name, part, reasons in wrong_parts("image_base64"):
        found.append(Hostile(name, json.dumps({"query": [part]}).encode(), reasons))
    for condition, reasons in filters():
        found.append(
            Hostile(f"filter {str(condition)[:40]}", json.dumps({**good, "filter": condition}).encode(), reasons)
        )
    for name, (data, reasons) in pictures().items():
        part = {"image_base64": base64.b64encode(data).decode()}
        found.append(Hostile(f"picture: {name}", json.dumps({"query": [part]}).encode(), reasons))
        form = (
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../x"\r\n\r\n' + data + b"\r\n--b--\r\n"
        )
        found.append(Hostile(f"uploaded: {name}", form, reasons, kind="multipart/form-data; boundary=b"))
    found += [
        _collection(name, json.dumps({**good, "collection": name}).encode())
        for name in (*_SQL, *_PATHS, *_STRANGE, "a\x00b")
    ]
    return found


def _collection(name: str, data: bytes) -> Hostile:
    return Hostile(f"collection {name[:9]!r}", data, ("unknown_collection",))


def _deep(levels: int) -> dict[str, Any]:
    condition: dict[str, Any] = {"op": "exists", "key": "none"}
    for _ in range(levels):
        condition = {"op": "and", "filters": [condition]}
    return condition
