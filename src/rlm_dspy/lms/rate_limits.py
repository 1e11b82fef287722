"""Space requests so that they stay within a provider's limit per minute and a server's slots; decide on retries."""

from __future__ import annotations

import random
import re
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from typing import Protocol

from dspy import lm15

MINUTE_SECONDS = 60.0
_DAY_MINUTES = 24 * 60
_LONGEST_QUEUE_SECONDS = _DAY_MINUTES * MINUTE_SECONDS  # no start is reserved, and no quota refilled, later than this
_LONGEST_VALUE = 30  # characters of a header's number or duration
_SECONDS = {"ms": 0.001, "s": 1.0, "m": MINUTE_SECONDS, "h": 60 * MINUTE_SECONDS, "d": _DAY_MINUTES * MINUTE_SECONDS}


class RequestLimiter(Protocol):
    """What the engine asks before it sends a request to one model of one server."""

    def reserve(self) -> float:
        """Reserve the next start and return the seconds until then."""

    def give_back(self, seconds: float) -> None:
        """Give back a reserved start that is these seconds away, because its call was cancelled."""

    def token_wait(self, tokens: int) -> float:
        """Take the tokens of a request, or return the seconds until the next try."""

    def learn_limits(self, limits: Mapping[str, str], *, stretch: bool = False) -> None:
        """Learn from a reply's headers; ``stretch`` if their request limit is per day, like Groq's."""


class SharedPace(Protocol):
    """The limiters of many processes: ``lm(pace=…)`` and ``Job(pace=…)`` take one. It must be possible to pickle it.

    Its limiters may block: they are called in threads.
    """

    def limiter(self, server_key: str, model: str, per_minute: int | None) -> RequestLimiter:
        """Return the limiter that all processes share for a server's model."""


class RateLimiter:
    """Assigns start times so that no window of a minute has more than ``per_minute``; None means no limit.

    It also learns from a server's headers: the tokens left in the minute, and a limit per day so high that
    ``per_minute`` would never reach it.

    Args:
        per_minute: the requests allowed per minute.
        clock: returns seconds.
        window: seconds in which there are at most ``per_minute`` starts.
    """

    def __init__(
        self, per_minute: int | None, clock: Callable[[], float] = time.monotonic, *, window: float = MINUTE_SECONDS
    ) -> None:
        self._clock = clock
        self._window = window
        self.per_minute = per_minute
        self._starts: list[float] = []  # those of the last minute, and all reserved ones
        self._lock = threading.Lock()
        self._most: int | None = None  # tokens per minute; the fields below are valid if it is known
        self._left = 0
        self._full = 0.0  # when all of them are available again

    def reserve(self) -> float:
        """Reserve the next start and return the seconds until then."""
        if self.per_minute is None:
            return 0.0
        with self._lock:
            start = now = self._clock()
            self._starts = [earlier for earlier in self._starts if earlier > now - self._window]
            if len(self._starts) >= self.per_minute:
                start = max(now, self._starts[-self.per_minute] + self._window)
            self._starts.append(start)
            return start - now

    def give_back(self, seconds: float) -> None:
        """Give back a reserved start that is these seconds away, because its call was cancelled."""
        with self._lock:
            now = self._clock()
            reserved = [start for start in self._starts if start > now]
            if reserved:
                self._starts.remove(min(reserved, key=lambda start: abs(start - now - seconds)))

    def token_wait(self, tokens: int) -> float:
        """Take the tokens of a request, or return the seconds until the next try.

        A request larger than the limit is let through: the server explains best what is wrong with it.
        """
        with self._lock:
            if self._most is None or tokens > self._most:
                return 0.0
            now = self._clock()
            if now >= self._full:
                self._left, self._full = self._most, now + MINUTE_SECONDS
            if tokens > self._left:
                return self._full - now
            self._left -= tokens
            return 0.0

    def learn_limits(self, limits: Mapping[str, str], *, stretch: bool = False) -> None:
        """Learn from a reply's headers; ``stretch`` if their request limit is per day, like Groq's."""
        most, left = (_header_count(limits.get(f"x-ratelimit-{name}-tokens")) for name in ("limit", "remaining"))
        reset = parse_duration(limits.get("x-ratelimit-reset-tokens", ""))
        daily = _header_count(limits.get("x-ratelimit-limit-requests")) or 0
        with self._lock:
            if most is not None and left is not None and reset is not None:
                self._most, self._left, self._full = most, left, self._clock() + reset
            if stretch and self.per_minute and daily // _DAY_MINUTES > self.per_minute:
                self.per_minute = daily // _DAY_MINUTES

    def dump_state(self) -> bytes:
        """Return its state as bytes."""
        with self._lock:
            most = -1 if self._most is None else self._most
            return array("d", [self.per_minute or 0, most, self._left, self._full, *self._starts]).tobytes()

    def load_state(self, state: bytes) -> None:
        """Take over a state; times too far in the future are those of a clock that was set back, and are dropped.

        Raises:
            ValueError: it is not a state.
        """
        numbers = array("d")
        numbers.frombytes(state)
        if len(numbers) < 4:
            raise ValueError("the state of a pace is cut off")
        per_minute, most, left, full, *starts = numbers
        with self._lock:
            latest = self._clock() + _LONGEST_QUEUE_SECONDS
            self.per_minute = int(per_minute) or None
            self._starts = [start for start in starts if start <= latest]
            if most >= 0 and full <= latest:
                self._most, self._left, self._full = int(most), int(left), full


def parse_duration(text: str) -> float | None:
    """Parse a duration from a header: ``7.66s``, ``1m26.4s``, ``120ms``, or seconds without a unit."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if len(text) > _LONGEST_VALUE:
        return None
    if parts and "".join(map("".join, parts)) == text:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    return None


def _header_count(text: str | None) -> int | None:
    if text and text.isdecimal() and len(text) <= _LONGEST_VALUE:
        return int(text)
    return None


_paces: dict[tuple[str, str, int | None], RateLimiter] = {}
_slots: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_lock = threading.Lock()


def shared_limiter(server_key: str, model: str, per_minute: int | None) -> RateLimiter:
    """Return this process's shared pace for a server's model; providers limit each model separately."""
    with _lock:
        return _paces.setdefault((server_key, model, per_minute), RateLimiter(per_minute))


def server_slot(server_key: str, most: int | None) -> threading.BoundedSemaphore | None:
    """Return the semaphore of a server's parallel slots, or None without a limit."""
    if most is None:
        return None
    with _lock:
        return _slots.setdefault((server_key, most), threading.BoundedSemaphore(most))


LONGEST_WAIT = 60.0  # longest wait in seconds that a provider may ask for; beyond it the call fails
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF = 20.0
# Errors that a later attempt may not meet.
PASSING_ERRORS = (lm15.RateLimitError, lm15.ServerError, lm15.TransportError, lm15.TimeoutError)


class RetryState:
    """The attempts that one call has left."""

    def __init__(self, retries: int) -> None:
        self._left = retries
        self._made = 0
        self._garbled = False

    def pause(self, error: Exception, *, garbled: bool = False) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up.

        Args:
            error: the error that ended this attempt.
            garbled: whether it was an unreadable reply of a server known to work, which is retried once.
        """
        may_retry = isinstance(error, PASSING_ERRORS) and not getattr(error, "final", False)
        if garbled:
            may_retry = not self._garbled
            self._garbled = True
        if self._left == 0 or not may_retry:
            return None
        self._left -= 1
        self._made += 1
        return backoff_delay(self._made, getattr(error, "retry_after", None))


def backoff_delay(attempt: int, asked: float | None) -> float:
    """Return slightly more than the provider asked for, or an exponential backoff, both with jitter.

    Without jitter, calls that were refused together would return together.
    """
    if asked is not None:
        return min(asked * random.uniform(1.0, 1.1), LONGEST_WAIT)
    longest = min(_FIRST_BACKOFF_SECONDS * 2**attempt, _LONGEST_BACKOFF)
    return random.uniform(longest / 2, longest)
