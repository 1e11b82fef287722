"""A pool of sessions made in advance: a new one takes milliseconds, a pooled one almost no time."""

from __future__ import annotations

import threading
from typing import Any

from . import checks, policy
from . import zygote_host as zygotes
from .errors import InterpreterUnavailableError
from .link import Link
from .process import ProtocolError, WorkerGoneError

MAX_TASKS = 8192  # threads and processes of all sessions of a zygote, if the kernel counts them separately

_Key = tuple[zygotes.ZygoteSettings, int, int]

_lock = threading.Lock()
_ready: dict[_Key, list[Link]] = {}


def worker_config(setting: zygotes.ZygoteSettings, memory_mb: int, max_output_chars: int) -> dict[str, Any]:
    """Return the configuration a worker receives when it is forked."""
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
        SandboxUnavailableError: The requested isolation is not available here.
    """
    setting = zygotes.ZygoteSettings(isolation, checks.with_parts(modules))
    config = worker_config(setting, memory_mb, max_output_chars)
    fresh = [_new_link(zygotes.running_zygote(setting), config) for _ in range(count)]
    with _lock:
        _ready.setdefault(_pool_key(setting, config), []).extend(fresh)


def connect(setting: zygotes.ZygoteSettings, config: dict[str, Any]) -> Link:
    """Return a session, from the pool if possible, else a new one.

    Raises:
        SandboxUnavailableError: The requested isolation is not available here.
    """
    zygote = zygotes.running_zygote(setting)
    return _pooled_link(zygote, config) or _new_link(zygote, config)


def _new_link(zygote: zygotes.Zygote, config: dict[str, Any]) -> Link:
    # Without a user namespace the limit would count all processes of this user.
    config = config | {"tasks": MAX_TASKS if zygote.report.get("namespaces") is True else 0}
    try:
        return Link(zygote, config)
    except (OSError, WorkerGoneError, ProtocolError):  # the zygote died: use its successor
        successor = zygotes.replacement_zygote(zygote)
    try:
        return Link(successor, config)
    except (WorkerGoneError, ProtocolError) as error:
        raise InterpreterUnavailableError(policy.ENDED_AT_START) from error


def _pooled_link(zygote: zygotes.Zygote, config: dict[str, Any]) -> Link | None:
    with _lock:
        links = _ready.get(_pool_key(zygote.setting, config), [])
        while links:
            link = links.pop()
            if link.zygote is zygote and link.active is not None and not link.active.gone():
                return link
            link.close()
    return None


def _pool_key(setting: zygotes.ZygoteSettings, config: dict[str, Any]) -> _Key:
    return setting, config["memory"], config["output"]


def drop_links() -> None:
    """Drop all pooled sessions without touching their processes (after a fork, or at exit)."""
    global _lock
    _lock = threading.Lock()  # a thread that the fork did not copy may have held the old one
    while _ready:
        for link in _ready.popitem()[1]:
            link.let_go()


zygotes.on_end(drop_links)
