"""Spaces requests so that a provider's limit per minute, or a server's slots, are not run into."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

MINUTE = 60.0


class Pace:
    """Hands out start times of which no window of a minute holds more than ``per_minute``."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._starts: deque[float] = deque(maxlen=per_minute)
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Reserve the next start and return how many seconds it is away."""
        with self._lock:
            now = self._clock()
            start = now
            if len(self._starts) == self.per_minute:
                start = max(now, self._starts[0] + MINUTE)
            self._starts.append(start)
            return start - now


_paces: dict[tuple[str, int], Pace] = {}
_slots: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_lock = threading.Lock()


def shared(place: str, per_minute: int) -> Pace:
    """Return the one pace of this process for a server."""
    with _lock:
        return _paces.setdefault((place, per_minute), Pace(per_minute))


def slot(place: str, most: int | None) -> AbstractContextManager[object]:
    """Return a context in which one of a server's parallel slots is held."""
    if most is None:
        return nullcontext()
    with _lock:
        return _slots.setdefault((place, most), threading.BoundedSemaphore(most))
