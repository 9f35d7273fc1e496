"""What a caller can ask of reranking, checked in one place."""

from __future__ import annotations

from typing import Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from pipeline.errors import InvalidQuery
from storage.filters import Filter

DIVERSITY_WINDOW = 100  # images; ten pages of ten are reordered as one, and 100 x 100 cosines cost nothing
_MOST_REASONS = 5  # of one refusal: a filter may be wrong in each of its values


class RerankOptions(BaseModel):
    """How to turn results in relevance order into one page. Raises InvalidQuery for what makes no sense.

    The steps run in this order: normalize, filter, min_score, near-duplicate removal, group-by, diversity,
    page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    normalize: bool = True  # scores become similarities, 1 - distance/2, instead of negative distances
    min_score: float | None = None  # compared with the score as shown: similarity, or negative distance if raw
    top_k: int = Field(default=10, ge=1, le=2**31)  # results on the page
    offset: int = Field(default=0, ge=0, le=2**31)  # results to skip before the page; ranks go on from there
    filter: Filter | None = None  # exact, on attributes
    diversity: float | None = Field(default=None, ge=0, le=1)  # 0 = pure relevance .. 1 = pure variety
    diversity_window: int = Field(default=DIVERSITY_WINDOW, ge=1, le=1000)  # the cost grows with its square
    near_duplicate_threshold: float | None = Field(default=None, gt=0, le=1)  # cosine between two results
    group_by: str | None = Field(default=None, min_length=1)  # attribute key
    group_size: int = Field(default=1, ge=1)  # results for each value of that attribute

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_as_invalid_query(cls, value: Any, handler: ModelWrapValidatorHandler[RerankOptions]) -> RerankOptions:
        try:
            return handler(value)
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False)[:_MOST_REASONS]
            reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found)
            raise InvalidQuery(f"these rerank options cannot be used: {reasons}") from error

    def replace(self, **changes: Any) -> RerankOptions:
        """Return the same options with some changed, checked again."""
        current = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(current | changes))

    @property
    def needs_vectors(self) -> bool:
        """Whether results are compared with each other, which takes their vectors."""
        return bool(self.diversity) or self.near_duplicate_threshold is not None

    @property
    def needs_attributes(self) -> bool:
        """Whether results are chosen by their attributes."""
        return self.filter is not None or self.group_by is not None

    @property
    def drops_results(self) -> bool:
        """Whether a step may drop results amid the stream, so that a page needs more than its size."""
        return self.needs_attributes or self.near_duplicate_threshold is not None


class RerankKeywords(TypedDict, total=False):
    """The fields of RerankOptions as keywords (a test keeps the two alike)."""

    normalize: bool
    min_score: float | None
    top_k: int
    offset: int
    filter: Filter | None
    diversity: float | None
    diversity_window: int
    near_duplicate_threshold: float | None
    group_by: str | None
    group_size: int
