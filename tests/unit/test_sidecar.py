"""Attributes from CSV and JSON Lines."""

import pytest

from pipeline.errors import SidecarError
from pipeline.indexing.sidecar import read_sidecar


def _file(tmp_path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_maps_image_ids_to_attributes(tmp_path):
    path = _file(tmp_path, "a.csv", "image_id,label,year\ncat.jpg,cat,2020\ndog.jpg,dog,2021\n")
    assert read_sidecar(path) == {
        "cat.jpg": {"label": "cat", "year": 2020},
        "dog.jpg": {"label": "dog", "year": 2021},
    }


def test_csv_cells_become_numbers_only_when_nothing_is_lost(tmp_path):
    path = _file(tmp_path, "a.csv", "id,a,b,c,d,e,f,g\nx,007,2.5,true,1e5,nan,-3,\n")
    assert read_sidecar(path) == {
        "x": {"a": "007", "b": 2.5, "c": True, "d": "1e5", "e": "nan", "f": -3},
    }


def test_a_csv_saved_by_a_spreadsheet_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("image_id,label\nä.jpg,größe\n".encode("utf-8-sig"))
    assert read_sidecar(path) == {"ä.jpg": {"label": "größe"}}


def test_json_lines_keep_their_types(tmp_path):
    path = _file(tmp_path, "a.jsonl", '{"image_id": "x", "year": 2020, "tags": ["a", "b"], "ok": true}\n\n')
    assert read_sidecar(path) == {"x": {"year": 2020, "tags": ["a", "b"], "ok": True}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image_id,label\ncat.jpg,cat,extra\n", "line 2: more cells"),
        ("a.csv", "name,label\ncat.jpg,cat\n", "line 2: no image id"),
        ("a.csv", "image_id,label\nx,1\nx,2\n", "line 3: a second row for 'x'"),
        ("a.jsonl", '{"image_id": "x"}\n{broken\n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("a.jsonl", '{"image_id": "x", "box": {"left": 1}}\n', "line 1: attribute 'box'"),
        ("a.xlsx", "", "from a .csv or .jsonl file"),
    ],
)
def test_a_broken_sidecar_is_refused_with_its_line(tmp_path, name, text, message):
    with pytest.raises(SidecarError, match=message):
        read_sidecar(_file(tmp_path, name, text))


def test_a_missing_sidecar_and_one_that_is_no_text_are_refused(tmp_path):
    with pytest.raises(SidecarError, match="cannot read"):
        read_sidecar(tmp_path / "none.csv")
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"image_id\n\xff\xfe\x00")
    with pytest.raises(SidecarError, match="not UTF-8"):
        read_sidecar(binary)
