"""Host processes that end in every way; as a script, one for each way, which tells the processes it had.

They are forked from one parent, which has imported what takes seconds, and which ends normally itself.
"""

import gc
import os
import signal
import sys
import threading
import time

import psutil

from rlm_dspy.sandbox import Sandbox

STUBBORN = "while 1:\n try:\n  while 1: pass\n except BaseException: pass"
ENDS = {
    "normally": "",
    "after a shutdown": "a.shutdown()",
    "by an exception": "raise RuntimeError('expected')",
    "by os._exit": "os._exit(0)",
    "by sys.exit": "sys.exit(1)",
    "by SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)",
    "by SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "by SIGKILL while a child lives": "if os.fork() == 0: time.sleep(3); os._exit(0)\nos.kill(os.getpid(), signal.SIGKILL)",  # noqa: E501
}


def descriptors():
    """Return how many descriptors this process has open, without those of other tests' garbage."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def runs(pid):
    """Return whether this process is there and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pids, seconds=10.0):
    """Return those of ``pids`` that still run after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = [pid for pid in pids if runs(pid)]
        if not left:
            return []
        time.sleep(0.02)
    return left


def answer(queue):
    """Run a cell in a process that was started for it."""
    with Sandbox() as own:
        queue.put(own.run("6 * 7").value)


def live(end):
    """Have an idle session and one that will not stop, tell their processes, and end."""
    a, b = Sandbox(), Sandbox()
    a.run("x = 1")
    b.run("import threading\ndef f():\n while True: pass\nthreading.Thread(target=f, daemon=True).start()")
    threading.Thread(target=lambda: b.run(STUBBORN), daemon=True).start()
    time.sleep(0.2)
    pids = [child.pid for child in psutil.Process().children(recursive=True)]
    os.write(1, f"{end}: {' '.join(map(str, pids))}\n".encode())
    exec(ENDS[end], {"a": a, "os": os, "sys": sys, "signal": signal, "time": time})


def main():
    """Be each host in turn, the last of them in this process."""
    for end in list(ENDS)[1:]:
        child = os.fork()
        if child == 0:
            live(end)
            return
        os.waitpid(child, 0)
    live("normally")


if __name__ == "__main__":
    main()
