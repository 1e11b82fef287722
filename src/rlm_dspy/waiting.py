"""Waiting for a model no longer than the run may take, and no longer than its caller wants.

A call that can be awaited is cancelled, so that nothing of it stays behind. One that cannot (a custom engine without an
async twin) is left in a daemon thread, which ends when the engine returns.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

POLL = 0.05  # seconds between looks at the clock and the stop flag


class Interrupted(Exception):
    """The wait ended first; ``limit`` is ``max_seconds`` or ``stop``."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Patience:
    """Until when to wait: a deadline in seconds from now, a flag, both or neither."""

    def __init__(self, seconds: float | None, stop: threading.Event | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self._stop = stop

    @property
    def endless(self) -> bool:
        """Whether nothing can end the wait."""
        return self._until is None and self._stop is None

    def check(self) -> None:
        """Raise :class:`Interrupted` once the wait is over."""
        if self._stop is not None and self._stop.is_set():
            raise Interrupted("stop")
        if self._until is not None and time.monotonic() >= self._until:
            raise Interrupted("max_seconds")


def can_await(lm: Any) -> bool:
    """Tell whether an LM has an async path of its own."""
    spec = getattr(lm, "_engine_spec", None)
    return isinstance(spec, str) or (spec is not None and getattr(lm, "_async_engine_spec", None) is not None)


def call(
    patience: Patience, lm: Any, direct: Callable[[], Any], awaitable: Callable[[], Awaitable[Any]]
) -> Any:
    """Return what the call returns.

    Raises:
        Interrupted: the wait was over first.
    """
    if patience.endless:
        return direct()
    patience.check()
    if can_await(lm):

        def work() -> Any:
            return _run(acall(patience, awaitable))

        if not _in_loop():
            return work()
    else:
        work = direct
    future: Future[Any] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # carried to the caller, who raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="rlm-wait").start()
    while not wait([future], POLL).done:
        patience.check()
    return future.result()


async def acall(patience: Patience, awaitable: Callable[[], Awaitable[Any]]) -> Any:
    """Await the call as :func:`call` does, and cancel it when the wait is over."""
    task = asyncio.ensure_future(awaitable())
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=None if patience.endless else POLL)
            if not task.done():
                patience.check()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end as ``asyncio.run`` does, but never wait for threads that the work left behind."""
    threads = ThreadPoolExecutor(thread_name_prefix="rlm-wait")
    loop = asyncio.new_event_loop()
    loop.set_default_executor(threads)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(_drain())
        loop.run_until_complete(loop.shutdown_asyncgens())
        threads.shutdown(wait=False, cancel_futures=True)
        loop.close()


async def _drain() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
