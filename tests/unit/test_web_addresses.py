"""How http(s) addresses are spelled, which hosts they may name, and which IP addresses may be connected to."""

from __future__ import annotations

import socket

import pytest

from storage.errors import HostUnavailable, InvalidKey, SourceNotAllowed
from storage.images.public_hosts import connectable_addresses, is_private, is_public
from storage.images.web_address import WebHosts, host_pattern_problem, is_web_address, web_address, without_user

HOSTS = WebHosts(("img.example", "*.cdn.example", "img.example:8443", "[2001:4860::1]"), ("localhost:8000",))


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("HTTP://IMG.Example/A.jpg", "http://img.example/A.jpg"),
        ("https://img.example:443/a.jpg#top", "https://img.example/a.jpg"),
        ("http://img.example:080/a.jpg", "http://img.example/a.jpg"),
        ("https://img.example:80/a.jpg", "https://img.example:80/a.jpg"),
        ("https://img.example", "https://img.example/"),
        ("https://img.example?a=1", "https://img.example/?a=1"),
        ("https://img.example./a", "https://img.example/a"),
        ("https://img.example/a b/café.jpg", "https://img.example/a%20b/caf%C3%A9.jpg"),
        ("https://img.example/caf\udce9.jpg", "https://img.example/caf%E9.jpg"),
        ("https://img.example/100%25.jpg?u=http://x@y/", "https://img.example/100%25.jpg?u=http://x@y/"),
        ("https://[2001:4860::1]:8443/a", "https://[2001:4860::1]:8443/a"),
        ("https://img.example//a/../b", "https://img.example//a/../b"),
    ],
)
def test_each_address_is_spelled_in_one_way(text, spelled):
    assert str(web_address(text)) == spelled
    assert str(web_address(spelled)) == spelled
    assert web_address(text).name == spelled.partition("://")[2]


@pytest.mark.parametrize(
    "text",
    [
        "https://",
        "https:///a.jpg",
        "https://img.example:0/a",
        "https://img.example:65536/a",
        "https://img.example:8a/a",
        "https://img..example/a",
        "https://bücher.example/a",
        "https://img.example\\@evil.example/a",
        "https://img.example/a\r\nHost: evil",
        "https://img.example/a\0",
        "https://img .example/a",
        "https://[fe80::1%25eth0]/a",
        "https://img.example/" + "x" * 5000,
        "ftp://img.example/a",
        "https:/img.example/a",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(InvalidKey):
        web_address(text)


@pytest.mark.parametrize("text", ["https://me:s3cret@img.example/a", "http://s3cret@img.example", "HTTPS://s3cret@@x/"])
def test_a_user_name_or_password_is_refused_and_not_repeated(text):
    with pytest.raises(InvalidKey, match="user name or password") as refused:
        web_address(text)
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in without_user(text)


def test_what_begins_like_an_address_is_one():
    assert [is_web_address(text) for text in ("http://x", "HttpS://x", "https:", "file:///x", "x/http://y", 7)] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("http://img.example/a", True),
        ("https://img.example/a", True),
        ("https://img.example:8443/a", True),
        ("https://img.example:8444/a", False),
        ("http://img.example:443/a", False),  # neither http's port nor a listed one
        ("https://sub.img.example/a", False),
        ("https://a.cdn.example/a", True),
        ("https://a.b.cdn.example/a", True),
        ("https://cdn.example/a", False),
        ("https://evilcdn.example/a", False),
        ("https://a.cdn.example.evil/a", False),
        ("https://a.cdn.example:8443/a", False),
        ("https://[2001:4860::1]/a", True),
        ("https://[2001:4860::2]/a", False),
        ("http://localhost:8000/a", True),
        ("http://localhost/a", False),
        ("http://localhost:8001/a", False),
    ],
)
def test_only_listed_hosts_and_ports_may_be_named(text, allowed):
    if allowed:
        HOSTS.check(web_address(text))
        return
    with pytest.raises(SourceNotAllowed, match="url_hosts"):
        HOSTS.check(web_address(text))


def test_without_a_list_no_host_may_be_named():
    with pytest.raises(SourceNotAllowed, match="setting `url_hosts`"):
        WebHosts().check(web_address("https://img.example/a"))


@pytest.mark.parametrize(
    ("pattern", "public", "private"),
    [
        ("img.example", True, False),
        ("*.img.example:8443", True, False),
        ("[::1]:80", True, True),
        ("127.0.0.1:8000", True, True),
        ("*", False, False),
        ("*.*.example", False, False),
        ("img.*", False, False),
        ("*:80", False, False),
        ("IMG.example", False, False),
        ("https://img.example", False, False),
        ("img.example/a", False, False),
        ("", False, False),
    ],
)
def test_an_entry_that_would_allow_nothing_or_everything_is_none(pattern, public, private):
    assert (host_pattern_problem(pattern, private=False) is None) == public
    assert (host_pattern_problem(pattern, private=True) is None) == private


NOT_PUBLIC = (
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9"),  # noqa: S104
    *(
        "169.254.169.254",
        "172.16.0.1",
        "172.31.9.9",
        "192.0.0.1",
        "192.0.0.9",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
    ),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
    *("64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::"),
    *("2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
    "ff0e::1",
)


@pytest.mark.parametrize("ip", NOT_PUBLIC)
def test_what_is_no_address_of_the_public_internet_is_refused(ip):
    assert not is_public(ip)
    address = web_address("https://img.example/a")
    with pytest.raises(SourceNotAllowed, match="not on the public internet"):
        connectable_addresses(address, HOSTS, lambda _host, _port: [ip])


@pytest.mark.parametrize(
    "ip", ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_public_addresses_may_be_connected_to(ip):
    assert is_public(ip)
    assert not is_private(ip)


def test_a_private_address_needs_its_host_and_port_in_the_list_for_tests():
    resolved = {
        "localhost": ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "ff02::1"],  # noqa: S104
        "img.example": ["10.0.0.1", "8.8.8.8"],
    }
    found = connectable_addresses(web_address("http://localhost:8000/"), HOSTS, lambda host, _port: resolved[host])
    assert list(found) == ["127.0.0.1", "::1"]
    found = connectable_addresses(web_address("http://img.example/"), HOSTS, lambda host, _port: resolved[host])
    assert list(found) == ["8.8.8.8"], "of several addresses only the public ones are connected to"


def test_a_name_that_cannot_be_resolved_may_be_tried_again():
    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(HostUnavailable, match="cannot be resolved"):
        connectable_addresses(web_address("http://img.example/"), HOSTS, unknown)


@pytest.mark.parametrize("spelled", ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "localhost"])
def test_odd_spellings_of_this_machine_are_resolved_and_refused(spelled):
    """Whatever the system's resolver makes of them is looked at, not their text."""
    with pytest.raises((SourceNotAllowed, HostUnavailable)):
        connectable_addresses(web_address(f"http://{spelled}/a"), WebHosts((spelled,)))
