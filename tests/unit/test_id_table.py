"""The table of image ids of a snapshot: found where they lie, and nothing damaged is taken for a table."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from storage import id_table
from storage.errors import IndexFileError
from storage.id_table import IdTable, pack_ids

SEED = 7


def table(image_ids: list[str]) -> IdTable:
    return IdTable(pack_ids(image_ids), "here")


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_every_id_is_found_in_its_row_and_no_other_is_found(count: int) -> None:
    ids = [f"photos/{number}.jpg" for number in random.Random(SEED).sample(range(10**9), count)]
    made = table(ids)
    made.check()
    assert (len(made), list(made)) == (count, ids)
    assert [made.id_at(row) for row in range(count)] == ids
    assert made.find(ids).tolist() == list(range(count))
    assert made.find(["nobody", "", *ids[::-1], "photos/x"]).tolist() == [-1, -1, *reversed(range(count)), -1]


def test_ids_of_any_script_and_undecodable_file_names_are_kept() -> None:
    ids = ["猫.jpg", "a\nb", "a\0b", "caf\u00e9", "cafe\u0301", "caf\udce9.jpg", "\U0001f408", " "]
    made = table(ids)
    made.check()
    assert list(made) == ids
    assert made.find(ids).tolist() == list(range(len(ids)))


def test_ids_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_table, "_hashes", lambda texts: np.full(len(texts), 5, dtype="<u8"))
    ids = [f"i{number}" for number in range(20)]
    made = table(ids)
    assert made.find([*ids, "other"]).tolist() == [*range(20), -1]


def test_every_cut_and_every_changed_byte_is_found_out() -> None:
    data = pack_ids(["one", "two", "three", "four"])
    for end in range(len(data)):
        with pytest.raises(IndexFileError):
            IdTable(data[:end], "here")
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0x81]) + data[place + 1 :]
        with pytest.raises(IndexFileError):
            IdTable(changed, "here").check()


def forged(count: int, text_bytes: int, rest: bytes) -> bytes:
    return struct.pack("<8sQQ", b"vs-ids\x00\x01", count, text_bytes) + rest


FORGED = {
    "nothing": b"",
    "another file": b"\x89PNG" + b"x" * 200,
    "more ids than bytes": forged(2**40, 0, b""),
    "a size that would overflow": forged(2**63, 2**63, b"x" * 8),
    "an id twice": pack_ids(["a", "a"]),
    "an empty id": pack_ids(["a", ""]),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_is_no_table_is_refused(case: str) -> None:
    with pytest.raises(IndexFileError):
        IdTable(FORGED[case], "here").check()
