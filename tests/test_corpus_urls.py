"""Fetching pages, over the loopback: off unless asked, with caps on size, redirects and where they lead."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from rlm_dspy.corpus import fetching, read
from rlm_dspy.errors import CorpusError


class Pages(BaseHTTPRequestHandler):
    pages: ClassVar = {
        "/a": ("text/html; charset=utf-8", b"<h1>Tea</h1><script>x()</script><p>3 euros</p>"),
        "/notes.txt": ("text/plain", b"plain notes"),
        "/koi8": ("text/html; charset=koi8-r", "<p>ФИО: ИВ, ТВЕРЬ".encode("koi8-r")),
        "/sjis.txt": ("text/plain; charset=shift_jis", "価格".encode("cp932")),
        "/wide.txt": ("text/plain; charset=utf-16", b"plain"),
        "/f.php?id=2": ("text/html", b"<p>two"),
        "/large": ("text/plain", b"x" * 5000),
    }
    moves: ClassVar = {"/moved": "/a", "/loop": "/loop", "/file": "file:///etc/passwd", "/gopher": "gopher://x/"}

    raw: ClassVar = {
        "/mute": b"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n",
        "/garbage": b"no such\nprotocol " + b"x" * 500 + b"\r\n\r\n",
    }

    def do_GET(self) -> None:
        if self.path in self.raw:
            self.wfile.write(self.raw[self.path])
        elif self.path == "/dripping":
            for letter in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
                time.sleep(0.05)
                self.wfile.write(bytes([letter]))
        elif self.path in self.moves:
            self.send_response(302)
            self.send_header("Location", self.moves[self.path])
            self.end_headers()
        elif self.path in self.pages:
            kind, body = self.pages[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) + (10 if self.path == "/short" else 0)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_page_is_read_as_what_it_is(site):
    corpus = read([f"{site}/a", f"{site}/notes.txt"], urls=True)
    assert corpus["127.0.0.1/a.html"] == "# Tea\n\n3 euros\n"
    assert corpus["127.0.0.1/notes.txt"] == "plain notes"


def test_nothing_is_fetched_unless_asked(site):
    with pytest.raises(CorpusError, match="only if URLs are allowed"):
        read([f"{site}/a"])


def test_a_redirect_is_followed(site):
    assert "3 euros" in read([f"{site}/moved"], urls=True)["127.0.0.1/moved.html"]


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("/loop", "cannot be fetched: 302"),
        ("/file", "cannot be fetched"),
        ("/gopher", "cannot be fetched"),
        ("/none", "404"),
        ("/mute", "cannot be fetched: 500$"),
        ("/garbage", "cannot be fetched: no such"),
    ],
)
def test_what_cannot_be_had_is_one_line(site, page, why):
    with pytest.raises(CorpusError, match=why) as caught:
        read([site + page], urls=True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_seconds_hold_for_the_headers_too(site, monkeypatch):
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.5)
    with pytest.raises(CorpusError, match=r"cannot be fetched: it took more than 0\.5 s"):
        read([f"{site}/dripping"], urls=True)


def test_a_page_beyond_the_limit_is_not_loaded(site):
    with pytest.raises(CorpusError, match=r"larger than 0\.001 MB"):
        read([f"{site}/large"], urls=True, max_file_bytes=1000)


def test_the_open_net_cannot_lead_into_a_private_one(site, monkeypatch):
    seen = iter([False, True])
    monkeypatch.setattr(fetching, "_is_private", lambda host: next(seen))
    with pytest.raises(CorpusError, match="not a public address"):
        read([f"{site}/moved"], urls=True)


def test_private_addresses_are_known():
    assert fetching._is_private("127.0.0.1")
    assert fetching._is_private("169.254.169.254")
    for address in ("2002:7f00:1::", "2002:a9fe:a9fe::", "64:ff9b::10.0.0.1", "::ffff:192.168.0.1"):
        assert fetching._is_private(address), address
    assert not fetching._is_private("64:ff9b::8.8.8.8")
    assert fetching._is_private("::1")
    assert not fetching._is_private("8.8.8.8")


@pytest.mark.parametrize("url", ["http://", "https:///x"])
def test_an_address_without_a_host_is_refused(url):
    with pytest.raises(CorpusError, match="has no host"):
        read([url], urls=True)


def test_a_dead_server_is_one_line():
    with pytest.raises(CorpusError, match=r"cannot be fetched: .*refused"):
        read(["http://127.0.0.1:1/x"], urls=True)


def test_the_charset_of_the_header_is_believed(site):
    corpus = read([f"{site}/koi8", f"{site}/sjis.txt", f"{site}/wide.txt"], urls=True)
    assert [corpus[name].strip() for name in corpus.names] == ["ФИО: ИВ, ТВЕРЬ", "価格", "plain"]
    assert not corpus.problems


def test_a_page_has_its_address(site):
    corpus = read([f"{site}/f.php?id=2"], urls=True)
    assert corpus.path_of(corpus.names[0]) == f"{site}/f.php?id=2"
