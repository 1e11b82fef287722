"""Mutual exclusion for a sandbox."""

from __future__ import annotations

import contextvars
import threading
from typing import Protocol

from .errors import InterpreterFailedError


class Enterable(Protocol):
    """An object that one caller at a time may enter."""

    turn: threading.Lock


class SingleEntry:
    """Admits one cell at a time to a sandbox, and raises if a cell's own tool tries to enter."""

    def __init__(self, sandbox: Enterable) -> None:
        self._sandbox = sandbox

    def __enter__(self) -> None:
        if self._sandbox in _inside.get():
            raise InterpreterFailedError("a tool cannot run code in the sandbox that is calling it")
        self._sandbox.turn.acquire()
        self._token = _inside.set((*_inside.get(), self._sandbox))

    def __exit__(self, *error: object) -> None:
        _inside.reset(self._token)
        self._sandbox.turn.release()


_inside: contextvars.ContextVar[tuple[Enterable, ...]] = contextvars.ContextVar("inside", default=())
