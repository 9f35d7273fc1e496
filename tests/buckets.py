"""What the `s3_bucket` fixture hands to a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Bucket:
    """A fresh, empty bucket on a running S3 server, with a plain client to look at it from outside."""

    name: str
    endpoint_url: str
    client: S3Client
