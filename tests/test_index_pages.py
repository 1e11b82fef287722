"""Folders that a web page lists: links below it are fetched by our own client, within limits."""

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy.corpus import fetching, index_pages, object_reading, read
from rlm_dspy.corpus.index_pages import listed_pages
from rlm_dspy.errors import CorpusError
from rlm_dspy.report.json_output import shown_name

Serve = Callable[[Any], str]

APACHE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html><head><title>Index of /docs</title></head><body>
<h1>Index of /docs</h1><table><tr><th><a href="?C=N;O=D">Name</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td></tr><tr><td><a href="a%20b.txt">a b.txt</a></td></tr>
<tr><td><a href="sub/">sub/</a></td></tr></table></body></html>"""
NGINX = """<html><head><title>Index of /docs/</title></head><body><h1>Index of /docs/</h1><hr><pre><a href="../">../</a>
<a href="a%20b.txt">a b.txt</a>  27-Nov-2026 14:00  5
<a href="sub/">sub/</a></pre></body></html>"""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(handler: Any) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def pages_server(pages: dict[str, str]) -> type[BaseHTTPRequestHandler]:
    """Return a handler that answers with these pages by path; other paths are not found."""

    class Pages(BaseHTTPRequestHandler):
        asked: list[str]

        def do_GET(self) -> None:
            self.asked.append(self.path)
            if self.path not in pages:
                self.send_error(404)
                return
            body = pages[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    Pages.asked = []
    return Pages


def index_of(*targets: str) -> str:
    links = "".join(f'<a href="{target}">x</a>' for target in targets)
    return f"<html><head><title>Index of /</title></head><body>{links}</body></html>"


def test_a_listed_folder_is_read_by_the_rules_of_a_folder(serve: Serve, tmp_path: Path) -> None:
    tree = {"a.md": "tea", "sub/deep/b c.txt": "milk", ".env": "K=1", ".gitignore": "*.tmp", "x.tmp": "x", "s/.h": "x"}
    for name, text in tree.items():
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(text)
    (tmp_path / "beside.md").write_text("beside")
    site = serve(functools.partial(Files, directory=str(tmp_path)))
    corpus = read(f"{site}/docs/", urls=True)
    assert dict(corpus.items()) == {"a.md": "tea", "sub/deep/b c.txt": "milk"}
    assert {one.name: one.reason for one in corpus.skipped} == {
        ".env": "looks like a secret", ".gitignore": "hidden", "x.tmp": "ignored by .gitignore", "s/.h": "hidden",
    }  # fmt: skip
    assert shown_name(corpus, "sub/deep/b c.txt") == f"{site}/docs/sub/deep/b%20c.txt"
    assert read(f"{site}/docs/", urls=True, include=["*.txt"]).names == ("sub/deep/b c.txt",)
    with pytest.raises(CorpusError, match="only if URLs are allowed"):
        read(f"{site}/docs/")


@pytest.mark.parametrize("page", [APACHE, NGINX])
def test_the_lists_of_apache_and_nginx_are_understood(serve: Serve, page: str) -> None:
    handler = pages_server({"/docs/": page, "/docs/a%20b.txt": "hello", "/docs/sub/": index_of("c.md"),
                            "/docs/sub/c.md": "# c"})  # fmt: skip
    corpus = read(f"{serve(handler)}/docs/", urls=True)
    assert dict(corpus.items()) == {"a b.txt": "hello", "sub/c.md": "# c"}


def test_a_page_that_lists_nothing_is_a_page(serve: Serve) -> None:
    handler = pages_server({"/docs/": "<title>Our docs</title><p>tea</p><a href='a.txt'>a</a>", "/docs/a.txt": "x"})
    (name,) = read(f"{serve(handler)}/docs/", urls=True).names
    assert name.endswith("docs.html")
    assert handler.asked == ["/docs/"]  # type: ignore[attr-defined]


def test_links_that_lead_elsewhere_are_not_followed(serve: Serve) -> None:
    outside = pages_server({"/docs/": "x"})
    elsewhere = serve(outside)
    links = ["../up.txt", "/etc/passwd", f"{elsewhere}/docs/", "file:///etc/passwd", "//evil.example/x", "a.txt?x=1",
             "..%2f..%2fup.txt", "http://[bad", "javascript:x()", "good.txt", "good.txt#part"]  # fmt: skip
    handler = pages_server({"/docs/": index_of(*links), "/docs/good.txt": "good"})
    corpus = read(f"{serve(handler)}/docs/", urls=True)
    assert dict(corpus.items()) == {"good.txt": "good"}
    assert [one.name for one in corpus.skipped] == ["../../up.txt"]
    assert outside.asked == []  # type: ignore[attr-defined]
    assert sorted(handler.asked) == ["/docs/", "/docs/good.txt"]  # type: ignore[attr-defined]


def test_what_cannot_be_fetched_is_told(serve: Serve) -> None:
    handler = pages_server({"/d/": index_of("gone.txt", "closed/", "good.txt", "page/"), "/d/good.txt": "good",
                            "/d/page/": "<title>A page</title><p>text</p>"})  # fmt: skip
    corpus = read(f"{serve(handler)}/d/", urls=True)
    assert corpus.names == ("good.txt", "page/index.html")
    told = {one.name: one.reason for one in corpus.skipped}
    assert told["gone.txt"] == "it cannot be fetched: 404 Not Found"
    assert told["closed/"] == "its list cannot be fetched: 404 Not Found"


def test_endless_folders_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = index_of("a/", "b.txt").encode() if self.path.endswith("/") else b"text"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setattr(index_pages, "MAX_PAGES", 10)
    site = serve(Endless)
    corpus = read(f"{site}/", urls=True)
    assert len(corpus) == 10
    (problem,) = corpus.problems
    assert "only 10 lists of folders were fetched" in problem.reason
    monkeypatch.setattr(object_reading, "LISTING_SECONDS", 0.0)
    (problem,) = read(f"{site}/", urls=True).problems
    assert "only 1 object listed in 0 s" in problem.reason


def test_a_link_is_redirected_only_where_a_page_may_be(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/d/":
                body = index_of("moved.txt").encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setattr(fetching, "_is_private", lambda host: host != "127.0.0.1")
    with pytest.raises(CorpusError, match=r"redirects to 169\.254\.169\.254, which is not a public address"):
        read(f"{serve(Redirecting)}/d/", urls=True)


def test_a_list_that_cannot_be_read_in_time_ends() -> None:
    pages = listed_pages("http://127.0.0.1:1/d/", index_of("sub/").encode(), 0.0)
    assert next(pages) == []
    with pytest.raises(TimeoutError):
        next(pages)


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(CorpusError, match="credentials do not belong in a URL") as caught:
        read("http://ada:hunter2@127.0.0.1:1/d/", urls=True)
    assert "hunter2" not in str(caught.value)
