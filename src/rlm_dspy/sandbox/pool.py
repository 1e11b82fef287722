"""Sessions made ahead of need, for whoever asks: a fresh one costs milliseconds, a pooled one next to nothing."""

from __future__ import annotations

import os
import threading
from typing import Any

from . import checks, policy
from . import zygote as zygotes
from .link import Link
from .process import ProtocolError, WorkerGoneError

MAX_TASKS = 8192  # threads and processes of all sessions of a zygote, where the kernel counts them apart

_Key = tuple[zygotes.Setting, int, int]

_lock = threading.Lock()
_ready: dict[_Key, list[Link]] = {}


def worker_config(setting: zygotes.Setting, memory_mb: int, max_output_chars: int) -> dict[str, Any]:
    """Return what a worker is told at its birth."""
    return {
        "output": max_output_chars,
        "memory": memory_mb << 20,
        "debug": setting.debug,
    }


def prewarm(
    count: int = 1,
    *,
    memory_mb: int = 512,
    max_output_chars: int = 100_000,
    isolation: policy.Isolation = "strong",
    modules: tuple[str, ...] = (),
) -> None:
    """Start the zygote and keep ``count`` sessions ready for sandboxes with these limits.

    Raises:
        SandboxUnavailableError: the isolation asked for cannot be had here.
    """
    setting = zygotes.Setting(isolation, checks.with_parts(modules))
    config = worker_config(setting, memory_mb, max_output_chars)
    fresh = [_new_link(zygotes.running_zygote(setting), config) for _ in range(count)]
    with _lock:
        _ready.setdefault(_pool_key(setting, config), []).extend(fresh)


def connect(setting: zygotes.Setting, config: dict[str, Any]) -> Link:
    """Return a session: one made ahead if there is one, else a new one.

    Raises:
        SandboxUnavailableError: the isolation asked for cannot be had here.
    """
    zygote = zygotes.running_zygote(setting)
    return _pooled_link(zygote, config) or _new_link(zygote, config)


def _new_link(zygote: zygotes.Zygote, config: dict[str, Any]) -> Link:
    # Without a user namespace the limit would count all that this user runs anywhere.
    config = config | {"tasks": MAX_TASKS if zygote.report.get("namespaces") is True else 0}
    try:
        return Link(zygote, config)
    except (OSError, WorkerGoneError, ProtocolError):  # the zygote died: its successor will do
        return Link(zygotes.replacement_zygote(zygote), config)


def _pooled_link(zygote: zygotes.Zygote, config: dict[str, Any]) -> Link | None:
    with _lock:
        links = _ready.get(_pool_key(zygote.setting, config), [])
        while links:
            link = links.pop()
            if link.zygote is zygote and link.active is not None and not link.active.gone():
                return link
            link.close()
    return None


def _pool_key(setting: zygotes.Setting, config: dict[str, Any]) -> _Key:
    return setting, config["memory"], config["output"]


def drop_links() -> None:
    """Drop every session made ahead, without touching its processes (after a fork, or at the end)."""
    while _ready:
        for link in _ready.popitem()[1]:
            link.let_go()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


zygotes.on_end(drop_links)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
