"""What callers give to `search` becomes one checked request; what is wrong is said before anything is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InvalidQuery
from pipeline.rerank import RerankOptions
from query_service.protocol import QueryPart
from query_service.transport.asking import filter_of, request_of
from query_service.transport.service_place import FORGET_SECONDS, FRESH_SECONDS, SIGNS, signs_left, silent_seconds
from storage.errors import ImageNotFound, ImageTooLarge, InvalidFilter
from storage.filters import And, Equals, In, parse_filter
from storage.settings import Settings
from visual_search.version import __version__
from workers.signs import heartbeat

YEAR = Equals(key="year", value=2020)
SETTINGS = Settings(collection="photos", search_seconds=7.0, max_image_bytes=10)


def ask(**question: Any) -> Any:
    return request_of(question, SETTINGS)  # type: ignore[arg-type]


def test_all_that_is_given_is_mixed_with_the_defaults_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"from-file")
    request = ask(
        image=tmp_path / "a.jpg", image_id="b", text="c", vector=[1, 0], parts=[QueryPart(text="d", weight=-1)]
    )
    told = [(part.image, part.image_id, part.text, part.vector, part.weight) for part in request.parts]
    assert told == [
        (None, None, "d", None, -1.0),
        (b"from-file", None, None, None, 1.0),
        (None, "b", None, None, 1.0),
        (None, None, "c", None, 1.0),
        (None, None, None, (1.0, 0.0), 1.0),
    ]
    assert (request.collection, request.timeout_seconds, request.priority) == ("photos", 7.0, "normal")
    assert (request.exclude_query, request.explain, request.options) == (True, False, RerankOptions())


def test_single_options_stand_above_those_of_options() -> None:
    options = RerankOptions(top_k=3, offset=4, diversity=0.5)
    request = ask(text="a", options=options, k=7, filter=YEAR, collection="other", timeout=1, exclude=["x"])
    assert request.options == options.replace(top_k=7, filter=YEAR)
    assert (request.options.top_k, request.options.offset, request.options.diversity) == (7, 4, 0.5)
    assert (request.collection, request.timeout_seconds, request.exclude) == ("other", 1.0, ("x",))


@pytest.mark.parametrize(
    "image",
    [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")],
    ids=["bytes", "bytearray", "memoryview"],
)
def test_bytes_of_any_kind_are_a_picture(image: Any) -> None:
    assert ask(image=image).parts[0].image == b"bytes"


def test_a_vector_may_be_an_array_and_a_part_a_map() -> None:
    assert ask(vector=np.array([0.5, -0.5], np.float32)).parts[0].vector == (0.5, -0.5)
    assert ask(parts=[{"text": "a", "weight": 2}]).parts[0] == QueryPart(text="a", weight=2.0)


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        ({}, InvalidQuery, "at least one of"),
        ({"text": ""}, InvalidQuery, "text"),
        ({"image": b""}, InvalidQuery, "empty"),
        ({"image": 5}, InvalidQuery, "not int"),
        ({"image": "/no/such.jpg"}, ImageNotFound, "no picture at /no/such.jpg"),
        ({"image": "/"}, ImageNotFound, "no picture at /"),
        ({"image": "/dev/zero"}, ImageTooLarge, "max_image_bytes"),
        ({"parts": [QueryPart(image=bytes(11))]}, ImageTooLarge, "11 bytes"),
        ({"parts": [{"image": b"1", "text": "a"}]}, InvalidQuery, "exactly one of"),
        ({"parts": [{"image": "/etc/passwd"}]}, InvalidQuery, "bytes of a picture"),
        ({"parts": ["a dog"]}, InvalidQuery, "parts"),
        ({"vector": ["a"]}, InvalidQuery, "vector"),
        ({"vector": np.zeros((2, 2))}, InvalidQuery, "vector"),
        ({"vector": [float("nan")]}, InvalidQuery, "vector"),
        ({"vector": 5}, InvalidQuery, "vector"),
        ({"text": "a", "k": 0}, InvalidQuery, "top_k"),
        ({"text": "a", "k": 1001}, InvalidQuery, "k is at most 1000"),
        ({"text": "a", "offset": 100_001}, InvalidQuery, "offset"),
        ({"text": "a", "timeout": 0}, InvalidQuery, "timeout_seconds"),
        ({"text": "a", "timeout": 601}, InvalidQuery, "timeout_seconds"),
        ({"text": "a", "priority": "urgent"}, InvalidQuery, "priority"),
        ({"text": "a", "exclude": "b.jpg"}, InvalidQuery, "letter by letter"),
        ({"text": "a", "filter": "=x"}, InvalidFilter, "filter"),
        ({"text": "a", "filter": ["year=1", 5]}, InvalidFilter, "filter"),
        ({"text": "a", "filter": {"year": 2020}}, InvalidFilter, "filter"),
        ({"parts": [QueryPart(text="a", weight=-1)]}, InvalidQuery, "positive weight"),
    ],
    ids=lambda value: None if isinstance(value, dict) else getattr(value, "__name__", str(value)).replace("/", "_"),
)
def test_what_is_wrong_is_said_before_anything_is_sent(question: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ask(**question)


def test_every_rerank_option_is_a_keyword_too() -> None:
    given = {
        "offset": 1,
        "min_score": 0.1,
        "diversity": 0.2,
        "near_duplicate_threshold": 0.9,
        "group_by": "a",
        "group_size": 2,
        "normalize": False,
    }
    assert ask(text="a", k=3, **given).options == RerankOptions(top_k=3, **given)
    assert ask(text="a", **dict.fromkeys(given)).options == RerankOptions()
    assert set(RerankOptions.model_fields) - {*given, "top_k", "filter"} == {"diversity_window"}


def test_a_misspelt_keyword_is_an_error_of_the_program() -> None:
    with pytest.raises(TypeError, match="search takes no colection; it takes image, image_id"):
        ask(text="a", colection="b")


def test_filters_are_objects_maps_or_texts_of_which_all_must_hold() -> None:
    year = parse_filter("year>=2020")
    assert filter_of(None) is None
    assert filter_of([]) is None
    assert filter_of(year) is year
    assert filter_of(["year>=2020"]) == year
    assert filter_of("year>=2020") == year
    several = filter_of(["year>=2020", "label=sea,sky"])
    assert isinstance(several, And)
    assert several.filters[0] == year
    assert isinstance(several.filters[1], In)
    assert filter_of([year, "year>=2020"]) == And(filters=(year, year))
    assert filter_of(year.model_dump(mode="json")) == year


def test_the_names_and_times_of_heartbeats_are_those_that_workers_write() -> None:
    assert heartbeat._PREFIX + "query_worker:*" == SIGNS
    assert heartbeat._FORGET_SECONDS == FORGET_SECONDS
    assert heartbeat.BEAT_SECONDS * 3 == FRESH_SECONDS
    assert silent_seconds([590_000, 600_000, -2]) == [0.0, 10.0]


def test_importing_the_clients_loads_none_of_what_makes_programs_slow_to_start() -> None:
    heavy = "alembic boto3 celery faiss fastapi kombu numpy pandas PIL psycopg rich sqlalchemy torch transformers typer"
    program = (
        "import sys\n"
        "from visual_search import AsyncSearchClient, QueryPart, RerankOptions, SearchAnswer, SearchClient\n"
        "from visual_search import And, Equals, Settings, VisualSearchError, load_settings, __version__\n"
        f"print(__version__, sorted(set({heavy.split()!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{__version__} []\n"


def test_a_worker_that_redis_names_twice_counts_once() -> None:
    """SCAN promises only that nothing is left out."""
    assert signs_left([b"one", b"two", b"one"]) == [("PTTL", b"one"), ("PTTL", b"two")]
