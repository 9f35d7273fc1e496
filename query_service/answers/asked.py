"""One request on its way through a batch: what is known of it so far, and its reply once it is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.pages import Page
from pipeline.replica import IndexReplica
from query_service.protocol import ErrorReply, Provenance, SearchAnswer, SearchReply, SearchRequest
from storage.catalog import CollectionRecord, Generation
from storage.errors import VisualSearchError
from storage.vector_checks import Vectors

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Served:
    """What is searched now for a collection: fixed during one batch, so that no answer mixes two generations."""

    collection: CollectionRecord
    generation: Generation
    replica: IndexReplica


@dataclass(eq=False)
class Asked:
    """One request with what the stages have made of it; `error` set means that it is over."""

    request: SearchRequest
    served: Served
    vector: Vectors | None = None  # (dimension,) float32, unit length
    page: Page | None = None
    error: ErrorReply | None = None

    def fail(self, error: Exception) -> None:
        """It is over, with this error."""
        self.error = error_reply(error, self.request.request_id)

    def excluded(self) -> frozenset[str]:
        """The ids that must not be among the results."""
        own = (part.image_id for part in self.request.parts) if self.request.exclude_query else ()
        return frozenset(self.request.exclude) | frozenset(image_id for image_id in own if image_id is not None)

    def reply(self, provenance: Provenance) -> SearchReply:
        """The answer with its page, or the error."""
        request = self.request
        if self.error is not None or self.page is None:
            return SearchReply(request_id=request.request_id, error=self.error)
        answer = SearchAnswer(
            query_id=request.request_id,
            results=self.page.results,
            normalized=request.options.normalize,
            model=provenance.model,
            provenance=provenance,
            explanation=self.page.explanation,
        )
        return SearchReply(request_id=request.request_id, answer=answer)


def error_reply(error: Exception, request_id: str) -> ErrorReply:
    """The error as it travels; one that nobody expected is logged here and tells the client no internals."""
    if isinstance(error, VisualSearchError):
        return ErrorReply(reason=error.reason, message=str(error), retryable=error.retryable)
    _LOG.error("search %s failed unexpectedly", request_id, exc_info=error)
    message = f"the worker failed unexpectedly ({type(error).__name__}); its log has search {request_id}"
    return ErrorReply(reason="remote_failure", message=message)


def open_ones(batch: Iterable[Asked]) -> list[Asked]:
    """The requests that are not over yet."""
    return [asked for asked in batch if asked.error is None]


def together_or_alone(
    items: Sequence[Item], call: Callable[[Sequence[Item]], Sequence[Made]]
) -> list[Made | Exception]:
    """What `call` makes of the items, asked with all at once; if that fails, with each alone.

    So the one item that the call fails for gets its error and the others what they asked for. An error that a
    retry can help is nobody's fault: all get it at once, since asking on would only wait for it again and again.
    """
    if not items:
        return []
    try:
        return list(call(items))
    except Exception as error:  # noqa: BLE001 - logged here, or where a request carries it to its reply
        if len(items) == 1 or (isinstance(error, VisualSearchError) and error.retryable):
            return [error] * len(items)
        level = logging.INFO if isinstance(error, VisualSearchError) else logging.WARNING
        _LOG.log(level, "%d searches failed together, each is tried alone: %r", len(items), error)
    return [made for item in items for made in together_or_alone([item], call)]
