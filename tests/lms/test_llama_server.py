"""Against a real llama-server, if one is up: what the documentation says of a server of one's own.

Start one with a small window, so that it is quickly full:
``llama-server -m qwen2.5-coder-0.5b.gguf --port 8402 -c 4096 -np 2 --slots``, and name it by ``RLM_DSPY_LLAMA_SERVER``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy import local_servers
from rlm_dspy.lms import lm, windows
from rlm_dspy.lms.model_list import list_models, probe_provider
from rlm_dspy.testing import Script, action, fields

BASE = os.environ.get("RLM_DSPY_LLAMA_SERVER", "http://127.0.0.1:8401/v1").rstrip("/")
LONG = "Write all the numbers from 1 to 300 as words, one per line."
LARGEST = 4_096  # tokens of a window that is filled in reasonable time


def found_server() -> local_servers.LocalServer | None:
    access = local_servers.access_to("openai/any", BASE)
    try:
        server = None if access is None else local_servers.ask_server(access)
    except local_servers.ServerUnreachableError:
        return None
    return server if server is not None and server.kind == "llama.cpp" else None


# Tests beside each other would see each other's requests.
ALONE = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1"
SERVER = found_server() if ALONE else None
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(SERVER is None, reason=f"needs a llama-server at {BASE} and a single process (-n 0)"),
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*fields' attribute:DeprecationWarning"),
]
NAME = SERVER.models[0].name if SERVER else ""
WINDOW = (SERVER.window_of(NAME) or 0) if SERVER else 0
fills_the_window = pytest.mark.skipif(WINDOW > LARGEST, reason=f"a window of {WINDOW:,} tokens takes long to fill")


def real(**options: Any) -> dspy.LM:
    return lm(f"openai/{NAME}", api_base=BASE, cache=False, temperature=0.0, **options)


def busy() -> int:
    with urllib.request.urlopen(f"{BASE.removesuffix('/v1')}/slots", timeout=10) as reply:
        return sum(slot["is_processing"] for slot in json.load(reply))


def wait_until(is_busy: bool) -> bool:
    """Wait until the server works, or no longer does; a batch of a prompt is read to its end."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if bool(busy()) == is_busy:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(autouse=True)
def idle() -> None:
    if not wait_until(False):
        pytest.skip("the server is busy with something else")


def test_the_window_and_the_slots_are_found() -> None:
    made = real()
    assert windows.known_window(made) == WINDOW > 0
    assert windows.known_window(dspy.LM(f"openai/{NAME}", api_base=BASE, api_key="none")) == WINDOW
    assert made.engine.route.slots == SERVER.slots  # type: ignore[union-attr]


def test_doctor_and_models_know_it() -> None:
    said = [check.what for check in probe_provider(f"openai/{NAME}", api_base=BASE)]
    assert f"llama.cpp answers at {BASE}" in said
    assert any(f"{WINDOW:,} tokens for each slot" in line for line in said)
    assert any("a short reply took" in line for line in said)
    rows = list_models({"OPENAI_API_BASE": BASE, "OLLAMA_HOST": "127.0.0.1:9"}).rows
    assert (f"openai/{NAME}", "llama.cpp", WINDOW) in [(row.name, row.provider, row.window) for row in rows]


def test_a_prompt_that_does_not_fit_is_refused_in_a_line() -> None:
    with pytest.raises(dspy.ContextWindowExceededError, match=f"exceeds the available context size .{WINDOW} tokens"):
        real()("x " * (WINDOW + 100))


def test_a_reply_that_is_cut_says_so_and_a_prefix_is_read_from_the_cache() -> None:
    made = real(max_tokens=4)
    made(LONG)
    assert made.history[-1]["response"].finish_reason == "length"
    made(LONG)
    usage = made.history[-1]["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["prompt_tokens_details"]["cached_tokens"] >= usage["prompt_tokens"] - 2


def test_a_stream_comes_in_pieces_and_frees_its_slot_when_it_is_left() -> None:
    made = real(max_tokens=400)
    request = dspy.lm15.Request(made.model, [dspy.lm15.Message.user(LONG)])
    events = made.engine.stream(replace(request, config=dspy.lm15.Config(max_tokens=400)))
    kinds = [next(events).type for _ in range(5)]
    assert kinds == ["start", *["delta"] * 4]
    assert busy() == 1
    events.close()
    assert wait_until(False)


def asking(made: dspy.LM, **options: Any) -> Any:
    """Return a program whose root is scripted, and whose cell asks the real model for a long reply."""
    script = Script(action(f"print(llm_query({LONG!r}))"), fields(answer="so far"))
    root = dspy.LM("scripted/root", engine=script, cache=False, num_retries=0)
    program = rlm_dspy.RLM("context, question -> answer", sub_lm=made, **options)
    program.set_lm(root)
    return program


def test_a_run_that_is_stopped_frees_its_slot() -> None:
    stop = threading.Event()
    threading.Thread(target=lambda: wait_until(True) and stop.set(), daemon=True).start()
    found = asking(real(max_tokens=1_000))(context="c", question="q", stop=stop)
    assert found.run.stopped_by == "stop"
    assert wait_until(False)


def test_a_run_that_is_out_of_time_frees_its_slot() -> None:
    made = real(max_tokens=1_500)
    made("hi", max_tokens=1)  # whatever is loaded at the first call
    found = asking(made, max_seconds=6)(context="c", question="q")
    assert found.run.stopped_by == "max_seconds"
    assert wait_until(False)


async def test_an_async_call_that_is_cancelled_frees_its_slot() -> None:
    task = asyncio.create_task(real(max_tokens=1_000).acall(LONG))
    assert await asyncio.to_thread(wait_until, True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_until, False)


def test_ctrl_c_frees_the_slot() -> None:
    code = f"import rlm_dspy; rlm_dspy.lm('openai/{NAME}', api_base={BASE!r}, cache=False, max_tokens=1000)({LONG!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        assert wait_until(True)
        process.send_signal(signal.SIGINT)
        assert wait_until(False)
        process.communicate(timeout=30)
    assert process.returncode != 0


class Steered(Script):
    """Has the real server read every prompt, as a model whose window nobody tells, and says what it was told to."""

    def __init__(self, *replies: Any) -> None:
        super().__init__(*replies)
        self.server = real().engine
        self.refused = 0

    def complete(self, request: Any) -> Any:
        """Perform one request: the usage is the server's."""
        config = replace(request.config, max_tokens=1, temperature=0.0)
        try:
            read = self.server.complete(replace(request, model=f"openai/{NAME}", config=config))
        except dspy.lm15.ContextLengthError:
            self.refused += 1
            raise
        return replace(super().complete(request), usage=read.usage)


@fills_the_window
def test_a_run_that_overflows_is_compacted_and_goes_on() -> None:
    large, small = WINDOW // 5, 10  # each pair of characters is two tokens or so
    cells = [action(f"print('{n}7' * {size})") for n, size in enumerate([large, small, small, large, small])]
    script = Steered(*cells, action("print(past_steps[0]['output'][:10])\nSUBMIT(answer='found')"))
    program = rlm_dspy.RLM("context, question -> answer", profile="small", max_output_chars=100_000)
    with dspy.context(lm=dspy.LM("scripted/root", engine=script, cache=False, num_retries=0)):
        found = program(context="c", question="q")
    assert found.answer == "found"
    assert script.refused >= 1
    assert found.run.steps[-1].error is None
    assert found.run.usage.cached_tokens > 0


@fills_the_window
def test_sub_calls_on_two_slots_leave_the_roots_prefix_in_the_cache() -> None:
    prompts = [f"Of text {n}, say one word: " + " ".join(f"{chr(97 + n)}{i}" for i in range(40)) for n in range(4)]
    script = Steered(action(f"print(len(llm_query_batched({prompts!r})))"), action("SUBMIT(answer='x')"))
    program = rlm_dspy.RLM("context, question -> answer", profile="small", sub_lm=real(max_tokens=3))
    with dspy.context(lm=dspy.LM("scripted/root", engine=script, cache=False, num_retries=0)):
        run = program(context="c", question="q").run
    first, second = run.steps[0].usage, run.steps[1].usage
    assert run.usage.calls == 6
    assert second.cached_tokens >= 0.9 * first.prompt_tokens
