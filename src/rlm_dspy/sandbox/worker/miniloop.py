"""An asyncio event loop without descriptors: no epoll, no self-pipe, nothing the filter would refuse.

It supports coroutines, timers and threads (``run_in_executor``, ``to_thread``), and therefore host calls. There
is no network inside, so there is nothing else to wait for.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import base_events, events, runners
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MAX_THREADS = 32


class MiniLoop(base_events.BaseEventLoop):
    """The base loop with an ``Event`` in place of a selector."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self.renew()

    def renew(self) -> None:
        """Start with no threads: those from before a fork are gone and may have held locks."""
        self._wake = threading.Event()
        # Python's default depends on the number of processors; here threads mostly wait for the host.
        self._threads = ThreadPoolExecutor(MAX_THREADS)
        self.set_default_executor(self._threads)

    def begin(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Future[Any]:
        """Call a function in a thread."""
        return self._threads.submit(function, *arguments, **keywords)

    def select(self, timeout: float | None = None) -> list[Any]:
        self._wake.wait(timeout)
        self._wake.clear()
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        return None

    def _write_to_self(self) -> None:
        self._wake.set()


def install() -> None:
    """Make ``asyncio.run`` and related functions use ``MiniLoop``."""
    asyncio.new_event_loop = MiniLoop
    events.new_event_loop = MiniLoop
    runners.events.new_event_loop = MiniLoop  # type: ignore[attr-defined]
    asyncio.SelectorEventLoop = MiniLoop  # type: ignore[assignment]
    policy = getattr(events, "BaseDefaultEventLoopPolicy", None)
    if policy is not None:
        events._event_loop_policy = type("Policy", (policy,), {"_loop_factory": MiniLoop})()  # type: ignore[attr-defined]
