"""llama.cpp frees a slot when a stream's reader hangs up, and works on at anything else: so it is read as a stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy import errors
from rlm_dspy.lms import lm
from rlm_dspy.testing import action
from servers.local import NAME, LocalServer, llama_cpp, vllm
from servers.wire import Fault

# LiteLLM's streams are not free of these.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*fields' attribute:DeprecationWarning"),
]


class Endless(LocalServer):
    """Writes until its reader hangs up, as llama-server notices it."""

    def __init__(self) -> None:
        super().__init__(llama_cpp(window=16_384))
        self.began, self.heard, self.over = threading.Event(), threading.Event(), threading.Event()

    def __exit__(self, *raised: Any) -> None:
        self.over.set()
        super().__exit__(*raised)

    def _events(self, body: Any) -> Iterator[bytes]:
        first = list(super()._events(body))[1]
        try:
            while not self.over.wait(0.01):
                self.began.set()
                yield first
        except GeneratorExit:  # the connection broke, and the handler with it
            self.heard.set()
            raise


def ours(server: LocalServer, **options: Any) -> dspy.LM:
    return lm(f"openai/{NAME}", api_base=f"{server.url}/v1", cache=False, **options)


def test_llama_cpp_is_read_as_a_stream_and_others_are_not() -> None:
    with LocalServer(llama_cpp()) as server:
        made = ours(server)
        assert made("hello") == ["hello"]
        entry = made.history[-1]
        assert server.posts[0].body["stream"] is True
    assert entry["usage"]["prompt_tokens_details"]["cached_tokens"] == entry["usage"]["prompt_tokens"] // 2
    with LocalServer(vllm()) as server:
        assert ours(server)("hello") == ["hello"]
        assert "stream" not in server.posts[0].body


async def test_the_async_twin_reads_it_as_a_stream_too() -> None:
    with LocalServer(llama_cpp()) as server:
        assert await ours(server).acall("hello") == ["hello"]
        assert server.posts[0].body["stream"] is True


def test_the_text_and_the_end_of_a_stream_are_those_of_a_whole_reply() -> None:
    with LocalServer(llama_cpp()) as server:
        text = "Look.\n\n```python\nprint('a  b')\n```\n"
        server.turns = [(text, "length")]
        made = ours(server)
        assert made("hello") == [text]
    assert made.history[-1]["response"].finish_reason == "length"


def test_a_reply_that_stops_halfway_is_asked_for_again() -> None:
    cut = Fault(after=1, cut=True, path="/v1/chat")
    with LocalServer(llama_cpp()) as server:
        server.faults.append(cut)
        assert ours(server)("hello") == ["hello"]
        assert len(server.posts) == 2


def test_a_run_that_is_stopped_hangs_up() -> None:
    with Endless() as server:
        program = rlm_dspy.RLM("context, question -> answer")
        with dspy.context(lm=ours(server)), pytest.raises(errors.BudgetExceededError):
            program(context="c", question="q", stop=server.began)
        assert server.heard.wait(30)


async def test_an_async_run_that_is_cancelled_hangs_up() -> None:
    with Endless() as server:
        with dspy.context(lm=ours(server)):
            program = rlm_dspy.RLM("context, question -> answer")
            task = asyncio.create_task(program.acall(context="c", question="q"))
            assert await asyncio.to_thread(server.began.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await asyncio.to_thread(server.heard.wait, 30)


def test_a_stream_that_is_left_hangs_up() -> None:
    with Endless() as server:
        made = ours(server)
        events = made.engine.stream(dspy.lm15.Request(made.model, [dspy.lm15.Message.user("q")]))
        assert next(events).type == "start"
        events.close()
        assert server.heard.wait(30)


def test_a_run_counts_its_cached_tokens() -> None:
    with LocalServer(llama_cpp(window=16_384)) as server:
        server.turns = [(action("SUBMIT(answer='x')"), "stop")]
        with dspy.context(lm=ours(server)):
            run = rlm_dspy.RLM("context, question -> answer")(context="c", question="q").run
    assert run.usage.cached_tokens == run.usage.prompt_tokens // 2 > 0
