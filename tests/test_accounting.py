"""Usage of a run: every call is counted, whatever DSPy records, and a cached rerun costs nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.clients.base_lm import BaseLM

import rlm_dspy
from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.metering import Meter
from rlm_dspy.run import Usage
from rlm_dspy.testing import action, fields, scripted
from servers.openai import OpenAIServer


def ask(lm: dspy.LM, **options: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return rlm_dspy.RLM("context, question -> answer", **options)(context="the sky", question="which colour?")


def test_a_rerun_within_a_limit_of_tokens_replays_from_the_cache() -> None:
    replies = [action("print(1)"), action("print(2)"), action("SUBMIT(answer='x')")]
    lm, script = scripted(*replies, cache=True, model="scripted/limited")
    for _ in range(2):
        assert ask(lm, max_tokens=100_000).answer == "x"
    assert len(script.requests) == 3


@pytest.mark.parametrize("switched_off", [{"disable_history": True}, {"max_history_size": 0}])
def test_tokens_end_a_run_when_dspys_history_is_off(switched_off: dict[str, Any]) -> None:
    lm, script = scripted(lambda message: fields(answer="x", reasoning="r", code=f"print('y' * 4000, {message[:9]!r})"))
    with dspy.context(**switched_off):
        run = ask(lm, max_tokens=20_000).run
    assert run.stopped_by == "max_tokens"
    assert 2 < len(script.requests) < 20
    assert run.usage.cost is None  # nobody publishes this model's price


@pytest.mark.parametrize("switched_off", [{"disable_history": True}, {"max_history_size": 0}])
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_the_cache_answers_costs_nothing_when_dspys_history_is_off(
    switched_off: dict[str, Any], *, is_async: bool
) -> None:
    with OpenAIServer(models=("gpt-4o-mini",)) as server:
        lm = rlm_dspy.lm("openai/gpt-4o-mini", api_base=server.url, api_key=server.key, cache=True)
        usages = []
        for _ in range(2):
            meter = Meter()
            with dspy.context(**switched_off, callbacks=[meter]):
                if is_async:
                    await lm.acall(f"a prompt {switched_off} {is_async}")
                else:
                    await asyncio.to_thread(lm, f"a prompt {switched_off} {is_async}")
            usages.append(meter.usage)
        asked = sum("completions" in request.path for request in server.seen)
    assert asked == 1
    assert (usages[0].calls, usages[0].cached_calls) == (1, 0)
    assert usages[0].cost is not None
    assert usages[0].cost > 0
    assert usages[1] == Usage(calls=1, cached_calls=1)


def test_a_call_without_a_record_is_estimated_at_its_models_published_price() -> None:
    lm, _ = scripted("four" * 100, model="openai/gpt-4o-mini")
    meter = Meter()
    with dspy.context(disable_history=True, callbacks=[meter]):
        lm("word" * 1_000)
    usage = meter.usage
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (1, 1_000, 100)
    assert usage.cost == pytest.approx(1_000 * 1.5e-7 + 100 * 6e-7)


def test_a_first_prompt_that_alone_passes_the_limit_is_not_sent() -> None:
    lm, script = scripted(action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm), pytest.raises(BudgetExceededError, match="max_tokens was reached before any code ran"):
        rlm_dspy.RLM("context, question -> answer", max_tokens=100)(context="c", question="q")
    assert script.requests == []


class TokensOnly(BaseLM):  # type: ignore[misc]
    """Reports the tokens of a large prompt, and no cost."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        message = SimpleNamespace(content=action(f"print({len(self.history)})"))
        usage = {"prompt_tokens": 100_000, "completion_tokens": 5, "total_tokens": 100_005}
        choices = [SimpleNamespace(message=message, finish_reason="stop")]
        return SimpleNamespace(choices=choices, usage=usage, model="gpt-4o")


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
def test_reported_tokens_without_a_cost_have_the_published_price() -> None:
    lm = TokensOnly("openai/gpt-4o")
    rlm = rlm_dspy.RLM("context, question -> answer", max_iters=6, max_cost=0.60, on_limit="raise")
    with dspy.context(lm=lm), pytest.raises(BudgetExceededError, match="max_cost") as ended:
        rlm(context="c", question="q")
    usage = ended.value.run.usage
    assert usage.cost == pytest.approx(len(lm.history) * 0.25005)
    assert len(lm.history) == 2


def test_a_function_around_a_model_is_counted_once() -> None:
    inner, _ = scripted("sub")
    lm, _ = scripted(*[action("print(llm_query('a'), llm_query('b'))")] * 2, action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", sub_lm=lambda prompt: inner(prompt))
        run = rlm(context="c", question="q").run
    assert run.usage.calls == 3 + len(inner.history)
    assert run.usage.estimated_calls == 0
    assert run.usage.cost == pytest.approx(0.001 * run.usage.calls)


def test_a_function_without_a_model_is_estimated() -> None:
    lm, _ = scripted(action("print(llm_query('a'))"), action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        run = rlm_dspy.RLM("context, question -> answer", sub_lm=lambda prompt: "seven")(context="c", question="q").run
    assert (run.usage.calls, run.usage.estimated_calls) == (3, 1)
