"""Read a worker's frames, any of which may be crafted to cost the host as much as possible.

Holds: a frame is bounded in bytes (``link``) and in values before it is parsed. Does not hold: parsing is not
interruptible; it takes at most half a second.
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

LONG_FRAME_BYTES = 1 << 16  # bytes; shorter frames make too few objects to trigger the garbage collector

_pausing = threading.Lock()
_pauses = 0
_was_enabled = False


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
    """Pause the garbage collector while the heap only grows; several threads may do so at once."""
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
        ProtocolError: It is not a message, or holds too many values.
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


_READER = json.JSONDecoder(parse_constant=_refuse_constant)  # ``json.loads`` would make one per frame


def _renew_lock() -> None:
    """Reset the lock and the pauses of other threads in a forked copy."""
    global _pausing, _pauses
    _pausing = threading.Lock()
    if _pauses and _was_enabled:
        gc.enable()
    _pauses = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
