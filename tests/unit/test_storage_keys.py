from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InvalidKey
from storage.images.keys import key_of, name_of, name_prefix_of, segments_of

# Every character that has a special meaning, among ordinary ones, surrogates of undecodable bytes included.
NAMES = st.text(st.sampled_from("ab./\\x0uü🐈\n\x00\x7f \udcff\ud800"), min_size=1, max_size=12)


@given(NAMES.filter(lambda name: not name.endswith("/")))
def test_every_stored_name_comes_back_from_its_key(name: str) -> None:
    assert name_of(key_of(name)) == name


@given(NAMES.filter(lambda name: not name.endswith("/")))
def test_every_key_is_a_clean_relative_path(name: str) -> None:
    key = key_of(name)
    key.encode()  # valid Unicode: SQL and JSON can hold it
    assert not any(ord(character) < 32 or ord(character) == 127 for character in key)
    assert not {"", ".", ".."}.intersection(key.split("/"))


@given(NAMES)
def test_whatever_is_accepted_as_a_key_is_the_one_spelling_of_its_name(text: str) -> None:
    """So that no file has two keys."""
    try:
        name = name_of(text)
    except InvalidKey:
        return
    assert key_of(name) == text


@given(NAMES.filter(lambda name: not name.endswith("/")), st.integers(0, 20))
def test_a_name_prefix_covers_every_key_with_the_key_prefix(name: str, length: int) -> None:
    key_prefix = key_of(name)[:length]
    assert name.startswith(name_prefix_of(key_prefix))


def test_ordinary_names_are_their_own_keys() -> None:
    for name in ("tom.jpg", "cats/tom.jpg", "..a/b../...", "100%.jpg", "grüße/日本.jpg"):
        assert key_of(name) == name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a\nb", r"a\x0ab"),
        ("a\\b", r"a\x5cb"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("a//b", r"a/\x2fb"),
        ("/a", r"\x2fa"),
        ("a/../b", r"a/\x2e./b"),
        (".", r"\x2e"),
    ],
)
def test_odd_names_are_spelled_with_escapes(name: str, key: str) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize("key", [r"\x2e.", r"a/\x2e./b", r"\x2fetc/passwd", r"a/\x2fb", r"a\x00b"])
def test_an_escape_cannot_smuggle_a_slash_or_dots_into_a_file_name(key: str) -> None:
    for windows in (False, True):
        with pytest.raises(InvalidKey):
            segments_of(key, windows=windows)


@pytest.mark.parametrize(
    "key",
    [
        "C:tom.jpg",
        "c:/tom.jpg",
        "tom.jpg:stream",
        "NUL",
        "a/con.jpg",
        "com1.txt",
        "tom.jpg.",
        "tom ",
        "what?.jpg",
        "star*.jpg",
        r"a\x5cb",
        r"a\x0ab",
    ],
)
def test_windows_refuses_names_that_would_mean_something_else_there(key: str) -> None:
    assert segments_of(key, windows=False)
    with pytest.raises(InvalidKey, match="Windows"):
        segments_of(key, windows=True)


def test_windows_accepts_names_that_only_resemble_devices() -> None:
    assert segments_of("console/nullify.jpg", windows=True) == ["console", "nullify.jpg"]
