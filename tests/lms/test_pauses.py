"""Waits for a provider end when nobody wants the reply any more, in every thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import dspy
import pytest

from rlm_dspy import RLM, waiting
from rlm_dspy.lms import lm
from rlm_dspy.lms.pace import slot
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


async def test_a_stop_ends_the_wait_of_a_streamed_run() -> None:
    with OpenAIServer(*[LATER] * 3) as server, dspy.context(lm=groq(server)):
        rlm = RLM("context, question -> answer", on_limit="raise")
        rlm.stop = threading.Event()
        stream = dspy.streamify(rlm)(context="word", question="how long?")
        task = asyncio.ensure_future(anext(stream))
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


@pytest.mark.parametrize("place", ["sleep", "slot"])
def test_a_wait_without_stop_or_deadline_ends_when_its_run_is_over(place: str) -> None:
    over = threading.Event()
    patience = waiting.Patience(None, None, over)
    taken = slot("a server of this test", 1)
    assert taken is not None
    ended: list[str] = []

    def wait() -> None:
        if place == "sleep":
            waiting.sleep(LONG)
        else:
            with waiting.held(taken):
                pass

    def run() -> None:
        try:
            waiting.call(patience, None, wait, asyncio.Event().wait)
        except waiting.Interrupted as interrupted:
            ended.append(interrupted.limit)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    with taken:
        thread.start()
        over.set()
        thread.join(LONG - 10)
    assert ended == ["stop"]


def test_outside_of_a_run_a_sleep_is_only_a_sleep() -> None:
    waiting.sleep(0.01)
    with waiting.held(None):
        waiting.sleep(0)
