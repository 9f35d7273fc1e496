"""The errors that the running side raises; `reason` codes are stable.

WorkerError
├── RedisUnavailable        redis_unavailable       (a retry can help)
├── RedisUnusable           redis_unusable
├── BundledServerError      bundled_server
├── WireError               broken_message
└── BatchInterrupted        batch_interrupted       (a retry can help)
"""

from storage.errors import VisualSearchError


class WorkerError(VisualSearchError):
    """Raised by the workers: the root of what can go wrong with queued work."""

    reason = "worker_error"


class RedisUnavailable(WorkerError):
    """Raised when talking to Redis: it cannot be reached, went away, or is still loading. A retry can help."""

    reason = "redis_unavailable"
    retryable = True


class RedisUnusable(WorkerError):
    """Raised at start-up: wrong password, no Redis server, too old, or set to evict keys. A retry cannot help."""

    reason = "redis_unusable"


class BundledServerError(WorkerError):
    """Raised at start-up: no Valkey is bundled for this platform, or it did not start. Set redis_url instead."""

    reason = "bundled_server"


class PortTaken(WorkerError):
    """Raised at start-up: the HTTP API cannot listen on its port, as a rule because another program does."""

    reason = "port_taken"


class WireError(WorkerError):
    """Raised when packing or reading a message: broken, too large, or of an unknown version. No retry helps."""

    reason = "broken_message"


class BatchInterrupted(WorkerError):
    """Raised in a worker: it was told to stop, or lost its lease, before the batch was done. A retry can help."""

    reason = "batch_interrupted"
    retryable = True
