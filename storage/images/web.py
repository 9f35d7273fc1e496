"""Fetches pictures from http(s) addresses, as an untrusting client: owns time, size, redirects and what answers mean.

Every hop is checked by `public_hosts` and has a connection of its own to an address that was checked; proxies of the
environment are not asked. Nothing is stored, listed or decompressed.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from threading import Lock
from typing import TypeVar
from urllib.parse import urljoin

from storage.errors import (
    HostUnavailable,
    ImageNotFound,
    ImageTooLarge,
    SourceNotAllowed,
    StorageDenied,
    StorageError,
)
from storage.images.backend import DEFAULT_MAX_IMAGE_BYTES, StoredObject
from storage.images.checked_connection import CheckedConnection, Deadline, Patience
from storage.images.host_outages import HostOutages
from storage.images.public_hosts import Resolve, connectable_addresses, system_addresses
from storage.images.web_address import WebAddress, WebHosts, web_address

MOST_REDIRECTS = 5
_PIECE_BYTES = 64 * 1024
_MOST_ETAG_CHARACTERS = 200

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MISSING = frozenset({404, 410})
_DENIED = frozenset({401, 402, 403, 407, 451})
_BUSY = frozenset({408, 425, 429})
_SERVER_FAILED = 500
_OK = 200
_NO_HEAD = frozenset({400, 403, 405, 501})  # a HEAD is refused by some who answer a GET, as signed S3 addresses do

_Found = TypeVar("_Found")


class WebImages:
    """Pictures behind http(s) addresses of listed hosts. Any thread may use it.

    Tried again are failed connections and answers that say "later" (408, 429, 5xx); in the end these are
    HostUnavailable, which fails one picture and not its whole run.
    """

    def __init__(
        self,
        hosts: WebHosts,
        max_bytes: int = DEFAULT_MAX_IMAGE_BYTES,
        *,
        resolve: Resolve = system_addresses,
        patience: Patience | None = None,
    ) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._resolve = resolve
        self._patience = patience or Patience()
        self._outages = HostOutages()
        self._tls: ssl.SSLContext | None = None  # reading all authorities takes some 20 ms
        self._lock = Lock()

    def get(self, uri: str) -> bytes:
        """Read all bytes. Raises ImageNotFound, StorageDenied, SourceNotAllowed, ImageTooLarge, HostUnavailable."""
        return self._persistently("GET", web_address(uri), self._body)

    def stat(self, uri: str) -> StoredObject:
        """Describe one picture by its headers. Raises the same errors as `get`.

        The etag is the server's, or else the time of its last change and the size. A server that tells neither
        gives another one each time, so that the content is looked at.
        """
        address = web_address(uri)
        return self._persistently("HEAD", address, lambda response, _address: _described(str(address), response))

    def _persistently(
        self, method: str, address: WebAddress, read: Callable[[HTTPResponse, WebAddress], _Found]
    ) -> _Found:
        pause = self._patience.pause_seconds
        self._outages.check(address)
        for attempt in range(1, self._patience.attempts + 1):
            try:
                found = self._once(method, address, read)
            except HostUnavailable as error:
                is_certificate = isinstance(error.__cause__, ssl.SSLCertVerificationError)
                if attempt == self._patience.attempts or is_certificate:
                    self._outages.failed(address)
                    raise
                time.sleep(pause)
                pause *= 3
            except StorageError:
                self._outages.answered(address)
                raise
            else:
                self._outages.answered(address)
                return found
        raise ValueError("at least one attempt is needed")

    def _once(self, method: str, first: WebAddress, read: Callable[[HTTPResponse, WebAddress], _Found]) -> _Found:
        deadline = Deadline(self._patience.total_seconds)
        address, redirects = first, 0
        while redirects <= MOST_REDIRECTS:
            with self._answer(method, address, deadline) as response:
                if response.status in _REDIRECTS:
                    address, redirects = _redirected(address, response), redirects + 1
                elif method == "HEAD" and response.status in _NO_HEAD:
                    method = "GET"
                else:
                    _require_success(response, address)
                    return read(response, address)
        raise StorageError(f"{first} redirects more than {MOST_REDIRECTS} times")

    @contextmanager
    def _answer(self, method: str, address: WebAddress, deadline: Deadline) -> Iterator[HTTPResponse]:
        """Ask one server and give its answer; what fails until the block is left counts as the server's failure."""
        ips = connectable_addresses(address, self._hosts, self._resolve)
        connection = CheckedConnection(address, ips, self._patience, deadline, self._authorities())
        try:
            with deadline.cuts(connection), connection.ask(method) as response:
                yield response
            if deadline.passed:  # an answer without a length ends like one that was cut off
                raise TimeoutError("the time is over")
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a header or length that is none
            why = f"more than {self._patience.total_seconds:g} s" if deadline.passed else _told(error)
            raise HostUnavailable(f"{address}: {address.site} did not answer properly: {why}") from error
        finally:
            connection.close()

    def _authorities(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls

    def _body(self, response: HTTPResponse, address: WebAddress) -> bytes:
        """All bytes of an answer; the cap holds while reading, whatever size the server claims."""
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"identity", ""}:
            raise StorageError(f"{address}: the answer is compressed, although that was not asked for")
        claimed = response.length
        if claimed is not None and claimed > self._max_bytes:
            raise self._too_large(address)
        data = bytearray()
        while piece := response.read1(min(_PIECE_BYTES, self._max_bytes + 1 - len(data))):
            data += piece
            if len(data) > self._max_bytes:
                raise self._too_large(address)
        if claimed is not None and len(data) < claimed:
            raise HTTPException(f"it ended after {len(data):,} of {claimed:,} bytes")
        return bytes(data)

    def _too_large(self, address: WebAddress) -> ImageTooLarge:
        return ImageTooLarge(f"{address} is larger than the cap of {self._max_bytes:,} bytes")


def _redirected(address: WebAddress, response: HTTPResponse) -> WebAddress:
    """Where an answer sends us on; the rules are those of every address, and from https never back to http."""
    told = response.headers.get("Location", "")
    if not told:
        raise StorageError(f"{address}: the server redirects, but does not say where to")
    try:
        target = told.encode("latin-1").decode("utf-8", "surrogateescape")  # http.client reads headers as Latin-1
        found = web_address(urljoin(str(address), target))
    except (StorageError, ValueError) as error:
        raise SourceNotAllowed(f"{address} redirects to what is no http(s) address here: {error}") from error
    if address.scheme == "https" and found.scheme == "http":
        raise SourceNotAllowed(f"{address} redirects from https to http: {found}")
    return found


def _require_success(response: HTTPResponse, address: WebAddress) -> None:
    status = response.status
    said = f"{address}: the server answered {status} {response.reason[:100]!r}"
    if status == _OK:
        return
    if status in _MISSING:
        raise ImageNotFound(said)
    if status in _DENIED:
        raise StorageDenied(said)
    if status in _BUSY or status >= _SERVER_FAILED:
        raise HostUnavailable(said)
    raise StorageError(said)


def _described(uri: str, response: HTTPResponse) -> StoredObject:
    length = response.headers.get("Content-Length", "")
    size_bytes = int(length) if length.isascii() and length.isdecimal() else 0
    changed = response.headers.get("Last-Modified", "")
    etag = response.headers.get("ETag", "").strip('" ')
    if not etag:
        etag = f"{changed} {size_bytes}" if changed else f"unknown {time.time_ns()}"
    if len(etag) > _MOST_ETAG_CHARACTERS or not (etag.isascii() and etag.isprintable()):
        etag = hashlib.sha256(etag.encode("utf-8", "backslashreplace")).hexdigest()
    return StoredObject(uri, uri, etag, size_bytes, _seconds(changed))


def _seconds(date: str) -> float:
    """Seconds since 1970 of an HTTP date; 0 where there is none or it is broken."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
