"""Read a worker's frames, any of which may be crafted to cost the host as much as possible.

Holds: a frame is bounded in bytes (``link``) and in values before it is parsed. Does not hold: parsing is not
interruptible; it takes at most half a second.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, NoReturn

from rlm_dspy.garbage_pause import paused_garbage_collection

from .process import ProtocolError
from .worker.wire import MAX_VALUES, count_values

LONG_FRAME_BYTES = 1 << 16  # bytes; shorter frames make too few objects to trigger the garbage collector


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
        with paused_garbage_collection() if len(body) > LONG_FRAME_BYTES else contextlib.nullcontext():
            message = _READER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed frame: {type(error).__name__}") from None
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):
        raise ProtocolError("malformed message")
    return message


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_READER = json.JSONDecoder(parse_constant=_refuse_constant)  # ``json.loads`` would make one per frame
