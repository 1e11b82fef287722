"""Fork without the standard library's fork handlers, which only threads make necessary.

The handlers renew locks that another thread may hold. A single-threaded process has no such locks, and each handler
makes the copy write to dozens of pages that it would otherwise share.
"""

import os

# The C module, which loads instantly.
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
    """Keep handlers registered from now on for ``fork`` to run, instead of around every fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork = _register_actions


def _register_actions(
    *,
    before: "Action | None" = None,
    after_in_parent: "Action | None" = None,
    after_in_child: "Action | None" = None,
) -> None:
    if before is not None:
        _BEFORE.insert(0, before)  # handlers run in reverse order of registration
    if after_in_parent is not None:
        _IN_PARENT.append(after_in_parent)
    # A copy continues the session's random sequence, so `random` must not reseed itself.
    if after_in_child is not None and getattr(after_in_child, "__name__", "") != "seed":
        _IN_CHILD.append(after_in_child)


def fork() -> int:
    """Fork; return 0 in the copy, and the copy's process id in the original.

    Raises:
        OSError: The process could not be made.
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
    """Fork with interrupts blocked: the kernel would restart the call and ask the host for a second fork."""
    before = pthread_sigmask(SIG_BLOCK, (SIGINT, SIGXCPU))
    try:
        return fork_now()
    finally:
        pthread_sigmask(SIG_SETMASK, before)
