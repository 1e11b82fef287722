"""Daemon threads that serve host calls: as many as are needed at once, none kept for long."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

IDLE_SECONDS = 5.0
MAX_THREADS = 64

Task = Callable[[], None]


class Crew:
    """Runs tasks on threads that never keep the process alive."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._size = 0

    def submit(self, task: Task) -> None:
        """Run ``task`` on an idle thread or on a new one; beyond the limit it waits its turn."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._size < MAX_THREADS:
                self._size += 1
                threading.Thread(target=self._work, name="rlm-dspy-tool", daemon=True).start()
            self._tasks.put(task)

    def close(self) -> None:
        """Send idle threads home; busy ones go when their task is done."""
        with self._lock:
            for _ in range(self._size):
                self._tasks.put(None)

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._tasks.empty():
                        self._size -= 1
                        self._idle = max(0, self._idle - 1)
                        return
                continue
            if task is None:
                with self._lock:
                    self._size -= 1
                    self._idle = max(0, self._idle - 1)
                return
            task()
            with self._lock:
                self._idle += 1
