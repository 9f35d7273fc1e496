"""The Prometheus metrics of the workers, and the port on which a role serves its own.

One registry a process, prometheus_client's own; the counters live as long as the process, as Prometheus wants it.
Nothing here costs a query: what does (`WAITING`) is asked for when somebody reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from storage.catalog.queued.job_records import OUTCOMES
from storage.errors import SettingsError
from storage.settings import Settings

_log = logging.getLogger(__name__)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

# -- embed workers --
IMAGES = Counter("visual_search_images", "Images whose outcome a worker handed over.", ["outcome"])
BATCHES = Counter("visual_search_batches", "Batches that a worker took, by how that ended.", ["outcome"])
ATTEMPTS = Histogram("visual_search_batch_attempts", "Which attempt a taken batch was on.", buckets=(1, 2, 3, 5, 10))

# -- workers and aggregator --
STAGE_SECONDS = Histogram(
    "visual_search_stage_seconds",
    "Seconds of a step: fetch and decode (of a batch, summed over threads), embed, hand_over, commit, snapshot.",
    ["stage"],
    buckets=_SECONDS,
)

# -- aggregator --
COMMITTED = Counter("visual_search_committed_images", "Images whose outcome was committed.", ["outcome"])
GROUP_BATCHES = Histogram("visual_search_commit_batches", "Batches of one commit.", buckets=(1, 2, 4, 8, 16, 32, 64))
SWEPT = Counter(
    "visual_search_swept_batches", "What the sweeper did: batches expired, split, sent; images given_up.", ["what"]
)
DEAD_LETTERS = Counter("visual_search_dead_letters", "Messages put aside since the start.")
LEADS = Gauge("visual_search_aggregator_leads", "1 while this aggregator is the one that writes.")
INDEX_SEQ = Gauge("visual_search_index_seq", "Last change in the aggregator's index.", ["generation"])
FEED_LAG = Gauge("visual_search_feed_lag", "Changes committed but not yet in the index.", ["generation"])
SNAPSHOT_SEQ = Gauge("visual_search_snapshot_seq", "Last change in the newest snapshot.", ["generation"])
SNAPSHOT_TIME = Gauge(
    "visual_search_snapshot_timestamp_seconds", "When the newest snapshot was published.", ["generation"]
)
WAITING = Gauge("visual_search_waiting", "Entries that wait in Redis (-1: it did not answer).", ["queue"])
REDIS_MEMORY = Gauge(
    "visual_search_redis_memory_bytes",
    "Memory of Redis: used, and the limit, its own or else that of its machine (-1: it did not answer).",
    ["kind"],
)
OLDEST_BATCH = Gauge(
    "visual_search_oldest_batch_timestamp_seconds",
    "Since when the job waits or runs whose batch waits longest for a worker; 0: none waits, or another process leads.",
)

# -- beat --
SCHEDULED = Counter("visual_search_scheduled_runs", "Scheduled runs.", ["action", "outcome"])
NEXT_SLOT = Gauge(
    "visual_search_schedule_next_timestamp_seconds",
    "When a schedule runs next; the past while it runs, or is to be tried again.",
    ["action", "collection", "source"],
)


for _outcome in OUTCOMES:  # a counter that begins to be with its first event shows no increase by that one
    IMAGES.labels(_outcome)
    COMMITTED.labels(_outcome)
for _stage in ("fetch", "decode", "embed", "hand_over", "commit", "snapshot"):
    STAGE_SECONDS.labels(_stage)


for _what in ("expired", "split", "sent", "given_up"):
    SWEPT.labels(_what)


@contextmanager
def metrics_served(settings: Settings) -> Iterator[None]:
    """Serve /metrics while the block runs, when a port is set; port 0 takes a free one.

    Raises SettingsError when the port or the address cannot be had.
    """
    if settings.metrics_port is None:
        yield
        return
    address = f"{settings.metrics_host}:{settings.metrics_port}"
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host)
    except OSError as error:
        raise SettingsError(f"metrics cannot be served on {address}: {error.strerror or error}") from error
    _log.info("metrics on http://%s:%d/metrics", settings.metrics_host, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
