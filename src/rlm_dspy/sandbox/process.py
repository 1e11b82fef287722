"""The processes of a session, named so that no other can be hit that took the number of one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

KILL_SECONDS = 5.0
_LINUX = sys.platform == "linux"


class ProtocolError(Exception):
    """The worker sent what no honest worker sends."""


class WorkerGoneError(Exception):
    """The worker ended."""


class Process:
    """A process of the session that can be signalled without hitting another that took its number."""

    def __init__(self, pid: int, group: int) -> None:
        self.pid = pid
        self.descriptor = -1
        if _LINUX:
            self.descriptor = _opened_descriptor(pid, group)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the process is gone."""
        with contextlib.suppress(OSError):
            if self.descriptor >= 0:
                signal.pidfd_send_signal(self.descriptor, number)
            elif not _LINUX:
                os.kill(self.pid, number)

    def gone(self) -> bool:
        """Tell whether the process has ended."""
        if self.descriptor < 0:
            return False
        watch = select.poll()
        watch.register(self.descriptor, select.POLLIN)
        return bool(watch.poll(0))

    def kill(self, *, wait: bool = True) -> None:
        """Kill the process and wait until it is gone, if that matters."""
        self.signal(signal.SIGKILL)
        if self.descriptor >= 0 and wait:
            watch = select.poll()
            watch.register(self.descriptor, select.POLLIN)
            watch.poll(KILL_SECONDS * 1000)
        self.let_go()

    def let_go(self) -> None:
        """Close the descriptor; the number is given up first, as a fork may come between."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _opened_descriptor(pid: int, group: int) -> int:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        raise ProtocolError("a process spoke and ended") from None
    try:
        known = os.getpgid(pid) == group  # checked after opening, so the number cannot have changed hands
    except OSError:
        known = False
    if not known:
        os.close(descriptor)
        raise ProtocolError("a stranger spoke")
    return descriptor
