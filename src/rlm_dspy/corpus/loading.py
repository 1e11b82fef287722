"""Files as bytes: opening never waits, and what is too large to be one value comes in parts that end with a line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from types import TracebackType

from rlm_dspy.corpus.decoding import wide

PART = 32_000_000

_HEAD = 65_536
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


class NotReadError(Exception):
    """A file was left out for the reason that is the message."""


class File:
    """A regular file that is open for reading; ``size`` is what it had in bytes when it was opened.

    Raises:
        NotReadError: it is no regular file.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, *, follow: bool) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotReadError("not a regular file")
        except BaseException:
            os.close(self._descriptor)
            raise
        self.size = status.st_size

    def __enter__(self) -> File:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    def head(self) -> bytes:
        """Return the first bytes, which are read again later."""
        return os.pread(self._descriptor, _HEAD, 0)

    def read(self, most: int) -> bytes:
        """Return the next bytes, fewer than ``most`` only at the end; some files have more than their size tells."""
        data = os.read(self._descriptor, min(most, self.size or _HEAD))
        if len(data) in (0, self.size, most):
            return data
        pieces = [data]
        missing = most - len(data)
        while missing and (data := os.read(self._descriptor, min(missing, 1 << 20))):
            pieces.append(data)
            missing -= len(data)
        return b"".join(pieces)

    def parts(self) -> Iterator[bytes]:
        """Yield the whole file in pieces of about ``PART`` bytes that end with a line where there are lines."""
        mark, end = wide(self.head())
        rest, left = b"", self.size
        while left > 0 and (data := self.read(min(PART, left))):
            left -= len(data)
            data = rest + data
            cut = _line_end(data, end)
            yield data[:cut] if data.startswith(mark) else mark + data[:cut]
            rest = data[cut:]
        if rest:
            yield mark + rest


def _line_end(data: bytes, end: bytes) -> int:
    """Where the last whole line of a text ends, or its last whole character if it is one line."""
    place = data.rfind(end)
    while place % len(end) and place >= 0:
        place = data.rfind(end, 0, place + len(end) - 1)
    if place >= 0:
        return place + len(end)
    cut = len(data) - len(data) % len(end)
    if len(end) == 2:
        high = data[cut - 1 if end[0] else cut - 2]
        return cut - 2 if 0xD8 <= high < 0xDC else cut  # half of a pair of surrogates
    back = next((n for n in range(1, min(4, cut)) if data[cut - n] & 0xC0 != 0x80), 0) if len(end) == 1 else 0
    return cut - back if back and data[cut - back] >= 0xC0 else cut
