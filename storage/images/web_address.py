"""Owns how http(s) addresses of pictures are spelled, and which hosts they may name. Resolves and fetches nothing.

Spelled is each in one way only, so that addresses can be compared as text: host in lower case, no default port,
no fragment, everything but ASCII percent-encoded. User names and passwords are refused, and never repeated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from storage.errors import InvalidKey, SourceNotAllowed

MAX_ADDRESS_CHARACTERS = 4096  # servers take 8 KiB for a request's first line at most; half of it is for encoding

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ADDRESS = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_NAME = r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*"
_AUTHORITY = re.compile(rf"(?:({_NAME})\.?|\[([0-9a-f:.]+)\])(?::([0-9]{{1,5}}))?")
_PATTERN = re.compile(rf"(?:(?:\*\.)?{_NAME}|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_EXACT = re.compile(rf"(?:{_NAME}|\[[0-9a-f:.]+\]):[0-9]{{1,5}}")
_USER = re.compile(r"\A(\s*\w+://)[^/?#]*@")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_KEPT = "/%:@!$&'()*+,;=~-._?"  # RFC 3986: what stands in a path or query as it is
_PORTS = 65_536


@dataclass(frozen=True)
class WebAddress:
    """One address, taken apart; `target` is path and query as they are sent. IPv6 hosts have no brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def has_default_port(self) -> bool:
        """Whether the port is that of the scheme."""
        return self.port == _DEFAULT_PORTS[self.scheme]

    @property
    def site(self) -> str:
        """The host, with the port unless it is that of the scheme."""
        return self.host_in_brackets if self.has_default_port else self.host_and_port

    @property
    def host_and_port(self) -> str:
        """The host with its port in any case."""
        return f"{self.host_in_brackets}:{self.port}"

    @property
    def host_in_brackets(self) -> str:
        """The host as it is spelled in an address."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def name(self) -> str:
        """The address without its scheme: what the picture's id is made of."""
        return self.site + self.target

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}"


@dataclass(frozen=True)
class WebHosts:
    """The hosts that may be named; none unless listed.

    `public`: `images.example.com`, or `*.example.com` for every name below it; with `:port` for another port than the
    scheme's own. `private`: exactly `host:port`, which may also be in a private network or on this machine.
    """

    public: tuple[str, ...] = ()
    private: tuple[str, ...] = ()

    def check(self, address: WebAddress) -> None:
        """Raise SourceNotAllowed unless its host and port are listed."""
        if not (self.public or self.private):
            raise SourceNotAllowed(f"{address}: pictures are not fetched from http(s) addresses (setting `url_hosts`)")
        if not self.may_be_private(address) and not any(_covers(pattern, address) for pattern in self.public):
            raise SourceNotAllowed(f"{address}: {address.site} is none of the hosts that `url_hosts` lists")

    def may_be_private(self, address: WebAddress) -> bool:
        """Whether this host and port were listed as private ones."""
        return address.host_and_port in self.private


NO_HOSTS = WebHosts()


def is_web_address(text: object) -> bool:
    """Whether a text begins as an http(s) address does."""
    return isinstance(text, str) and text.partition("://")[0].lower() in _DEFAULT_PORTS and "://" in text


def web_address(text: str) -> WebAddress:
    """Take an http(s) address apart. Raises InvalidKey when it is none, or holds a user name or password."""
    shown = without_user(text)
    if shown != text:
        raise InvalidKey(f"{shown}: an address with a user name or password is not taken")
    found = _ADDRESS.fullmatch(text)
    if found is None or len(text) > MAX_ADDRESS_CHARACTERS or _FORBIDDEN.search(text):
        raise InvalidKey(
            f"{shown[:200]!r} is no http(s) address: at most {MAX_ADDRESS_CHARACTERS} characters, no backslash, "
            "no control characters"
        )
    scheme, authority, path, query = found[1].lower(), found[2].lower(), found[3] or "/", found[4] or ""
    host = _AUTHORITY.fullmatch(authority)
    port = int(host[3] or _DEFAULT_PORTS[scheme]) if host else 0
    if host is None or not 0 < port < _PORTS:
        raise InvalidKey(f"{shown[:200]!r}: '{authority}' is no host; names are written in ASCII (xn--…)")
    return WebAddress(scheme, host[1] or host[2], port, _encoded(path + query))


def without_user(text: str) -> str:
    """The text for messages and records: what stands before the `@` of an address is left out."""
    return _USER.sub(r"\1…@", text)


def host_pattern_problem(pattern: str, *, private: bool) -> str | None:
    """Say what keeps a text from being an entry of `WebHosts`; None when nothing does."""
    if not (_EXACT if private else _PATTERN).fullmatch(pattern):
        wanted = "host:port" if private else "images.example.com, *.example.com or images.example.com:8443"
        return f"'{pattern}' is no host here: give {wanted}, in lower case"
    return None


def _covers(pattern: str, address: WebAddress) -> bool:
    host, colon, port = pattern.rpartition(":")
    if not colon or pattern.endswith("]"):
        host, port = pattern, ""
    if not (address.has_default_port if not port else address.port == int(port)):
        return False
    if host.startswith("*."):
        return address.host.endswith(host[1:])
    return address.host_in_brackets == host


def _encoded(target: str) -> str:
    """Percent-encode what may not be sent as it stands; what is encoded already stays so."""
    return quote(target, safe=_KEPT, encoding="utf-8", errors="surrogateescape")
