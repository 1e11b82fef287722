"""The report of an optimization, as JSON values and as Markdown."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from rlm_dspy.counting import counted_noun
from rlm_dspy.tuning import program
from rlm_dspy.tuning.candidate_log import Candidate
from rlm_dspy.tuning.optimization import OptimizationJob, Outcome
from rlm_dspy.tuning.report.figure_tables import calls_text, dollar_text, gain_text, interval_text, score_text
from rlm_dspy.tuning.report.figures import paired_difference, side_figures
from rlm_dspy.tuning.report.page_parts import package_versions, time_stamp


def outcome_report(job: OptimizationJob, outcome: Outcome) -> dict[str, Any]:
    """Return the full report as JSON values."""
    ids = [str(example.get("id")) for example in job.val]
    gain = paired_difference(outcome.before, outcome.after)
    return {
        "optimizer": job.optimizer,
        "model": job.lm.model,
        "sub_model": job.sub_lm.model if job.sub_lm else None,
        "prompt_model": (job.prompt_lm or job.lm).model,
        "metric": job.metric.__name__,
        "questions": {"train": len(job.train), "val": len(job.val), "test": len(job.test)},
        "seed": job.seed,
        "limits": {"max_calls": job.max_calls, "max_cost": job.max_cost},
        "limits_per_question": job.budget.model_dump(exclude_none=True),
        "ended": outcome.ended,
        "failed_questions": outcome.candidate_log.failed_questions,
        "last_failure": outcome.candidate_log.last_failure or None,
        "calls": outcome.calls,
        "cost": outcome.cost,
        "before": side_figures(outcome.before),
        "after": side_figures(outcome.after),
        "gain": gain or {"mean": None, "interval": None, "questions": 0},
        "demos": {"before": program.demos(outcome.base), "after": program.demos(outcome.program)},
        "diff": instruction_diff(outcome.base, outcome.program),
        "candidates": [
            _candidate_facts(candidate, ids, outcome) for candidate in outcome.candidate_log.candidates.values()
        ],
        "dspy": dspy.__version__,
        "versions": package_versions(),
        "written": time_stamp(),
    }


def _candidate_facts(candidate: Candidate, ids: Sequence[str], outcome: Outcome) -> dict[str, Any]:
    above = outcome.parents.get(_instructions_text(candidate))
    parents = (c.number for c in outcome.candidate_log.candidates.values() if _instructions_text(c) == above)
    parent = next(parents, None) if above else None
    scored = [name for name in ids if name in candidate.scores]
    return {
        "number": candidate.number,
        "parent": parent,
        "digest": candidate.digest,
        "demos": candidate.demos,
        "calls": candidate.measured_at,
        "cost": candidate.cost,
        "questions": len(candidate.scores),
        "val_questions": len(scored),
        "val_score": candidate.mean(scored) if scored else None,
        "chosen": candidate.state == program.state_of(outcome.program),
        "instructions": candidate.instructions,
    }


def _instructions_text(candidate: Candidate) -> str:
    return json.dumps(candidate.instructions, sort_keys=True)


def instruction_diff(base: dspy.Module, tuned: dspy.Module) -> str:
    """Return the changes of the instructions, by predictor, as a unified diff."""
    old, new = program.instructions(base), program.instructions(tuned)
    parts: list[str] = []
    for name in old:
        lines = difflib.unified_diff(old[name].splitlines(), new[name].splitlines(), name, name, lineterm="", n=1)
        parts += lines
    return "\n".join(parts)


def report_markdown(outcome: dict[str, Any]) -> str:
    """Render the report as Markdown."""
    before, after = outcome["before"], outcome["after"]
    lines = [
        f"# {outcome['optimizer']} on {outcome['model']}",
        "",
        f"Ended: {outcome['ended']}. {counted_noun(outcome['calls'], 'call')}, cost {dollar_text(outcome['cost'])}, "
        f"metric {outcome['metric']}; "
        f"{outcome['questions']['train']} training, {outcome['questions']['val']} validation and "
        f"{counted_noun(outcome['questions']['test'], 'test question')}. "
        f"Instructions proposed by {outcome['prompt_model']}.",
        *failure_lines(outcome),
        "",
        "| | score | 95% interval | calls | tokens | cost | seconds, median |",
        "|---|---|---|---|---|---|---|",
        _figure_row("before", before),
        _figure_row("after", after),
        "",
        f"Gain {gain_text(outcome['gain'])}.",
        "",
        "## The prompt",
        "",
        f"Demos: {demo_counts(outcome['demos']['after'])} (before: {demo_counts(outcome['demos']['before'])}).",
        "",
        "```diff",
        outcome["diff"] or "(the instructions are unchanged)",
        "```",
        "",
        "## What was tried",
        "",
        *candidate_tree(outcome["candidates"]),
    ]
    return "\n".join(lines) + "\n"


def failure_lines(outcome: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of the questions that failed, which count as 0."""
    lines = []
    for name in ("before", "after"):
        failed, questions = outcome[name].get("failed"), outcome[name].get("questions")
        if failed:
            lines.append(
                f"{failed} of {counted_noun(questions, 'test question')} failed {name} compiling: the score is too low."
            )
    if outcome.get("failed_questions"):
        failed = counted_noun(outcome["failed_questions"], "question")
        lines.append(
            f"{failed} failed while compiling, which DSPy scores as 0, so the candidates may be ranked wrongly; "
            f"the last: {outcome['last_failure']}"
        )
    return lines


def _figure_row(name: str, figures: Mapping[str, Any]) -> str:
    return (
        f"| {name} | {score_text(figures)} | {interval_text(figures['interval'])} | {calls_text(figures)} | "
        f"{figures['tokens']:,} | {dollar_text(figures['cost'])} | {figures['seconds_median']:.2f} |"
    )


def demo_counts(counts: Mapping[str, int]) -> str:
    """Return the number of demos of each predictor that has any."""
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def candidate_tree(candidates: Sequence[dict[str, Any]]) -> list[str]:
    """Return the candidates that ran on validation questions, each under the one it was made from.

    The others ran only to make demos, or were dropped after a few training questions; they are counted.
    """
    kept = [candidate for candidate in candidates if candidate["val_score"] is not None]
    below = children_by_number(kept)
    lines: list[str] = []
    waiting = [(candidate, 0) for candidate in reversed(below.get(None, []))]
    while waiting:
        candidate, depth = waiting.pop()
        lines.append("  " * depth + _candidate_line(candidate))
        waiting += [(child, depth + 1) for child in reversed(below.get(candidate["number"], []))]
    if others := len(candidates) - len(kept):
        lines += ["", f"{others} more ran on training questions only."]
    return lines


def children_by_number(candidates: Sequence[dict[str, Any]]) -> dict[int | None, list[dict[str, Any]]]:
    """Group candidates by their parent's number; the key None holds those without one."""
    numbers = {candidate["number"] for candidate in candidates}
    below: dict[int | None, list[dict[str, Any]]] = {}
    for candidate in candidates:
        # A parent is older: so there is no circle, whatever a report says.
        known = candidate["parent"] in numbers and candidate["parent"] < candidate["number"]
        below.setdefault(candidate["parent"] if known else None, []).append(candidate)
    return below


def _candidate_line(candidate: dict[str, Any]) -> str:
    chosen = " **chosen**" if candidate["chosen"] else ""
    demos = counted_noun(candidate["demos"], "demo")
    return f"- {candidate['number']}: {candidate['val_score']:.3f} on {candidate['val_questions']}, {demos}{chosen}"
