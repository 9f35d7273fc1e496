"""Where the API listens: who may be let in without keys, and the sockets themselves."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from query_service.http.origin import is_loopback
from storage.errors import SettingsError
from storage.settings import Settings
from workers.errors import PortTaken

_BACKLOG = 1024  # connections that the system holds until they are taken


def addresses_of(settings: Settings) -> Sequence[tuple[socket.AddressFamily, str]]:
    """Every address that `http_host` means. Raises SettingsError for none, or for an open door without keys."""
    try:
        found = socket.getaddrinfo(settings.http_host, settings.http_port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"http_host '{settings.http_host}' is no address of this machine: {error}") from error
    addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    outside = [address for _, address in addresses if not is_loopback(address)]
    if outside and not settings.api_keys:
        raise SettingsError(
            f"http_host '{settings.http_host}' lets other machines in ({outside[0]}), and there are no api_keys: "
            "anybody there could read and delete everything. Make a key with `visual-search keys new`, or listen on "
            "127.0.0.1"
        )
    return addresses


def listen(settings: Settings) -> Sequence[socket.socket]:
    """Bound sockets, one an address, all on one port. Raises PortTaken and SettingsError."""
    port = settings.http_port
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, address in addresses_of(settings):
            one = opened.enter_context(_bound(family, address, port))
            port = one.getsockname()[1]  # where a free one was asked for, the first says which
            sockets.append(one)
        opened.pop_all()
    return sockets


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # TCP said aloud: asyncio sets TCP_NODELAY on these alone, and without it each answer is 40 ms late
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        one.bind((address, port))
        one.listen(_BACKLOG)
    except OSError as error:
        one.close()
        raise PortTaken(
            f"cannot listen on {address} port {port}: {error.strerror or error}; set http_port to another"
        ) from error
    return one
