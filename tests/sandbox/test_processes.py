"""No process and no descriptor outlives its use, however the host or a worker ends."""

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import psutil
import pytest

from rlm_dspy.errors import SandboxDiedError
from rlm_dspy.sandbox import Sandbox, prewarm, zygote

HOST = """
import os, signal, sys, threading, time
from rlm_dspy.sandbox import Sandbox
import psutil
a, b = Sandbox(), Sandbox()
a.run("x = 1")
b.run("import threading\\ndef f():\\n while True: pass\\nthreading.Thread(target=f, daemon=True).start()")
stubborn = "while 1:\\n try:\\n  while 1: pass\\n except BaseException: pass"
hanging = threading.Thread(target=lambda: b.run(stubborn))
hanging.daemon = True
hanging.start()
time.sleep(0.2)
print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
"""

ENDS = {
    "normally": "",
    "after a shutdown": "a.shutdown()",
    "by an exception": "raise RuntimeError('expected')",
    "by os._exit": "os._exit(0)",
    "by sys.exit": "sys.exit(1)",
    "by SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)",
    "by SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "by SIGKILL while a child lives": "p = os.fork()\nif p == 0: time.sleep(3); os._exit(0)\nos.kill(os.getpid(), signal.SIGKILL)",  # noqa: E501
}


def wait_until_gone(pids, seconds=10.0):
    """Return those of ``pids`` that still run after a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not left:
            return []
        time.sleep(0.02)
    return left


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_left_when_the_host_ends(end):
    done = subprocess.run(
        [sys.executable, "-c", HOST + ENDS[end]], capture_output=True, text=True, timeout=60, check=False
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 6, done.stderr
    assert wait_until_gone(pids) == []


def test_shutdown_leaves_only_the_zygote():
    with Sandbox() as sandbox:
        sandbox.run("x = 1")
        group = sandbox._link.zygote.group
        workers = [sandbox._link.active.pid, sandbox._link.standby.pid]
        assert all(os.getpgid(pid) == group for pid in workers)
    assert wait_until_gone(workers) == []


def test_a_dropped_sandbox_takes_its_worker_along():
    sandbox = Sandbox()
    sandbox.run("x = 1")
    workers = [sandbox._link.active.pid, sandbox._link.standby.pid]
    del sandbox
    assert wait_until_gone(workers) == []


def test_descriptors_do_not_leak():
    def round_trip():
        with Sandbox(tools={"tool": lambda: 1}) as sandbox:
            sandbox.run("tool()", {"text": "x" * 100_000})
            sandbox.run("import sys; sys.modules['os']._exit(1)")
            sandbox.run("len(text)")

    round_trip()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        round_trip()
    assert len(os.listdir("/proc/self/fd")) == before


def test_inside_only_the_private_channels_are_open(sandbox):
    seen = sandbox.run(
        "import sys\nos = sys.modules['os']\nopen_ones = []\nfor n in range(256):\n try:\n  sys.modules['fcntl'].fcntl(n, 1); open_ones.append(n)\n"  # noqa: E501
        " except OSError: pass\nopen_ones"
    )
    assert eval(seen.value)[:3] == [0, 1, 2]
    assert len(eval(seen.value)) == 5


def _in_child(sandbox, queue):
    try:
        sandbox.run("1")
    except SandboxDiedError as error:
        queue.put(str(error))
    with Sandbox() as own:
        queue.put(own.run("6 * 7").value)


def test_a_forked_copy_of_the_host_gets_sessions_of_its_own(sandbox):
    sandbox.run("x = 1")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested here
        child = context.Process(target=_in_child, args=(sandbox, queue))
        child.start()
    assert "belongs to the process" in queue.get(timeout=30)
    assert queue.get(timeout=30) == "42"
    child.join(30)
    assert child.exitcode == 0
    assert sandbox.run("x").value == "1"


def _spawned(queue):
    with Sandbox() as own:
        queue.put(own.run("6 * 7").value)


def test_a_spawned_process_gets_sessions_of_its_own():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import multiprocessing as m\nfrom rlm_dspy.sandbox import Sandbox\n"
            "def f(q):\n    with Sandbox() as s: q.put(s.run('6 * 7').value)\n"
            "if __name__ == '__main__':\n    c = m.get_context('fork'); q = c.Queue(); p = c.Process(target=f, args=(q,)); p.start()\n"  # noqa: E501
            "    print(q.get(timeout=30)); p.join()",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "42\n", done.stderr


def test_sessions_outlive_their_zygote_and_the_next_gets_a_new_one(sandbox):
    sandbox.run("x = 1")
    old = sandbox._link.zygote
    os.kill(old.pid, signal.SIGKILL)
    assert wait_until_gone([old.pid]) == []
    sandbox.run("x += 1")
    assert "put back" in sandbox.run("import sys; sys.modules['os']._exit(1)").note
    assert sandbox.run("x").value == "2"
    with Sandbox() as other:
        assert other.run("6 * 7").value == "42"
        assert other._link.zygote is not old


def test_a_killed_keeper_ends_the_sessions_and_the_host_goes_on(sandbox):
    sandbox.run("x = 1")
    worker = sandbox._link.active.pid
    sandbox._link.zygote._process.kill()
    assert wait_until_gone([worker]) == []
    done = sandbox.run("x")
    assert done.kind == "died"
    assert sandbox.run("6 * 7").value == "42"


def test_pooled_sessions_are_used_and_do_not_outlive_the_pool():
    prewarm(2, memory_mb=77)
    with Sandbox(memory_mb=77) as one, Sandbox(memory_mb=77) as two, Sandbox(memory_mb=77) as three:
        assert len({s._link.active.pid for s in (one, two, three)}) == 3
        assert three.run("6 * 7").value == "42"


def test_threads_may_start_sandboxes_at_once():
    zygote.close_all()
    results = []

    def work(number):
        with Sandbox() as sandbox:
            results.append(sandbox.run(f"{number} * 2").value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, results)) == [number * 2 for number in range(12)]


def test_nothing_is_lost_but_the_killed_cell_in_a_thousand_cells():
    """Kill the worker, its copy or the zygote at random moments; keep a model of what must be there."""
    chance = random.Random(7)
    descriptors = None
    kills = {"worker": 0, "copy": 0, "zygote": 0}
    with Sandbox() as sandbox:
        sandbox.run("seen = []")
        expected, killer = [], None
        for number in range(1000):
            recovering, killer = killer is not None, None
            roll = chance.random()
            if roll < 0.15:
                killer = _kill(sandbox, "worker", chance.random() * 0.006, kills)
            elif roll < 0.20 and not recovering:  # never both at once: then all is lost, and said so
                _kill(sandbox, "copy", 0, kills)
            elif number in (300, 600):
                _kill(sandbox, "zygote", 0, kills)
            done = sandbox.run(f"seen.append({number})")
            if killer is not None:
                killer.join()
            assert done.kind != "died", (number, done)
            if done.exception is None or "all names are kept" in (done.note or ""):
                expected.append(number)
            if number == 50:
                descriptors = len(os.listdir("/proc/self/fd"))
        assert sandbox.run("SUBMIT(seen)").final["output"] == expected
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
        ours = psutil.Process(sandbox._link.zygote.group).children(recursive=True)
        workers = {sandbox._link.active.pid, sandbox._link.standby.pid}
    assert wait_until_gone(workers) == []
    assert min(kills.values()) >= 2
    assert len(ours) <= 4


def _kill(sandbox, what, delay, kills):
    kills[what] += 1
    link = sandbox._link
    pid = {"worker": link.active, "copy": link.standby, "zygote": link.zygote}[what].pid

    def strike():
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    if delay == 0:
        strike()
        return None
    thread = threading.Thread(target=strike)
    thread.start()
    return thread
