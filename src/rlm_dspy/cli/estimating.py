"""What a question would read, ask and spend: said before anything is."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from rlm_dspy.cli import inputs
from rlm_dspy.corpus import Corpus
from rlm_dspy.lms import engine
from rlm_dspy.report import render

_PROTOCOL = 2_000  # tokens of instructions that each prompt has
_REPLY = 350  # tokens of a step's reasoning and code
_OUTPUT = 900  # tokens that a step's output adds to the following prompts
_PASSAGES = 1_000  # tokens of those that are shown in the mode "retrieve"
_STEPS = (3, 8)  # of a usual question
_SUB_PROMPT = 4_000  # tokens of a usual sub-call
_UNPAID = ("offline/", "ollama/", "ollama_chat/")


def facts(corpus: Corpus, mode: str, model: str, *, max_iters: int, max_calls: int) -> dict[str, Any]:
    """Return files, tokens, mode and model, and the calls and cost of a usual question, low and high."""
    size = inputs.tokens(corpus.chars)
    if mode == "direct":
        spent = [(1, size + _PROTOCOL, _REPLY)] * 2
    elif mode == "retrieve":
        spent = [(1, _PASSAGES + _PROTOCOL, _REPLY)] * 2
    else:
        low, high = (min(steps, max_iters) for steps in _STEPS)
        spent = [_explored(low, 0), _explored(high, min(10, max_calls))]
    costs = [_cost(model, prompt, reply) for _, prompt, reply in spent]
    return {
        "files": len(corpus),
        "characters": corpus.chars,
        "tokens": size,
        "kinds": dict(Counter(document.kind for document in corpus.documents).most_common()),
        "skipped": len(corpus.skipped),
        "mode": mode,
        "model": model,
        "calls": [calls for calls, _, _ in spent],
        "prompt_tokens": [prompt for _, prompt, _ in spent],
        "cost": costs if None not in costs else None,
    }


def told(facts: dict[str, Any]) -> str:
    """Render the facts for a terminal."""
    files = render.counted(facts["files"], "file")
    calls, tokens = _range(facts["calls"]), _range(facts["prompt_tokens"])
    cost = "cost unknown" if facts["cost"] is None else _money(facts["cost"])
    return "\n".join(
        (
            f"{files}, about {facts['tokens']:,} tokens; mode {facts['mode']}; model {facts['model']}",
            f"{facts['skipped']:,} skipped; kinds: {', '.join(f'{k} {n:,}' for k, n in facts['kinds'].items())}",
            f"estimated: {calls} model calls, {tokens} prompt tokens, {cost}",
        )
    )


def _explored(steps: int, sub_calls: int) -> tuple[int, int, int]:
    """Each step's prompt has all that came before; sub-calls stand alone."""
    prompt = sum(_PROTOCOL + step * (_OUTPUT + _REPLY) for step in range(steps)) + sub_calls * _SUB_PROMPT
    return steps + sub_calls, prompt, (steps + sub_calls) * _REPLY


def _cost(model: str, prompt: int, reply: int) -> float | None:
    if model.startswith(_UNPAID):
        return 0.0
    usage = SimpleNamespace(input_tokens=prompt, output_tokens=reply, cache_read_tokens=0)
    return engine.cost(model, SimpleNamespace(usage=usage))


def _range(pair: list[int]) -> str:
    low, high = pair
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _money(pair: list[float]) -> str:
    low, high = (render.money(value) for value in pair)
    return low if low == high else f"{low}–{high}"
