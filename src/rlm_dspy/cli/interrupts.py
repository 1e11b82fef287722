"""Ctrl-C: the first asks for an orderly end, the second ends at once.

Holds: the handler only sets a flag or raises, so it is safe wherever the main thread is. Outside ``Interrupts`` a
Ctrl-C raises KeyboardInterrupt as usual.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self


class SigintContext(ABC):
    """Within the context, Ctrl-C is handled, and a thread reports it.

    A handler that prints could interrupt the main thread during a print.
    """

    _before: Any = None

    @abstractmethod
    def _handle_sigint(self, number: int, frame: FrameType | None) -> None:
        """Handle a Ctrl-C; called in the main thread."""

    @abstractmethod
    def _watch(self) -> None:
        """Wait for Ctrl-C and report it; called in a thread of its own."""

    @abstractmethod
    def _end_watch(self) -> None:
        """Make ``_watch`` return."""

    def __enter__(self) -> Self:
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="rlm-interrupts")
        self._watcher.start()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle_sigint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._end_watch()
        self._watcher.join(1)


class Interrupts(SigintContext):
    """Within the context, the first Ctrl-C sets ``event`` and calls ``report``; the second raises KeyboardInterrupt."""

    def __init__(self, event: threading.Event, report: Callable[[], None]) -> None:
        self.event = event
        self._report = report
        self._over = False

    def _handle_sigint(self, number: int, frame: FrameType | None) -> None:
        if self.event.is_set():
            raise KeyboardInterrupt
        self.event.set()

    def _watch(self) -> None:
        self.event.wait()
        if not self._over:
            self._report()

    def _end_watch(self) -> None:
        self._over = not self.event.is_set()
        self.event.set()


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
    gc.freeze()  # else the interpreter looks through all of LiteLLM for garbage, which takes more than a second
    sys.exit(code)
