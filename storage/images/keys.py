r"""Owns what a key is, and the reversible spelling of stored names that could not be a key as they are.

A key is a relative POSIX path that SQL, JSON and a terminal can hold: no control character, no byte that is
not UTF-8, no backslash, no empty, `.` or `..` segment. Folders and buckets hold such names all the same, so a
listing spells each offending character `\xNN` or `\uNNNN` (the byte FF in a file name is `\udcff`, PEP 383),
and every other verb takes that spelling back. No two names share a key; no file is passed over for its name.
"""

import re

from storage.errors import InvalidKey

_ODD = re.compile(
    r"[\x00-\x1f\x7f\\\ud800-\udfff]"  # control characters, the escape itself, what is not UTF-8
    r"|\A/|(?<=/)/"  # a slash that would make an empty segment (S3 has such names)
    r"|(?<![^/])\.(?=\.?(?:/|\Z))"  # the first dot of a segment `.` or `..`
)
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})")
_WINDOWS_FORBIDDEN = re.compile(
    r'[<>:"/\\|?*\x00-\x1f]'  # ':' would name a drive or an alternate data stream
    r"|[. ]\Z"  # Windows drops these, so that two keys would be one file
    r"|\A(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:\..*)?\Z",  # devices, with any ending
    re.IGNORECASE | re.DOTALL,
)


def key_of(name: str) -> str:
    """Spell a stored name as a key; ordinary names stay as they are. A name ending in `/` has no key."""
    return _ODD.sub(_escaped, name)


def name_of(key: str) -> str:
    """Give back the stored name behind a key. Raises InvalidKey when no name is spelled like this."""
    name = _unescaped(key)
    if not name or name.endswith("/") or key_of(name) != key:
        raise InvalidKey(
            f"{key!r} is no valid key: a key is a relative path like 'cats/tom.jpg', without '..', "
            "backslash, control characters or an empty part"
        )
    return name


def name_prefix_of(key_prefix: str) -> str:
    """Give a prefix of stored names that covers all keys with this one. Raises InvalidKey for `../` and `/`.

    It may cover more than the keys asked for (an escape cut in half), so the keys are to be compared as well.
    """
    folder, slash, name_start = key_prefix.rpartition("/")
    covered = name_of(folder) + "/" if slash else ""
    return covered if "\\" in name_start else covered + name_start


def segments_of(key: str, *, windows: bool) -> list[str]:
    """Split a key into names of folders and a file, in the given file system's terms.

    Raises InvalidKey when a segment would be no single name there: `.`, `..`, a slash or NUL spelled as an
    escape, and on Windows also drives, streams, devices and forbidden characters.
    """
    name_of(key)
    segments = [_unescaped(segment) for segment in key.split("/")]
    for segment in segments:
        if segment in {".", ".."} or "/" in segment or "\0" in segment:
            raise InvalidKey(f"{key!r} cannot be a file: {segment!r} is no file name")
        if windows and _WINDOWS_FORBIDDEN.search(segment):
            raise InvalidKey(f"{key!r} cannot be a file: Windows does not allow the name {segment!r}")
    return segments


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _unescaped(key: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match.group(1) or match.group(2), 16)), key)
