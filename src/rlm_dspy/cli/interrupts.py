"""Ctrl-C: the first asks for an orderly end, the second ends at once.

Holds: the handler only sets a flag or raises, so it is safe wherever the main thread is. Outside ``Interrupts`` a
Ctrl-C raises KeyboardInterrupt as usual.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self


class Interrupts:
    """Within the context, the first Ctrl-C sets ``event`` and calls ``tell``; the second raises KeyboardInterrupt.

    ``tell`` runs in its own thread: a handler that prints could interrupt the main thread during a print.
    """

    def __init__(self, event: threading.Event, tell: Callable[[], None]) -> None:
        self.event = event
        self._tell = tell
        self._over = False
        self._before: Any = None
        self._teller = threading.Thread(target=self._wait_and_notify, daemon=True, name="rlm-interrupts")

    def _wait_and_notify(self) -> None:
        self.event.wait()
        if not self._over:
            self._tell()

    def _handle_sigint(self, number: int, frame: FrameType | None) -> None:
        if self.event.is_set():
            raise KeyboardInterrupt
        self.event.set()

    def __enter__(self) -> Self:
        self._teller.start()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle_sigint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._over = not self.event.is_set()
        self.event.set()  # ends the thread of ``tell``
        self._teller.join(1)


def leave(code: int) -> NoReturn:
    """End the process without waiting for abandoned threads, which Python would join first.

    The sandbox's processes end with this one.
    """
    main = threading.main_thread()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not main):
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)
