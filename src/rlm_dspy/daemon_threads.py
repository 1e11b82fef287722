"""Calls in threads of their own that do not delay the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def daemon_future(call: Callable[..., Result], *args: object, **kwargs: object) -> Future[Result]:
    """Make a call in its own daemon thread, so that an abandoned call does not delay process exit."""
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # re-raised by the caller
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="rlm-wait").start()
    return future
