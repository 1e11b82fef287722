"""Calls in threads of their own: abandoned when they take too long, and several at once with results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
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
        TimeoutError: it takes more than this many seconds; the call is abandoned.
    """
    return _result_of(daemon_future(call), time.monotonic() + seconds)


def _result_of(future: Future[Result], deadline: float) -> Result:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except LateError:
        if future.done():
            raise  # the call itself raised it
        raise TimeoutError("late") from None


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

    def first() -> tuple[Task, Callable[[], Result]]:
        nonlocal expected
        one = waiting.popleft()
        expected -= one.size
        return one.task, lambda: _result_of(one.future, one.deadline)

    for task in tasks:
        size = bytes_for(task)
        while waiting and (len(waiting) >= AT_ONCE or expected + size > MAX_BYTES_AT_ONCE):
            yield first()
        future = daemon_future(lambda task=task: call(task))  # binds the task of this round
        waiting.append(_Started(task, future, time.monotonic() + seconds_for(task), size))
        expected += size
    while waiting:
        yield first()
