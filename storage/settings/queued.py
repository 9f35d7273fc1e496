"""Settings of queued work: the servers, batches and their leases, snapshots, uploads, what runs by the clock."""

from __future__ import annotations

import re

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator

from storage.settings.entries import Schedule

URL_SCHEMES = {
    "redis_url": ("redis://", "rediss://"),
    "database_url": ("postgresql://", "postgresql+psycopg://"),
}


class QueueSettings(BaseModel):
    """What submitting, the embed workers, the aggregator and the schedules need to know."""

    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL for the catalog, `postgresql://user:password@host/database`; "
        "without it the catalog is a SQLite file in `data_dir`.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey for queued work, `redis://` or `rediss://` (TLS); "
        "without it a bundled Valkey is started in `data_dir/valkey`.",
    )
    redis_trusted_network: bool = Field(
        default=False,
        description="Allow a `redis_url` beyond this machine without TLS or password: nobody else is in that network.",
    )
    batch_images: int = Field(
        default=128, ge=1, le=1024, description="Images per queued batch: what a killed worker has to do again."
    )
    lease_seconds: float = Field(
        default=120.0,
        ge=1.0,
        le=3600.0,
        description="How long a worker that gives no sign keeps its batch; a working one renews three times as often.",
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="How often a batch may cost its worker before it is split, down to the one guilty image.",
    )
    resend_seconds: float = Field(
        default=60.0, ge=1.0, le=86_400.0, description="A batch that no worker took for so long is sent again."
    )
    sweep_seconds: float = Field(default=15.0, ge=0.5, le=3600.0, description="How often lost batches are looked for.")
    stream_messages: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Finished batches that may wait for the aggregator; workers pause while there are more.",
    )
    snapshot_address: str | None = Field(
        default=None,
        description="Folder or `s3://bucket/prefix` for index snapshots; by default `data_dir/snapshots`.",
    )
    uploads_address: str | None = Field(
        default=None,
        description="Folder or `s3://bucket/prefix` that keeps uploaded pictures, by collection, where every process "
        "can read them; by default `data_dir/uploads`.",
    )
    snapshot_changes: int = Field(
        default=20_000, ge=1, description="A snapshot of the index is published after so many changes."
    )
    snapshot_seconds: float = Field(
        default=300.0, ge=1.0, description="A changed index is published after so long at the latest."
    )
    schedules: list[Schedule] = Field(
        default_factory=list,
        description="What runs by the clock: a list of tables with `cron` (five fields, UTC), `action` (`sync`, "
        "`audit`, `rebuild` or `prune`) and, for the first two, `source`; if wanted `collection`, `id_prefix`, "
        "`include`, `exclude`, `mirror`; default none.",
    )

    @field_validator("redis_url", "database_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Refuse early; the message must not repeat the value, for it may hold a password."""
        schemes = URL_SCHEMES[str(info.field_name)]
        if value is not None and not value.get_secret_value().startswith(schemes):
            message = f"the address begins with {' or '.join(schemes)}"
            raise ValueError(message)
        return value

    @field_validator("uploads_address")
    @classmethod
    def _whole_address(cls, value: str | None) -> str | None:
        """The same for where uploads are kept."""
        if value is not None and not (value.startswith(("/", "~")) or re.match("s3://[^/]", value)):
            message = f"'{value}' is no full address: give /folder or s3://bucket/prefix"
            raise ValueError(message)
        return value
