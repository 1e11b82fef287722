"""Wait for a model only as long as the run's deadline and its caller allow.

A call that can be awaited runs on the process's own event loop and is cancelled, so that nothing is left behind. The
loop lives as long as the process, because HTTP clients bind their connections to the loop they were created in. A call
that cannot be awaited (a custom engine without an async twin) is abandoned in a daemon thread, which ends when the
engine returns.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import Any

from rlm_dspy._dspy import async_engine_of, engine_of, get_litellm
from rlm_dspy.daemon_threads import daemon_future

POLL_SECONDS = 0.05  # seconds between checks of the clock and the stop flag
_MAX_HALT_SECONDS = 2.0  # maximum seconds that process exit waits for a loop's current callback


class Interrupted(Exception):
    """The wait ended before the call; ``limit`` is ``max_seconds`` or ``stop``."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


class SharedStop:
    """Holds a stop flag that the copies of a program share, and that is left out when one is pickled."""

    def __init__(self, flag: threading.Event | None = None) -> None:
        self.flag = flag

    def __copy__(self) -> SharedStop:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedStop:
        return self

    def __reduce__(self) -> tuple[type[SharedStop], tuple[()]]:
        return SharedStop, ()


class Stoppable:
    """A program that ends when its flag ``stop`` is set, and so do its copies."""

    _stop = SharedStop()

    @property
    def stop(self) -> threading.Event | None:
        """Set this flag to end the run with the best answer so far; None if nothing does."""
        return self._stop.flag

    @stop.setter
    def stop(self, flag: threading.Event | None) -> None:
        self._stop = SharedStop(flag)


class Deadline:
    """How long to wait: a deadline in seconds from now, a stop flag, both or neither.

    ``over`` is set when the run has ended; it cuts short sleeps in abandoned threads.
    """

    def __init__(
        self, seconds: float | None, stop: threading.Event | None, over: threading.Event | None = None
    ) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self._stop = stop
        self._over = over

    @property
    def endless(self) -> bool:
        """Whether only the end of the run can end the wait."""
        return self._until is None and self._stop is None

    def check(self) -> None:
        """Raise :class:`Interrupted` once the wait is over."""
        if any(flag is not None and flag.is_set() for flag in (self._stop, self._over)):
            raise Interrupted("stop")
        if self._until is not None and time.monotonic() >= self._until:
            raise Interrupted("max_seconds")


_deadline: contextvars.ContextVar[Deadline | None] = contextvars.ContextVar("deadline", default=None)


class _DeadlineScope:
    """Runs a call whose pauses end with the deadline; errors raised after it become :class:`Interrupted`."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._before = _deadline.set(self._deadline)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        _deadline.reset(self._before)
        if isinstance(error, Exception):
            self._deadline.check()


def can_await(lm: Any) -> bool:
    """Return whether an LM has a native async path."""
    engine = engine_of(lm)
    return isinstance(engine, str) or (engine is not None and async_engine_of(lm) is not None)


def load_engines(*lms: Any) -> None:
    """Load the engines of LMs now, so that loading does not count towards the run's time."""
    for lm in lms:
        engine = engine_of(lm)
        load = getattr(engine, "load", None)
        if engine == "litellm":
            get_litellm(feature="engine='litellm'")
        elif callable(load):
            load()


def call(
    deadline: Deadline,
    lm: Any,
    direct: Callable[[], Any],
    awaitable: Callable[[], Awaitable[Any]],
    *,
    here: bool = False,
) -> Any:
    """Make a call and return its result; one that must run in this thread (``here``) can end only where it pauses.

    Raises:
        Interrupted: the wait ended first.
    """

    def call_in_scope() -> Any:
        with _DeadlineScope(deadline):
            return direct()

    deadline.check()
    if deadline.endless or here:
        return call_in_scope()
    if can_await(lm):
        future = _submit_to_loop(_await_result(awaitable))
    else:
        future = daemon_future(contextvars.copy_context().run, call_in_scope)
    return _wait_for(future, deadline)


async def _await_result(awaitable: Callable[[], Awaitable[Any]]) -> Any:
    return await awaitable()


def _wait_for(future: Future[Any], deadline: Deadline | None) -> Any:
    """Return a future's result; cancel it if the wait ends first.

    Raises:
        Interrupted: the wait ended first.
    """
    try:
        while not wait([future], None if deadline is None else POLL_SECONDS).done:
            if deadline is not None:
                deadline.check()
        return future.result()
    finally:
        future.cancel()


def result_of(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the process's own event loop, from any thread, and return its result.

    Raises:
        Interrupted: the deadline of the surrounding call has passed.
    """
    return _wait_for(_submit_to_loop(work), _deadline.get())


def items_of(items: AsyncIterator[Any]) -> Iterator[Any]:
    """Iterate over an async iterator, as :func:`result_of` runs a coroutine."""
    arrived: SimpleQueue[Any] = SimpleQueue()
    end = object()

    async def drain() -> None:
        try:
            async for item in items:
                arrived.put(item)
        finally:
            arrived.put(end)
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    deadline = _deadline.get()
    future = _submit_to_loop(drain())
    try:
        while (item := _next_of(arrived, deadline)) is not end:
            yield item
        future.result()
    finally:
        future.cancel()


def _next_of(arrived: SimpleQueue[Any], deadline: Deadline | None) -> Any:
    while True:
        try:
            return arrived.get(timeout=None if deadline is None else POLL_SECONDS)
        except Empty:
            if deadline is not None:
                deadline.check()


async def in_thread(call: Callable[[], Any]) -> Any:
    """Await a blocking call in a daemon thread with the caller's context."""
    return await asyncio.wrap_future(daemon_future(contextvars.copy_context().run, call))


async def acall(deadline: Deadline, awaitable: Callable[[], Awaitable[Any]]) -> Any:
    """Await a call like :func:`call`, and cancel it when the wait ends."""
    task = asyncio.ensure_future(awaitable())
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=None if deadline.endless else POLL_SECONDS)
            if not task.done():
                deadline.check()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)


class _Threads(ThreadPoolExecutor):
    """Runs each call in its own daemon thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return daemon_future(fn, *args, **kwargs)


_loops: list[tuple[asyncio.AbstractEventLoop, threading.Thread]] = []
_making = threading.Lock()


def _submit_to_loop(work: Coroutine[Any, Any, Any]) -> Future[Any]:
    """Start a coroutine on the process's own event loop, in the caller's context.

    A caller that is itself on that loop, and so blocks it, gets a second loop.
    """
    with _making:
        here = 0
        if _is_on_loop():
            here = [thread for _, thread in _loops].index(threading.current_thread()) + 1
        if here == len(_loops):
            loop = asyncio.new_event_loop()
            loop.set_default_executor(_Threads(thread_name_prefix="rlm-wait"))
            thread = threading.Thread(target=loop.run_forever, daemon=True, name="rlm-loop")
            _loops.append((loop, thread))
            thread.start()
    return asyncio.run_coroutine_threadsafe(work, _loops[here][0])


def _is_on_loop() -> bool:
    return any(thread is threading.current_thread() for _, thread in _loops)


def _forget_loops() -> None:
    """Drop the loops in a forked child, which does not have their threads."""
    global _making
    _loops.clear()
    _making = threading.Lock()


def _halt_loops() -> None:
    """Stop every loop permanently at process exit.

    Otherwise its thread could end in the middle of an import, holding a lock that process exit waits for.
    """
    for loop, _ in _loops:
        held = threading.Event()
        loop.call_soon_threadsafe(_block_thread, held)
        held.wait(_MAX_HALT_SECONDS)


def _block_thread(held: threading.Event) -> None:
    held.set()
    threading.Event().wait()


atexit.register(_halt_loops)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loops)
