"""Fetching from a real HTTP server on loopback: redirects, sizes, lengths, times, refusals, TLS, changed names."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Sequence
from contextlib import closing

import pytest
from certificates import make_certificate
from pictures import jpeg
from servers import wait_for
from web_server import WebServer, drips

from storage.errors import (
    HostUnavailable,
    ImageNotFound,
    ImageTooLarge,
    SourceNotAllowed,
    StorageDenied,
    StorageError,
)
from storage.images.allowed_sources import AllowedSources
from storage.images.checked_connection import Patience
from storage.images.locate import ImageReader
from storage.images.web import MOST_REDIRECTS, WebImages
from storage.images.web_address import WebHosts

PICTURE = jpeg(1)
SHORT = Patience(connect_seconds=5, silence_seconds=5, total_seconds=1.5, attempts=1, pause_seconds=0.01)
HASTY = Patience(attempts=3, pause_seconds=0.01)


def images(server: WebServer, patience: Patience = HASTY, max_bytes: int = 1_000_000) -> WebImages:
    return WebImages(WebHosts(private=(server.host_and_port,)), max_bytes, patience=patience)


def test_a_picture_is_fetched_and_described(web_server):
    url = web_server.serve("/a.jpg", PICTURE, ETag='"v1"', Last_Modified="Sat, 28 Nov 2026 07:00:00 GMT")
    web = images(web_server)
    assert web.get(url) == PICTURE
    stored = web.stat(url)
    assert (stored.key, stored.uri, stored.etag, stored.size_bytes) == (url, url, "v1", len(PICTURE))
    assert stored.modified_at == 1795849200.0
    assert web_server.asked == [("GET", "/a.jpg"), ("HEAD", "/a.jpg")]
    told = web_server.headers_seen[0]
    assert (told["Host"], told["Accept-Encoding"]) == (web_server.host_and_port, "identity")
    assert not {"Cookie", "Authorization", "Referer"} & told.keys()


def test_the_etag_is_the_time_of_change_where_there_is_none_and_else_new_each_time(web_server):
    changed = web_server.serve("/changed.jpg", PICTURE, Last_Modified="Sat, 28 Nov 2026 07:00:00 GMT")
    nothing = web_server.serve("/nothing.jpg", PICTURE)
    odd = web_server.serve("/odd.jpg", PICTURE, ETag='"' + "x" * 5000 + '"')
    web = images(web_server)
    assert web.stat(changed).etag == web.stat(changed).etag == f"Sat, 28 Nov 2026 07:00:00 GMT {len(PICTURE)}"
    assert web.stat(nothing).etag != web.stat(nothing).etag
    assert len(web.stat(odd).etag) == 64


def test_a_server_that_refuses_head_is_asked_with_get(web_server):
    def answer(handler):
        handler.reply(405 if handler.command == "HEAD" else 200, PICTURE, {"ETag": '"v2"'})

    web_server.answers["/a.jpg"] = answer
    assert images(web_server).stat(web_server.url("/a.jpg")).etag == "v2"


def redirects(server: WebServer, path: str, target: str, status: int = 302) -> str:
    server.answers[path] = lambda handler: handler.reply(status, b"", {"Location": target})
    return server.url(path)


def test_a_redirect_to_an_allowed_host_is_followed(web_server):
    web_server.serve("/caf%C3%A9%20a.jpg", PICTURE)
    for status, target in ((301, "/2"), (308, "//" + web_server.host_and_port + "/caf%C3%A9 a.jpg")):
        redirects(web_server, f"/{1 if status == 301 else 2}", target, status)
    assert images(web_server).get(web_server.url("/1")) == PICTURE


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:1/a.jpg",
        "http://localhost:{port}/a.jpg",
        "http://[::ffff:127.0.0.1]:{port}/a.jpg",
        "https://example.com/a.jpg",
        "file:///etc/passwd",
        "ftp://{host}/a.jpg",
        "http://user:password@{host}/a.jpg",
        "//evil.example/a.jpg",
        "http://[broken/",
    ],
)
def test_a_redirect_elsewhere_is_refused_before_it_is_followed(web_server, target):
    target = target.format(port=web_server.port, host=web_server.host_and_port)
    url = redirects(web_server, "/a.jpg", target)
    with pytest.raises(SourceNotAllowed):
        images(web_server).get(url)
    assert len(web_server.asked) == 1, "a refusal is final"


def test_a_public_host_that_redirects_to_this_machine_is_refused(web_server):
    """The target's host is listed, its address is not public."""
    url = redirects(web_server, "/a.jpg", f"http://localhost:{web_server.port}/secret")
    hosts = WebHosts((f"localhost:{web_server.port}",), (web_server.host_and_port,))
    with pytest.raises(SourceNotAllowed, match="not on the public internet"):
        WebImages(hosts).get(url)
    assert [path for _method, path in web_server.asked] == ["/a.jpg"]


def test_redirects_end(web_server):
    loop = redirects(web_server, "/loop", "/loop")
    with pytest.raises(StorageError, match=f"more than {MOST_REDIRECTS} times"):
        images(web_server).get(loop)
    assert len(web_server.asked) == MOST_REDIRECTS + 1
    nowhere = redirects(web_server, "/nowhere", "")
    with pytest.raises(StorageError, match="does not say where"):
        images(web_server).get(nowhere)


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [
        (404, ImageNotFound, 1),
        (410, ImageNotFound, 1),
        (401, StorageDenied, 1),
        (403, StorageDenied, 1),
        (418, StorageError, 1),
        (304, StorageError, 1),
        (206, StorageError, 1),
        (204, StorageError, 1),
        (429, HostUnavailable, 3),
        (500, HostUnavailable, 3),
        (503, HostUnavailable, 3),
    ],
)
def test_each_answer_has_its_error_and_only_what_may_pass_is_tried_again(web_server, status, error, tries):
    web_server.answers["/a.jpg"] = lambda handler: handler.reply(status, b"<html>")
    with pytest.raises(StorageError, match=f"answered {status}") as raised:
        images(web_server).get(web_server.url("/a.jpg"))
    assert type(raised.value) is error
    assert len(web_server.asked) == tries


def test_an_error_that_passes_is_no_failure(web_server):
    web_server.answers["/a.jpg"] = lambda handler: handler.reply(
        500 if len(web_server.asked) == 1 else 200, PICTURE if len(web_server.asked) > 1 else b""
    )
    assert images(web_server).get(web_server.url("/a.jpg")) == PICTURE


def test_a_host_that_keeps_failing_is_left_alone_for_a_while(web_server):
    web_server.answers["/a.jpg"] = lambda handler: handler.reply(503)
    web = images(web_server, Patience(attempts=1))
    for _ in range(5):
        with pytest.raises(HostUnavailable, match="answered 503"):
            web.get(web_server.url("/a.jpg"))
    with pytest.raises(HostUnavailable, match="in a row"):
        web.get(web_server.url("/b.jpg"))
    assert len(web_server.asked) == 5


def test_a_host_that_answers_now_and_then_is_not_left_alone(web_server):
    web_server.answers["/bad"] = lambda handler: handler.reply(503)
    good = web_server.serve("/good", PICTURE)
    web = images(web_server, Patience(attempts=1))
    for number in range(8):
        with pytest.raises(HostUnavailable, match="answered 503"):
            web.get(web_server.url("/bad"))
        if number % 3 == 2:
            assert web.get(good) == PICTURE


def test_the_cap_on_bytes_holds_whatever_the_server_claims(web_server):
    exact = web_server.serve("/exact", b"x" * 1000)
    claimed = web_server.serve("/claimed", b"x", Content_Length="5000000")
    web_server.answers["/endless"] = drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 100, 0)
    web_server.answers["/chunked"] = drips(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"64\r\n" + b"x" * 100 + b"\r\n", 0
    )
    web = images(web_server, max_bytes=1000)
    assert len(web.get(exact)) == 1000
    for url in (claimed, web_server.url("/endless"), web_server.url("/chunked")):
        with pytest.raises(ImageTooLarge):
            web.get(url)
    with pytest.raises(ImageTooLarge):
        images(web_server, max_bytes=999).get(exact)


def test_a_length_that_is_a_lie_gives_no_half_picture(web_server):
    def answer(handler):
        handler.reply(200, PICTURE[:100], {"Content-Length": str(len(PICTURE))})
        handler.close_connection = True

    web_server.answers["/short"] = answer
    with pytest.raises(HostUnavailable, match=f"ended after 100 of {len(PICTURE):,}"):
        images(web_server).get(web_server.url("/short"))
    web_server.answers["/cut"] = lambda handler: handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc"
    )
    with pytest.raises(HostUnavailable, match="IncompleteRead"):
        images(web_server).get(web_server.url("/cut"))
    more = web_server.serve("/more", PICTURE + b"more", Content_Length=str(len(PICTURE)))
    assert images(web_server).get(more) == PICTURE, "what comes after the length is not read"


def test_a_compressed_answer_is_not_unfolded(web_server):
    bomb = web_server.serve("/bomb", gzip.compress(b"\0" * 50_000_000), Content_Encoding="gzip")
    with pytest.raises(StorageError, match="compressed"):
        images(web_server).get(bomb)
    assert images(web_server).get(web_server.serve("/plain", PICTURE, Content_Encoding="identity")) == PICTURE


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"), id="body"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), id="body-without-length"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"), id="header"),
        pytest.param(drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="continue"),
        pytest.param(lambda handler: handler.server.stopped.wait(), id="silence"),
    ],
)
def test_a_server_that_never_ends_is_left(web_server, answer):
    """Each single byte comes in time; the whole does not."""
    web_server.answers["/slow"] = answer
    with pytest.raises(HostUnavailable, match=r"more than 1.5 s"):
        images(web_server, SHORT).get(web_server.url("/slow"))


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-H: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"",
    ],
    ids=["ssh", "no-status", "many-headers", "long-header", "no-chunk", "nothing"],
)
def test_what_is_no_http_is_the_servers_failure(web_server, data):
    def answer(handler):
        handler.wfile.write(data)
        handler.close_connection = True

    web_server.answers["/a.jpg"] = answer
    with pytest.raises(HostUnavailable, match="did not answer properly"):
        images(web_server, Patience(attempts=1)).get(web_server.url("/a.jpg"))


def test_nobody_at_the_port_is_the_servers_failure():
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    web = WebImages(WebHosts(private=(f"127.0.0.1:{port}",)), patience=HASTY)
    with pytest.raises(HostUnavailable, match="did not answer properly"):
        web.get(f"http://127.0.0.1:{port}/a.jpg")


def test_a_name_that_leads_to_this_machine_is_refused(web_server):
    """The system's own resolver says where `localhost` is."""
    url = web_server.serve("/a.jpg", PICTURE).replace("127.0.0.1", "localhost")
    with pytest.raises(SourceNotAllowed, match="not on the public internet"):
        WebImages(WebHosts((f"localhost:{web_server.port}",))).get(url)
    assert not web_server.asked
    assert WebImages(WebHosts(private=(f"localhost:{web_server.port}",))).get(url) == PICTURE
    assert web_server.headers_seen[0]["Host"] == f"localhost:{web_server.port}"


def test_a_name_that_changes_between_check_and_connection_gains_nothing(web_server):
    """DNS rebinding: the name is asked for once, and nobody listens at its first address."""
    asked: list[str] = []

    def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

    pinned = f"rebound.example:{web_server.port}"
    web = WebImages(
        WebHosts(private=(pinned,)),
        resolve=resolve,
        patience=Patience(attempts=1),
    )
    with pytest.raises(HostUnavailable):
        web.get(f"http://{pinned}/a.jpg")
    assert asked == ["rebound.example"]
    assert not web_server.asked


def test_the_connection_goes_to_the_address_that_was_checked_and_the_name_stays(web_server):
    web_server.serve("/a.jpg", PICTURE)
    pinned = f"named.example:{web_server.port}"
    web = WebImages(WebHosts(private=(pinned,)), resolve=lambda _host, _port: ["127.0.0.1"])
    assert web.get(f"http://{pinned}/a.jpg") == PICTURE
    assert web_server.headers_seen[0]["Host"] == pinned


def test_the_environments_proxy_is_not_asked(web_server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert images(web_server).get(web_server.serve("/a.jpg", PICTURE)) == PICTURE


def test_tls_is_checked_against_the_name_though_the_connection_is_to_an_address(tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path, "pictures.example")
    server = WebServer(tls=certificate.server_context())
    try:
        server.serve("/a.jpg", PICTURE)
        good, other = f"pictures.example:{server.port}", f"other.example:{server.port}"

        def web() -> WebImages:
            hosts = WebHosts(private=(good, other))
            return WebImages(hosts, resolve=lambda _host, _port: ["127.0.0.1"], patience=HASTY)

        with pytest.raises(HostUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            web().get(f"https://{good}/a.jpg")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
        assert web().get(f"https://{good}/a.jpg") == PICTURE
        with pytest.raises(HostUnavailable, match="Hostname mismatch"):
            web().get(f"https://{other}/a.jpg")
        redirects(server, "/down", f"http://{good}/a.jpg")
        with pytest.raises(SourceNotAllowed, match="from https to http"):
            web().get(f"https://{good}/down")
        server.answers["/slow"] = drips(b"HTTP/1.1 200 OK\r\n\r\n", b"x")
        slow = WebImages(WebHosts(private=(good,)), resolve=lambda _host, _port: ["127.0.0.1"], patience=SHORT)
        with pytest.raises(HostUnavailable, match=r"more than 1.5 s"):
            slow.get(f"https://{good}/slow")
    finally:
        server.close()


def test_a_server_that_never_shakes_hands_is_left():
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        web = WebImages(WebHosts(private=(f"127.0.0.1:{port}",)), patience=SHORT)
        with pytest.raises(HostUnavailable, match=r"more than 1.5 s"):
            web.get(f"https://127.0.0.1:{port}/a.jpg")


def test_threads_may_share_it_and_leave_nothing_open(web_server):
    url = web_server.serve("/a.jpg", PICTURE)
    web = images(web_server)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(web.get(url))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [PICTURE] * 16
    wait_for(lambda: not any(isinstance(one, threading.Timer) for one in threading.enumerate()), what="timers to end")


def test_the_reader_of_recorded_addresses_reads_listed_hosts_alone(web_server):
    url = web_server.serve("/a.jpg", PICTURE)
    with pytest.raises(SourceNotAllowed, match="setting `url_hosts`"):
        ImageReader().read(url)
    allowed = AllowedSources(("/nowhere",), WebHosts(private=(web_server.host_and_port,)))
    assert ImageReader(allowed=allowed).read(url) == PICTURE
    assert ImageReader(allowed=allowed).stat(url).size_bytes == len(PICTURE)
