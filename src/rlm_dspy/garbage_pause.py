"""Pauses of the garbage collector, which finds almost nothing while the heap only grows."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_pausing = threading.Lock()
_pauses = 0
_was_enabled = False


@contextlib.contextmanager
def paused_garbage_collection() -> Iterator[None]:
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


def _renew_lock() -> None:
    """Reset the lock and the pauses of other threads in a forked copy."""
    global _pausing, _pauses
    _pausing = threading.Lock()
    if _pauses and _was_enabled:
        gc.enable()
    _pauses = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
