"""A whole run over each provider's wire: the real RLM, sandbox, LiteLLM and HTTP."""

from __future__ import annotations

import json

import dspy
import pytest

from rlm_dspy import RLM
from rlm_dspy.errors import LMContextWindowError, LMError
from rlm_dspy.lms import lm
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer, error
from servers.wire import Fault

KEY = "gsk_right_key_000000"
SUBMIT = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\n```python\nSUBMIT(answer=str(len(context)))\n```\n"
CONTEXT = "word " * 20_000


def test_a_run_on_ollama_puts_the_window_on_every_call_and_the_context_on_none() -> None:
    with OllamaServer(reply=SUBMIT) as server:
        with dspy.context(lm=lm("ollama_chat/qwen3:8b", api_base=server.url, cache=False)):
            found = RLM("context, question -> answer")(context=CONTEXT, question="how long is it?")
        bodies = [seen.body for seen in server.posts if seen.path == "/api/chat"]
    assert found.answer == "100000"
    assert {body["options"]["num_ctx"] for body in bodies} == {32768}
    assert {body["truncate"] for body in bodies} == {False}
    assert all(len(json.dumps(body)) < 20_000 for body in bodies)
    assert found.run.usage.cost == 0.0


def test_a_run_on_groq_is_priced() -> None:
    with OpenAIServer(reply=SUBMIT) as server:
        with dspy.context(lm=lm("groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY, cache=False)):
            found = RLM("context, question -> answer")(context=CONTEXT, question="how long is it?")
        body = server.posts[0].body
    assert found.answer == "100000"
    assert body["model"] == "openai/gpt-oss-20b"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert found.run.usage.cost
    assert found.run.usage.cached_tokens > 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(400, error("too long", "x", "context_length_exceeded")), LMContextWindowError),
        (Fault(429, error("slow", "x"), {"retry-after": "7200"}), LMError),
    ],
)
def test_a_provider_that_refuses_ends_the_run_with_what_was_done(fault: Fault, kind: type[LMError]) -> None:
    with OpenAIServer(fault, reply=SUBMIT) as server:
        made = lm("groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY, cache=False)
        with dspy.context(lm=made), pytest.raises(kind) as caught:
            RLM("context, question -> answer")(context=CONTEXT, question="how long is it?")
    assert caught.value.run is not None
    assert caught.value.run.status == "stopped"
    assert KEY not in caught.value.run.model_dump_json()
