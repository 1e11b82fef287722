"""Blocking work for a caller that has an event loop to keep turning."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

GIVE_UP_SECONDS = 10.0


async def in_thread(work: Callable[[], Any], interrupt: Callable[[], None]) -> Any:
    """Do ``work`` on a thread of its own; a cancelled caller interrupts it and waits a moment for its end."""
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
            loop.call_soon_threadsafe(settle, future.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, future.set_result, value)

    threading.Thread(target=body, name="rlm-dspy-cell", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        interrupt()
        await asyncio.wait([future], timeout=GIVE_UP_SECONDS)
        if future.done() and not future.cancelled():
            future.exception()
        raise
