"""What a search answers: ranked results, best first."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from storage.records import Attributes, ModelIdentity


class SearchResult(BaseModel):
    """One image found: rank from 1; distance is squared L2 (0 = same vector); a higher score is better.

    Straight from the index the score is the negative distance; the reranker's normalization makes it a
    similarity, 1 - distance/2, which for unit vectors is the cosine (-1 to 1).
    """

    model_config = ConfigDict(frozen=True)

    rank: int = Field(ge=1)
    image_id: str
    score: float
    distance: float
    source_uri: str = ""
    attributes: Attributes = Field(default_factory=dict)


class SearchResults(BaseModel):
    """The answer to one query: results by rank, whether scores are normalized, and the model that was asked."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    results: list[SearchResult] = Field(default_factory=list)
    normalized: bool = False
    model: ModelIdentity | None = None

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, position: int) -> SearchResult:
        return self.results[position]

    def hits(self) -> Iterator[SearchResult]:
        """Iterate over the results, best first."""
        return iter(self.results)

    @property
    def image_ids(self) -> list[str]:
        """The found ids, best first."""
        return [result.image_id for result in self.results]
