"""Against the real services, where there are any: a key for Groq, a server of Ollama's with a model."""

from __future__ import annotations

import os

import dspy
import pytest

import rlm_dspy

# Read before the other tests' fixture hides them.
GROQ = os.environ.get("GROQ_API_KEY", "")
OLLAMA, MODEL = os.environ.get("RLM_DSPY_LIVE_OLLAMA", ""), os.environ.get("RLM_DSPY_LIVE_MODEL", "")
TEXT = "Nothing to see.\n" * 3000 + "The code word is heliotrope.\n" + "Nothing to see.\n" * 3000


def ask(lm: dspy.LM) -> str:
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", max_iters=8, max_llm_calls=4, max_seconds=300)
        return str(rlm(context=TEXT, question="What is the code word?").answer).lower()


@pytest.mark.integration
@pytest.mark.skipif(not GROQ, reason="needs GROQ_API_KEY")
def test_groq_finds_a_word_in_a_long_text() -> None:
    assert "heliotrope" in ask(rlm_dspy.lm("groq/openai/gpt-oss-20b", api_key=GROQ, cache=False))


@pytest.mark.integration
@pytest.mark.skipif(not (OLLAMA and MODEL), reason="needs RLM_DSPY_LIVE_OLLAMA (a URL) and RLM_DSPY_LIVE_MODEL")
def test_ollama_finds_a_word_in_a_long_text() -> None:
    assert "heliotrope" in ask(rlm_dspy.lm(f"ollama_chat/{MODEL}", api_base=OLLAMA, cache=False))
