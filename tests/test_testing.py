"""The package's scripted model for testing programs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.testing import Reply, Script, action, fields, scripted, texts
from warm import warm_python


def shown(message: str) -> str:
    return f"{len(message)} characters"


def test_replies_come_in_order_and_the_last_one_repeats() -> None:
    lm, script = scripted("one", "two")
    assert [lm("a")[0], lm("b")[0], lm("c")[0]] == ["one", "two", "two"]
    assert [request.messages[-1].text for request in script.requests] == ["a", "b", "c"]


def test_a_function_is_shown_the_last_message() -> None:
    lm, _ = scripted(shown)
    assert lm("four") == ["4 characters"]


def test_a_function_may_fail_or_say_how_it_ended() -> None:
    lm, _ = scripted(lambda message: Reply("cut", "length") if message == "long" else ValueError("no"))
    assert lm("long") == ["cut"]
    with pytest.raises(dspy.LMUnexpectedError, match="no"):
        lm("short")


def test_an_exception_stands_in_for_one_reply() -> None:
    lm, _ = scripted("one", dspy.lm15.RateLimitError("slow down"), "three")
    assert lm("a") == ["one"]
    with pytest.raises(dspy.LMRateLimitError, match="slow down"):
        lm("b")
    assert lm("c") == ["three"]


async def test_async_callers_get_the_same() -> None:
    lm, script = scripted("one", dspy.lm15.ServerError("down"))
    assert await lm.acall("a") == ["one"]
    with pytest.raises(dspy.LMServerError, match="down"):
        await lm.acall("b")
    assert len(script.requests) == 2


def entry(lm: dspy.LM) -> Any:
    return lm.history[-1]["response"]


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_a_reply_ends_for_the_reason_it_names(reason: Any) -> None:
    lm, _ = scripted(Reply("text", reason))
    assert lm("a") == ["text"]
    assert entry(lm).finish_reason == reason


def test_hidden_reasoning_is_apart_from_the_text() -> None:
    lm, _ = scripted(Reply("text", reasoning="thought"))
    assert lm("a") == [{"text": "text", "reasoning_content": "thought"}]
    assert [type(part).__name__ for part in entry(lm).message.parts] == ["ThinkingPart", "TextPart"]


def test_a_reply_may_be_nothing_but_reasoning() -> None:
    lm, _ = scripted(Reply("", "length", reasoning="thought"))
    lm("a")
    assert [type(part).__name__ for part in entry(lm).message.parts] == ["ThinkingPart"]


def test_usage_is_counted_given_or_missing() -> None:
    given = dspy.lm15.Usage(input_tokens=7, output_tokens=3)
    lm, script = scripted("x" * 40, Reply("x", usage=given), Reply("x", usage=None), "x")
    used = []
    for _ in range(4):
        script.reports = len(script.requests) < 3
        lm("y" * 80)
        used.append((entry(lm).usage.input_tokens, entry(lm).usage.output_tokens))
    assert used == [(21, 10), (7, 3), (None, None), (None, None)]  # "user: " is sent too


def test_replies_take_as_long_as_they_are_told() -> None:
    lm, _ = scripted("one", delay=0.05)
    began = time.monotonic()
    lm("a")
    assert time.monotonic() - began >= 0.05


def test_dspy_may_answer_from_its_cache() -> None:
    lm, script = scripted("one", cache=True, model="scripted/cached")
    assert lm("a") == lm("a")
    assert len(script.requests) == 1


def test_a_stream_has_the_text_and_its_end() -> None:
    _, script = scripted(Reply("one", "length"))
    request = dspy.lm15.Request(model="scripted/model", messages=(dspy.lm15.Message.user("a"),))
    *_, delta, end = script.stream(request)
    assert (delta.delta.text, end.finish_reason) == ("one", "length")


def test_a_script_without_replies_is_refused() -> None:
    with pytest.raises(rlm_dspy.RLMError, match="at least one reply"):
        Script()


def test_a_program_is_tested_without_a_model() -> None:
    lm, script = scripted(action("print(len(context))"), action("SUBMIT(answer='3')"), window=8_192, model="my/model")
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> answer")(context="abc", question="How long?")
    assert (result.answer, result.run.status) == ("3", "submitted")
    assert result.run.usage_by_model.keys() == {"my/model"}
    assert "3" in texts(script.requests[1])[-1]


def test_a_predictor_gets_its_fields() -> None:
    lm, _ = scripted(fields(answer="42"))
    with dspy.context(lm=lm):
        assert dspy.Predict("question -> answer")(question="?").answer == "42"


def test_the_package_is_imported_without_it() -> None:
    code = "import sys, rlm_dspy; print('rlm_dspy.testing' in sys.modules, 'dspy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_the_example_of_the_page_holds() -> None:
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    done = subprocess.run([*warm_python(), "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
