"""Forks that leave out what only threads make necessary.

The standard library has functions run around each fork, which renew locks that another thread may have held. A process
of one thread has none of those, and each function makes the copy write to dozens of pages that it would go on sharing.
"""

import os

# The C module, which loads at once.
from _signal import (  # type: ignore[import-not-found]
    SIG_BLOCK,
    SIG_SETMASK,
    SIGINT,
    SIGXCPU,
    pthread_sigmask,
)
from _thread import _count
from os import fork as fork_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Action = Callable[[], object]

_BEFORE: "list[Action]" = []
_IN_PARENT: "list[Action]" = []
_IN_CHILD: "list[Action]" = []


def watch() -> None:
    """Keep what is registered from now on for ``fork``, instead of having it run around every fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork = _register_actions


def _register_actions(
    *,
    before: "Action | None" = None,
    after_in_parent: "Action | None" = None,
    after_in_child: "Action | None" = None,
) -> None:
    if before is not None:
        _BEFORE.insert(0, before)  # the last to be registered is the first to run
    if after_in_parent is not None:
        _IN_PARENT.append(after_in_parent)
    # A copy goes on with the chance that the session had: `random` is not to seed itself anew.
    if after_in_child is not None and getattr(after_in_child, "__name__", "") != "seed":
        _IN_CHILD.append(after_in_child)


def fork() -> int:
    """Fork; return 0 in the copy, and its process id in the original.

    Raises:
        OSError: no process could be made.
    """
    if not _count():
        return _fork_uninterrupted()
    for action in _BEFORE:
        action()
    child = -1
    try:
        child = _fork_uninterrupted()
    finally:
        for action in _IN_PARENT if child else _IN_CHILD:
            action()
    return child


def _fork_uninterrupted() -> int:
    """Fork while no interrupt strikes: the kernel would begin the call anew, and ask the host for a second fork."""
    before = pthread_sigmask(SIG_BLOCK, (SIGINT, SIGXCPU))
    try:
        return fork_now()
    finally:
        pthread_sigmask(SIG_SETMASK, before)
