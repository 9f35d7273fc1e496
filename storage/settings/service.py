"""Settings of the service: searches on the queue, the HTTP API and who may use it, metrics and logs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from storage.images.web_address import host_pattern_problem
from storage.settings.entries import ApiKey


class ServiceSettings(BaseModel):
    """What the query workers, their clients and the HTTP API need to know, and how every role shows what it does."""

    search_queue: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Searches of each priority that may wait; while there are more, clients get `busy` at once.",
    )
    search_batch: int = Field(
        default=64, ge=1, le=1024, description="Waiting searches that a query worker answers together."
    )
    search_seconds: float = Field(
        default=10.0, gt=0, le=600.0, description="How long clients wait for an answer unless they say otherwise."
    )
    http_host: str = Field(
        default="127.0.0.1",
        description="Address on which the HTTP API and the web page are served; other than loopback needs `api_keys`.",
    )
    http_port: int = Field(default=8600, ge=0, le=65_535, description="Port of the HTTP API; 0 takes a free one.")
    max_upload_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Larger HTTP request bodies are refused before they are read."
    )
    api_keys: list[ApiKey] = Field(
        default_factory=list,
        description="Who may use the HTTP API: a list of tables with `name`, `sha256` (of the key) and `scopes` "
        "(`search`, `submit`, `admin`); made by `visual-search keys new`. Default none: loopback only.",
    )
    job_sources: list[str] = Field(
        default_factory=list,
        description="Folders and `s3://bucket/prefix` addresses: jobs take and processes read pictures only there, "
        "links followed first; uploads may always be read. Default: anywhere; over HTTP with `api_keys`: "
        "S3 only.",
    )
    url_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts whose pictures lists may name by http(s) address: `images.example.com`, or `*.example.com` "
        "for all below; `:port` for another port than 80 and 443. Private addresses stay refused. Default: none.",
    )
    unsafe_private_url_hosts: list[str] = Field(
        default_factory=list,
        description="For tests and development: `host:port` pairs that may be fetched from although their address is "
        "private or this machine's. Default: none.",
    )
    requests_per_minute: int = Field(
        default=600, ge=0, description="HTTP requests that each key (or address, without keys) may make; 0: no limit."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Port on which a role serves Prometheus metrics; default none. `up` counts on from it, one a role.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address on which a role serves its metrics.")
    log_format: Literal["text", "json"] = Field(
        default="text", description="How roles write their log: lines for people, or one JSON object a line."
    )

    @field_validator("job_sources")
    @classmethod
    def _whole_addresses(cls, value: list[str]) -> list[str]:
        """A relative one would mean another folder in every process, an empty one the working folder."""
        for one in value:
            if not (one.startswith(("~", "file:///")) or Path(one).is_absolute() or re.match("s3://[^/]", one)):
                message = f"'{one}' is no full address: give /folder, file:///folder or s3://bucket/prefix"
                raise ValueError(message)
        return value

    @field_validator("url_hosts", "unsafe_private_url_hosts")
    @classmethod
    def _whole_hosts(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """A misspelt entry would allow nothing, and `*` or a bare `host` in the wrong list too much."""
        for one in value:
            problem = host_pattern_problem(one, private=info.field_name == "unsafe_private_url_hosts")
            if problem is not None:
                raise ValueError(problem)
        return value
