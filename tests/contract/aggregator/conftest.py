"""What tests of the aggregator share: a result stream on a real Valkey, and aggregators on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aggregator_bench import Bench

from storage.catalog import (
    Catalog,
)
from workers.result_stream import ResultStream
from workers.servers import connect_url


@pytest.fixture
def stream(redis_url: str) -> Iterator[ResultStream]:
    client = connect_url(redis_url)
    yield ResultStream(client, bound=64)
    client.close()


@pytest.fixture
def bench(catalog: Catalog, stream: ResultStream, tmp_path: Path) -> Callable[..., Bench]:
    return lambda **options: Bench(catalog, stream, tmp_path, **options)
