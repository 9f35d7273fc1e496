"""`visual-search keys`: a key is shown once, and its entry in the settings lets it in."""

from __future__ import annotations

import hashlib
import io
import json
import re

import pytest

from query_service.http.access import caller_of
from storage.settings import load_settings
from visual_search.cli.app import main


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["keys", *arguments])
    assert leaving.value.code == 0


def keys_of(tmp_path, text):
    file = tmp_path / "visual-search.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file).api_keys


def test_the_printed_entry_lets_the_printed_key_in_and_does_not_hold_it(capsys, tmp_path, monkeypatch):
    name = 'Jörg\'s "shop" \\ 1'
    run("new", name, "--scope", "search", "--scope", "submit", "-s", "search")
    output = capsys.readouterr().out
    key = re.search(r"vs_[\w-]{43}", output).group()
    entry, _, as_json = output[output.index("[[api_keys]]") :].partition("\nor, in the JSON list")
    line = as_json.splitlines()[-1]
    assert key not in entry + as_json
    (stored,) = keys_of(tmp_path, entry)
    assert "'" not in line, "a file .env and a shell have it in single quotes"
    monkeypatch.setenv("VISUAL_SEARCH_API_KEYS", f"[{line}]")
    assert load_settings().api_keys == [stored]
    assert stored.name == name
    assert stored.scopes == ("search", "submit")
    assert caller_of(key, [stored]).name == name
    assert caller_of(key[:-1], [stored]) is None


def test_two_keys_are_never_the_same_and_the_default_is_to_search_only(capsys):
    made = []
    for _ in range(2):
        run("new", "x", "--json")
        made.append(json.loads(capsys.readouterr().out))
    assert made[0]["key"] != made[1]["key"]
    assert made[0]["api_key"]["scopes"] == ["search"]


def test_a_key_that_exists_is_hashed_from_standard_input(capsys, monkeypatch):
    key = "a-key-from-a-password-manager"
    monkeypatch.setattr("sys.stdin", io.StringIO(key + "\n"))
    run("hash", "backup", "--scope", "admin", "--json")
    output = capsys.readouterr().out
    entry = json.loads(output)["api_key"]
    assert key not in output
    assert entry["sha256"] == hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize("given", ["", "short", "with a space in the key", "k\u00e9y-with-an-accent-in-it", "x" * 2000])
def test_a_weak_or_odd_key_is_refused(capsys, monkeypatch, given):
    monkeypatch.setattr("sys.stdin", io.StringIO(given + "\n"))
    with pytest.raises(SystemExit) as leaving:
        main(["keys", "hash", "x"])
    assert leaving.value.code == 2
    assert "16 to 1,024" in capsys.readouterr().err
