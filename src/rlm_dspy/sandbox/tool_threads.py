"""Threads for blocking work: of callers with an event loop, and of tool calls."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

GIVE_UP_SECONDS = 10.0


async def in_thread(work: Callable[[], Any], cancel: Callable[[], bool]) -> Any:
    """Run ``work`` in its own thread; if the caller is cancelled, cancel it and wait briefly for its end.

    Args:
        work: The blocking work.
        cancel: Ends the work, or prevents its start; returns whether it has begun.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def body() -> None:
        try:
            value = context.run(work)
        except BaseException as error:
            outcome = future.set_exception, error
        else:
            outcome = future.set_result, value
        with contextlib.suppress(RuntimeError):  # no one waited, and the loop is closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=body, name="rlm-dspy-cell", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(asyncio.Future.exception)  # mark the exception as retrieved
        if cancel():
            await asyncio.wait([future], timeout=GIVE_UP_SECONDS)
        raise


IDLE_SECONDS = 5.0
MAX_THREADS = 64

MAX_LOAD = 64 << 20  # bytes of calls that may wait or be served at once

Task = Callable[[], None]


class ToolThreads:
    """Runs tasks on threads that never keep the process alive."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Task, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._size = 0
        self._load = 0

    def takes(self, weight: int) -> bool:
        """Return whether a call of this many bytes may join those that wait."""
        return self._load + weight <= MAX_LOAD

    def submit(self, task: Task, weight: int = 0) -> None:
        """Run ``task`` on an idle thread or a new one; beyond the limit it waits."""
        with self._lock:
            self._load += weight
            if self._idle > 0:
                self._idle -= 1
            elif self._size < MAX_THREADS:
                self._size += 1
                threading.Thread(target=self._run_tasks, name="rlm-dspy-tool", daemon=True).start()
            self._tasks.put((task, weight))

    def close(self) -> None:
        """End idle threads now, and busy ones when their task is done."""
        with self._lock:
            for _ in range(self._size):
                self._tasks.put(None)

    def _run_tasks(self) -> None:
        while True:
            try:
                queued = self._tasks.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._tasks.empty():
                        self._size -= 1
                        self._idle = max(0, self._idle - 1)
                        return
                continue
            if queued is None:
                with self._lock:
                    self._size -= 1
                    self._idle = max(0, self._idle - 1)
                return
            task, weight = queued
            queued = None  # an idle thread holds no arguments
            try:
                task()
            except BaseException as error:  # reported like any thread's; the next task still gets a thread
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))
            del task
            with self._lock:
                self._load -= weight
                self._idle += 1
