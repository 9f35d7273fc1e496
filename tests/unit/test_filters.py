"""What filters mean, and how they are typed on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from storage.errors import InvalidFilter
from storage.filters import And, Equals, Exists, Filter, In, Not, Or, Range, parse_filter
from storage.records import Attributes

CAT: Attributes = {
    "label": "cat",
    "year": 2020,
    "score": 0.5,
    "indoor": True,
    "tags": ["black", "small"],
    "none": None,
    "empty": [],
    "digits": "2020",
}


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        (Equals(key="label", value="cat"), True),
        (Equals(key="label", value="Cat"), False),
        (Equals(key="year", value=2020.0), True),
        (Equals(key="year", value="2020"), False),
        (Equals(key="digits", value=2020), False),
        (Equals(key="indoor", value=True), True),
        (Equals(key="indoor", value=1), False),
        (Equals(key="tags", value="small"), True),
        (Equals(key="missing", value="x"), False),
        (In(key="label", values=("dog", "cat")), True),
        (In(key="label", values=()), False),
        (In(key="tags", values=("white", "black")), True),
        (In(key="indoor", values=(0, 1)), False),
        (Range(key="year", gte=2020, lt=2021), True),
        (Range(key="year", gt=2020), False),
        (Range(key="score", lte=0.5), True),
        (Range(key="digits", gte=0), False),
        (Range(key="indoor", gte=0), False),
        (Range(key="missing", gte=0), False),
        (Exists(key="label"), True),
        (Exists(key="none"), False),
        (Exists(key="empty"), False),
        (Exists(key="missing"), False),
        (Not(filter=Equals(key="missing", value="x")), True),
        (Not(filter=Equals(key="label", value="cat")), False),
        (And(filters=(Exists(key="label"), Exists(key="year"))), True),
        (And(filters=(Exists(key="label"), Exists(key="none"))), False),
        (And(filters=()), True),
        (Or(filters=(Exists(key="none"), Exists(key="year"))), True),
        (Or(filters=()), False),
    ],
)
def test_a_filter_means_what_its_docstring_says(filter_: Filter, expected: bool) -> None:
    assert filter_.matches(CAT) is expected


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, float("nan"), float("inf"), "nul\0", "\udcff"])
def test_a_value_that_no_image_can_have_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        Equals(key="x", value=value)
    with pytest.raises(ValidationError):
        In(key="x", values=("ok", value))


def test_a_range_without_or_with_inexact_bounds_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one bound"):
        Range(key="x")
    with pytest.raises(ValidationError, match="2\\*\\*53"):
        Range(key="x", gt=2**60)
    with pytest.raises(ValidationError):
        Range(key="x", gt=True)


def test_filters_survive_json_with_their_types() -> None:
    """They travel in requests: 1, 1.0, "1" and true must not turn into each other."""
    filter_ = And(
        filters=(
            Or(filters=(Equals(key="a", value=1), Equals(key="a", value="1"), Equals(key="a", value=True))),
            Not(filter=In(key="b", values=(1.5, "x", False))),
            Range(key="c", gte=0, lt=2.5),
            Exists(key="d"),
        )
    )
    adapter: TypeAdapter[Filter] = TypeAdapter(Filter)
    read = adapter.validate_json(adapter.dump_json(filter_))
    assert read == filter_
    assert [type(part.value) for part in read.filters[0].filters] == [int, str, bool]
    assert hash(read) == hash(filter_)


def test_an_unknown_operation_or_field_is_refused() -> None:
    adapter: TypeAdapter[Filter] = TypeAdapter(Filter)
    with pytest.raises(ValidationError):
        adapter.validate_python({"op": "like", "key": "x", "value": "y"})
    with pytest.raises(ValidationError):
        adapter.validate_python({"op": "equals", "key": "x", "value": "y", "ignore_case": True})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("label=cat", Equals(key="label", value="cat")),
        (" label = black cat ", Equals(key="label", value="black cat")),
        ("url=a=b", Equals(key="url", value="a=b")),
        ("year=>3=", Equals(key="year", value=">3=")),
        ("label=a,b", In(key="label", values=("a", "b"))),
        ('place="Paris, France"', Equals(key="place", value="Paris, France")),
        ('place="Paris, France",Rome', In(key="place", values=("Paris, France", "Rome"))),
        ("year=2020", In(key="year", values=("2020", 2020))),
        ("x=-1.5e3", In(key="x", values=("-1.5e3", -1500.0))),
        ("x=007", In(key="x", values=("007", 7))),
        ("x=true", In(key="x", values=("true", True))),
        ("x=False", In(key="x", values=("False", False))),
        ("x=nan", Equals(key="x", value="nan")),
        ("x=1e999", Equals(key="x", value="1e999")),
        ("x=9007199254740993", Equals(key="x", value="9007199254740993")),
        ("x=1_000", Equals(key="x", value="1_000")),
        ("label!=cat", Not(filter=Equals(key="label", value="cat"))),
        ("year>=2020", Range(key="year", gte=2020)),
        ("year<=2020.5", Range(key="year", lte=2020.5)),
        ("year > 2020", Range(key="year", gt=2020)),
        ("year<-3", Range(key="year", lt=-3)),
        ("label", Exists(key="label")),
        ("!label", Not(filter=Exists(key="label"))),
        ("dc:title=猫", Equals(key="dc:title", value="猫")),
    ],
)
def test_text_reads_as_the_filter_it_looks_like(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


def test_a_typed_number_finds_the_number_and_the_text() -> None:
    typed = parse_filter("year=2020")
    assert [typed.matches({"year": value}) for value in (2020, 2020.0, "2020", 2021, True)] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "!",
        "=cat",
        ">3",
        "label=",
        "label=a,,b",
        'label="open',
        "year>",
        "year>old",
        "year>true",
        "year>nan",
        "year>9007199254740993",
        "!label=cat",
        "a=\0",
        "k" * 129,
        "a=b\nc",
    ],
)
def test_text_that_is_no_filter_is_refused_with_what_can_be_written(text: str) -> None:
    with pytest.raises(InvalidFilter, match="key=value"):
        parse_filter(text)
