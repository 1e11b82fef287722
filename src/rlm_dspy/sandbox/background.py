"""Blocking work for a caller that has an event loop to keep turning."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

GIVE_UP_SECONDS = 10.0


async def in_thread(work: Callable[[], Any], cancel: Callable[[], bool]) -> Any:
    """Do ``work`` on a thread of its own; a cancelled caller cancels it, and waits a moment for the end of what began.

    Args:
        work: what is to be done.
        cancel: ends the work, or sees that it never begins; returns whether it has begun.
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
        with contextlib.suppress(RuntimeError):  # nobody waited, and the loop is closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=body, name="rlm-dspy-cell", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(asyncio.Future.exception)  # which nobody else will look at
        if cancel():
            await asyncio.wait([future], timeout=GIVE_UP_SECONDS)
        raise
