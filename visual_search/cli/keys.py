"""`visual-search keys`: makes keys for the HTTP API. The key itself is shown once and kept nowhere."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from enum import Enum
from typing import Annotated

import typer

from pipeline.errors import InvalidQuery
from storage.settings import ApiKey
from visual_search.cli.options import AsJson
from visual_search.cli.output import console, print_json


class KeyScope(str, Enum):
    """What a key allows."""

    SEARCH = "search"
    SUBMIT = "submit"
    ADMIN = "admin"


PREFIX = "vs_"  # so that scanners for leaked secrets can know it
_SECRET_BYTES = 32
_LONGEST = 1024

app = typer.Typer(help="Make keys for the HTTP API.", no_args_is_help=True)


@app.command("new", epilog="`visual-search keys new 'web shop' --scope search --scope submit`")
def new(
    name: Annotated[str, typer.Argument(help="Who will use it; shown in the log and in errors.", show_default=False)],
    *,
    scope: Annotated[
        list[KeyScope] | None,
        typer.Option("--scope", "-s", help="`search` (default), `submit`, or `admin` (all). Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, show it once, and print the entry for `api_keys` in the TOML file, which holds only its hash."""
    key = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    entry = _entry(name, key, scope)
    if as_json:
        print_json({"key": key, "api_key": entry.model_dump(mode="json")})
        return
    console().print(f"key (shown only now): {key}\n", markup=False, soft_wrap=True)
    _show(entry)


@app.command("hash", epilog="`visual-search keys hash backup < key.txt`")
def hash_key(
    name: Annotated[str, typer.Argument(help="Who uses it.", show_default=False)],
    *,
    scope: Annotated[list[KeyScope] | None, typer.Option("--scope", "-s", help="As for `keys new`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the entry for a key that you have already; it is read from standard input, so that no history keeps it."""
    key = sys.stdin.readline(_LONGEST + 2).strip()
    if not 16 <= len(key) <= _LONGEST or not key.isascii() or any(one.isspace() for one in key):
        raise InvalidQuery(f"a key is one line of 16 to {_LONGEST:,} ASCII characters without spaces")
    entry = _entry(name, key, scope)
    if as_json:
        print_json({"api_key": entry.model_dump(mode="json")})
    else:
        _show(entry)


def _entry(name: str, key: str, scope: list[KeyScope] | None) -> ApiKey:
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise InvalidQuery("a name has 1 to 100 printable characters")
    scopes = tuple(dict.fromkeys(one.value for one in scope or [KeyScope.SEARCH]))
    return ApiKey(name=name, sha256=hashlib.sha256(key.encode()).hexdigest(), scopes=scopes)


def _show(entry: ApiKey) -> None:
    """The entry as TOML (JSON's strings and lists are TOML's too), and as the environment takes it."""
    text = json.dumps
    lines = (
        "[[api_keys]]",
        f"name = {text(entry.name, ensure_ascii=False)}",
        f"sha256 = {text(entry.sha256)}",
        f"scopes = {text(entry.scopes)}",
    )
    console().print("add to visual-search.toml, and restart the HTTP API:\n", markup=False)
    console().print("\n".join(lines), markup=False, soft_wrap=True)
    console().print(
        "\nor, in the JSON list of the environment (VISUAL_SEARCH_API_KEYS; API_KEYS in .env):\n", markup=False
    )
    document = text(entry.model_dump(mode="json"), ensure_ascii=False).replace("'", r"\u0027")  # fits single quotes
    console().print(document, markup=False, soft_wrap=True)
