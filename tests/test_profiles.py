"""Small models get a shorter protocol with an example, fewer calls and capped replies."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy import prompts, windows
from rlm_dspy.testing import action, scripted, texts


def named(model: str, *replies: Any, window: int | None = None) -> Any:
    lm, script = scripted(*replies, model=model)
    script.window = window
    return lm, script


@pytest.mark.parametrize(
    ("model", "window", "small"),
    [
        ("ollama_chat/qwen3:8b", None, True),
        ("ollama_chat/llama3.2:3b", None, True),
        ("ollama_chat/qwen3:32b", None, False),
        ("groq/openai/gpt-oss-20b", None, False),
        ("groq/llama-3.1-8b-instant", None, True),
        ("openai/gpt-4o-mini", None, False),
        ("scripted/model", None, False),
        ("scripted/model", 8192, True),
        ("scripted/model", 65_536, False),
    ],
)
def test_the_profile_goes_by_weights_and_window(model: str, window: int | None, small: bool) -> None:
    lm, _ = named(model, "x", window=window)
    assert windows.is_small(lm) is small


def test_a_published_window_is_used() -> None:
    lm, _ = named("openai/gpt-4o-mini", "x")
    assert windows.window(lm) == 128_000


def run(lm: dspy.LM, **options: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return rlm_dspy.RLM("context, question -> answer", **options)(context="c", question="q")


def test_a_small_model_gets_a_shorter_protocol_with_an_example_and_fewer_calls() -> None:
    submit = action("SUBMIT(answer='x')")
    small, seen = named("ollama_chat/qwen3:8b", submit)
    large, seen_large = named("ollama_chat/qwen3:32b", submit)
    run(small)
    run(large)
    prompt, large_prompt = texts(seen.requests[0])[0], texts(seen_large.requests[0])[0]
    assert "Examples." in prompt
    assert "at most 16 times" in prompt
    assert "subcall" not in prompt
    assert "in context.splitlines()" in prompt
    assert "SUBMIT(answer=str(n))" in prompt
    assert prompts.SMALL_STRATEGY in prompt
    assert seen.requests[0].config.max_tokens == 2048
    assert seen_large.requests[0].config.max_tokens is None
    assert "Examples." not in large_prompt


def protocol(**facts: Any) -> str:
    signature = dspy.Signature("context, question -> answer")
    given = {"toolkit": True, "main": "context", "interpreter": "No files.", **facts}
    return prompts.protocol(
        signature, calls=9, room=9, small=True, recursion=False, tools={}, corpus=False, evidence=False, **given
    )


def test_a_small_model_is_told_of_no_function_that_is_not_there() -> None:
    assert "search(" in protocol()
    assert "search(" not in protocol(toolkit=False)
    assert "splitlines" not in protocol(main=None)
    assert "No files." in protocol()


def test_a_small_models_examples_fit_the_kind_of_its_context() -> None:
    small, seen = named("ollama_chat/qwen3:8b", action("SUBMIT(answer='x')"))
    with dspy.context(lm=small):
        rlm_dspy.RLM("context, question -> answer")(context=["a", "b"], question="q")
    assert "splitlines" not in texts(seen.requests[0])[0]


def test_a_small_model_is_reminded_of_its_question_under_each_output() -> None:
    lm, script = named("ollama_chat/qwen3:8b", action("print(7)"), action("SUBMIT(answer='x')"))
    run(lm)
    assert texts(script.requests[1])[-1].endswith(prompts.reminder("q"))
    assert "Question again: q" in prompts.reminder("q")
    assert prompts.reminder("q" * 1_000) == ""


def test_a_tuned_strategy_is_given_to_a_small_model_as_it_is() -> None:
    lm, script = named("ollama_chat/qwen3:8b", action("SUBMIT(answer='x')"))
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions("Be brilliant.")
    with dspy.context(lm=lm):
        rlm(context="c", question="q")
    system = texts(script.requests[0])[0]
    assert system.startswith("Be brilliant.")
    assert prompts.SMALL_STRATEGY not in system


def test_the_profile_can_be_chosen() -> None:
    lm, script = named("ollama_chat/qwen3:8b", action("SUBMIT(answer='x')"))
    run(lm, profile="standard")
    assert "predict(" in texts(script.requests[0])[0]
    with pytest.raises(ValueError, match="profile"):
        rlm_dspy.RLM("a -> b", profile="tiny")  # type: ignore[arg-type]


def test_a_storm_of_sub_calls_ends_at_the_small_models_limit() -> None:
    storm = "n = 0\ntry:\n    while True:\n        llm_query('q')\n        n += 1\n"
    code = f"{storm}except Exception:\n    SUBMIT(answer=str(n))"
    lm, _ = named("ollama_chat/qwen3:8b", action(code), "ok")
    assert run(lm).answer == "16"


def test_a_prompt_beyond_the_sub_models_window_is_refused_with_advice() -> None:
    lm, script = named("scripted/model", action("llm_query('x' * 100_000)"), action("SUBMIT('x')"), window=8192)
    result = run(lm)
    assert "cut it into pieces" in result.trajectory[0]["output"]
    assert "up to 19,660 characters" in texts(script.requests[0])[0] or "at most 19,660" in texts(script.requests[0])[0]
    assert len(script.requests) == 2
