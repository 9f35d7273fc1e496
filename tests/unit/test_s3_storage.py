"""S3Storage beyond the common contract: prefixes, pages, and every way in which S3 says no.

moto's server answers where S3's ordinary behaviour is asked for; `_Scripted`, a plain HTTP server, where a
failure is that moto cannot produce.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import boto3.session
import pytest
from botocore.config import Config
from buckets import Bucket

from storage.errors import (
    ImageNotFound,
    ImageTooLarge,
    InvalidKey,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from storage.images.s3 import S3Storage

VERBS = ["get", "stat", "exists", "delete", "put", "list"]


def _call(storage: S3Storage, verb: str, key: str = "tom.jpg") -> object:
    if verb == "list":
        return list(storage.list())
    return storage.put(key, b"data") if verb == "put" else getattr(storage, verb)(key)


def _keys(storage: S3Storage, prefix: str = "") -> list[str]:
    return [stored.key for stored in storage.list(prefix)]


@pytest.fixture
def in_bucket(s3_bucket: Bucket) -> Callable[..., S3Storage]:
    """`in_bucket(prefix, ...)`: S3Storage over the test's own bucket."""

    def build(prefix: str = "", **options: Any) -> S3Storage:
        return S3Storage(s3_bucket.name, prefix, client=s3_bucket.client, **options)

    return build


@pytest.fixture(scope="module")
def one_attempt() -> Callable[[str], Any]:
    """A client that does not try again; from one session, because each new one reads megabytes of JSON."""
    session = boto3.session.Session()
    config = Config(retries={"total_max_attempts": 1}, read_timeout=60, s3={"addressing_style": "path"})
    return lambda endpoint_url: session.client("s3", endpoint_url=endpoint_url, config=config)


# --- prefixes and names


@pytest.mark.parametrize("prefix", ["photos", "photos/", "/photos/"])
def test_a_prefix_is_a_folder_and_keys_are_relative_to_it(
    s3_bucket: Bucket, in_bucket: Callable[..., S3Storage], prefix: str
) -> None:
    for name in ("photos/cats/tom.jpg", "photos-old/x.jpg", "photos.jpg", "photosx/y.jpg", "z.jpg"):
        s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=name, Body=name.encode())
    storage = in_bucket(prefix)
    assert _keys(storage) == ["cats/tom.jpg"]
    assert storage.get("cats/tom.jpg") == b"photos/cats/tom.jpg"
    assert not storage.exists("x.jpg")
    assert storage.uri("cats/tom.jpg") == f"s3://{s3_bucket.name}/photos/cats/tom.jpg"


def test_without_a_prefix_the_whole_bucket_is_the_store(s3_bucket: Bucket, in_bucket: Callable[..., S3Storage]) -> None:
    in_bucket("a/b").put("tom.jpg", b"tom")
    assert _keys(in_bucket()) == ["a/b/tom.jpg"]
    assert in_bucket().uri("") == f"s3://{s3_bucket.name}/"


def test_a_prefix_cannot_leave_upwards(in_bucket: Callable[..., S3Storage]) -> None:
    with pytest.raises(InvalidKey):
        in_bucket("photos/../private")


def test_folder_markers_are_not_listed(s3_bucket: Bucket, in_bucket: Callable[..., S3Storage]) -> None:
    for name in ("photos/", "photos/cats/", "photos/cats/tom.jpg"):
        s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=name, Body=b"")
    assert _keys(in_bucket("photos")) == ["cats/tom.jpg"]
    assert _keys(in_bucket()) == ["photos/cats/tom.jpg"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("back\\slash.jpg", r"back\x5cslash.jpg"),
        ("tab\t.jpg", r"tab\x09.jpg"),
        ("a/../b.jpg", r"a/\x2e./b.jpg"),
        ("./b.jpg", r"\x2e/b.jpg"),
    ],
)
def test_names_that_are_no_keys_are_listed_and_read_under_an_escaped_key(
    s3_bucket: Bucket, in_bucket: Callable[..., S3Storage], name: str, key: str
) -> None:
    s3_bucket.client.put_object(Bucket=s3_bucket.name, Key=f"photos/{name}", Body=b"odd")
    storage = in_bucket("photos")
    assert _keys(storage) == [key]
    assert storage.get(key) == b"odd"
    assert _keys(storage, key[:-5]) == [key]


# --- listing page by page


def test_listing_asks_for_the_next_page_only_when_it_is_needed(
    s3_bucket: Bucket, one_attempt: Callable[[str], Any]
) -> None:
    requests = []

    def small_pages(params: dict[str, Any], **_rest: Any) -> dict[str, Any]:
        requests.append(params)
        return {**params, "MaxKeys": 10}

    client = one_attempt(s3_bucket.endpoint_url)
    client.meta.events.register("provide-client-params.s3.ListObjectsV2", small_pages)
    storage = S3Storage(s3_bucket.name, "p", client=client)
    for number in range(35):
        storage.put(f"{number:02}.jpg", b"")
    listing = storage.list()
    assert len(requests) == 0
    assert next(listing).key == "00.jpg"
    assert len(requests) == 1
    assert [stored.key for stored in listing] == [f"{number:02}.jpg" for number in range(1, 35)]
    assert len(requests) == 4


# --- the client


def test_the_client_has_timeouts_retries_and_enough_connections() -> None:
    config = S3Storage("bucket", region="eu-central-1")._client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (10, 60)
    assert config.retries == {"mode": "standard", "total_max_attempts": 4}
    assert config.max_pool_connections == 32
    assert config.region_name == "eu-central-1"


def test_on_aws_the_bucket_is_in_the_host_name_and_elsewhere_in_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def style(storage: S3Storage) -> object:
        return storage._client.meta.config.s3["addressing_style"]

    assert style(S3Storage("bucket")) == "auto"
    assert style(S3Storage("bucket", endpoint_url="http://minio:9000")) == "path"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    storage = S3Storage("bucket")
    assert style(storage) == "path"
    assert storage._client.meta.endpoint_url == "http://minio:9000"


def test_its_own_client_reads_and_writes_over_http(s3_bucket: Bucket) -> None:
    storage = S3Storage(s3_bucket.name, "photos", endpoint_url=s3_bucket.endpoint_url, region="us-east-1")
    storage.put("tom.jpg", b"tom")
    assert storage.get("tom.jpg") == b"tom"


@pytest.mark.parametrize("endpoint_url", ["minio:9000", "not a url"])
def test_an_endpoint_that_is_no_url_is_a_clear_error(endpoint_url: str) -> None:
    with pytest.raises(StorageError, match="endpoint"):
        S3Storage("bucket", endpoint_url=endpoint_url)


def test_a_profile_that_does_not_exist_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageDenied, match="nobody"):
        S3Storage("bucket")


# --- what can go wrong


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_bucket_is_said_whatever_is_asked(s3_bucket: Bucket, verb: str) -> None:
    storage = S3Storage("no-such-bucket", client=s3_bucket.client)
    with pytest.raises(StorageError, match=r"no bucket 'no-such-bucket' at http://.*: create it, or check") as info:
        _call(storage, verb)
    assert type(info.value) is StorageError


@pytest.mark.parametrize("verb", VERBS)
def test_an_endpoint_that_does_not_answer_is_unavailable_and_says_what_to_check(
    verb: str, one_attempt: Callable[[str], Any]
) -> None:
    with socket.socket() as reserved:  # bound but not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        client = one_attempt(f"http://127.0.0.1:{reserved.getsockname()[1]}")
        with pytest.raises(StorageUnavailable, match="Check the network and the endpoint") as info:
            _call(S3Storage("bucket", client=client), verb)
    assert info.value.retryable


@pytest.mark.parametrize("verb", VERBS)
def test_missing_credentials_say_what_to_set(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    storage = S3Storage(s3_bucket.name, endpoint_url=s3_bucket.endpoint_url)
    with pytest.raises(StorageDenied, match="AWS_ACCESS_KEY_ID"):
        _call(storage, verb)


def test_a_bucket_name_that_cannot_be_is_a_clear_error(s3_bucket: Bucket) -> None:
    with pytest.raises(StorageError, match="Invalid bucket name"):
        S3Storage("no bucket name!", client=s3_bucket.client).get("tom.jpg")


def test_an_object_beyond_the_cap_is_refused_by_its_claimed_size(in_bucket: Callable[..., S3Storage]) -> None:
    in_bucket().put("big.jpg", bytes(101))
    with pytest.raises(ImageTooLarge, match="cap of 100 bytes"):
        in_bucket(max_bytes=100).get("big.jpg")


# --- a server that follows a script


class _Scripted(BaseHTTPRequestHandler):
    """Answers each request with the next of the server's scripted answers; the last one repeats."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Any = self.server
        server.requests.append(f"{self.command} {self.path}")
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        answer(self)

    do_HEAD = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_arguments: object) -> None:
        """Keep quiet."""


Answer = Callable[[_Scripted], None]


def _failing(status: int, code: str) -> Answer:
    def answer(request: _Scripted) -> None:
        body = f"<Error><Code>{code}</Code><Message>said the server</Message></Error>".encode()
        request.send_response(status)
        request.send_header("Connection", "close")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)

    return answer


def _sending(body: bytes, claimed: int | None) -> Answer:
    """Send a body; without a claimed length it ends with the connection."""

    def answer(request: _Scripted) -> None:
        request.send_response(200)
        request.send_header("Connection", "close")
        if claimed is not None:
            request.send_header("Content-Length", str(claimed))
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextmanager
def _server(*answers: Answer) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
    server.answers, server.requests = list(answers), []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AccessDenied", StorageDenied),
        (403, "InvalidAccessKeyId", StorageDenied),
        (403, "SignatureDoesNotMatch", StorageDenied),
        (403, "InvalidObjectState", StorageDenied),
        (400, "ExpiredToken", StorageDenied),
        (404, "NoSuchKey", ImageNotFound),
        (400, "KeyTooLongError", InvalidKey),
        (503, "SlowDown", StorageUnavailable),
        (500, "InternalError", StorageUnavailable),
        (429, "TooManyRequests", StorageUnavailable),
        (400, "RequestTimeout", StorageUnavailable),
        (400, "SomethingNew", StorageError),
    ],
)
def test_each_answer_of_the_server_is_translated(
    status: int, code: str, expected: type[StorageError], one_attempt: Callable[[str], Any]
) -> None:
    with _server(_failing(status, code)) as server:
        storage = S3Storage("bucket", client=one_attempt(server.url))
        with pytest.raises(StorageError, match="s3://bucket/tom.jpg") as info:
            storage.get("tom.jpg")
    assert type(info.value) is expected


@pytest.mark.parametrize("verb", ["stat", "exists", "delete"])
def test_a_refused_head_request_is_denied_and_not_missing(verb: str, one_attempt: Callable[[str], Any]) -> None:
    with _server(_failing(403, "")) as server:
        storage = S3Storage("bucket", client=one_attempt(server.url))
        with pytest.raises(StorageDenied, match="check the credentials"):
            _call(storage, verb)


def test_a_missing_object_in_a_bucket_that_may_not_be_looked_at_is_missing(one_attempt: Callable[[str], Any]) -> None:
    with _server(_failing(404, ""), _failing(403, "")) as server:
        assert not S3Storage("bucket", client=one_attempt(server.url)).exists("tom.jpg")
        assert server.requests == ["HEAD /bucket/tom.jpg", "HEAD /bucket"]


def test_a_busy_server_is_asked_again() -> None:
    with _server(_failing(503, "SlowDown"), _sending(b"tom", 3)) as server:
        assert S3Storage("bucket", endpoint_url=server.url).get("tom.jpg") == b"tom"
        assert len(server.requests) == 2


def test_a_connection_that_breaks_off_gives_no_half_image(one_attempt: Callable[[str], Any]) -> None:
    with _server(_sending(b"half", 8)) as server:
        storage = S3Storage("bucket", client=one_attempt(server.url))
        with pytest.raises(StorageUnavailable):
            storage.get("tom.jpg")


def test_an_endpoint_that_redirects_for_ever_is_a_clear_error(one_attempt: Callable[[str], Any]) -> None:
    """As http:// does where only https:// is served; botocore itself would recurse to the interpreter's limit."""
    with _server(_failing(301, "PermanentRedirect")) as server:
        storage = S3Storage("bucket", client=one_attempt(server.url))
        with pytest.raises(StorageError, match="begins with http:// or https://"):
            storage.get("tom.jpg")


def test_an_endpoint_that_is_some_other_web_server_is_a_clear_error(
    one_attempt: Callable[[str], Any],
) -> None:
    page = b"<html><body><h1>It works!</h1></body></html>"  # Apache's, which is even well-formed XML
    with _server(_sending(page, len(page))) as server:
        storage = S3Storage("bucket", client=one_attempt(server.url))
        with pytest.raises(StorageError, match="does not answer like S3: check the endpoint"):
            list(storage.list())


def test_a_listing_that_fails_on_a_later_page_raises(one_attempt: Callable[[str], Any]) -> None:
    """Else it would look like a complete, shorter listing."""
    entry = (
        "<Contents><Key>a.jpg</Key><LastModified>2024-01-01T00:00:00Z</LastModified>"
        "<ETag>x</ETag><Size>1</Size></Contents>"
    )
    page = (
        "<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
        f"{entry}</ListBucketResult>"
    ).encode()
    with _server(_sending(page, len(page)), _failing(500, "InternalError")) as server:
        listing = S3Storage("bucket", client=one_attempt(server.url)).list()
        assert next(listing).key == "a.jpg"
        with pytest.raises(StorageUnavailable):
            next(listing)


def test_a_body_without_a_claimed_size_is_read_to_its_end_or_to_the_cap(one_attempt: Callable[[str], Any]) -> None:
    with _server(_sending(bytes(300_000), None)) as server:
        client = one_attempt(server.url)
        assert len(S3Storage("bucket", client=client).get("tom.jpg")) == 300_000
        with pytest.raises(ImageTooLarge):
            S3Storage("bucket", client=client, max_bytes=200_000).get("tom.jpg")
