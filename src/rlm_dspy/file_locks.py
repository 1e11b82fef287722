"""Locks on open files; the system releases one when its file is closed or its process ends, however it ends.

Windows has other calls for it. That half is written from documentation and was only run against a stand-in.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BEYOND = (1 << 31) - 2  # the byte that is locked on Windows, where other processes cannot read a locked byte
_POLL_SECONDS = 0.05


class _OpenFile(Protocol):
    def fileno(self) -> int: ...


def try_lock(file: _OpenFile | int, *, shared: bool = False) -> bool:
    """Lock an open file if nobody else has it, and return whether it is locked now; ``shared`` is for readers."""
    descriptor = file if isinstance(file, int) else file.fileno()
    try:
        if fcntl is None:
            _lock_byte(descriptor)
        else:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # as Linux and Windows say that another has it
        return False
    return True


def lock(file: _OpenFile | int) -> None:
    """Wait until nobody else has an open file locked, and lock it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    while not try_lock(file):
        time.sleep(_POLL_SECONDS)


def _lock_byte(descriptor: int) -> None:
    import msvcrt

    windows: Any = msvcrt  # its functions are unknown to a type checker on Linux
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)
        windows.locking(descriptor, windows.LK_NBLCK, 1)
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)
