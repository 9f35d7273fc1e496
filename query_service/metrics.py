"""The Prometheus metrics of the query worker. Nothing here costs a query to Redis or SQL."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

SEARCHES = Counter("visual_search_searches", "Searches by outcome: answered, or the error's reason.", ["outcome"])
SEARCH_BATCH = Histogram("visual_search_search_batch", "Searches answered together.", buckets=(1, 2, 4, 8, 16, 32, 64))
SEARCH_SECONDS = Histogram(
    "visual_search_search_seconds",
    "Seconds of a stage: queued (of each search), embed, search, metadata, total (of each batch).",
    ["stage"],
    buckets=_SECONDS,
)
TAKEN_OVER = Counter("visual_search_searches_taken_over", "Searches taken over from workers that left them.")
DEAD_SEARCHES = Counter("visual_search_dead_searches", "Searches put aside since the start.")
REPLICA_SEQ = Gauge("visual_search_replica_seq", "Last change in the index that is searched.", ["collection"])
REPLICA_LAG = Gauge("visual_search_replica_lag", "Changes in SQL at the last look, but not searched.", ["collection"])
REPLICA_IMAGES = Gauge("visual_search_replica_images", "Images in the index that is searched.", ["collection"])
