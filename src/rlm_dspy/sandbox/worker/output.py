"""The output of a cell: the head and the tail are kept, the middle is only counted.

A cell may print endlessly: memory stays within twice the cap, and the true length is reported.
"""

from __future__ import annotations

import io
import re
from collections import deque

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{6,16}\b")


class Output(io.TextIOBase):
    """A text stream that keeps ``cap`` characters of its input, half from either end."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.clear()

    def clear(self) -> None:
        self.total = 0
        self._head: list[str] = []
        self._head_size = 0
        self._tail: deque[str] = deque()
        self._tail_size = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.total += len(text)
        room = self.cap - self._head_size
        if room > 0:
            self._head.append(text[:room])
            self._head_size += min(room, len(text))
        if len(text) > room:
            self._keep_tail(text[max(room, 0) :][-self.cap :])
        return len(text)

    def _keep_tail(self, text: str) -> None:
        self._tail.append(text)
        self._tail_size += len(text)
        while len(self._tail) > 1 and self._tail_size - len(self._tail[0]) >= self.cap:
            self._tail_size -= len(self._tail.popleft())
        if len(self._tail) > 4096:  # many small writes: one long string is smaller than many short ones
            self._tail = deque(["".join(self._tail)])

    def text(self) -> tuple[str, bool]:
        """Return the kept text, and whether anything was left out."""
        head = "".join(self._head)
        if self.total <= self.cap:
            return without_addresses(head), False
        return without_addresses(shorten(head, "".join(self._tail), self.total, self.cap)), True


def shorten(head: str, tail: str, total: int, cap: int) -> str:
    """Join the two ends of a text of ``total`` characters with a marker, within ``cap`` characters."""
    marker = f"\n[… {total:,} characters in all, the middle is left out …]\n"
    if len(marker) > cap // 2:
        marker = "…"[: max(cap, 0)]
    room = max(cap - len(marker), 0)
    first = room - room // 2
    last = room // 2
    return head[:first] + marker + ((head + tail)[-last:] if last else "")


def clip(text: str, cap: int) -> str:
    """Return ``text`` within ``cap`` characters."""
    if len(text) <= cap:
        return text
    return shorten(text[:cap], text[-cap:], len(text), cap)


def without_addresses(text: str) -> str:
    """Remove memory addresses from default reprs: they differ from run to run and carry no information."""
    if " at 0x" in text:
        return _ADDRESS.sub(" at 0x…", text)
    return text
