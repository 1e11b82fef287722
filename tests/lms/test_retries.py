"""What is tried again, after how long, and where the waits are counted and shown."""

from __future__ import annotations

import asyncio
import threading
import time

import dspy
import pytest

from rlm_dspy import RLM
from rlm_dspy.errors import BudgetExceededError, ConfigurationError
from rlm_dspy.lms import engine, lm, rate_limits
from rlm_dspy.metering import Meter
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.run import Event, Usage
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

KEY = "gsk_right_key_000000"
SUBMIT = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\n```python\nSUBMIT(answer=str(len(context)))\n```\n"
SOON = Fault(429, error("slow", "x"), {"retry-after": "0.2"})
LATER = Fault(429, error("slow", "x"), {"retry-after": "30"})


def groq(server: OpenAIServer, **options: object) -> dspy.LM:
    given = {"api_key": KEY, "cache": False, "requests_per_minute": 100_000, **options}
    return lm("groq/openai/gpt-oss-20b", api_base=server.url + "/openai/v1", **given)


def test_a_retry_is_counted_in_the_record_of_the_run() -> None:
    with OpenAIServer(SOON, SOON, reply=SUBMIT) as server, dspy.context(lm=groq(server)):
        run = RLM("context, question -> answer")(context="word", question="how long is it?").run
    assert (run.usage.calls, run.usage.retries) == (1, 2)
    assert 0.4 <= run.usage.waited_seconds < 2
    assert run.steps[0].usage.retries == 2
    assert run.usage_by_model["groq/openai/gpt-oss-20b"].retries == 2


def test_a_call_that_fails_for_good_still_counts_its_retries() -> None:
    meter = Meter()
    with OpenAIServer(*[SOON] * 9) as server, dspy.context(callbacks=[meter]):
        with pytest.raises(dspy.LMRateLimitError):
            groq(server, num_retries=2)("hi")
        assert len(server.posts) == 3
    assert meter.usage.retries == 2
    assert meter.usage.waited_seconds >= 0.4


def test_a_long_wait_is_announced_before_it_begins_and_the_deadline_ends_it() -> None:
    seen: list[Event] = []
    started = time.monotonic()
    with OpenAIServer(LATER, reply=SUBMIT) as server, dspy.context(lm=groq(server)):
        rlm = RLM("context, question -> answer", max_seconds=2.0, on_event=seen.append)
        with pytest.raises(BudgetExceededError) as caught:
            rlm(context="word", question="how long is it?")
    assert time.monotonic() - started < 20
    waits = [event for event in seen if event.kind == "wait"]
    assert (waits[0].text, 30 <= waits[0].seconds <= 33) == ("Groq", True)
    assert caught.value.run.usage.waited_seconds < 20


def test_a_stop_ends_a_wait() -> None:
    with OpenAIServer(LATER) as server, dspy.context(lm=groq(server)):
        direct = Direct("question -> answer")
        direct.stop = threading.Event()
        threading.Timer(0.5, direct.stop.set).start()
        started = time.monotonic()
        with pytest.raises(BudgetExceededError, match="stop"):
            direct(question="why?")
    assert time.monotonic() - started < 20


async def test_cancelling_an_async_call_ends_its_wait() -> None:
    with OpenAIServer(LATER) as server:
        task = asyncio.ensure_future(groq(server).acall("hi"))
        while not server.posts:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_async_engine_retries_and_counts_the_same() -> None:
    meter = Meter()
    with OpenAIServer(SOON) as server, dspy.context(callbacks=[meter]):
        assert await groq(server).acall("hi") == ["hello"]
    assert meter.usage.retries == 1


def test_a_wait_in_a_sub_call_is_counted_there() -> None:
    code = "[[ ## reasoning ## ]]\nr\n\n[[ ## code ## ]]\n```python\nSUBMIT(answer=llm_query('say it'))\n```\n"
    seen: list[Event] = []
    with OllamaServer(reply=code) as root, OpenAIServer(SOON) as sub:
        made = lm("ollama_chat/qwen3:8b", api_base=root.url, cache=False)
        with dspy.context(lm=made):
            rlm = RLM("context, question -> answer", sub_lm=groq(sub), on_event=seen.append)
            found = rlm(context="word", question="what?")
    (call,) = found.run.steps[0].sub_calls
    assert (found.answer, call.usage.retries, found.run.usage.retries) == ("hello", 1, 1)


def test_a_server_that_never_answered_is_not_asked_twice_but_one_that_did_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "_FIRST_BACKOFF_SECONDS", 0.05)
    made = lm("ollama_chat/x", api_base="http://127.0.0.1:9", cache=False, num_ctx=2048)
    for answered, expected in ((set(), 0), ({"http://127.0.0.1:9"}, 3)):
        monkeypatch.setattr(engine, "_ANSWERED", answered)
        meter = Meter()
        with dspy.context(callbacks=[meter]), pytest.raises(dspy.LMTransportError, match="cannot be reached"):
            made("hi")
        assert meter.usage.retries == expected


def test_a_503_that_asks_for_more_than_a_minute_is_told_at_once() -> None:
    busy = Fault(503, error("busy", "x"), {"retry-after": "1272"})
    with OpenAIServer(busy) as server, pytest.raises(dspy.LMServerError, match="Try again in 21 min"):
        groq(server)("hi")
    assert len(server.posts) == 1


def test_a_model_that_needs_more_memory_is_not_asked_again() -> None:
    full = Fault(500, {"error": "model requires more system memory (9.1 GiB) than is available (7.2 GiB)"})
    with OllamaServer(full) as server, pytest.raises(dspy.LMInvalidRequestError, match="smaller model"):
        lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False, num_ctx=2048)("hi")
    assert len(server.posts) == 1


def test_a_slow_local_server_is_not_asked_again() -> None:
    with OllamaServer(Fault(delay=1.0)) as server:
        with pytest.raises(dspy.LMTimeoutError):
            lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False, timeout=0.3, num_ctx=2048)("hi")
        assert len(server.posts) == 1


@pytest.mark.parametrize("asked", [0.0, 1.0, 12.0, 59.0, 60.0])
def test_what_a_provider_asks_for_is_waited_and_never_more_than_a_minute(asked: float) -> None:
    for _ in range(50):
        assert asked <= rate_limits.backoff_delay(1, asked) <= min(asked * 1.1, 60.0)


def test_backoff_grows_has_jitter_and_ends() -> None:
    first, fifth = ([rate_limits.backoff_delay(n, None) for _ in range(100)] for n in (1, 5))
    assert max(first) <= 1.0 < min(fifth)
    assert len(set(first)) > 90
    assert max(rate_limits.backoff_delay(50, None) for _ in range(100)) <= 20


@pytest.mark.parametrize("wrong", [-1, True, "many"])
def test_an_impossible_number_of_retries_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="num_retries"):
        lm("ollama_chat/x", num_retries=wrong)


def test_dspy_does_not_retry_on_top() -> None:
    made = lm("ollama_chat/x", api_base="http://127.0.0.1:9", num_retries=5)
    assert made.num_retries == 0
    assert made.engine.route.retries == 5


def test_usages_add_their_waits() -> None:
    total = Usage(retries=1, waited_seconds=0.5) + Usage(retries=2, waited_seconds=1.5, cost=None)
    assert (total.retries, total.waited_seconds, total.cost) == (3, 2.0, None)
