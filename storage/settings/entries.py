"""What stands in the lists of the settings as tables: a schedule, an API key; knows nothing of the other settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Schedule(BaseModel):
    """One entry of `schedules`: when (five cron fields, UTC) and what is to be done with which source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str  # minute, hour, day of month, month, day of week
    action: Literal["sync", "audit", "rebuild", "prune"]
    source: str = ""  # a folder or s3://bucket/prefix: what is synced or audited
    collection: str | None = None  # None: the collection of the settings
    id_prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mirror: bool = False  # a sync also removes what the source no longer has

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        if len(value.split()) != 5:
            message = "a cron expression has five fields: minute, hour, day of month, month, day of week"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _source_where_needed(self) -> Schedule:
        if (self.action in ("sync", "audit")) != bool(self.source):
            message = "sync and audit need a source; rebuild and prune work on the collection and take none"
            raise ValueError(message)
        return self


class ApiKey(BaseModel):
    """One entry of `api_keys`: who it is, what is allowed, and the key's hash (`visual-search keys new` makes one)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the key; keys are random, so a plain hash keeps them
    scopes: tuple[Literal["search", "submit", "admin"], ...] = ("search",)  # admin includes the others
