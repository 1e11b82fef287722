"""Pages from the web: one request at a time, with caps on size, time and redirects, and never into a private network
that the user did not name."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

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
    """What a URL gave, under a name that tells where it is from and of which kind."""

    name: str
    data: bytes


def is_url(path: str) -> bool:
    """Tell whether a path is the address of a page."""
    return path.lower().startswith(("https://", "http://"))


def fetch_page(url: str, most: int) -> Page:
    """Fetch a page.

    Raises:
        CorpusError: it cannot be had, is larger than ``most`` bytes, or leads where it should not.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise CorpusError(f"{url[:200]} is no address: it names no host")
    shown = f"{parts.scheme}://{parts.hostname}{parts.path}"[:200]
    done: queue.SimpleQueue[Page | str] = queue.SimpleQueue()
    # On a thread of its own, for looking a name up and headers that drip in know no limit in all.
    threading.Thread(target=lambda: done.put(_page_or_reason(url, parts, most)), daemon=True).start()
    try:
        page = done.get(timeout=FETCH_SECONDS)
    except queue.Empty:
        page = _LATE.format(FETCH_SECONDS)
    if isinstance(page, str):
        raise CorpusError(f"{shown} cannot be fetched: {' '.join(page.split())[:200]}")
    return page


def _page_or_reason(url: str, parts: SplitResult, most: int) -> Page | str:
    """Fetch a page, or say why not."""
    host = parts.hostname or ""
    opener = urllib.request.build_opener(_Redirects(_is_private(host)))
    request = urllib.request.Request(url, headers={"User-Agent": "rlm-dspy", "Accept-Encoding": "identity"})
    try:
        with opener.open(request, timeout=FETCH_SECONDS) as answer:
            data = _read_body(answer, most)
            return Page(_page_name(host, parts.path, answer.headers.get_content_type()), data)
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
    return f"{name}.{ending}" if ending and not last.lower().endswith("." + ending) else name


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, over HTTP only, and not from the open net into a private one."""

    max_redirections = MAX_REDIRECTS

    def __init__(self, private: bool) -> None:
        self._private = private

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        parts = urlsplit(newurl)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise urllib.error.URLError(f"it leads to {newurl[:100]}")
        if urlsplit(req.full_url).scheme == "https" and parts.scheme == "http":
            raise urllib.error.URLError("it leads from https to http")
        if not self._private and _is_private(parts.hostname):
            raise urllib.error.URLError(f"it leads to {parts.hostname}, which is not on the open net")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_private(host: str) -> bool:
    """Tell whether a host is this machine or one of a private network; what has no address is not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not _is_open(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])) for entry in found)


def _is_open(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an address is of the open net, and so is the IPv4 address that it may stand for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.is_global and (inner is None or inner.is_global)
