"""Spells local paths as file:// addresses and reads them back, byte for byte. Touches no file.

`Path.as_uri` and `urllib.request.url2pathname` are not used for whole paths: the latter replaces bytes that
are no UTF-8, and what the former quotes may differ between versions, while addresses are compared as text.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from storage.errors import StorageError

_SCHEME = "file://"
_WINDOWS = os.name == "nt"


def file_uri(path: Path) -> str:
    """Spell an absolute path as RFC 8089 says, percent-encoded."""
    return anchor_uri(path) + quote_relative("/".join(path.parts[1:]))


def anchor_uri(path: Path) -> str:
    """Spell the root on which a path stands: `file:///`, on Windows `file:///C:/` or `file://server/share/`."""
    return Path(path.anchor).as_uri().rstrip("/") + "/" if path.drive else f"{_SCHEME}/"


def quote_relative(name: str) -> str:
    """Percent-encode a relative name with `/` between its parts."""
    return quote_from_bytes(os.fsencode(name))


def path_of_file_uri(uri: str, *, windows: bool = _WINDOWS) -> str:
    """Give the local path behind a file:// address. Raises StorageError when it names another machine."""
    host, _slash, quoted = uri[len(_SCHEME) :].partition("/")
    path = "/" + os.fsdecode(unquote_to_bytes(quoted))
    if host not in {"", "localhost"}:
        if windows:
            return f"//{host}{path}"
        raise StorageError(f"{uri} is on the machine '{host}': mount it, and give its folder or file:///path")
    return path[1:] if windows and re.match(r"/[A-Za-z]:", path) else path
