"""Cells that await share one event loop; of a cell that was stopped nothing goes on."""

import pytest

from rlm_dspy.sandbox import Sandbox

EXIT = "import sys; sys.modules['os']._exit(1)"
GHOST = "import asyncio\nasync def ghost():\n await asyncio.sleep(0.6)\n seen.append('ghost'); SUBMIT('ghost')\n"
LOOK = "await asyncio.sleep(0.8)\nprint(seen)"
STOPPED = {
    "itself": "await ghost()",
    "a task": "task = asyncio.create_task(ghost())\nawait asyncio.sleep(9)",
    "tasks gathered": "await asyncio.gather(ghost(), ghost())",
    "a task, while it works": "task = asyncio.create_task(ghost())\nawait asyncio.sleep(0)\nwhile True: pass",
    "itself, by an exit in a task": "async def leave(): exit()\ntask = asyncio.create_task(leave())\nawait ghost()",
    "itself, by stopping the loop": "asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)\nawait ghost()",  # noqa: E501
}
RESISTING = "async def resist():\n while True:\n  try: await ghost()\n  except asyncio.CancelledError: pass\n"


@pytest.mark.parametrize("what", STOPPED)
def test_a_stopped_cell_does_not_go_on_in_a_later_one(sandbox, what):
    sandbox.run("seen = []\n" + GHOST)
    assert sandbox.run(STOPPED[what], timeout=0.3).exception is not None
    done = sandbox.run(LOOK)
    assert (done.stdout, done.final) == ("[]\n", None)


@pytest.mark.parametrize("code", ["await resist()", "task = asyncio.create_task(resist())\nawait asyncio.sleep(9)"])
def test_a_stopped_cell_that_refuses_to_be_cancelled_is_left_behind(sandbox, code):
    sandbox.run("seen = []\nkept = 1\n" + GHOST + RESISTING)
    assert sandbox.run(code, timeout=0.3).timed_out
    done = sandbox.run(LOOK)
    assert (done.stdout, done.final) == ("[]\n", None)
    assert sandbox.run("kept").value == "1"


def test_a_stopped_cell_may_clean_up_and_submit_what_it_has(sandbox):
    sandbox.run("import asyncio")
    done = sandbox.run("try: await asyncio.sleep(9)\nfinally: SUBMIT('so far')", timeout=1.0)
    assert done.final == {"output": "so far"}


def test_the_tasks_of_earlier_cells_outlive_a_stopped_one(sandbox):
    sandbox.run("seen = []\n" + GHOST + "async def note(): await event.wait(); return 'woken'")
    sandbox.run("event = asyncio.Event()\ntask = asyncio.create_task(note())\nawait asyncio.sleep(0)")
    sandbox.run("await ghost()", timeout=0.3)
    assert sandbox.run("event.set()\nawait task").value == "'woken'"


def test_threads_of_the_loop_are_there_after_going_back():
    with Sandbox(timeout=5.0) as sandbox:
        sandbox.run("import asyncio\nawait asyncio.gather(*[asyncio.to_thread(len, 'abc') for _ in range(40)])")
        assert "put back" in sandbox.run(EXIT).note
        assert sandbox.run("await asyncio.to_thread(len, 'abcd')").value == "4"
