"""The report of an optimization: before and after with intervals, cost, the prompt's changes, what was tried."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

import dspy

from rlm_dspy.tuning import program, statistics, summary
from rlm_dspy.tuning.chronicle import Candidate
from rlm_dspy.tuning.optimizing import Job, Outcome


def report(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Return everything that is worth keeping, as JSON values."""
    ids = [str(one.get("id")) for one in job.val]
    against = {row.id: row.score for row in outcome.before}
    gaps = [row.score - against[row.id] for row in outcome.after if row.id in against]
    low, high = statistics.interval(gaps)
    return {
        "optimizer": job.optimizer,
        "model": job.lm.model,
        "prompt_model": (job.prompt_lm or job.lm).model,
        "metric": job.metric.__name__,
        "questions": {"train": len(job.train), "val": len(job.val), "test": len(job.test)},
        "ended": outcome.ended,
        "calls": outcome.calls,
        "cost": outcome.cost,
        "before": summary.figures(outcome.before),
        "after": summary.figures(outcome.after),
        "gain": {"mean": statistics.mean(gaps), "interval": [low, high], "questions": len(gaps)},
        "demos": {"before": program.demos(outcome.base), "after": program.demos(outcome.program)},
        "diff": diff(outcome.base, outcome.program),
        "candidates": [_candidate(one, ids, outcome) for one in outcome.chronicle.candidates.values()],
        "dspy": dspy.__version__,
    }


def _candidate(one: Candidate, ids: Sequence[str], outcome: Outcome) -> dict[str, Any]:
    above = outcome.parents.get(_text(one))
    parent = (
        next((c.number for c in outcome.chronicle.candidates.values() if _text(c) == above), None) if above else None
    )
    put = [name for name in ids if name in one.scores]
    return {
        "number": one.number,
        "parent": parent,
        "digest": one.digest,
        "demos": one.demos,
        "questions": len(one.scores),
        "val_questions": len(put),
        "val_score": one.mean(put) if put else None,
        "chosen": one.state == program.state_of(outcome.program),
        "instructions": one.instructions,
    }


def _text(one: Candidate) -> str:
    return json.dumps(one.instructions, sort_keys=True)


def diff(base: dspy.Module, made: dspy.Module) -> str:
    """Return how the instructions changed, predictor by predictor, as a unified diff."""
    old, new = program.instructions(base), program.instructions(made)
    parts: list[str] = []
    for name in old:
        lines = difflib.unified_diff(old[name].splitlines(), new[name].splitlines(), name, name, lineterm="", n=1)
        parts += lines
    return "\n".join(parts)


def text(made: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    before, after, gain = made["before"], made["after"], made["gain"]
    low, high = gain["interval"]
    sure = "" if low > 0 or high < 0 else " (may be chance)"
    lines = [
        f"# {made['optimizer']} on {made['model']}",
        "",
        f"Ended: {made['ended']}. {made['calls']:,} calls, cost {_money(made['cost'])}, metric {made['metric']}; "
        f"{made['questions']['train']} questions to learn from, {made['questions']['val']} to choose by, "
        f"{made['questions']['test']} to judge by. Instructions proposed by {made['prompt_model']}.",
        "",
        "| | score | 95% interval | calls | tokens | cost | seconds, median |",
        "|---|---|---|---|---|---|---|",
        _line("before", before),
        _line("after", after),
        "",
        f"Gain {gain['mean']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}{sure}.",
        "",
        "## The prompt",
        "",
        f"Demos: {_demos(made['demos']['after'])} (before: {_demos(made['demos']['before'])}).",
        "",
        "```diff",
        made["diff"] or "(the instructions are unchanged)",
        "```",
        "",
        "## What was tried",
        "",
        *tree(made["candidates"]),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return (
        f"| {name} | {found['score']:.3f} | {low:.3f}–{high:.3f} | {found['calls']:,} | {found['tokens']:,} | "
        f"{_money(found['cost'])} | {found['seconds_median']:.2f} |"
    )


def _money(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:.4f}"


def _demos(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def tree(candidates: Sequence[dict[str, Any]]) -> list[str]:
    """Return the candidates that were put to questions to choose by, each under the one that it was made from.

    Others ran only to make demos, or were dropped after a few questions to learn from: they are counted.
    """
    kept = [one for one in candidates if one["val_score"] is not None]
    numbers = {one["number"] for one in kept}
    lines: list[str] = []

    def add(parent: int | None, depth: int) -> None:
        for one in kept:
            above = one["parent"] if one["parent"] in numbers else None
            if above == parent:
                lines.append("  " * depth + _about(one))
                add(one["number"], depth + 1)

    add(None, 0)
    if others := len(candidates) - len(kept):
        lines += ["", f"{others} more ran on questions to learn from only."]
    return lines


def _about(one: dict[str, Any]) -> str:
    chosen = " **chosen**" if one["chosen"] else ""
    return f"- {one['number']}: {one['val_score']:.3f} on {one['val_questions']}, {one['demos']} demos{chosen}"
