"""One HTTP connection to IP addresses that were checked, and a deadline that ends it whatever it is doing.

Python's own timeouts hold for one read each: a server that sends a byte now and then is never late. So a timer
shuts the socket down when the whole time is over.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from threading import Timer
from time import monotonic

from storage.images.web_address import WebAddress

_HEADERS = {
    "User-Agent": "visual-search",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "identity",  # what is not compressed cannot unfold to more than was read
    "Connection": "close",
}


@dataclass(frozen=True)
class Patience:
    """How long a server may take: to connect, between two bytes, for one try in all; and how often it is tried."""

    connect_seconds: float = 10.0
    silence_seconds: float = 20.0
    total_seconds: float = 120.0  # 100 MB at 1 MB/s
    attempts: int = 3
    pause_seconds: float = 0.5  # before the second try; thrice as long before each further one


class Deadline:
    """A time from now on after which nothing goes on."""

    def __init__(self, seconds: float) -> None:
        self._ends = monotonic() + seconds

    @property
    def remaining_seconds(self) -> float:
        """How long it still is; 0 when it is over."""
        return max(0.0, self._ends - monotonic())

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self.remaining_seconds == 0

    @contextmanager
    def cuts(self, connection: CheckedConnection) -> Iterator[None]:
        """Shut the connection down if the block is not left in time; whoever reads from it then sees its end."""
        timer = Timer(self.remaining_seconds, connection.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class CheckedConnection(HTTPConnection):
    """Connects to one of `ips`, while the Host header and the certificate's name stay those of the address.

    Certificates are checked against the system's authorities, or those that SSL_CERT_FILE names.
    """

    def __init__(
        self, address: WebAddress, ips: Sequence[str], patience: Patience, deadline: Deadline, tls: ssl.SSLContext
    ) -> None:
        super().__init__(address.host, address.port)
        self.default_port = address.port if address.has_default_port else 0  # then the Host header has no port
        self._address = address
        self._ips = ips
        self._patience = patience
        self._deadline = deadline
        self._tls = tls
        self._open: socket.socket | None = None

    def ask(self, method: str) -> HTTPResponse:
        """Send the request and read the answer's headers. Raises OSError, HTTPException."""
        self.request(method, self._address.target, headers=_HEADERS)
        return self.getresponse()

    def connect(self) -> None:
        """Connect to the first of the addresses that answers. Raises OSError."""
        sock = self._connected()
        try:
            sock.settimeout(min(self._patience.silence_seconds, self._left()))
            if self._address.scheme == "https":
                sock = self._tls.wrap_socket(sock, server_hostname=self._address.host)
        except BaseException:
            sock.close()
            raise
        self.sock = self._open = sock
        self._left()  # a timer that went off during the handshake found nothing to shut down

    def cut(self) -> None:
        """Shut down both ways, from any thread; closing is left to whoever reads."""
        if self._open is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)  # not TLS's own, which is for its thread only

    def _connected(self) -> socket.socket:
        failed: OSError | None = None
        for ip in self._ips:
            try:
                seconds = min(self._patience.connect_seconds, self._left())
                return socket.create_connection((ip, self._address.port), seconds)
            except OSError as error:
                failed = error
        raise failed or OSError("no address to connect to")

    def _left(self) -> float:
        left = self._deadline.remaining_seconds
        if not left:
            raise TimeoutError("the time is over")
        return left
