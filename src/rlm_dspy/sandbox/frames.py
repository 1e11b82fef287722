"""Reading a worker's frames, each of which may be made to cost the host as much as it can.

Holds: a frame is bounded in bytes (``link``) and in values before anything is made of it. Does not hold: half a second
of parsing, at most, is not interrupted.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from .process import ProtocolError
from .worker.wire import MAX_VALUES, count_values

LONG_FRAME_BYTES = 1 << 16  # bytes; what is shorter makes too few objects for the garbage collector to take notice

_pausing = threading.Lock()
_pauses = 0
_was_enabled = False


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
    """Keep the garbage collector from running over a heap that only grows; several threads may ask for it at once."""
    global _pauses, _was_enabled
    with _pausing:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _pausing:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                gc.enable()


def parse_frame(body: bytes) -> dict[str, Any]:
    """Return the message in a frame.

    Raises:
        ProtocolError: it is no message, or holds too many values.
    """
    if len(body) > LONG_FRAME_BYTES:
        count = count_values(body)
        if count > MAX_VALUES:
            raise ProtocolError(f"a frame holds {count:,} values; the limit is {MAX_VALUES:,}")
    try:
        with paused_collection() if len(body) > LONG_FRAME_BYTES else contextlib.nullcontext():
            message = _READER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed frame: {type(error).__name__}") from None
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):
        raise ProtocolError("malformed message")
    return message


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_READER = json.JSONDecoder(parse_constant=_refuse_constant)  # ``json.loads`` would make one for each frame


def _renew_lock() -> None:
    """In a forked copy, forget who held the lock and what other threads had paused."""
    global _pausing, _pauses
    _pausing = threading.Lock()
    if _pauses and _was_enabled:
        gc.enable()
    _pauses = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
