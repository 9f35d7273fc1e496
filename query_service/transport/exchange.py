"""Requests that travel together and what has come back of them: which commands to send, what the answers mean.

Knows the names in Redis and the wire, and no connection: the sync and the async client move the same object on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from time import monotonic
from typing import Any, TypeAlias, TypeVar
from uuid import uuid4

from query_service.errors import DeadlineExceeded, MalformedMessage, QueryServiceError, error_of
from query_service.protocol import SearchAnswer, SearchRequest
from query_service.transport.request_queue import (
    CANCEL_SCRIPT,
    STREAMS,
    SUBMIT_SCRIPT,
    cancel_and_tell_arguments,
    cancel_arguments,
    reply_key,
    submit_arguments,
)
from query_service.wire import unpack_reply
from storage.errors import VisualSearchError

Outcome: TypeAlias = SearchAnswer | VisualSearchError
Command: TypeAlias = tuple[Any, ...]
Item = TypeVar("Item")

TOGETHER = 64  # requests of one pipeline: what a worker answers in one batch
RECONNECT_PAUSES_SECONDS = (0.1, 0.3, 0.6)  # before each new connection: a server that restarts takes about a second
_TOGETHER_BYTES = 64 * 1024 * 1024  # of pictures: they are in memory three times while they are packed and sent
_SHORTEST_WAIT_SECONDS = 0.001  # 0 would wait for ever
_LATE_SECONDS = 1.0  # after the deadline a server that does not even say "nothing came" counts as gone


class NoAnswer(DeadlineExceeded):
    """Raised by clients when the time is over on this side: no worker has said anything."""


class Exchange:
    """At most `TOGETHER` requests on one connection. Their time runs from now on, by this machine's clock.

    One round is `commands`, sent in one pipeline, then `take` with their answers, until nothing is `waiting`. The
    first round submits; BLPOP waits for whichever reply comes first, and the LPOPs behind it fetch what the worker
    wrote in the same batch, so that a batch of 64 usually takes one round trip.
    """

    def __init__(self, requests: Sequence[SearchRequest], bound: int) -> None:
        self._bound = bound
        self._requests = list(requests)
        started = monotonic()
        self._ends = [started + request.timeout_seconds for request in requests]
        self._outcomes: dict[int, Outcome] = {}
        self._unsent: list[tuple[int, Command]] = []  # with the place of their request
        self._entries: dict[int, bytes] = {}  # in the queue, by place
        self._waits: dict[bytes, tuple[int, str]] = {}  # place and request id by the key of a reply; see `start_again`
        self._sent_again: set[int] = set()
        for place in range(len(self._requests)):
            self._prepare(place)

    @property
    def waiting(self) -> list[SearchRequest]:
        """The requests without an outcome, under the ids that they were last sent with."""
        return [self._requests[place] for place in self._waiting_places()]

    def commands(self) -> list[Command]:
        """What is to be sent now, as one pipeline."""
        keys = list(self._waits)
        fetch: list[Command] = [("LPOP", key) for key in keys] if len(self._waiting_places()) > 1 else []
        submit = [command for _, command in self._unsent]
        return [*submit, ("BLPOP", *keys, f"{self._wait_seconds():.3f}"), *fetch]

    def longest_seconds(self) -> float:
        """How long the answers to these commands may take before the connection counts as dead."""
        return self._wait_seconds() + _LATE_SECONDS

    def take(self, answers: Sequence[Any]) -> None:
        """Understand the answers to the commands, in their order; what is out of time ends with NoAnswer."""
        keys, first = list(self._waits), len(self._unsent)
        for (place, _), entry in zip(self._unsent, answers[:first], strict=True):
            if entry is not None:  # None: the queue was full
                self._entries[place] = entry
        self._unsent = []
        popped = answers[first]
        if popped is not None:
            self._settle(bytes(popped[0]), popped[1])
        for key, reply in zip(keys, answers[first + 1 :], strict=False):
            if reply is not None:
                self._settle(key, reply)
        now = monotonic()
        for place in self._waiting_places():
            if self._ends[place] <= now:
                self._end(place, NoAnswer(f"no answer within {self._requests[place].timeout_seconds:g} s"))

    def has_time(self, seconds: float) -> bool:
        """Whether one of those that wait will still have time after so many seconds."""
        return max((self._ends[place] for place in self._waiting_places()), default=0.0) > monotonic() + seconds

    def start_again(self) -> None:
        """The connection broke: what waits is to be sent once more, under new ids, for the time that is left.

        The reply to the old id may be lost in that connection. If it is not, it counts as well: the old one may be
        answered first, and whoever cancels the search knows no other id.
        """
        self._unsent = []
        for place in self._waiting_places():
            self._sent_again.add(place)
            left = max(_SHORTEST_WAIT_SECONDS, self._ends[place] - monotonic())
            changes = {"request_id": uuid4().hex, "timeout_seconds": left}
            self._requests[place] = self._requests[place].model_copy(update=changes)
            self._prepare(place)

    def fail(self, error: VisualSearchError) -> None:
        """Everything that still waits ends with this error."""
        for place in self._waiting_places():
            self._end(place, error)
        self._unsent = []

    def outcomes(self) -> Iterator[Outcome]:
        """Each request's outcome, in their order; once nothing waits any more."""
        return (self._outcomes[place] for place in range(len(self._requests)))

    def taking_back(self) -> list[Command]:
        """Commands that take what nobody waits for out of the queue, so that it does not fill without a worker."""
        late = {place for place, outcome in self._outcomes.items() if isinstance(outcome, NoAnswer)}
        return [
            ("XDEL", STREAMS[self._requests[place].priority], self._entries[place])
            for place in sorted(late | self._sent_again)
            if place in self._entries
        ]

    def giving_up(self) -> list[Command]:
        """Commands that cancel what still waits, as whoever waited is gone: all that was sent of it."""
        return [
            ("EVAL", CANCEL_SCRIPT, *cancel_arguments(request_id, self._requests[place].timeout_seconds))
            for place, request_id in self._waits.values()
        ]

    def _prepare(self, place: int) -> None:
        request = self._requests[place]
        if reply_key(request.request_id).encode() in self._waits:  # the same one twice: each has a reply of its own
            request = self._requests[place] = request.model_copy(update={"request_id": uuid4().hex})
        try:
            self._unsent.append((place, ("EVAL", SUBMIT_SCRIPT, *submit_arguments(request, self._bound))))
        except MalformedMessage as error:
            self._end(place, error)
        else:
            self._waits[reply_key(request.request_id).encode()] = place, request.request_id

    def _waiting_places(self) -> list[int]:
        return list(dict.fromkeys(place for place, _ in self._waits.values()))

    def _wait_seconds(self) -> float:
        soonest = min((self._ends[place] for place, _ in self._waits.values()), default=0.0)
        return max(_SHORTEST_WAIT_SECONDS, soonest - monotonic())

    def _settle(self, key: bytes, data: bytes) -> None:
        if key not in self._waits:  # two workers have answered: one was thought dead
            return
        place, request_id = self._waits.pop(key)
        self._end(place, _outcome_of(request_id, data))

    def _end(self, place: int, outcome: Outcome) -> None:
        self._outcomes[place] = outcome
        self._waits = {key: wait for key, wait in self._waits.items() if wait[0] != place}


def cancelling(request_id: str, timeout_seconds: float) -> Command:
    """The command that cancels a request, and lets whoever waits for it know."""
    return "EVAL", CANCEL_SCRIPT, *cancel_and_tell_arguments(request_id, timeout_seconds)


def together(questions: Iterable[Item]) -> Iterator[list[Item]]:
    """As many at once as travel together, in their order, so that not all pictures are in memory at a time."""
    rest = iter(questions)
    while some := list(islice(rest, TOGETHER)):
        yield some


def windows(requests: Sequence[SearchRequest]) -> Iterator[list[SearchRequest]]:
    """The requests in their order, as many at once as travel together: fewer if their pictures are large."""
    window: list[SearchRequest] = []
    size = 0
    for request in requests:
        own = sum(len(part.image) for part in request.parts if part.image is not None)
        if window and (len(window) == TOGETHER or size + own > _TOGETHER_BYTES):
            yield window
            window, size = [], 0
        window.append(request)
        size += own
    if window:
        yield window


def answer_or_raise(outcome: Outcome) -> SearchAnswer:
    """The answer of one request. Raises its error."""
    if isinstance(outcome, VisualSearchError):
        raise outcome
    return outcome


def _outcome_of(request_id: str, data: bytes) -> Outcome:
    try:
        reply = unpack_reply(data)
    except QueryServiceError as error:
        return error
    if reply.request_id != request_id:
        return MalformedMessage(f"the reply to search {request_id} says that it is for {reply.request_id}")
    if reply.error is not None:
        return error_of(reply.error.reason, reply.error.message)
    assert reply.answer is not None  # noqa: S101 - a reply is either of both
    return reply.answer
