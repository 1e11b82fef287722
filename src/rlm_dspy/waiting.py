"""Waiting for a model no longer than the run may take, and no longer than its caller wants.

A call that can be awaited is cancelled, so that nothing of it stays behind. One that cannot (a custom engine without an
async twin) is left in a daemon thread, which ends when the engine returns.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

POLL = 0.05  # seconds between looks at the clock and the stop flag


class Interrupted(Exception):
    """The wait ended first; ``limit`` is ``max_seconds`` or ``stop``."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class Patience:
    """Until when to wait: a deadline in seconds from now, a flag, both or neither.

    ``over`` is set when the run is: it ends only pauses, of threads whose reply nobody will read.
    """

    def __init__(
        self, seconds: float | None, stop: threading.Event | None, over: threading.Event | None = None
    ) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self._stop = stop
        self._over = over

    @property
    def endless(self) -> bool:
        """Whether nothing but the end of the run can end the wait."""
        return self._until is None and self._stop is None

    def check(self) -> None:
        """Raise :class:`Interrupted` once the wait is over."""
        if any(flag is not None and flag.is_set() for flag in (self._stop, self._over)):
            raise Interrupted("stop")
        if self._until is not None and time.monotonic() >= self._until:
            raise Interrupted("max_seconds")


_patience: contextvars.ContextVar[Patience | None] = contextvars.ContextVar("patience", default=None)


def sleep(seconds: float) -> None:
    """Pause, but no longer than the call may take in which this is called.

    Raises:
        Interrupted: the pause was cut short.
    """
    patience, until = _patience.get(), time.monotonic() + seconds
    if patience is None:
        time.sleep(seconds)
        return
    while (left := until - time.monotonic()) > 0:
        patience.check()
        time.sleep(min(left, POLL))


@contextmanager
def held(slot: threading.Semaphore | None) -> Iterator[None]:
    """Hold a slot, and wait for it no longer than the call may take in which this is entered.

    Raises:
        Interrupted: the wait was over first.
    """
    patience = _patience.get()
    if slot is None:
        yield
        return
    while not slot.acquire(timeout=None if patience is None else POLL):
        if patience is not None:
            patience.check()
    try:
        yield
    finally:
        slot.release()


class _patient:
    """Makes a call whose pauses are as short as its patience; what it then raises is told as its interruption."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    def __enter__(self) -> None:
        self._before = _patience.set(self._patience)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        _patience.reset(self._before)
        if isinstance(error, Exception):
            self._patience.check()


def can_await(lm: Any) -> bool:
    """Tell whether an LM has an async path of its own."""
    spec = getattr(lm, "_engine_spec", None)
    return isinstance(spec, str) or (spec is not None and getattr(lm, "_async_engine_spec", None) is not None)


def call(
    patience: Patience,
    lm: Any,
    direct: Callable[[], Any],
    awaitable: Callable[[], Awaitable[Any]],
    *,
    here: bool = False,
) -> Any:
    """Return what the call returns; one that must be made in this very thread (``here``) ends only where it pauses.

    Raises:
        Interrupted: the wait was over first.
    """

    def patiently() -> Any:
        with _patient(patience):
            return direct()

    patience.check()
    if patience.endless or here:
        return patiently()
    if can_await(lm):

        def work() -> Any:
            return _run(acall(patience, awaitable))

        if not _in_loop():
            return work()
    else:
        work = patiently
    future = daemon_future(contextvars.copy_context().run, work)
    while not wait([future], POLL).done:
        patience.check()
    return future.result()


def daemon_future(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Make a call in a daemon thread of its own: one that is left behind does not hold up the process's end."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # carried to the caller, who raises it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="rlm-wait").start()
    return future


async def in_thread(call: Callable[[], Any]) -> Any:
    """Await a call that blocks, in a daemon thread that has the caller's context."""
    return await asyncio.wrap_future(daemon_future(contextvars.copy_context().run, call))


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


class _Threads(ThreadPoolExecutor):
    """Makes each call in a daemon thread of its own."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return daemon_future(fn, *args, **kwargs)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end as ``asyncio.run`` does, but never wait for threads that the work left behind."""
    threads = _Threads(thread_name_prefix="rlm-wait")
    loop = asyncio.new_event_loop()
    loop.set_default_executor(threads)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(_drain())
        loop.run_until_complete(loop.shutdown_asyncgens())
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
