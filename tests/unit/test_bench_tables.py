"""The tables of `make bench`: what a ratio is, when an aim counts as met, and how a page is filled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from fill_page import filled
from report import as_dict, cells
from stage import Row, Table, in_turns


def test_a_ratio_above_one_is_better_for_times_and_for_rates() -> None:
    times = Row("x", "ms", [1.0, 2.0, 4.0], "peer", [4.0, 4.0, 4.0], aim=2.0)
    rates = Row("x", "a second", [8.0, 6.0, 1.0], "peer", [2.0, 2.0, 2.0], aim=3.1, more_is_better=True)
    assert times.ratios == [4.0, 2.0, 1.0]
    assert times.met is True
    assert rates.ratios == [4.0, 3.0, 0.5]
    assert rates.met is False


@pytest.mark.parametrize(("more_is_better", "aim", "met"), [(True, 0.9, True), (True, 1.1, False), (False, 0.9, False)])
def test_without_a_peer_the_aim_bounds_ours(more_is_better: bool, aim: float, met: bool) -> None:
    assert Row("x", "cosine", [1.0], aim=aim, more_is_better=more_is_better).met is met


def test_repeats_of_all_ways_alternate() -> None:
    order: list[str] = []
    clock = iter(range(100))
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, lambda: float(next(clock)))
    assert "".join(order) == "ababab"  # once to warm up
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_page_gets_the_tables_of_its_stages_and_keeps_the_rest(tmp_path: Path) -> None:
    table = Table("Milliseconds", [Row("small", "ms", [1.0], "peer", [2.0], aim=3.0)], ["noted"])
    kept = {"on": "2 cores", "date": "2026-01-02T03", "given": {"repeats": 3}, "text": "", "tables": [as_dict(table)]}
    (tmp_path / "decode.json").write_text(json.dumps(kept))
    page = "before\n<!-- bench: decode -->\nold\n<!-- end -->\nafter\n<!-- bench: clip -->\nkept\n<!-- end -->\n"
    text, done, absent = filled(page, tmp_path)
    assert (done, absent) == (["decode"], ["clip"])
    assert "old" not in text
    assert "kept" in text
    assert "| small | ms | 1.00 | peer | 2.00 | 2.00 x (2.00-2.00) | 3 x | **no** |" in text
    assert filled(text, tmp_path)[0] == text
    assert cells(table.rows[0])[-1] == "**no**"
