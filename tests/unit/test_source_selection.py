"""Which files of a source are images, by their names alone."""

import pytest

from pipeline.indexing.source import Source
from storage.images.local import LocalStorage


@pytest.mark.parametrize(
    ("include", "exclude", "key", "taken"),
    [
        ((), (), "a/b.JPG", True),
        ((), (), "a/b.heic", True),
        ((), (), "a/b.xmp", False),
        ((), (), "README", False),
        (("2024/*",), (), "2024/deep/x.png", True),
        (("2024/*",), (), "2024/x.xmp", False),
        (("2024/*",), (), "2023/x.png", False),
        (("*.dat",), (), "a/x.dat", True),
        (("hashes/0a1b",), (), "hashes/0a1b", True),
        (("hashes/*",), (), "hashes/0a1b", False),
        (("**",), (), "hashes/0a1b", True),
        (("*",), ("a/*",), "a/x.png", False),
        ((), ("*.gif",), "a/x.gif", False),
        (("[ab]/*",), (), "b/x.png", True),
    ],
)
def test_a_file_is_taken_by_its_ending_unless_a_pattern_says_otherwise(tmp_path, include, exclude, key, taken):
    source = Source(LocalStorage(tmp_path), include=include, exclude=exclude)
    assert source.takes(key) is taken
