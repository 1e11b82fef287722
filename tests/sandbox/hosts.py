"""Host processes that the tests start and end, and what must be gone after them."""

import time

import psutil

from rlm_dspy.sandbox import Sandbox


def wait_until_gone(pids, seconds=10.0):
    """Return those of ``pids`` that still run after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not left:
            return []
        time.sleep(0.02)
    return left


def answer(queue):
    """Run a cell in a process that was started for it."""
    with Sandbox() as own:
        queue.put(own.run("6 * 7").value)
