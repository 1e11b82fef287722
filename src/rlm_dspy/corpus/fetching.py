"""Fetch web pages: one request at a time, with limits on size, time and redirects. A redirect never enters a private
network that the user did not name."""

from __future__ import annotations

import ipaddress
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from rlm_dspy.corpus.background import call_within
from rlm_dspy.errors import CorpusError

FETCH_SECONDS = 30.0
MAX_REDIRECTS = 5

_LATE = "it took more than {:,.3g} s"

_ENDINGS = {
    "text/html": "html", "application/xhtml+xml": "html", "application/pdf": "pdf", "application/json": "json",
    "text/csv": "csv", "text/markdown": "md", "message/rfc822": "eml",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A fetched page, with a name that shows its origin and its kind, and the charset of its header."""

    name: str
    data: bytes
    charset: str | None = None


def is_url(path: str) -> bool:
    """Return whether a path is a URL."""
    return path.lower().startswith(("https://", "http://"))


def fetch_page(url: str, most: int) -> Page:
    """Fetch a page.

    Raises:
        CorpusError: It cannot be fetched, is larger than ``most`` bytes, or redirects to a forbidden address.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise CorpusError(f"{url[:200]} is not a valid URL: it has no host")
    shown = f"{parts.scheme}://{parts.hostname}{parts.path}"[:200]
    if "@" in parts.netloc:
        raise CorpusError(f"{shown} is not fetched: credentials do not belong in a URL")
    page = page_or_reason(url, most)
    if isinstance(page, str):
        raise CorpusError(f"{shown} cannot be fetched: {page}")
    return page


def page_or_reason(url: str, most: int) -> Page | str:
    """Return a page of at most this many bytes, or why it could not be fetched."""
    try:  # name resolution and slow headers have no overall timeout
        page = call_within(FETCH_SECONDS, lambda: _fetch_now(url, most))
    except TimeoutError:
        page = _LATE.format(FETCH_SECONDS)
    if isinstance(page, str):
        return " ".join(page.split())[:200]
    return page


def _fetch_now(url: str, most: int) -> Page | str:
    """Return the page, or why it could not be fetched."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    opener = urllib.request.build_opener(_Redirects(_is_private(host)))
    request = urllib.request.Request(url, headers={"User-Agent": "rlm-dspy", "Accept-Encoding": "identity"})
    try:
        with opener.open(request, timeout=FETCH_SECONDS) as answer:
            data = _read_body(answer, most)
            name = _page_name(host, parts.path, answer.headers.get_content_type())
            return Page(name, data, answer.headers.get_content_charset())
    except urllib.error.HTTPError as error:
        error.close()
        return f"{error.code} {error.reason}".partition("\n")[0]
    except (urllib.error.URLError, OSError, HTTPException, ValueError) as error:
        return str(getattr(error, "reason", error))


def _read_body(answer: Any, most: int) -> bytes:
    deadline = time.monotonic() + FETCH_SECONDS
    pieces, size = [], 0
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise ValueError(f"it is larger than {most / 1e6:,.6g} MB")
        if time.monotonic() > deadline:
            raise TimeoutError(_LATE.format(FETCH_SECONDS))
    return b"".join(pieces)


def _page_name(host: str, path: str, kind: str) -> str:
    name = f"{host}{unquote(path)}".rstrip("/")
    ending = _ENDINGS.get(kind)
    last = name.rpartition("/")[2] if "/" in name else ""
    if ending and not last.lower().endswith("." + ending):
        return f"{name}.{ending}"
    return name


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects, over HTTP(S) only, and never from the public internet into a private network."""

    max_redirections = MAX_REDIRECTS

    def __init__(self, private: bool) -> None:
        self._private = private

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        parts = urlsplit(newurl)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise urllib.error.URLError(f"it redirects to {newurl[:100]}")
        if urlsplit(req.full_url).scheme == "https" and parts.scheme == "http":
            raise urllib.error.URLError("it redirects from https to http")
        if not self._private and _is_private(parts.hostname):
            raise urllib.error.URLError(f"it redirects to {parts.hostname}, which is not a public address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_private(host: str) -> bool:
    """Return whether a host is this machine or in a private network; one that does not resolve is not."""
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not _is_public(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])) for entry in addresses)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is public, and so is any IPv4 address embedded in it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.is_global and (inner is None or inner.is_global)
