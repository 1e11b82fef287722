"""Waits for a provider end when nobody wants the reply any more, in every thread."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import psutil
import pytest

from rlm_dspy import RLM, deadlines
from rlm_dspy.lms import lm
from rlm_dspy.rlm import module
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

LONG = 50.0  # seconds that a provider asks for; every test is over long before
LATER = Fault(429, error("slow", "x"), {"retry-after": str(LONG)})
BATCH = "[[ ## reasoning ## ]]\nr\n\n[[ ## code ## ]]\n```python\nprint(llm_query_batched(['a', 'b']))\n```\n"


def groq(server: OpenAIServer) -> dspy.LM:
    given = {"api_key": server.key, "cache": False, "requests_per_minute": 100_000}
    return lm("groq/openai/gpt-oss-20b", api_base=server.url, **given)


async def asked(server: OpenAIServer, times: int = 1) -> None:
    while len(server.posts) < times:
        await asyncio.sleep(0.01)


async def drained(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


async def test_a_stop_ends_the_wait_of_a_streamed_run() -> None:
    with OpenAIServer(*[LATER] * 3) as server, dspy.context(lm=groq(server)):
        rlm = RLM("context, question -> answer", on_limit="raise")
        rlm.stop = threading.Event()
        stream = dspy.streamify(rlm)(context="word", question="how long?")
        task = asyncio.ensure_future(drained(stream))
        await asked(server)
        started = time.monotonic()
        rlm.stop.set()
        with pytest.raises(Exception, match="stop"):
            await task
    assert time.monotonic() - started < LONG - 10


async def test_sub_calls_that_wait_end_with_their_run() -> None:
    with OllamaServer(reply=BATCH) as root, OpenAIServer(LATER, LATER) as sub:
        with dspy.context(lm=lm("ollama_chat/qwen3:8b", api_base=root.url, cache=False)):
            rlm = RLM("context, question -> answer", sub_lm=groq(sub))
            task = asyncio.ensure_future(rlm.acall(context="word", question="what?"))
        await asked(sub, times=2)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while any(thread.name.startswith("rlm-subcall") for thread in threading.enumerate()):
            await asyncio.sleep(0.02)
        assert len(sub.posts) == 2
    assert time.monotonic() - started < LONG - 10


def test_a_wait_without_stop_or_deadline_ends_when_its_run_is_over() -> None:
    over = threading.Event()
    deadline = deadlines.Deadline(None, None, over)
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            cancelled.set()

    with ThreadPoolExecutor() as threads:
        ended = threads.submit(deadlines.call, deadline, None, lambda: deadlines.result_of(wait()), wait)
        over.set()
        with pytest.raises(deadlines.Interrupted, match="stop"):
            ended.result(LONG - 10)
    assert cancelled.wait(LONG - 10)


def test_a_call_on_the_loop_may_make_calls_of_its_own() -> None:
    async def outer() -> list[str]:
        return [deadlines.result_of(inner()), *deadlines.items_of(letters())]

    async def inner() -> str:
        return "a"

    async def letters() -> AsyncIterator[str]:
        for letter in "bc":
            yield letter

    assert deadlines.result_of(outer()) == ["a", "b", "c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    async def answer() -> int:
        return 7

    assert deadlines.result_of(answer()) == 7
    child = os.fork()
    if child == 0:
        os._exit(deadlines.result_of(answer()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_calls_that_are_cut_off_leave_no_connection_behind() -> None:
    with OpenAIServer(models=("x",)) as server:
        model = lm("openai/x", api_base=server.url, api_key=server.key, cache=False)
        process = psutil.Process()

        def ask(number: int) -> None:
            deadlines.call(deadlines.Deadline(30.0, None), model, lambda: model("q"), lambda: model.acall("q"))

        for number in range(5):
            ask(number)
        before = process.num_fds()
        for number in range(40):
            ask(number)
        assert process.num_fds() <= before + 2


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_an_engine_loads_before_the_clock_of_its_run_starts(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with OpenAIServer(models=("x",), reply="```python\nSUBMIT(answer='7')\n```") as server:
        model = lm("openai/x", api_base=server.url, api_key=server.key, cache=False)
        order: list[str] = []
        monkeypatch.setattr(model.engine, "load", lambda: order.append("load"))
        session = module.Session
        monkeypatch.setattr(module, "Session", lambda *a, **k: order.append("session") or session(*a, **k))
        with dspy.context(lm=model):
            rlm = RLM("context, question -> answer", max_seconds=60.0)
            call = {"context": "a", "question": "q"}
            predicted = rlm(**call) if way == "sync" else await rlm.acall(**call)
    assert predicted.answer == "7"
    assert order[:2] == ["load", "session"]
