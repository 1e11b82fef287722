"""Replies as real models write them, over the wire of real servers, lead to the answer that the model meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer

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
            model = "openai/openai/gpt-oss-20b"
            yield dspy.LM(model, api_base=f"{server.url}/v1", api_key=KEY, cache=False, num_retries=0)


@pytest.mark.parametrize("kind", ["groq", "ollama", "dspy"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_reply_leads_to_what_the_model_meant(case: dict[str, Any], kind: str) -> None:
    with served(kind, case) as lm, dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> answer")(context="the gate opens", question="What?")
    assert result.answer == case["answer"]
    assert result.run.status == "submitted"
    assert len(result.run.steps) == len(case["replies"])
    assert not any("DRAFT" in step.code for step in result.run.steps)
    assert any(case.get("shown", "") in step.output for step in result.run.steps)
