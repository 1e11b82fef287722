"""Replies in the style of real models, over the wire of real servers, lead to the intended answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import openai
import pytest
from dspy.lm15 import Usage

import rlm_dspy
from rlm_dspy.errors import ActionError, BudgetExceededError
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.testing import Reply, action, fields, scripted
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

CASES = [json.loads(line) for line in Path(__file__).with_name("replies.jsonl").read_text().splitlines()]
KEY = "gsk_right_key_000000"


@contextmanager
def served(kind: str, case: dict[str, Any]) -> Iterator[dspy.LM]:
    """Serve a case's replies; the first ends for the case's reason, the others by themselves."""
    server = OllamaServer() if kind == "ollama" else OpenAIServer()
    first, *others = case["replies"]
    server.turns = [(first, case["finish"]), *((reply, "stop") for reply in others)]
    with server:
        if kind == "ollama":
            yield rlm_dspy.lm("ollama_chat/qwen3:8b", api_base=server.url, num_ctx=8192, cache=False)
        elif kind == "groq":
            yield rlm_dspy.lm(
                "groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY, requests_per_minute=100_000, cache=False
            )
        else:
            model, address = "openai/gpt-oss-20b", {"base_url": f"{server.url}/v1", "api_key": KEY}
            if kind == "own":
                yield OwnLM(model, address)
                return
            engine = "litellm" if kind == "litellm" else "auto"
            options = {"api_base": address["base_url"], "api_key": KEY, "cache": False, "num_retries": 0}
            yield dspy.LM(f"openai/{model}", engine=engine, **options)


class OwnLM(dspy.BaseLM):  # type: ignore[misc]
    """A user's own LM, which returns a response of OpenAI's client, as DSPy's documentation shows."""

    def __init__(self, model: str, address: dict[str, str]) -> None:
        super().__init__(model=model)
        self.address = address

    def forward(self, prompt: str | None = None, messages: Any = None, **kwargs: Any) -> Any:
        """Ask the server, and return its response as it is."""
        with openai.OpenAI(**self.address) as client:
            return client.chat.completions.create(model=self.model, messages=messages)


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize("kind", ["groq", "ollama", "dspy", "litellm", "own"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_reply_leads_to_what_the_model_meant(case: dict[str, Any], kind: str) -> None:
    with served(kind, case) as lm, dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> answer")(context="the gate opens", question="What?")
    assert result.answer == case["answer"]
    assert result.run.status == "submitted"
    assert len(result.run.steps) == len(case["replies"])
    assert not any("DRAFT" in step.code for step in result.run.steps)
    assert any(case.get("shown", "") in step.output for step in result.run.steps)


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_a_reply_from_dspys_cache_costs_nothing(engine: str) -> None:
    with OpenAIServer(reply=action("SUBMIT(answer='blue')")) as server:
        address = {"api_base": f"{server.url}/v1", "api_key": KEY}
        lm = dspy.LM("openai/openai/gpt-oss-20b", engine=engine, cache=True, num_retries=0, **address)
        spent = []
        with dspy.context(lm=lm):
            for _ in range(2):
                result = rlm_dspy.RLM("context, question -> answer")(context=f"asked by {engine}", question="What?")
                spent.append((result.run.usage.total_tokens > 0, result.run.usage.estimated_calls))
        assert len(server.posts) == 1
    assert spent == [(True, 0), (False, 0)]


def refused(code: str, wrote: str) -> Fault:
    """Groq's answer to a sample of its own model that it could not read."""
    body = error("Failed to call a function.", "invalid_request_error", code)
    body["error"]["failed_generation"] = wrote
    return Fault(400, body)


@pytest.mark.parametrize("code", ["tool_use_failed", "output_parse_failed", "json_validate_failed"])
@pytest.mark.parametrize("engine", ["ours", "dspy"])
async def test_a_bad_sample_is_read_for_code_or_asked_for_again(code: str, engine: str) -> None:
    call = json.dumps({"name": "python", "arguments": {"code": "print(len(context))"}})
    server = OpenAIServer(refused(code, call), refused(code, "Hm."), reply=action("SUBMIT(answer='GOOD')"))
    with server:
        if engine == "ours":
            options: dict[str, Any] = {"requests_per_minute": 100_000, "api_base": server.url}
            lm = rlm_dspy.lm("groq/openai/gpt-oss-20b", api_key=KEY, cache=False, **options)
        else:
            base = f"{server.url}/openai/v1"
            lm = dspy.LM("groq/openai/gpt-oss-20b", api_base=base, api_key=KEY, cache=False, num_retries=0)
        with dspy.context(lm=lm):
            result = await rlm_dspy.RLM("context, question -> answer").acall(context="abc", question="?")
    assert result.answer == "GOOD"
    first, second = (step.output for step in result.run.steps[:2])
    # DSPy's own client keeps nothing of what the model wrote.
    shown = "3" if engine == "ours" else "The provider could not read the reply"
    assert shown in first
    assert "The provider could not read the reply" in second


def test_a_direct_call_asks_once_more_after_a_bad_sample() -> None:
    server = OpenAIServer(refused("output_parse_failed", "Hm."), reply=fields(answer="blue"))
    with server:
        options: dict[str, Any] = {"requests_per_minute": 100_000, "api_base": server.url}
        lm = rlm_dspy.lm("groq/openai/gpt-oss-20b", api_key=KEY, cache=False, **options)
        with dspy.context(lm=lm):
            assert Direct("context, question -> answer")(context="the sky is blue", question="?").answer == "blue"


DIRECT = {
    "think": ("<think>\n[[ ## answer ## ]]\nDRAFT\n</think>\n" + fields(answer="GOOD"), "stop", "GOOD"),
    "only closed": ("[[ ## answer ## ]]\nDRAFT\n</think>\n" + fields(answer="GOOD"), "stop", "GOOD"),
    "json": ('{"answer": "GOOD"}', "stop", "GOOD"),
}


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize("kind", ["groq", "ollama", "dspy", "litellm", "own"])
@pytest.mark.parametrize("form", DIRECT)
def test_a_direct_answer_is_what_the_model_said_and_not_what_it_thought(form: str, kind: str) -> None:
    reply, finish, answer = DIRECT[form]
    with served(kind, {"replies": [reply], "finish": finish}) as lm, dspy.context(lm=lm):
        assert Direct("context, question -> answer")(context="c", question="q").answer == answer


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize("kind", ["groq", "ollama", "dspy", "litellm", "own"])
def test_a_direct_answer_that_was_cut_off_is_reported(kind: str) -> None:
    reply = "[[ ## answer ## ]]\nThe gate opens at"
    with served(kind, {"replies": [reply], "finish": "length"}) as lm, dspy.context(lm=lm):
        run = Direct("context, question -> answer")(context="c", question="q").run
    assert any("limit of output tokens" in warning for warning in run.warnings)


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize("kind", ["groq", "ollama", "dspy", "litellm", "own"])
def test_a_direct_reply_that_ended_in_its_thinking_is_an_error_that_says_so(kind: str) -> None:
    case = {"replies": ["<think>\n[[ ## answer ## ]]\nDRAFT\n"] * 3, "finish": "length"}
    with served(kind, case) as lm, dspy.context(lm=lm), pytest.raises(ActionError, match=r"thinking|tokens"):
        Direct("context, question -> answer")(context="c", question="q")


@pytest.mark.parametrize(
    ("reply", "finish", "answer", "note"),
    [
        ("<think>DRAFT</think>GOOD", "stop", "GOOD", ""),
        ("GO", "length", "GO", "1 of the sub-model's replies were cut"),
        ("GOO", "content_filter", "GOO", "filter cut 1"),
    ],
)
def test_a_sub_calls_reply_has_no_thinking_and_its_cut_is_reported(
    reply: str, finish: Any, answer: str, note: str
) -> None:
    sub, _ = scripted(Reply(reply, finish_reason=finish))
    lm, _ = scripted(action("r = llm_query('q')"), action("SUBMIT(answer=r)"))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> answer", sub_lm=sub)(context="c", question="q")
    assert result.answer == answer
    assert note in result.run.steps[0].output


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply("", finish_reason="length", reasoning="hm"), "limit of output tokens"),
        (Reply("", finish_reason="content_filter"), "filter"),
        (Reply("<think>hm"), "inside its thinking"),
        (Reply(""), "empty"),
    ],
)
def test_a_sub_call_without_an_answer_is_an_error_that_says_why(reply: Reply, why: str) -> None:
    sub, _ = scripted(reply)
    lm, _ = scripted(action("print(llm_query_batched(['a', 'b']))"), action("SUBMIT(answer=str(llm_query('q')))"), "x")
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", sub_lm=sub, max_iters=2, on_limit="raise")
        with pytest.raises(BudgetExceededError) as caught:
            rlm(context="c", question="q")
    assert caught.value.run is not None
    batch, single = caught.value.run.steps
    assert why in batch.output
    assert why in single.output


def test_a_server_that_reports_no_usage_is_estimated_and_held_to_the_limits() -> None:
    forever = [action(f"print({number}, 'x' * 2000)") for number in range(40)]
    lm, script = scripted(*(Reply(text, usage=None) for text in forever), model="openai/gpt-4o-mini")
    with dspy.context(lm=lm), pytest.raises(BudgetExceededError) as caught:
        rlm_dspy.RLM("context, question -> answer", 40, max_tokens=6_000, on_limit="raise")(context="c", question="q")
    run = caught.value.run
    assert run is not None
    assert run.usage.estimated_calls == run.usage.calls == len(script.requests) > 0
    assert 0 < run.usage.total_tokens <= 6_000
    assert caught.value.limit == "max_tokens"


def test_a_server_that_reports_zeros_is_estimated() -> None:
    lm, _ = scripted(Reply(action("SUBMIT(answer='x')"), usage=Usage(input_tokens=0, output_tokens=0, total_tokens=0)))
    with dspy.context(lm=lm):
        run = rlm_dspy.RLM("context, question -> answer")(context="c", question="q").run
    assert (run.usage.estimated_calls, run.usage.prompt_tokens > 100) == (1, True)
