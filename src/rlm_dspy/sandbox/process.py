"""The processes of a session, held by descriptors so that a reused process id is never signalled."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

KILL_SECONDS = 5.0
_LINUX = sys.platform == "linux"


class ProtocolError(Exception):
    """The worker sent something that no honest worker sends."""


class WorkerGoneError(Exception):
    """The worker ended."""


class Process:
    """A process of the session, signalled safely even if its process id is reused."""

    def __init__(self, pid: int, group: int) -> None:
        self.pid = pid
        self.descriptor = -1
        if _LINUX:
            self.descriptor = _opened_descriptor(pid, group)

    def signal(self, number: int) -> None:
        """Send a signal; do nothing if the process has ended."""
        with contextlib.suppress(OSError):
            if self.descriptor >= 0:
                signal.pidfd_send_signal(self.descriptor, number)
            elif not _LINUX:
                os.kill(self.pid, number)

    def gone(self) -> bool:
        """Return whether the process has ended."""
        return self._ends_within(0.0)

    def kill(self, *, wait: bool = True) -> None:
        """Kill the process, and wait for its end if ``wait``."""
        self.signal(signal.SIGKILL)
        if wait:
            self._ends_within(KILL_SECONDS)
        self.let_go()

    def _ends_within(self, seconds: float) -> bool:
        """Wait for the end of the process, and return whether it came; unknown without a descriptor."""
        if self.descriptor < 0:
            return False
        watch = select.poll()
        watch.register(self.descriptor, select.POLLIN)
        return bool(watch.poll(seconds * 1000))

    def let_go(self) -> None:
        """Close the descriptor; it is forgotten first, because a fork may happen in between."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _opened_descriptor(pid: int, group: int) -> int:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        raise ProtocolError("the sender of a message has ended") from None
    try:
        known = os.getpgid(pid) == group  # checked after opening, so the process id cannot have been reused
    except OSError:
        known = False
    if not known:
        os.close(descriptor)
        raise ProtocolError("a message from an unknown process")
    return descriptor
