"""The errors that the asking side raises; `reason` codes are stable and travel in replies.

QueryServiceError
├── MalformedMessage        malformed_message
├── ServiceBusy             busy                    (a retry can help)
├── DeadlineExceeded        deadline_exceeded       (a retry can help)
├── SearchCancelled         cancelled
├── CollectionLoading       collection_loading      (a retry can help)
├── RemoteFailure           remote_failure
└── AccessRefused           access_refused
    └── ScopeMissing        scope_missing
"""

from __future__ import annotations

from collections.abc import Iterator

from storage.errors import VisualSearchError


class QueryServiceError(VisualSearchError):
    """Raised by the query service: the root of what can go wrong with asking."""

    reason = "query_service_error"


class MalformedMessage(QueryServiceError):
    """Raised when reading a request or reply: broken, too large, or of an unknown version. No retry helps."""

    reason = "malformed_message"


class ServiceBusy(QueryServiceError):
    """Raised by clients at once when the queue is full, or a rate limit is reached. Retry after a pause."""

    reason = "busy"
    retryable = True


class DeadlineExceeded(QueryServiceError):
    """Raised by clients: no answer came in time, or a worker dropped the request unanswered. A retry can help."""

    reason = "deadline_exceeded"
    retryable = True


class SearchCancelled(QueryServiceError):
    """Raised by a client whose request was cancelled before it was answered."""

    reason = "cancelled"


class CollectionLoading(QueryServiceError):
    """Raised by a query worker that is still reading the collection into memory. Retry after some seconds."""

    reason = "collection_loading"
    retryable = True


class RemoteFailure(QueryServiceError):
    """Raised by clients when a worker failed in a way it did not expect; the worker's log says why."""

    reason = "remote_failure"


class AccessRefused(QueryServiceError):
    """Raised by the HTTP API: no API key, or one that is not known. A retry cannot help."""

    reason = "access_refused"


class ScopeMissing(AccessRefused):
    """Raised by the HTTP API: the API key lacks the scope that is needed. A retry cannot help."""

    reason = "scope_missing"


def error_of(reason: str, message: str) -> VisualSearchError:
    """The error of this project that has this reason, as a worker's reply names it; else a RemoteFailure."""
    for kind in _all_kinds(VisualSearchError):
        if kind.reason == reason:
            return kind(message)
    return RemoteFailure(f"{reason}: {message}")


def _all_kinds(root: type[VisualSearchError]) -> Iterator[type[VisualSearchError]]:
    """Every class below the root, parents before their children."""
    for kind in root.__subclasses__():
        yield kind
        yield from _all_kinds(kind)
