"""Images in an S3 bucket: the only file that knows boto3, and translates its errors. Knows no file system."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import boto3.session
from botocore import exceptions as sdk
from botocore.config import Config

from storage.errors import (
    ImageNotFound,
    ImageTooLarge,
    InvalidKey,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES, OnDenied, StoredObject
from storage.images.keys import key_of, name_of, name_prefix_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT_SECONDS = 10
_READ_TIMEOUT_SECONDS = 60  # of silence, not of the whole transfer
_ATTEMPTS = 4  # boto3's standard mode waits up to 1, 2 and 4 s in between
_CONNECTIONS = 32  # at least as many as threads that fetch at once; boto3's 10 would make them take turns
_LEAST_READ_BYTES = 64 * 1024

_NOT_FOUND = {"NoSuchKey", "404", "NotFound"}  # a HEAD answer has no body, hence only a number
_DENIED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # these come with status 400
_DENIED_STATUS = {401, 403}
_BUSY = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}
_BUSY_STATUS = 429
_SERVER_FAILED_STATUS = 500
_NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.ProfileNotFound,
    sdk.SSOError,
    sdk.TokenRetrievalError,
)
_CONNECTION_FAILED = (
    sdk.ConnectionError,
    sdk.HTTPClientError,
    sdk.IncompleteReadError,
    sdk.FlexibleChecksumError,
)


class S3Storage:
    """A bucket, or what lies under `prefix/` in it, as image storage; for AWS and for compatible servers.

    Credentials and defaults come from boto3's own sources (AWS_* variables, ~/.aws, instance roles). Objects
    whose name ends in `/` are folder markers and are not listed. The order is that of the stored names,
    which is key order but for names that `storage.images.keys` has to spell with escapes.
    """

    def __init__(  # noqa: PLR0913 - the bucket, and five options that most callers leave alone
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        max_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
        client: S3Client | None = None,
    ) -> None:
        """Prepare the client; nothing is sent yet. `client` is a ready boto3 S3 client in place of ours."""
        self._bucket = bucket
        self._prefix_key = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._prefix = name_of(self._prefix_key.rstrip("/")) + "/" if self._prefix_key else ""
        self._max_bytes = max_bytes
        try:
            with self._translated(self.uri("")):
                self._client = client or _make_client(endpoint_url, region)
        except ValueError as error:  # boto3's answer to an endpoint that is no URL
            raise StorageError(f"the S3 endpoint cannot be used: {error}") from error

    def put(self, key: str, data: bytes) -> StoredObject:
        """Store the bytes; S3 shows the old object or the new one, never a part. The time is our clock's."""
        if len(data) > self._max_bytes:
            raise self._too_large(self.uri(key))
        name = self._name(key)
        with self._translated(self.uri(key)):
            answer = self._client.put_object(Bucket=self._bucket, Key=name, Body=data)
        return self._stored(key, answer["ETag"], len(data), time.time())

    def get(self, key: str) -> bytes:
        """Read the whole object; the cap holds while reading, whatever size the server claims."""
        name, uri = self._name(key), self.uri(key)
        with self._translated(uri):
            answer = self._client.get_object(Bucket=self._bucket, Key=name)
            claimed = answer.get("ContentLength", 0)  # a proxy that compresses leaves it out
            with closing(answer["Body"]) as body:
                if claimed > self._max_bytes:
                    raise self._too_large(uri)
                # One byte more than claimed, so that the object is one piece, which `join` hands on uncopied.
                step = max(claimed + 1, _LEAST_READ_BYTES)
                pieces: list[bytes] = []
                total = 0
                while piece := body.read(min(step, self._max_bytes + 1 - total)):
                    pieces.append(piece)
                    total += len(piece)
                    if total > self._max_bytes:
                        raise self._too_large(uri)
        return b"".join(pieces)

    def stat(self, key: str) -> StoredObject:
        """Ask for the object's headers alone. Raises ImageNotFound."""
        name = self._name(key)
        try:
            with self._translated(self.uri(key)):
                answer = self._client.head_object(Bucket=self._bucket, Key=name)
        except ImageNotFound:
            self._require_bucket()
            raise
        return self._stored(key, answer["ETag"], answer["ContentLength"], answer["LastModified"].timestamp())

    def exists(self, key: str) -> bool:
        """Whether an object is there. Raises StorageError when the bucket itself is missing."""
        try:
            self.stat(key)
        except ImageNotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove the object. Raises ImageNotFound, which S3 itself does not tell: it is asked before."""
        self.stat(key)
        with self._translated(self.uri(key)):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def list(self, prefix: str = "", *, on_denied: OnDenied | None = None) -> Iterator[StoredObject]:
        """Yield every object, a page of up to 1,000 in memory at a time. Folders have no permissions of their own."""
        del on_denied
        name_prefix = self._prefix + name_prefix_of(prefix)  # refuses `../` and the like at the call
        return self._list(prefix, name_prefix)

    def uri(self, key: str) -> str:
        """The s3:// address of a key, as the AWS command line writes it: nothing is percent-encoded."""
        if key:
            name_of(key)
        return f"s3://{self._bucket}/{self._prefix_key}{key}"

    def _list(self, prefix: str, name_prefix: str) -> Iterator[StoredObject]:
        paginator = self._client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=name_prefix))
        while True:
            with self._translated(self.uri("")):
                page = next(pages, None)
            if page is None:
                return
            if "Name" not in page:  # S3 always repeats the bucket's name; any other XML would list nothing
                raise self._not_s3()
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(self._prefix)
                if not name or name.endswith("/"):
                    continue
                key = key_of(name)
                if key.startswith(prefix):
                    modified_at = entry["LastModified"].timestamp()
                    yield self._stored(key, entry["ETag"], entry["Size"], modified_at)

    def _name(self, key: str) -> str:
        return self._prefix + name_of(key)

    def _stored(self, key: str, etag: str, size_bytes: int, modified_at: float) -> StoredObject:
        return StoredObject(key, self.uri(key), etag.strip('"'), size_bytes, modified_at)

    def _too_large(self, uri: str) -> ImageTooLarge:
        return ImageTooLarge(f"{uri} is larger than the cap of {self._max_bytes:,} bytes")

    def _require_bucket(self) -> None:
        """A HEAD answer says 404 for a missing object and for a missing bucket alike."""
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except sdk.ClientError as error:
            if error.response["Error"]["Code"] in _NOT_FOUND:
                raise self._no_bucket() from error  # any other answer: the bucket is there

    def _no_bucket(self) -> StorageError:
        return StorageError(
            f"there is no bucket '{self._bucket}' at {self._client.meta.endpoint_url}: create it, or check "
            "its name and the endpoint (endpoint_url, or the variable AWS_ENDPOINT_URL)"
        )

    def _not_s3(self) -> StorageError:
        return StorageError(
            f"{self._client.meta.endpoint_url} does not answer like S3: check the endpoint (endpoint_url, or the "
            "variable AWS_ENDPOINT_URL), also whether it begins with http:// or https://"
        )

    @contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        try:
            yield
        except sdk.ClientError as error:
            raise self._answered(error, uri) from error
        except _NO_CREDENTIALS as error:
            raise StorageDenied(
                f"{uri}: {_sentence(error)} Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or configure a profile"
            ) from error
        except _CONNECTION_FAILED as error:
            raise StorageUnavailable(
                f"{uri}: {_sentence(error)} Check the network and the endpoint (endpoint_url, or AWS_ENDPOINT_URL)"
            ) from error
        except RecursionError as error:  # botocore follows a redirect to itself without end
            raise self._not_s3() from error
        except sdk.BotoCoreError as error:
            raise StorageError(f"{uri}: {error}") from error

    def _answered(self, error: sdk.ClientError, uri: str) -> StorageError:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        said = f"{uri}: {error}"
        if code == "NoSuchBucket":
            return self._no_bucket()
        if code in _NOT_FOUND:
            return ImageNotFound(f"nothing is stored under {uri}")
        if code == "KeyTooLongError":
            return InvalidKey(said)
        if code in _BUSY or status == _BUSY_STATUS or status >= _SERVER_FAILED_STATUS:
            return StorageUnavailable(said)
        if code in _DENIED or status in _DENIED_STATUS:
            return StorageDenied(f"{said}; check the credentials and what they may read")
        return StorageError(said)


def _sentence(error: Exception) -> str:
    """Some of botocore's messages end with a full stop, others do not."""
    return f"{str(error).rstrip('. ')}."


def _make_client(endpoint_url: str | None, region: str | None) -> S3Client:
    """Build a client of our own session, because boto3's default one is shared and not thread-safe."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=region,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            read_timeout=_READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            max_pool_connections=_CONNECTIONS,
            # Servers other than AWS seldom answer on bucket.host, so there the bucket goes into the path.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
        ),
    )
    if endpoint_url is None and ".amazonaws." not in client.meta.endpoint_url:  # from AWS_ENDPOINT_URL
        return _make_client(client.meta.endpoint_url, region)
    return client
