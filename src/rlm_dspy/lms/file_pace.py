"""One pace for all processes of a machine: a small file for each model, and a lock that ends with its holder.

Holds: however many processes ask, and whichever of them are killed, no minute has more starts than allowed. A start
that a killed process had reserved is lost, so the pace is slower by that request.

Does not hold: the locks of network file systems differ, so the folder must be on a disk of the machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms.rate_limits import MINUTE_SECONDS, RateLimiter
from rlm_dspy.safe_files import cache_folder, lock, make_private

logger = logging.getLogger(__name__)

# A request reaches the server a little later than its start, and not always by the same time.
SHARED_WINDOW_SECONDS = MINUTE_SECONDS + 1.0


@dataclass(frozen=True)
class FilePace:
    """Keeps the requests and tokens per minute of all processes of this machine.

    Args:
        folder: a folder on a disk of this machine; None means ``pace`` in ``$RLM_DSPY_HOME`` or the cache folder.

    Example:
        >>> lm = rlm_dspy.lm("groq/openai/gpt-oss-20b", pace=FilePace())  # doctest: +SKIP
    """

    folder: Path | None = None

    def limiter(self, server_key: str, model: str, per_minute: int | None) -> FileLimiter:
        """Return the limiter that all processes of this machine share for a server's model."""
        folder = self.folder or cache_folder() / "pace"
        name = hashlib.sha256(json.dumps([server_key, model, per_minute]).encode()).hexdigest()[:24]
        return FileLimiter(folder / name, per_minute)


class FileLimiter:
    """A rate limiter whose state is a file that processes lock in turn.

    Every method raises :class:`~rlm_dspy.errors.ConfigurationError` if the file cannot be written.

    Args:
        path: the file.
        per_minute: the requests allowed per minute; None means no limit.
        clock: returns the same seconds in all processes.
    """

    def __init__(self, path: Path, per_minute: int | None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._per_minute = per_minute
        self._clock = clock

    def reserve(self) -> float:
        """Reserve the next start and return the seconds until then."""
        if self._per_minute is None:
            return 0.0
        with self._locked_limiter() as limiter:
            return limiter.reserve()

    def give_back(self, seconds: float) -> None:
        """Give back a reserved start that is these seconds away."""
        with self._locked_limiter() as limiter:
            limiter.give_back(seconds)

    def token_wait(self, tokens: int) -> float:
        """Take the tokens of a request, or return the seconds until the next try."""
        if not self._path.exists():  # no process has learned of a limit
            return 0.0
        with self._locked_limiter() as limiter:
            return limiter.token_wait(tokens)

    def learn_limits(self, limits: Mapping[str, str], *, stretch: bool = False) -> None:
        """Learn from a reply's headers; ``stretch`` if their request limit is per day."""
        with self._locked_limiter() as limiter:
            limiter.learn_limits(limits, stretch=stretch)

    @contextmanager
    def _locked_limiter(self) -> Iterator[RateLimiter]:
        """Yield the limiter of the file's state while no other process or thread has it, then write its new state."""
        limiter = RateLimiter(self._per_minute, self._clock, window=SHARED_WINDOW_SECONDS)
        part = self._path.with_suffix(".part")
        try:
            make_private(self._path.parent)
            with self._path.with_suffix(".lock").open("ab") as turn:
                lock(turn)  # the system releases it when the process ends, however it ends
                self._load_state(limiter)
                yield limiter
                part.write_bytes(limiter.dump_state())
                part.replace(self._path)  # a process that is killed meanwhile leaves the old state
        except OSError as error:
            said = f"{self._path.parent} cannot be used for the shared pace: {error.strerror}. Set RLM_DSPY_HOME."
            raise ConfigurationError(said) from error

    def _load_state(self, limiter: RateLimiter) -> None:
        try:
            limiter.load_state(self._path.read_bytes())
        except FileNotFoundError:
            return
        except ValueError as error:
            logger.warning("%s is not readable, so the pace begins again: %s", self._path, error)
