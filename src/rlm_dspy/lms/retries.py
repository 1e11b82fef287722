"""When a failed attempt is worth another, and after how long.

DSPy's own retries wait without a limit, out of sight and uncounted; so ours replace them, and it is told to make none.
"""

from __future__ import annotations

import random

from dspy import lm15

LONGEST_WAIT = 60.0  # seconds that a provider may ask for; beyond them a run ends and says so
_FIRST = 0.5
_LONGEST_BACKOFF = 20.0
_PASSING = (lm15.RateLimitError, lm15.ServerError, lm15.TransportError, lm15.TimeoutError)


class Tries:
    """The attempts that one call has left."""

    def __init__(self, retries: int) -> None:
        self._left = retries
        self._made = 0
        self._garbled = False

    def pause(self, error: Exception, *, garbled: bool = False) -> float | None:
        """Return the seconds to wait before the next attempt, or None if there is to be none.

        Args:
            error: what ended this attempt.
            garbled: whether it was a reply that cannot be read of a server that is known to work, which may pass once.
        """
        passes = isinstance(error, _PASSING) and not getattr(error, "final", False)
        if garbled:
            passes, self._garbled = not self._garbled, True
        if self._left == 0 or not passes:
            return None
        self._left -= 1
        self._made += 1
        return delay(self._made, getattr(error, "retry_after", None))


def delay(attempt: int, asked: float | None) -> float:
    """Return what the provider asked for and a little more, else an exponential backoff, both with jitter.

    Without it, calls that were refused together would come back together.
    """
    if asked is not None:
        return min(asked * random.uniform(1.0, 1.1), LONGEST_WAIT)
    longest = min(_FIRST * 2**attempt, _LONGEST_BACKOFF)
    return random.uniform(longest / 2, longest)
