"""What a batch of questions would cost and how long it would take, in provider batches and in ordinary calls."""

from __future__ import annotations

from dataclasses import dataclass

import dspy

from rlm_dspy.batch.job import Program
from rlm_dspy.counting import counted_noun, estimate_tokens
from rlm_dspy.lms.providers import Route
from rlm_dspy.lms.rate_limits import MINUTE_SECONDS
from rlm_dspy.metering import token_cost
from rlm_dspy.report import render
from rlm_dspy.rlm.modes import OUTPUT_TOKENS, PROTOCOL_TOKENS, REPLY_TOKENS, USUAL_STEPS

CONCURRENCY = 4  # ordinary calls at once
CALL_SECONDS = 5.0  # of an ordinary call


@dataclass(frozen=True)
class BatchPlan:
    """Estimates for a number of questions; the costs are in US dollars, None if the price is unknown.

    ``ordinary_cost`` counts what the provider's cache saves: prompts that begin like an earlier one are cheaper, which
    for runs of many steps may be worth more than the discount of a batch.
    """

    calls: int
    waves: int
    batch_cost: float | None
    ordinary_cost: float | None
    ordinary_seconds: float

    @property
    def text(self) -> str:
        """The plan in one line."""
        if self.waves == 1:
            batches = "one batch"
        else:
            batches = f"{self.waves:,} batches, one after another"
        cheaper = ""
        if self.batch_cost is not None and self.ordinary_cost is not None and self.ordinary_cost < self.batch_cost:
            cheaper = " Ordinary calls are cheaper here."
        minutes = max(1, round(self.ordinary_seconds / 60))
        return (
            f"plan: about {counted_noun(self.calls, 'call')}. In {batches}: "
            f"{render.cost_text(self.batch_cost)}, each usually within an hour, at most 24 h. As ordinary calls: "
            f"{render.cost_text(self.ordinary_cost)} with the provider's cache, about {minutes} min.{cheaper}"
        )


def make_plan(program: Program, questions: int, *, concurrency: int = CONCURRENCY) -> BatchPlan:
    """Estimate both ways of asking a program a number of questions.

    Args:
        program: what answers them.
        questions: how many are to be asked.
        concurrency: ordinary calls at once.
    """
    model = str(getattr(program.lm or dspy.settings.lm, "model", ""))
    if program.explores:
        steps = min(USUAL_STEPS[1], program.budget.max_iters)
        return plan_runs(model, questions, steps=steps, concurrency=concurrency)
    return plan_calls(model, questions, program.corpus.chars, concurrency=concurrency)


def plan_calls(
    model: str, questions: int, chars: int, *, is_shared: bool = True, concurrency: int = CONCURRENCY
) -> BatchPlan:
    """Estimate both ways of asking questions in one call each.

    Args:
        chars: of the texts in each prompt.
        is_shared: whether all prompts begin with the same texts.
    """
    prompt = PROTOCOL_TOKENS + estimate_tokens(chars)
    shared = estimate_tokens(chars) if is_shared else 0
    batched = token_cost(model, prompt, REPLY_TOKENS, in_batch=True)
    first = token_cost(model, prompt, REPLY_TOKENS)
    later = token_cost(model, prompt, REPLY_TOKENS, shared)
    seconds = _ordinary_seconds(model, questions, concurrency)
    if batched is None or first is None or later is None:
        return BatchPlan(questions, 1, None, None, seconds)
    # The first question finds nothing in the provider's cache.
    ordinary = first + (questions - 1) * later if questions else 0.0
    return BatchPlan(questions, 1, questions * batched, ordinary, seconds)


def plan_runs(model: str, questions: int, *, steps: int = USUAL_STEPS[1], concurrency: int = CONCURRENCY) -> BatchPlan:
    """Estimate both ways of asking questions in runs of several steps, whose prompts grow at their end."""
    seconds = _ordinary_seconds(model, questions * steps, concurrency)
    batch_cost = ordinary_cost = 0.0
    grown = OUTPUT_TOKENS + REPLY_TOKENS
    for step in range(steps):
        prompt = PROTOCOL_TOKENS + step * grown
        shared = prompt - grown if step else PROTOCOL_TOKENS
        batched = token_cost(model, prompt, REPLY_TOKENS, in_batch=True)
        ordinary = token_cost(model, prompt, REPLY_TOKENS, shared)
        if batched is None or ordinary is None:
            return BatchPlan(questions * steps, steps, None, None, seconds)
        batch_cost += questions * batched
        ordinary_cost += questions * ordinary
    return BatchPlan(questions * steps, steps, batch_cost, ordinary_cost, seconds)


def _ordinary_seconds(model: str, calls: int, concurrency: int) -> float:
    """Return how long ordinary calls take, within the limit of the provider's smallest plan."""
    per_minute = Route(model).provider.per_minute
    seconds = calls * CALL_SECONDS / concurrency
    if per_minute is None:
        return seconds
    return max(seconds, calls * MINUTE_SECONDS / per_minute)
