"""What a worker may take of the machine; a cell that takes more is told by an exception of its own."""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

MAX_THREADS = 64
THREAD_STACK = 1 << 20
MAX_FILES = 320  # room for the large variables of one cell
CPU_LIMIT = 24 * 3600


def threads() -> None:
    """Limit the number of threads, and the stack of each."""
    threading.stack_size(THREAD_STACK)
    start = threading.Thread.start

    def limited(self: threading.Thread) -> None:
        if threading.active_count() > MAX_THREADS:
            raise RuntimeError(f"can't start new thread: the limit is {MAX_THREADS}")
        start(self)

    threading.Thread.start = limited  # type: ignore[method-assign]


def process(config: dict[str, Any], baseline: int) -> None:
    """Set the kernel's limits for this process and all it may fork; ``baseline`` is the memory it begins with."""
    memory = baseline + config["memory"]
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
    tasks = config.get("tasks", 0)
    if tasks and not 0 <= resource.getrlimit(resource.RLIMIT_NPROC)[1] <= tasks:
        resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))


def cpu(seconds: float) -> None:
    """Have SIGXCPU sent after so many more seconds of this process's time; 0 sets no limit."""
    if seconds:
        soft = int(time.process_time() + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (min(soft, CPU_LIMIT), CPU_LIMIT))
