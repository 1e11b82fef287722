"""A caller may keep the session's state under a name and go back to it, whatever happens in between."""

import os
import signal
import time

import pytest

from rlm_dspy.errors import SandboxDiedError, SandboxError
from rlm_dspy.sandbox import Sandbox, interpreter
from sandbox import hosts
from sandbox.hosts import wait_until_gone

EXIT = "import sys; sys.modules['os']._exit(1)"


def processes(sandbox):
    """Return the numbers of the session's processes."""
    link = sandbox._link
    return [process.pid for process in (link.active, link.standby, *link.held) if process is not None]


def test_restoring_brings_back_the_state_of_then_as_often_as_wanted(sandbox):
    sandbox.run("items = [1]")
    name = sandbox.checkpoint()
    for _ in range(3):
        sandbox.run("items.append(2); later = 'x'")
        sandbox.restore(name)
        assert sandbox.run("items, 'later' in globals()").value == "([1], False)"


def test_each_name_stands_for_its_own_state_and_the_latest_is_the_default(sandbox):
    for number in range(3):
        sandbox.run(f"n = {number}")
        sandbox.checkpoint(f"at {number}")
    sandbox.run("n = 'lost'")
    sandbox.restore()
    assert sandbox.run("n").value == "2"
    sandbox.restore("at 0")
    assert sandbox.run("n").value == "0"
    sandbox.restore("at 1")
    assert sandbox.run("n").value == "1"
    sandbox.run("n = 'newer'")
    sandbox.checkpoint("at 0")
    sandbox.restore("at 2")
    sandbox.restore("at 0")
    assert sandbox.run("n").value == "'newer'"


@pytest.mark.parametrize("checkpoint", ["auto", "always", "never"])
def test_a_restored_session_survives_crashes_as_its_policy_says(checkpoint):
    with Sandbox(checkpoint=checkpoint) as sandbox:
        sandbox.run("n = 1")
        sandbox.checkpoint()
        sandbox.run("n = 2")
        sandbox.restore()
        sandbox.run("n += 10")
        done = sandbox.run(EXIT)
        assert (done.kind == "died") == (checkpoint == "never")
        seen = sandbox.run("n")
        assert seen.value == "11" if checkpoint != "never" else "NameError" in seen.exception


def test_a_crash_between_leaves_the_checkpoint(sandbox):
    sandbox.run("n = 1")
    sandbox.checkpoint()
    sandbox.run("n = 2")
    assert "put back" in sandbox.run(EXIT).note
    assert sandbox.run("n").value == "2"
    sandbox.restore()
    assert sandbox.run("n").value == "1"


def test_inputs_and_tools_are_those_of_the_checkpoint_until_given_anew():
    first, second = "first " * 50_000, "second " * 50_000
    with Sandbox(tools={"tool": lambda: "told"}, main="text") as sandbox:
        sandbox.run("1", {"text": first})
        sandbox.checkpoint()
        assert sandbox.run("text[:6], P[:6]", {"text": second}).value == "('second', 'second')"
        sandbox.tools["late"] = lambda: "late"
        sandbox.restore()
        assert sandbox.run("text[:5], P[:5], tool(), late()").value == "('first', 'first', 'told', 'late')"
        assert sandbox.run("text[:6], P[:6]", {"text": second}).value == "('second', 'second')"


def test_a_variable_given_with_a_cell_that_is_lost_is_given_again(sandbox):
    sandbox.run("x = 1", {"text": "old"})
    new = "new"
    sandbox.run("print(text)", {"text": new})
    os.kill(sandbox._link.active.pid, signal.SIGKILL)
    sandbox.run("print(1)")
    assert sandbox.run("print(text)", {"text": new}).stdout == "new\n"
    assert sandbox.run("print(text)").stdout == "new\n"


def test_there_is_a_limit_and_forgetting_makes_room(sandbox):
    names = [sandbox.checkpoint() for _ in range(interpreter.MAX_CHECKPOINTS)]
    with pytest.raises(SandboxError, match="at most 8 checkpoints"):
        sandbox.checkpoint()
    sandbox.checkpoint(names[0])  # the same name anew needs no room
    sandbox.forget(names[1])
    sandbox.forget("unknown")
    sandbox.checkpoint("room")
    with pytest.raises(SandboxError, match="there is no checkpoint"):
        sandbox.restore(names[1])


def test_what_is_not_there_cannot_be_restored(sandbox):
    with pytest.raises(SandboxError, match="kept: none"):
        sandbox.restore()


def test_shutdown_and_the_end_of_the_session_free_every_copy():
    with Sandbox() as sandbox:
        sandbox.run("x = 1")
        for _ in range(3):
            sandbox.checkpoint()
        before = hosts.descriptors()
        pids = processes(sandbox)
        sandbox.forget(next(iter(sandbox._kept)))
        assert hosts.descriptors() == before - 1
    assert len(pids) == 5
    assert wait_until_gone(pids) == []
    with pytest.raises(SandboxError):
        sandbox.checkpoint()


def test_a_killed_checkpoint_ends_the_session_when_it_is_restored(sandbox):
    sandbox.run("x = 1")
    sandbox.checkpoint()
    os.kill(sandbox._link.held[0].pid, signal.SIGKILL)
    with pytest.raises(SandboxDiedError):
        sandbox.restore()
    assert sandbox.run("6 * 7").value == "42"


def test_hostile_code_cannot_answer_for_a_checkpoint(sandbox):
    sandbox.run("x = 1")
    sandbox.run(
        "import sys, gc\nsession = SUBMIT.__self__\n"
        "session.keep = lambda number: session.wire.send({'t': 'result', 'n': number, 'copies': 0})"
    )
    with pytest.raises(SandboxError, match="could not be copied"):
        sandbox.checkpoint()
    assert sandbox.run("x").value == "1"


def test_a_tool_cannot_keep_or_restore_the_session_that_calls_it(sandbox):
    sandbox.tools["keep"] = sandbox.checkpoint
    assert "cannot run code in the sandbox" in sandbox.run("keep()").exception


@pytest.mark.parametrize("pause", [0, 0.003])
def test_a_thread_that_waits_for_the_host_does_not_hinder_a_checkpoint(pause):
    with Sandbox(tools={"tool": lambda: time.sleep(pause)}) as sandbox:
        sandbox.run(
            "import threading\ndef ask():\n while True: tool()\n"
            "threading.Thread(target=ask, daemon=True).start()\nx = 1"
        )
        sandbox.checkpoint()
        sandbox.run("x = 2")
        sandbox.restore()
        assert sandbox.run("x").value == "1"
        assert "put back" in sandbox.run(EXIT).note
        assert sandbox.run("x").value == "1"


FORKS = """
import sys, time
for _ in range(50):
    try:
        if sys.modules['posix'].fork() == 0:
            while True: pass
    except OSError: pass
{then}
"""


@pytest.mark.parametrize("then", ["print('done')", "while True: pass"])
def test_fifty_forks_do_not_delay_a_result_beyond_its_limit(then):
    with Sandbox(timeout=5) as sandbox:
        sandbox.run("kept = 1")
        begun = time.monotonic()
        done = sandbox.run(FORKS.format(then=then))
        assert "killed" in done.exception
        assert time.monotonic() - begun < (3 if "done" in then else 5 * 1.2 + 1.0)  # a second to give in by itself
        assert sandbox.run("kept").value == "1"
