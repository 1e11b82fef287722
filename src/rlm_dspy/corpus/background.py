"""Run calls in background threads: give up on slow ones, and return the results of several in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from rlm_dspy.daemon_threads import daemon_future

AT_ONCE = 8  # calls
MAX_BYTES_AT_ONCE = 256_000_000  # bytes expected of the calls that run at the same time

Task = TypeVar("Task")
Result = TypeVar("Result")


def call_within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return the result of a call.

    Raises:
        TimeoutError: It takes longer than ``seconds``; the call is abandoned.
    """
    return _result_of(daemon_future(call), time.monotonic() + seconds)


def _result_of(future: Future[Result], deadline: float) -> Result:
    return future.result(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class _Started(Generic[Task, Result]):
    task: Task
    future: Future[Result]
    deadline: float
    size: int


def calls_in_order(
    tasks: Iterator[Task],
    call: Callable[[Task], Result],
    *,
    seconds_for: Callable[[Task], float],
    bytes_for: Callable[[Task], int],
) -> Iterator[tuple[Task, Callable[[], Result]]]:
    """Yield each task and a function that returns its result or raises, in the order of the tasks.

    A few calls run ahead. The function raises TimeoutError if its call takes more than ``seconds_for`` seconds.
    """
    waiting: deque[_Started[Task, Result]] = deque()
    expected = 0

    def take_first() -> tuple[Task, Callable[[], Result]]:
        nonlocal expected
        started = waiting.popleft()
        expected -= started.size
        return started.task, lambda: _result_of(started.future, started.deadline)

    for task in tasks:
        size = bytes_for(task)
        while waiting and (len(waiting) >= AT_ONCE or expected + size > MAX_BYTES_AT_ONCE):
            yield take_first()
        future = daemon_future(call, task)
        waiting.append(_Started(task, future, time.monotonic() + seconds_for(task), size))
        expected += size
    while waiting:
        yield take_first()
