"""Provider batches on the command line: the journal, the progress line, Ctrl-C.

The first Ctrl-C leaves the batches running, unless a second one cancels them within ``GRACE_SECONDS``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rlm_dspy.cli.interrupts import SigintContext
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms.provider_batches import WaveJournal, WaveProgress, Waves

GRACE_SECONDS = 3.0


def make_waves(journal: Path, deadline: float | None, note: Callable[[str], None]) -> Waves:
    """Return what collects the calls; ``note`` prints a line of progress when there is any.

    Raises:
        ConfigurationError: the journal is not one, or cannot be written.
    """
    return Waves(WaveJournal(journal), deadline=deadline, on_progress=ProgressLines(note))


def check_no_waves(journal: Path) -> None:
    """Refuse to make ordinary calls while a journal holds replies of provider batches, or open ones.

    Raises:
        ConfigurationError: there is such a journal.
    """
    if os.path.exists(journal) and journal.stat().st_size:
        raise ConfigurationError(
            f"{journal} holds replies of provider batches, or open ones: "
            "add --provider-batch to use them, or delete it to pay again"
        )


class ProgressLines:
    """Prints a line when the state of a batch has changed."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._shown: dict[str, tuple[str, int]] = {}

    def __call__(self, now: WaveProgress) -> None:
        """Print the state of one batch, if it changed."""
        if self._shown.get(now.batch_id) == (now.status, now.done):
            return
        self._shown[now.batch_id] = (now.status, now.done)
        line = f"batch {now.batch_id}: {now.status}, {now.done:,} of {now.total:,} · {now.seconds:,.0f} s"
        if now.next_poll:
            line += f" · asked again in {now.next_poll:,.0f} s"
        self._note(line)


class WaveInterrupts(SigintContext):
    """Within the context, Ctrl-C leaves the batches running, twice cancels them, three times ends at once.

    Args:
        waves: what is left or cancelled.
        note: prints a line.
        advice: how to resume.
        stop: is set as well, so that no further question is started.
    """

    def __init__(
        self, waves: Waves, note: Callable[[str], None], advice: str, stop: threading.Event | None = None
    ) -> None:
        self._waves, self._note, self._advice = waves, note, advice
        self._stop = stop or threading.Event()
        self._wake, self._second = threading.Event(), threading.Event()
        self._count = 0  # how often Ctrl-C was pressed
        self._over = False

    @property
    def was_interrupted(self) -> bool:
        """Whether there was a Ctrl-C."""
        return self._count > 0

    def _handle_sigint(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self._wake.set()
        if self._count == 2:
            self._second.set()
        elif self._count > 2:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        self._wake.wait()
        if self._over:
            return
        self._stop.set()
        names = ", ".join(self._waves.open_batches) or "not created yet"
        self._note(
            f"Left running: batch {names}. To get its results, {self._advice}. "
            f"Ctrl-C again within {GRACE_SECONDS:g} s cancels it."
        )
        is_second = self._second.wait(GRACE_SECONDS)
        if self._over:
            return
        if is_second:
            self._waves.cancel()
            self._note("Cancelled; what was answered until then is billed, and is kept for the next time.")
        else:
            self._waves.leave(self._advice)

    def _end_watch(self) -> None:
        self._over = True
        self._wake.set()
        self._second.set()
