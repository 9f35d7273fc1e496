"""Resolves the host of an http(s) address and says which of its IP addresses may be connected to. Connects to none.

A name is resolved once, and whoever connects takes exactly the addresses given here: a name that shows a public
address first and a private one afterwards (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from storage.errors import HostUnavailable, SourceNotAllowed
from storage.images.web_address import WebAddress, WebHosts

Resolve = Callable[[str, int], Sequence[str]]  # host and port to IP addresses; raises OSError

_MOST_ADDRESSES = 4  # of one name that are tried one after the other

_UNICAST_6 = IPv6Network("2000::/3")  # RFC 4291: all that is assigned for the public; the rest is special
# Python's own `is_global` differs between versions, so what IANA's registries set apart since stands here as well.
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # Teredo, benchmarking, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4; NAT64 (64:ff9b::/96) and mapped addresses (::ffff:0:0/96) are outside of 2000::/3
        "3fff::/20",
    )
)
_PRIVATE = tuple(
    ip_network(text) for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)


def system_addresses(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def connectable_addresses(address: WebAddress, hosts: WebHosts, resolve: Resolve = system_addresses) -> Sequence[str]:
    """The IP addresses of the host that may be connected to, at least one.

    Raises SourceNotAllowed when the host is not listed or has none but private addresses, HostUnavailable when it
    cannot be resolved.
    """
    hosts.check(address)
    try:
        found = resolve(address.host, address.port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that the resolver's own encoding refuses
        raise HostUnavailable(f"{address}: the name {address.host} cannot be resolved: {error}") from error
    private_too = hosts.may_be_private(address)
    allowed = [ip for ip in found if is_public(ip) or (private_too and is_private(ip))]
    if not allowed:
        raise SourceNotAllowed(f"{address}: {address.host} is not on the public internet ({', '.join(found)})")
    return allowed[:_MOST_ADDRESSES]


def is_public(ip: str) -> bool:
    """Whether an IP address is one of the public internet's, and hides no other address in itself."""
    parsed = ip_address(ip)
    if parsed.is_multicast or not parsed.is_global:  # multicast counts as global, carrier-grade NAT does not
        return False
    if isinstance(parsed, IPv6Address) and parsed not in _UNICAST_6:
        return False
    return not parsed.is_reserved and not _within(parsed, _SPECIAL)


def is_private(ip: str) -> bool:
    """Whether an IP address is of a private network or of this machine; link-local ones (metadata services) are not."""
    return _within(ip_address(ip), _PRIVATE)


def _within(parsed: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(parsed in network for network in networks if network.version == parsed.version)
