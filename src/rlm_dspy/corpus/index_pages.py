"""Web pages that list a folder, as Apache, nginx and ``python -m http.server`` write them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin

from rlm_dspy.corpus.corpus import Skipped
from rlm_dspy.corpus.fetching import page_or_reason
from rlm_dspy.corpus.object_stores import NotFetchedError, StoredObject
from rlm_dspy.corpus.walking import printable_name

MAX_PAGES = 1_000  # pages that list a folder, for one URL
MAX_PAGE_BYTES = 20_000_000
_HEAD_BYTES = 4_096

_TITLE = re.compile(rb"<title>\s*(?:Index of|Directory listing for)\b", re.IGNORECASE)


class _Links(HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def is_index(url: str, data: bytes) -> bool:
    """Return whether a page lists a folder: its URL ends with a slash, and its title says so."""
    return url.endswith("/") and _TITLE.search(data[:_HEAD_BYTES]) is not None


def listed_pages(url: str, data: bytes, seconds: float) -> Iterator[list[StoredObject | Skipped]]:
    """Yield the files linked from a page that lists a folder, and from those of the folders below it.

    Links that lead elsewhere, and those with a query (they sort the list), are not followed.

    Raises:
        TimeoutError: The listing takes more than this many seconds.
        NotFetchedError: More pages list folders than are fetched.
    """
    deadline = time.monotonic() + seconds
    pending: list[str] = []
    yield _sort_links(url, url, data, pending)
    pages = 1
    while pending:
        if time.monotonic() > deadline:
            raise TimeoutError("late")
        if pages >= MAX_PAGES:
            raise NotFetchedError(f"only {MAX_PAGES:,} lists of folders were fetched")
        folder = pending.pop()
        pages += 1
        fetched = page_or_reason(folder, MAX_PAGE_BYTES)
        name = unquote(folder[len(url) :])
        if isinstance(fetched, str):
            yield [Skipped(printable_name(name), f"its list cannot be fetched: {fetched}")]
        elif is_index(folder, fetched.data):
            yield _sort_links(url, folder, fetched.data, pending)
        else:
            yield [StoredObject(name + "index.html", folder, -1, "")]


def _sort_links(url: str, folder: str, data: bytes, pending: list[str]) -> list[StoredObject | Skipped]:
    """Return the files that a list links to, and add its folders to ``pending``."""
    files: list[StoredObject | Skipped] = []
    for target in _links_below(folder, data):
        if target.endswith("/"):
            pending.append(target)
        else:
            files.append(StoredObject(unquote(target[len(url) :]), target, -1, ""))
    return files


def _links_below(folder: str, data: bytes) -> list[str]:
    parser = _Links()
    parser.feed(data.decode("utf-8", "replace"))
    links: dict[str, None] = {}
    for target in parser.targets:
        try:
            address = urldefrag(urljoin(folder, target)).url
        except ValueError:
            continue  # not a URL
        if address.startswith(folder) and len(address) > len(folder) and "?" not in address:
            links[address] = None
    return list(links)
