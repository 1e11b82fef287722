"""Host calls from threads and coroutines are served at once, and a caller that waits can be interrupted."""

import asyncio
import contextvars
import signal
import threading
import time

import pytest

from rlm_dspy.errors import BudgetExceededError, SandboxError
from rlm_dspy.sandbox import Sandbox, cell, link, tool_threads

THREADS = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool: print(sum(pool.map(meet, range(8))))
"""
GATHER = """
import asyncio
print(sum(await asyncio.gather(*[asyncio.to_thread(meet, i) for i in range(8)])))
"""


@pytest.mark.parametrize("code", [THREADS, GATHER])
def test_host_calls_of_one_cell_run_at_the_same_time(code):
    barrier = threading.Barrier(8, timeout=20)

    def meet(number):
        barrier.wait()  # passes only if all eight are there at once
        return number

    with Sandbox(tools={"meet": meet}) as sandbox:
        assert sandbox.run(code).stdout == "28\n"


def test_an_async_tool_is_awaited():
    async def later(x):
        await asyncio.sleep(0)
        return x + 1

    with Sandbox(tools={"later": later}) as sandbox:
        assert sandbox.run("later(1)").value == "2"


def test_a_tool_sees_the_callers_context():
    variable = contextvars.ContextVar("v", default="unset")
    with Sandbox(tools={"look": lambda: variable.get()}) as sandbox:
        variable.set("set by the caller")
        assert sandbox.run("look()").value == "'set by the caller'"


def test_a_tools_failure_is_an_exception_of_the_same_name_inside():
    def tool(kind):
        raise {
            "value": ValueError("bad value"),
            "budget": BudgetExceededError("no more calls"),
            "key": KeyError("k"),
        }[kind]

    with Sandbox(tools={"tool": tool}) as sandbox:
        code = "try:\n tool({0!r})\nexcept {1} as e:\n print(type(e).__name__, e)"
        assert sandbox.run(code.format("value", "ValueError")).stdout == "ValueError bad value\n"
        assert sandbox.run(code.format("budget", "RuntimeError")).stdout == "BudgetExceededError no more calls\n"
        assert sandbox.run(code.format("key", "KeyError")).stdout.startswith("KeyError")


class Halt(BaseException):
    """Ends a program, as a cap on its cost does."""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), Halt()])
def test_what_ends_the_program_is_not_for_the_code_of_a_cell(error):
    def tool():
        raise error

    with Sandbox(tools={"tool": tool}) as sandbox:
        sandbox.run("x = 1")
        with pytest.raises(type(error)):
            sandbox.run("try:\n tool()\nexcept BaseException:\n pass\nwhile True: pass")
        assert sandbox.run("x").value == "1"


def test_what_a_tool_returns_must_be_data():
    with Sandbox(tools={"tool": lambda: object()}) as sandbox:
        assert "cannot cross" in sandbox.run("tool()").exception


def test_a_tool_gets_exact_values():
    seen = []
    with Sandbox(tools={"tool": lambda *a, **k: seen.append((a, k))}) as sandbox:
        sandbox.run("tool(2**70, b'x', (1, {2}), key=float('inf'))")
    assert seen == [((2**70, b"x", (1, {2})), {"key": float("inf")})]


def test_a_tool_added_or_removed_later_is_seen_by_the_next_cell(sandbox):
    sandbox.tools["fresh"] = lambda: "new"
    assert sandbox.run("fresh()").value == "'new'"
    del sandbox.tools["fresh"]
    assert "NameError" in sandbox.run("fresh()").exception


def test_a_tool_cannot_reenter_the_sandbox_that_calls_it():
    with Sandbox() as sandbox:
        sandbox.tools["again"] = lambda: sandbox.run("1")
        assert "cannot run code in the sandbox that is calling it" in sandbox.run("again()").exception


def test_a_tool_may_use_another_sandbox():
    with Sandbox() as inner, Sandbox(tools={"nested": lambda: inner.run("6 * 7").value}) as outer:
        assert outer.run("nested()").value == "'42'"


async def test_the_event_loop_keeps_turning_while_a_cell_runs(sandbox):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    done = await sandbox.arun("import time\ntime.sleep(0.5)\nprint('slept')")
    ticker.cancel()
    assert done.stdout == "slept\n"
    assert ticks > 5


async def test_cancelling_interrupts_the_cell_and_the_session_goes_on(sandbox):
    task = asyncio.create_task(sandbox.arun("x = 1\nimport time\ntime.sleep(100)", timeout=100))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await sandbox.arun("x")).value == "1"


async def test_cancelling_a_waiting_cell_leaves_the_running_one_alone():
    begun, go = threading.Event(), threading.Event()

    def wait():
        begun.set()
        go.wait(20)

    with Sandbox(tools={"wait": wait}, timeout=60) as sandbox:
        first = asyncio.create_task(sandbox.arun("wait()\n'first'"))
        await asyncio.to_thread(begun.wait, 20)
        second = asyncio.create_task(sandbox.arun("second = 1"))
        await asyncio.sleep(0.1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not first.done()  # it was not waited for either
        go.set()
        done = await first
        assert (done.kind, done.value) == ("ok", "'first'")
        assert (await sandbox.arun("'second' in globals()")).value == "False"


async def test_a_cell_cancelled_before_its_turn_never_runs():
    with Sandbox(timeout=60) as sandbox:
        sandbox.run("x = 0")
        sandbox.turn.acquire()
        task = asyncio.create_task(sandbox.arun("x = 1\nwhile True: pass"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sandbox.turn.release()
        assert (await sandbox.arun("x")).value == "0"


def test_an_interrupt_that_strikes_before_the_code_runs_is_not_lost(monkeypatch):
    serve = cell.Cell._serve

    def late(self):
        threading.Timer(0.3, self.stop.set).start()  # as if the signal had met a worker not yet armed
        return serve(self)

    with Sandbox(timeout=60) as sandbox:
        monkeypatch.setattr(cell.Cell, "_serve", late)
        done = sandbox.run("while True: pass")
        assert done.kind == "interrupted"
        assert done.seconds < 30


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(100)", "wait()", "import asyncio\nawait asyncio.sleep(100)"]
)
def test_an_interrupt_from_another_thread_ends_the_cell(code):
    with Sandbox(tools={"wait": lambda: time.sleep(3)}, timeout=60) as sandbox:
        sandbox.run("x = 1")
        timer = threading.Timer(0.2, sandbox.interrupt)
        timer.start()
        done = sandbox.run(code)
        timer.join()
        assert done.kind == "interrupted"
        assert not done.timed_out
        assert "interrupted" in done.text
        assert sandbox.run("x").value == "1"


def test_ctrl_c_in_the_host_ends_the_cell_and_keeps_the_session(sandbox):
    sandbox.run("x = 1")
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run("while True: pass", timeout=60)
    timer.join()
    assert sandbox.run("x").value == "1"


def test_an_interrupt_while_a_copy_is_made_costs_no_state(sandbox):
    sandbox.run("state = [str(i) for i in range(200_000)]\nx = -1")  # so that a fork takes its time
    for number in range(60):
        timer = threading.Timer(0.0002 * number, sandbox.interrupt)
        timer.start()
        done = sandbox.run(f"x = {number}")
        timer.join()
        assert done.kind in ("ok", "interrupted"), (number, done)
        assert done.note is None or "put back" not in done.note, (number, done)


def test_an_interrupt_between_cells_harms_nothing(sandbox):
    sandbox.run("x = 1")
    sandbox.interrupt()
    assert sandbox.run("x").value == "1"


def test_cells_of_many_threads_take_turns(sandbox):
    sandbox.run("n = 0")
    threads = [threading.Thread(target=lambda: [sandbox.run("n += 1") for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sandbox.run("n").value == "40"


def test_shutdown_from_another_thread_ends_a_running_cell():
    sandbox = Sandbox(timeout=60)
    sandbox.start()
    timer = threading.Timer(0.2, sandbox.shutdown)
    timer.start()
    done = sandbox.run("while True: pass")
    timer.join()
    assert done.exception is not None
    with pytest.raises(SandboxError):
        sandbox.run("1")


def test_a_thread_that_outlives_its_cell_stands_still_between_cells(sandbox):
    def ticks():
        with open(f"/proc/{sandbox._link.active.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])

    sandbox.run(
        "import threading, time\nn = 0\ndef count():\n global n\n while True: n += 1\n"
        "threading.Thread(target=count, daemon=True).start()\nwhile n == 0: time.sleep(0.01)",
    )
    while ticks()[0] != "T":  # a stop takes effect when every thread has seen it
        time.sleep(0.01)
    before = ticks()
    time.sleep(0.2)
    assert ticks() == before
    first = int(sandbox.run("n").value)
    assert int(sandbox.run("while n == " + str(first) + ": time.sleep(0.01)\nn").value) > first > 0


@pytest.mark.parametrize("end", ["SUBMIT(1)", "FINAL(1)"])
def test_a_thread_that_outlives_its_cell_cannot_end_the_run(sandbox, end):
    code = (
        "import threading, time\ntold = []\n"
        f"def late():\n time.sleep(.05)\n try: {end}\n except RuntimeError as error: told.append(str(error))\n"
        "threading.Thread(target=late).start()"
    )
    assert sandbox.run(code).final is None
    done = sandbox.run("time.sleep(.2)\ntold")
    assert done.final is None
    assert "let the cell wait for its result" in done.value


def test_a_thread_that_calls_the_host_for_ever_does_not_disturb_later_cells():
    with Sandbox(tools={"tool": lambda: 1}) as sandbox:
        sandbox.run(
            "import threading\ndef ask():\n while True: tool()\nthreading.Thread(target=ask, daemon=True).start()"
        )
        for number in range(40):
            assert sandbox.run(f"x = {number}; tool(); x").value == str(number)


def test_a_large_answer_to_a_thread_that_outlives_its_cell_waits_for_the_next(monkeypatch):
    monkeypatch.setattr(link, "SEND_SECONDS", 0.2)
    go = threading.Event()

    def big():
        go.wait(20)
        return "z" * 5_000_000

    with Sandbox(tools={"big": big}, timeout=20) as sandbox:
        sandbox.run("import threading\ngot = []\nthread = threading.Thread(target=lambda: got.append(big()))")
        sandbox.run("thread.start()")
        go.set()
        time.sleep(1)  # the model thinks for longer than a running worker would be waited for
        monkeypatch.undo()
        assert sandbox.run("print('second')").stdout == "second\n"
        assert sandbox.run("thread.join(); len(got[0])").value == "5000000"


def test_a_worker_that_stops_reading_in_mid_frame_costs_only_its_cell(monkeypatch):
    monkeypatch.setattr(link, "SEND_SECONDS", 0.2)
    deaf = (
        "import threading, time\nreader = sys.modules['rlm_worker.wire'].Wire\n"
        "reader._receive = lambda self: time.sleep(99)\nbig()"
    )
    with Sandbox(tools={"big": lambda: "z" * 5_000_000}, timeout=60) as sandbox:
        sandbox.run("import sys\nx = 1")
        assert "crashed or was killed" in sandbox.run(deaf).exception
        assert sandbox.run("x").value == "1"


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def test_a_tools_error_that_cannot_be_shown_is_an_error_all_the_same():
    def tool():
        raise Odd

    with Sandbox(tools={"tool": tool}, timeout=5) as sandbox:
        for _ in range(2):
            assert "Odd: (its text cannot be shown: RuntimeError)" in sandbox.run("tool()").exception


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tasks_that_fail_cost_their_crew_no_thread_and_no_room():
    team, done = tool_threads.ToolThreads(), threading.Event()

    def fail():
        raise ValueError

    for _ in range(tool_threads.MAX_THREADS + 1):
        team.submit(fail, weight=10)
    team.submit(done.set)
    assert done.wait(20)
    for _ in range(1000):
        if team.takes(tool_threads.MAX_LOAD):
            break
        time.sleep(0.01)
    assert team.takes(tool_threads.MAX_LOAD)
    assert team._size <= tool_threads.MAX_THREADS
    team.close()


def test_calls_that_wait_hold_a_bounded_amount_of_memory(monkeypatch):
    monkeypatch.setattr(tool_threads, "MAX_LOAD", 1 << 20)
    gate, served, refused = threading.Event(), [], []

    def slow(text):
        served.append(len(text))
        gate.wait(20)

    def told():
        refused.append(1)
        if len(refused) == 5:
            gate.set()

    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def ask(_):\n try: slow('x' * 300_000)\n except RuntimeError as error: told(); return str(error)\n"
        "with ThreadPoolExecutor(8) as pool: all = list(pool.map(ask, range(8)))\n"
        "print(all.count(None), all.count('too many host calls at once'))"
    )
    with Sandbox(tools={"slow": slow, "told": told}, timeout=20) as sandbox:
        assert sandbox.run(code).stdout == "3 5\n"
        assert len(served) == 3
        gate.clear()
        threading.Timer(0.1, gate.set).start()
        assert sandbox.run("slow('x' * 900_000)").kind == "ok"


def test_the_loop_of_the_session_keeps_its_tasks(sandbox):
    sandbox.run(
        "import asyncio\nevent = asyncio.Event()\nasync def wait():\n await event.wait(); return 'woken'\n"
        "task = asyncio.ensure_future(wait())\nawait asyncio.sleep(0)"
    )
    assert sandbox.run("event.set()\nawait task").value == "'woken'"


def test_asyncio_run_works_too(sandbox):
    assert (
        sandbox.run("import asyncio\nasync def f():\n await asyncio.sleep(0.01); return 5\nasyncio.run(f())").value
        == "5"
    )
