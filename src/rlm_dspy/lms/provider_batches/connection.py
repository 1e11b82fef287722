"""HTTP to a provider's batch service.

Holds: no redirect is followed, so that prompts and keys reach only the address the user chose. An answer is read up to
``MAX_REPLY_BYTES``; results up to that and ``BYTES_PER_CALL`` for each request, a line of them up to
``MAX_LINE_BYTES``.
Does not hold: results may trickle for up to ``LONGEST_READ`` seconds.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from rlm_dspy._dspy import retry_after_seconds
from rlm_dspy.lms import errors
from rlm_dspy.lms.providers import Route
from rlm_dspy.lms.transport import MAX_REPLY_BYTES, ReplyTooLargeError

logger = logging.getLogger(__name__)

MAX_LINE_BYTES = 16 << 20
BYTES_PER_CALL = 1 << 20
LONGEST_READ = 3_600.0
_NOT_THERE = (404, 405, 501)


class BatchConnection:
    """Sends the requests of one route to its provider's batch service; thread-safe."""

    def __init__(self, route: Route, base: str, headers: dict[str, str]) -> None:
        self.route = route
        self._client = httpx.Client(
            base_url=f"{base.rstrip('/')}/",
            headers={**headers, **(route.headers or {})},
            timeout=route.timeout,
            follow_redirects=False,
            verify=not base.startswith("http://"),  # loading certificates takes 0.1 s
        )

    def fetch_json(self, method: str, path: str, *, creates: bool = False, **content: Any) -> tuple[Any, float | None]:
        """Return the JSON of the reply, and after how many seconds the server wants the next request.

        Args:
            creates: whether an unknown path means that the server has no batches.
        """
        with self._translated(), self._client.stream(method, path.lstrip("/"), **content) as reply:
            if creates and reply.status_code in _NOT_THERE:
                raise errors.no_batches(self.route, reply.status_code)
            data = b"".join(self._bounded_parts(reply, MAX_REPLY_BYTES, self.route.timeout))
            if not reply.is_success:
                # With its body, which says what is wrong.
                whole = httpx.Response(reply.status_code, content=data, request=reply.request)
                whole.headers.update({name: value for name, value in reply.headers.items() if name in _KEPT_HEADERS})
                whole.raise_for_status()
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict | list):
            raise errors.invalid_reply(self.route, "is not JSON of a batch service")
        return found, retry_after_seconds(reply.headers.get("retry-after"))

    def stream_rows(self, paths: Sequence[str], calls: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of a batch's files of results while they arrive."""
        for path in paths:
            yield from _parse_lines(self._stream_lines(path, calls))

    def _stream_lines(self, path: str, calls: int) -> Iterator[bytes]:
        """Yield the lines of a file of results while they arrive; a line that is too long is dropped."""
        most = MAX_REPLY_BYTES + calls * BYTES_PER_CALL
        with self._translated(), self._client.stream("GET", path) as reply:
            reply.raise_for_status()
            kept, is_dropped = b"", False
            for part in self._bounded_parts(reply, most, LONGEST_READ):
                *lines, rest = (kept + part).split(b"\n")
                if lines and is_dropped:
                    del lines[0]
                    is_dropped = False
                yield from lines
                kept = rest
                if len(kept) > MAX_LINE_BYTES:
                    logger.warning("%s: a result of more than %d MB is dropped", path, MAX_LINE_BYTES >> 20)
                    kept, is_dropped = b"", True
            if kept and not is_dropped:
                yield kept

    def _bounded_parts(self, reply: httpx.Response, most: int, seconds: float) -> Iterator[bytes]:
        until = time.monotonic() + seconds
        for part in reply.iter_bytes():
            most -= len(part)
            if most < 0:
                raise ReplyTooLargeError(f"more than {MAX_REPLY_BYTES >> 20} MB")
            if time.monotonic() > until:
                raise httpx.ReadTimeout(f"not read within {seconds:g} s", request=reply.request)
            yield part

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the HTTP client's exceptions to one line and a class that shows who must act."""
        try:
            yield
        except httpx.InvalidURL as error:
            broken = errors.invalid_reply(self.route, "names a place that is not an address")
            raise broken from errors.cause(error, self.route)
        except (httpx.HTTPError, ReplyTooLargeError) as error:
            raise errors.translate_error(error, self.route) from errors.cause(error, self.route)


_KEPT_HEADERS = frozenset({"location", "retry-after", "content-type"})


def _parse_lines(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of the lines; a line that is not an object is reported and skipped."""
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            logger.warning("a line of a batch's results cannot be read and is skipped: %r", line[:80])


def dict_at(value: Any, name: str) -> dict[str, Any]:
    """Return the object of this name in a JSON object, or an empty one."""
    item = value.get(name) if isinstance(value, dict) else None
    if isinstance(item, dict):
        return item
    return {}


def text_at(value: Any, name: str) -> str:
    """Return the text of this name in a JSON object, or an empty one."""
    item = value.get(name) if isinstance(value, dict) else None
    if isinstance(item, str):
        return item
    return ""


def count_at(value: Any, name: str) -> int:
    """Return the whole number of this name in a JSON object, or 0."""
    item = value.get(name) if isinstance(value, dict) else None
    if type(item) is int and item > 0:
        return item
    return 0


def rows_at(value: Any, name: str) -> list[dict[str, Any]]:
    """Return the objects in the list of this name in a JSON object, or in the list that it is."""
    item = value.get(name) if isinstance(value, dict) else value
    if isinstance(item, list):
        return [row for row in item if isinstance(row, dict)]
    return []
