"""The cost of control: concurrent sub-calls, many runs, a tree of children, compaction; compared with ``dspy.RLM``.

    python benchmarks/run_control.py            prints a Markdown table; see RESULTS.md

The model is scripted and waits a fixed time, so the figures measure only the machinery. ``dspy.RLM`` runs on its
fastest interpreter, ``dspy.LocalInterpreter``. "n/a" means that it lacks the feature.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import dspy

import rlm_dspy
from rlm_dspy.testing import action, fields, scripted, texts

sys.path.insert(0, str(Path(__file__).parent))
from sides import SIDES

ASK = "context, question -> answer"
Side = Callable[..., Any]


def ours(**options: Any) -> Any:
    """Our RLM on our sandbox."""
    return rlm_dspy.RLM(ASK, **options)


def theirs(**options: Any) -> Any:
    """DSPy's RLM on its fastest interpreter; its sub-calls always run eight at once."""
    options.pop("max_concurrency", None)
    return dspy.RLM(ASK, interpreter_factory=SIDES["dspy.LocalInterpreter"], **options)


def timed(call: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def sub_calls(side: Side, calls: int = 64, delay: float = 0.1) -> float:
    """Time one step with ``calls`` sub-calls of ``delay`` seconds, minus the same step with none."""

    def run(number: int) -> float:
        def reply(message: str) -> str:
            if not message.startswith("sub-question"):
                return action(
                    f"found = llm_query_batched([f'sub-question {{i}}' for i in range({number})])\nSUBMIT(answer='x')"
                )
            time.sleep(delay)
            return "ok"

        lm, _ = scripted(reply)
        program = side(max_llm_calls=calls + 1, max_concurrency=16)
        with dspy.context(lm=lm):
            return timed(lambda: program(context="c", question="q"))

    run(0)
    return statistics.median(run(calls) for _ in range(3)) - statistics.median(run(0) for _ in range(3))


def many_runs(side: Side, runs: int = 100, steps: int = 10) -> list[float]:
    """Return host CPU seconds per step of each run, with a model that answers at once."""
    found = []
    program = side(max_iters=steps)
    for _ in range(runs + 1):
        lm, _ = scripted(*(action(f"print({number})") for number in range(steps - 1)), action("SUBMIT(answer='x')"))
        with dspy.context(lm=lm):
            started = time.process_time()
            program(context="c", question="q")
            found.append((time.process_time() - started) / steps)
    return found[1:]


def tree(width: int, depth: int = 3, delay: float = 2.0) -> float:
    """Time a tree in which every inner node passes ``width`` texts to children; each model call takes 2 s."""

    def reply(message: str) -> str:
        time.sleep(delay)
        name = "text" if "`instruction`" in message else "context"
        answer = "output" if name == "text" else "answer"
        level = 0 if name == "context" else int(message.split("level ")[1][0])
        if level == depth:
            return action(f"SUBMIT({answer}='leaf')")
        size = f"len({name}) // {max(width, 2)}"  # a chain halves its text: passing on all of it would be rejected
        cut = f"[{name}[i * ({size}):(i + 1) * ({size})] for i in range({width})]"
        code = f"found = subcall_batched({cut}, 'Go to level {level + 1}')\nSUBMIT({answer}=' '.join(found))"
        return action(code)

    lm, _ = scripted(reply)
    program = ours(max_iters=2, max_depth=depth, max_llm_calls=1_000, max_concurrency=64)
    with dspy.context(lm=lm):
        result: Any = None

        def run() -> None:
            nonlocal result
            result = program(context="the sky is blue\n" * 1_000, question="q")

        spent = timed(run)
    assert result.answer.split() == ["leaf"] * width**depth, result.answer
    return spent


def prefix(side: Side, steps: int = 100) -> float:
    """Return the mean share of a prompt that the next one repeats, byte for byte, in a window of 8K tokens."""

    def reply(message: str) -> str:
        nonlocal made
        made += 1
        if "[[ ## trajectory ## ]]" in message:
            return fields(answer="x")
        return action("SUBMIT(answer='x')" if made == steps else f"print('output {made} ' + 'x' * 900)", f"step {made}")

    made = 0
    lm, script = scripted(reply)
    script.window = 8192
    with dspy.context(lm=lm):
        side(max_iters=steps)(context="c" * 50_000, question="q")
    prompts = ["\n".join(texts(request)) for request in script.requests]
    return statistics.mean(common(left, right) / len(left) for left, right in pairwise(prompts))


def longest(side: Side, steps: int = 100) -> int:
    """Return the tokens of the longest prompt of such a run."""
    cells = [action(f"print({number}, 'x' * 900)") for number in range(steps - 1)]
    lm, script = scripted(*cells, action("SUBMIT(answer='x')"))
    script.window = 8192
    with dspy.context(lm=lm):
        side(max_iters=steps)(context="c" * 50_000, question="q")
    return max(len("\n".join(texts(request))) for request in script.requests) // 4


def common(left: str, right: str) -> int:
    """Count the characters of the common prefix."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def flat(found: list[float]) -> str:
    """Return the median, and the ratio of the last fifth to the first, as text."""
    fifth = len(found) // 5
    drift = statistics.median(found[-fifth:]) / statistics.median(found[:fifth])
    return f"{statistics.median(found) * 1000:.2f} ms, last fifth {drift:.2f} × the first"


def rows() -> list[list[str]]:
    """Measure everything."""
    table = [["figure", "goal", "rlm_dspy.RLM", "dspy.RLM (LocalInterpreter)"], ["---"] * 4]
    mine, other = sub_calls(ours), sub_calls(theirs)
    cells = [f"{mine:.3f} s, {mine / 0.4:.2f} × ideal (16 at once)", f"{other:.3f} s, {other / 0.4:.2f} × (always 8)"]
    table.append(["64 sub-calls of 100 ms", "≤ 1.1 × ideal", *cells])
    cells = [flat(many_runs(ours)), flat(many_runs(theirs))]
    table.append(["100 runs × 10 steps, host CPU per step", "≤ 5 ms, flat", *cells])
    chain, whole = tree(1), tree(4)
    cells = [f"{whole:.2f} s, {whole / 8:.2f} × 8 s; a chain 1×1×1 takes {chain:.2f} s", "n/a"]
    table.append(["tree of 4×4×4 children (84), 2 s a call", "≤ 1.2 × critical path", *cells])
    table.append(["prefix kept, 100 steps, window 8K", "≥ 90 %", f"{prefix(ours):.1%}", f"{prefix(theirs):.1%}"])
    table.append(["longest prompt of that run, tokens", "≤ 8,192", f"{longest(ours):,}", f"{longest(theirs):,}"])
    return table


if __name__ == "__main__":
    print("\n".join("| " + " | ".join(row) + " |" for row in rows()))
