"""Cells may await host calls: those that are awaited together run side by side, all others return at once."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from rlm_dspy.sandbox import Sandbox

PAUSE = 0.2


class Slow:
    """A host function that takes a while and knows how many of its calls ran at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = self.most = 0

    def ask(self, prompt: str) -> str:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(PAUSE)
        with self._lock:
            self._now -= 1
        if prompt == "bad":
            raise ValueError("no answer")
        return prompt.upper()


@pytest.fixture
def slow() -> Iterator[tuple[Sandbox, Slow]]:
    host = Slow()
    with Sandbox({"ask": host.ask}, timeout=10.0) as made:
        made.run("import asyncio\nps = ['a', 'b', 'c', 'd']\nawait asyncio.sleep(0)")
        yield made, host


TOGETHER = {
    "gather of a list": "r = await asyncio.gather(*[ask(p) for p in ps])",
    "gather of a generator": "r = await asyncio.gather(*(ask(p) for p in ps))",
    "gather of calls": "r = await asyncio.gather(ask('a'), ask('b'), ask('c'), ask(prompt='d'))",
    "a list of its own": "tasks = [ask(p) for p in ps]\nr = await asyncio.gather(*tasks)",
    "a list that grows": "tasks = []\nfor p in ps:\n    tasks.append(ask(p))\nr = await asyncio.gather(*tasks)",
    "a list that is added to": "tasks = []\nfor p in ps:\n    tasks += [ask(p)]\nr = await asyncio.gather(*tasks)",
    "a dict": "t = {p: ask(p) for p in ps}\nr = await asyncio.gather(*t.values())",
    "items of a dict": "t = {}\nfor p in ps: t[p] = ask(p)\nr = [await t[p] for p in ps]",
    "names": "w, x, y, z = ask('a'), ask('b'), ask('c'), ask('d')\nr = [await w, await x, await y, await z]",
    "tasks": "tasks = [asyncio.create_task(ask(p)) for p in ps]\nr = [await t for t in tasks]",
    "tasks of begun calls": "c = [ask(p) for p in ps]\nr = [await t for t in [asyncio.create_task(x) for x in c]]",
    "ensured futures": "tasks = [asyncio.ensure_future(ask(p)) for p in ps]\nr = await asyncio.gather(*tasks)",
    "awaited one by one": "tasks = [ask(p) for p in ps]\nr = []\nfor t in tasks:\n    r.append(await t)",
    "a coroutine": "async def one(p):\n    return await ask(p)\nr = await asyncio.gather(*[one(p) for p in ps])",
    "a coroutine that forgets to await": (
        "async def one(p):\n    x = ask(p)\n    return x.strip()\nr = await asyncio.gather(*map(one, ps))"
    ),
    "a main of its own": (
        "async def main():\n    tasks = [ask(p) for p in ps]\n    return await asyncio.gather(*tasks)\n"
        "r = asyncio.run(main())"
    ),
    "a task group": (
        "async with asyncio.TaskGroup() as g:\n    tasks = [g.create_task(ask(p)) for p in ps]\n"
        "r = [t.result() for t in tasks]"
    ),
    "a limit": (
        "limit = asyncio.Semaphore(4)\nasync def one(p):\n    async with limit:\n        return await ask(p)\n"
        "r = await asyncio.gather(*(one(p) for p in ps))"
    ),
}


@pytest.mark.parametrize("what", TOGETHER)
def test_calls_that_are_awaited_together_run_side_by_side(slow: tuple[Sandbox, Slow], what: str) -> None:
    sandbox, host = slow
    started = time.monotonic()
    done = sandbox.run(TOGETHER[what] + "\nprint(list(r), {type(x) for x in r})")
    seconds = time.monotonic() - started
    assert done.stdout == "['A', 'B', 'C', 'D'] {<class 'str'>}\n", done.text
    assert host.most == 4
    assert seconds < 2.5 * PAUSE


AT_ONCE = {
    "no loop": "r = ask('a')\nprint(r + '!', '-'.join([r]), isinstance(r, str))",
    "awaited": "r = await ask('a')\nprint(r + '!', '-'.join([r]), isinstance(r, str))",
    "beside an await": "await asyncio.sleep(0)\nr = ask('a')\nprint(r + '!', '-'.join([r]), isinstance(r, str))",
    "inside a call": (
        "await asyncio.sleep(0)\nprint(ask('a') + '!', '-'.join(ask(p) for p in 'a'), type(ask('a')) is str)"
    ),
    "in a function beside an await": (
        "def own(p): return ask(p)\nawait asyncio.sleep(0)\nr = own('a')\n"
        "print(r + '!', '-'.join([r]), isinstance(r, str))"
    ),
    "in a coroutine": (
        "async def f():\n    r = ask('a')\n    return f\"{r + '!'} {'-'.join([r])} {isinstance(r, str)}\"\n"
        "print(await f())"
    ),
}


@pytest.mark.parametrize("what", AT_ONCE)
def test_any_other_call_returns_its_result_at_once(slow: tuple[Sandbox, Slow], what: str) -> None:
    assert slow[0].run(AT_ONCE[what]).text.strip() == "A! A True"


def test_a_call_that_has_begun_may_be_used_before_it_is_awaited(slow: tuple[Sandbox, Slow]) -> None:
    done = slow[0].run("x = ask('abc')\nprint(x.lower(), str(x), x[0], repr(x))\nprint(await x, await x)")
    assert done.stdout == "abc ABC A 'ABC'\nABC ABC\n"


def test_a_call_that_fails_raises_where_it_is_awaited(slow: tuple[Sandbox, Slow]) -> None:
    sandbox, _ = slow
    done = sandbox.run("r = await asyncio.gather(ask('a'), ask('bad'), return_exceptions=True)\nr")
    assert done.value == "['A', ValueError('no answer')]"
    told = sandbox.run("tasks = [ask(p) for p in ['a', 'bad']]\nawait asyncio.gather(*tasks)").exception
    assert told is not None
    assert told.endswith("ValueError: no answer")
    assert sandbox.run("await ask('a')").value == "'A'"


def test_a_function_of_the_cell_may_have_the_name_of_a_tool(slow: tuple[Sandbox, Slow]) -> None:
    sandbox, _ = slow
    sandbox.run("async def ask(p):\n    await asyncio.sleep(0)\n    return p * 2")
    assert sandbox.run("r = await asyncio.gather(*[ask(p) for p in ps])\nr").value == "['aa', 'bb', 'cc', 'dd']"


def test_a_stopped_cell_leaves_nothing_in_the_way(slow: tuple[Sandbox, Slow]) -> None:
    sandbox, _ = slow
    assert sandbox.run("tasks = [ask(p) for p in ps]\nawait asyncio.sleep(60)", timeout=0.5).timed_out
    assert sandbox.run("r = await asyncio.gather(*[ask(p) for p in ps])\nr").value == "['A', 'B', 'C', 'D']"


async def test_it_works_on_an_async_host() -> None:
    async def ask(prompt: str) -> str:
        await asyncio.sleep(PAUSE)
        return prompt.upper()

    with Sandbox({"ask": ask}, timeout=10.0) as sandbox:
        await sandbox.arun("import asyncio\nawait asyncio.sleep(0)")
        started = time.monotonic()
        done = await sandbox.arun("r = await asyncio.gather(*[ask(p) for p in 'abcd'])\nr")
        assert done.value == "['A', 'B', 'C', 'D']"
        assert time.monotonic() - started < 2.5 * PAUSE
