"""Resource limits of a worker; a cell that exceeds one gets an ordinary exception."""

from __future__ import annotations

import resource
import threading
from resource import RLIMIT_CPU, setrlimit
from time import process_time
from typing import Any

MAX_THREADS = 64
THREAD_STACK = 1 << 20
MAX_FILES = 320  # enough for the large variables of one cell
CPU_LIMIT = 24 * 3600
STACK_BYTES = 8 << 20  # of the main thread; not counted as data


def limit_threads() -> None:
    """Limit the number of threads and the stack of each."""
    threading.stack_size(THREAD_STACK)
    start = threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if threading.active_count() > MAX_THREADS:
            raise RuntimeError(f"can't start new thread: the limit is {MAX_THREADS}")
        start(self)

    threading.Thread.start = limited  # type: ignore[method-assign]


def limit_process(config: dict[str, Any], data: int, addresses: int) -> None:
    """Set the kernel's limits for this process and its forks.

    Args:
        config: The host's configuration.
        data: Writable memory of the process at its start.
        addresses: Address space it may use in addition to its memory limit.
    """
    _lower_limit(resource.RLIMIT_DATA, data + config["memory"])
    _lower_limit(resource.RLIMIT_AS, addresses + config["memory"])
    _lower_limit(resource.RLIMIT_STACK, STACK_BYTES)
    _lower_limit(resource.RLIMIT_NOFILE, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
    tasks = config.get("tasks", 0)
    if tasks and not 0 <= resource.getrlimit(resource.RLIMIT_NPROC)[1] <= tasks:
        resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))


def _lower_limit(limit: int, most: int) -> None:
    """Set a limit for good, unless it is already lower."""
    hard = resource.getrlimit(limit)[1]
    if hard == resource.RLIM_INFINITY or hard > most:
        hard = most
    resource.setrlimit(limit, (hard, hard))


def limit_cpu(seconds: float) -> None:
    """Request SIGXCPU after this many more seconds of CPU time."""
    soft = int(process_time() + seconds) + 1
    setrlimit(RLIMIT_CPU, (min(soft, CPU_LIMIT), CPU_LIMIT))
