"""TLS in front of a PostgreSQL that has none, as pgbouncer or stunnel do it: the build of the tests has no OpenSSL."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from certificates import Certificate

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # PostgreSQL's documentation, "Message Formats": SSLRequest
_PIECE_BYTES = 64 * 1024
_HANDSHAKE_SECONDS = 60.0  # of a client that does not go on


class TlsFront:
    """Listens on `localhost`, speaks TLS alone, and hands on what comes to the server behind it."""

    def __init__(self, certificate: Certificate, server_port: int) -> None:
        self._context = certificate.server_context()
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[Thread] = [Thread(target=self._accept, name="tls-front")]
        self.port = int(self._listening.getsockname()[1])
        self.handed_on = 0  # connections that came through TLS to the server
        self._threads[0].start()

    def close(self) -> None:
        """Take no more connections, and wait for those that are there: whoever has one closes it first."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listening.accept()
            except OSError:  # closed
                return
            self._threads.append(Thread(target=self._serve, args=[connection], name="tls-front-connection"))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_HANDSHAKE_SECONDS)
        with connection:
            if connection.recv(len(_SSL_REQUEST), socket.MSG_WAITALL) != _SSL_REQUEST:
                return  # plain text gets no answer
            connection.sendall(b"S")
            try:
                encrypted = self._context.wrap_socket(connection, server_side=True)
            except OSError:  # the client does not like the certificate
                return
            with encrypted, socket.create_connection(("127.0.0.1", self._server_port)) as server:
                self.handed_on += 1
                encrypted.settimeout(None)
                _hand_on(encrypted, server)


def _hand_on(encrypted: ssl.SSLSocket, server: socket.socket) -> None:
    """Both ways, until one side ends."""
    while True:
        ready = [encrypted] if encrypted.pending() else select.select([encrypted, server], [], [])[0]
        for one in ready:
            try:
                piece = one.recv(_PIECE_BYTES)
                (server if one is encrypted else encrypted).sendall(piece)
            except OSError:  # cut off
                return
            if not piece:
                return


@contextmanager
def tls_front(certificate: Certificate, server_port: int) -> Iterator[TlsFront]:
    """Running until the block ends."""
    front = TlsFront(certificate, server_port)
    try:
        yield front
    finally:
        front.close()
