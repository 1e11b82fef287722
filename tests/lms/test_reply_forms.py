"""A slip in a server's reply does not cost the reply: text in parts, and counts that no reply can have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from rlm_dspy.lms import engine, lm, streams
from rlm_dspy.metering import Meter, token_cost, whole_count
from rlm_dspy.run import Usage
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer
from servers.wire import Fault

# LiteLLM's own types make pydantic warn when a stream is read and put together.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*fields' attribute:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning"),  # from the OpenAI client
]

KEY = "sk-canary-0123456789"
MODEL = "openai/gpt-4o-mini"
PARTS = [{"type": "text", "text": "forty "}, {"type": "text", "text": "two"}]
PROMPT = "word " * 40
IMPOSSIBLE = {
    "a fraction": {"prompt_tokens": 1.5, "completion_tokens": 2, "total_tokens": 3.5},
    "words": {"prompt_tokens": f"many {KEY}", "completion_tokens": 2, "total_tokens": 2},
    "a list": [1, 2],
    "a list as a count": {"prompt_tokens": [1], "completion_tokens": 2},
    "negative": {"prompt_tokens": -5, "completion_tokens": 2, "total_tokens": -3},
    "huge": {"prompt_tokens": 10**30, "completion_tokens": 2, "total_tokens": 10**30},
}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_ANSWERED", set())  # a port may be taken twice


@pytest.fixture(params=["whole", "streamed"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """How replies are sent."""
    token = streams.ON_TEXT.set((lambda _: None) if request.param == "streamed" else None)
    yield request.param
    streams.ON_TEXT.reset(token)


def fault(way: str, content: Any = "forty two", usage: Any = None, refusal: str | None = None, **others: Any) -> Fault:
    """A reply, whole or in a stream of three lines."""
    head = {"id": "1", "created": 1, "model": "m"}
    message = {"role": "assistant", "content": content, "refusal": refusal}
    if way == "whole":
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Fault(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage, **others})
    head["object"] = "chat.completion.chunk"
    lines = [
        {**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage},
    ]
    return Fault(after=0, body="".join(f"data: {json.dumps(line)}\n\n" for line in lines))


def asked(faulty: Fault, make: Any = lm, model: str = MODEL) -> tuple[list[Any], Usage]:
    """Ask once; return the outputs and the usage."""
    meter = Meter()
    with OpenAIServer(faulty, key=KEY, models=("m", "gpt-4o-mini")) as server, dspy.context(callbacks=[meter]):
        outputs = make(model, api_base=server.url, api_key=KEY, cache=False, num_retries=0)(PROMPT)
        assert len(server.posts) == 1
    return outputs, meter.usage


@pytest.mark.parametrize("model", [MODEL, "hosted_vllm/m"])
def test_text_in_parts_is_joined(way: str, model: str) -> None:
    assert asked(fault(way, PARTS, {"prompt_tokens": 9, "completion_tokens": 2}), model=model)[0] == ["forty two"]


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("model", [MODEL, "hosted_vllm/m"])
def test_an_impossible_usage_is_said_and_estimated(
    way: str, model: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    outputs, usage = asked(fault(way, usage=IMPOSSIBLE[name]), model=model)
    assert outputs == ["forty two"]
    if usage.estimated_calls:  # older versions of LiteLLM estimate the usage of a stream themselves
        assert (usage.estimated_calls, usage.prompt_tokens) == (1, len(PROMPT) // 4)
    else:
        assert way == "streamed"
        assert abs(usage.prompt_tokens - len(PROMPT) // 4) < 10
    assert "reports an impossible usage" in caplog.text
    assert KEY not in caplog.text


def test_whole_numbers_in_other_forms_are_counted(way: str) -> None:
    usage = asked(fault(way, usage={"prompt_tokens": "50", "completion_tokens": 2.0, "total_tokens": "x"}))[1]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated_calls) == (50, 2, 0)


@pytest.mark.parametrize("cached", [-(10**12), 10**9, 10**12, 0.5, "some", [1]])
def test_an_impossible_count_of_cached_tokens_costs_neither_the_reply_nor_money(way: str, cached: Any) -> None:
    counts = {"prompt_tokens": 1_000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": cached}}
    usage = asked(fault(way, usage=counts))[1]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated_calls) == (1_000, 10, 0)
    assert 0 <= usage.cached_tokens <= 1_000
    assert usage.cost == pytest.approx(token_cost(MODEL, 1_000, 10, usage.cached_tokens))


def test_a_plain_lm_is_not_billed_for_impossible_counts() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 10**6}}
    usage = asked(fault("whole", usage={"prompt_tokens": 1_000, "completion_tokens": 10, **details}), dspy.LM)[1]
    assert usage.cached_tokens == 1_000
    assert 0 < usage.cost < 0.001
    huge = asked(fault("whole", usage={"prompt_tokens": 10**30, "completion_tokens": 1}), dspy.LM)[1]
    assert (huge.prompt_tokens, huge.estimated_calls) == (len(PROMPT) // 4, 1)


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), float("inf"), 10**400, "9" * 5_000, "x", None, [1], {}])
def test_what_is_no_count(value: Any) -> None:
    assert whole_count(value) is None


def test_an_error_as_text_is_shown(way: str) -> None:
    said = {"error": "model overloaded"}
    faulty = Fault(200, said) if way == "whole" else Fault(after=2, body=f"data: {json.dumps(said)}\n\n")
    with OpenAIServer(faulty, key=KEY, models=("m",)) as server, pytest.raises(dspy.LMServerError) as caught:
        lm("openai/m", api_base=server.url, api_key=KEY, cache=False, num_retries=0)("hi")
    assert "model overloaded" in str(caught.value)


@pytest.mark.parametrize("content", [None, [{"type": "refusal", "refusal": "I cannot help."}]], ids=["field", "part"])
def test_a_refusal_is_the_text_of_the_reply(way: str, content: Any) -> None:
    outputs, _ = asked(fault(way, content, refusal="I cannot help."))
    assert outputs == ["I cannot help."]


def test_an_error_without_a_code_is_not_given_one() -> None:
    faulty = Fault(200, {"error": {"message": "no GPU is free"}})
    with OpenAIServer(faulty, models=("m",)) as server, pytest.raises(dspy.LMError) as caught:
        lm("openai/m", api_base=f"{server.url}/v1", cache=False, num_retries=0)("hi")
    assert "no GPU is free" in str(caught.value)
    assert "422" not in str(caught.value)


def test_an_error_of_ollama_under_status_200_is_shown() -> None:
    faulty = Fault(200, {"error": "model runner has unexpectedly stopped"})
    with (
        OllamaServer(*[faulty] * 6) as server,
        pytest.raises(dspy.LMServerError, match="model runner has unexpectedly"),
    ):
        lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False, num_retries=0)("hi")
