"""What is asked and answered: the data models of requests and replies, version 1.

Knows no Redis and no bytes: `wire` packs these models, `request_queue` and `reply_keys` carry them. Bounds stand here,
so that a client refuses before sending what a worker would refuse after reading.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from pipeline.errors import InvalidQuery
from pipeline.rerank.explanation import Explanation, StepTrace
from pipeline.rerank.options import RerankOptions
from pipeline.results import SearchResults
from storage.filters import depth_of
from storage.records import MAX_IMAGE_ID_CHARACTERS, ModelIdentity

__all__ = [
    "VERSION",
    "ErrorReply",
    "Explanation",
    "Priority",
    "Provenance",
    "QueryPart",
    "SearchAnswer",
    "SearchReply",
    "SearchRequest",
    "StepTrace",
]

VERSION = 1
MAX_PARTS = 16  # of one mixed query
MAX_TEXT_CHARACTERS = 4096  # CLIP reads 77 tokens, about 300 characters; the rest is cut there
MAX_DIMENSION = 8192
MAX_K = 1000  # results on one page; walk further with `offset`
MAX_OFFSET = 100_000
MAX_EXCLUDED = 1000
MAX_FILTER_DEPTH = 32  # And, Or, Not within each other; JSON's own bound is above. The catalog bounds the size.
MAX_WEIGHT = 100.0
MAX_TIMEOUT_SECONDS = 600.0
_MOST_REASONS = 5  # of one refusal: a vector may be wrong in each of its numbers

Priority = Literal["high", "normal", "low"]
ImageId = Annotated[str, Field(min_length=1, max_length=MAX_IMAGE_ID_CHARACTERS)]


class _Message(BaseModel):
    """Frozen, no unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class _Asked(_Message):
    """What callers make; refuses as InvalidQuery with the first reasons in one line."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_as_invalid_query(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            made = handler(value)
        except ValidationError as error:
            # the input is not repeated: it may be a picture of 50 MB
            found = error.errors(include_input=False, include_url=False)[:_MOST_REASONS]
            reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in found)
            raise InvalidQuery(f"this cannot be understood: {reasons}") from error
        problem = made.problem()
        if problem is not None:
            raise InvalidQuery(f"this cannot be understood: {problem}")
        return made

    def problem(self) -> str | None:
        """Say what is wrong although every field by itself is right; None when nothing is."""
        return None


class QueryPart(_Asked):
    """One thing to look for: exactly one of encoded picture, stored image's id, words, or a vector; with a weight.

    A negative weight means "not like this". A vector is of the collection's dimension and is brought to unit
    length; so is every other part before it is weighed.
    """

    image: bytes | None = Field(default=None, repr=False, min_length=1)
    image_id: ImageId | None = None
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)] | None = None
    vector: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_DIMENSION)] | None = Field(
        default=None, repr=False
    )
    weight: float = Field(default=1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT)

    def problem(self) -> str | None:
        """Say which rule between the fields is broken."""
        if sum(part is not None for part in (self.image, self.image_id, self.text, self.vector)) != 1:
            return "each part is exactly one of: image, image_id, text, vector"
        if self.weight == 0:
            return "a weight of 0 asks for nothing: leave the part out"
        return None


class SearchRequest(_Asked):
    """One search. `options` hold k (`top_k`), offset, filter, scores and diversity; see RerankOptions.

    The time to answer is counted from the moment Redis took the request, by Redis's clock alone.
    """

    request_id: str = Field(default_factory=lambda: uuid4().hex, pattern=r"^[0-9a-f]{32}$")
    collection: str = Field(default="default", min_length=1, max_length=200)
    parts: tuple[QueryPart, ...] = Field(min_length=1, max_length=MAX_PARTS)
    options: RerankOptions = Field(default_factory=RerankOptions)
    exclude: tuple[ImageId, ...] = Field(default=(), max_length=MAX_EXCLUDED)  # never among the results
    exclude_query: bool = True  # stored images that are asked with are no results
    explain: bool = False  # tell each result's scores and ranks before and after every rerank step
    timeout_seconds: float = Field(default=10.0, gt=0, le=MAX_TIMEOUT_SECONDS)
    priority: Priority = "normal"

    def problem(self) -> str | None:
        """Say which rule between the fields is broken."""
        if not any(part.weight > 0 for part in self.parts):
            return "at least one part needs a positive weight: 'not this' alone describes nothing"
        if self.options.top_k > MAX_K:
            return f"k is at most {MAX_K} a page, got {self.options.top_k}: walk further with offset"
        if self.options.offset > MAX_OFFSET:
            return f"offset is at most {MAX_OFFSET}, got {self.options.offset}: narrow the search with a filter"
        depth = depth_of(self.options.filter) if self.options.filter is not None else 0
        if depth > MAX_FILTER_DEPTH:
            return f"options.filter: it is nested {depth} deep, at most {MAX_FILTER_DEPTH}"
        return None


class Provenance(_Message):
    """Where an answer comes from: which worker, model, generation and change, and where the time went.

    `stage_seconds` has `queued` (in Redis), `embed`, `search` (index and rerank steps), `metadata` (SQL) and `total`
    (from taking to replying); stages are shared by all `batch_size` requests that were answered together.
    """

    worker: str
    model: ModelIdentity
    generation_id: int
    seq: int
    images: int  # in the index that was asked
    batch_size: int = 1
    stage_seconds: dict[str, float] = Field(default_factory=dict)


class SearchAnswer(SearchResults):
    """The results of one search, with their provenance and, if asked for, their explanation."""

    provenance: Provenance
    explanation: Explanation | None = None


class ErrorReply(_Message):
    """Why there is no answer: the reason code and message of an error (`errors.error_of` makes it one again)."""

    reason: str
    message: str
    retryable: bool = False


class SearchReply(_Message):
    """What a worker answers: an answer or an error, never both, never neither."""

    request_id: str
    answer: SearchAnswer | None = None
    error: ErrorReply | None = None

    @model_validator(mode="after")
    def _is_either(self) -> SearchReply:
        if (self.answer is None) == (self.error is None):
            message = "a reply is either an answer or an error"
            raise ValueError(message)
        return self
