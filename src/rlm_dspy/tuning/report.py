"""Render evaluation rows as figures per side, as a table with bars, and as an HTML page."""

from __future__ import annotations

import difflib
import html
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import dspy

from rlm_dspy.tuning import program, scoring
from rlm_dspy.tuning.candidate_log import Candidate
from rlm_dspy.tuning.evaluation import Row
from rlm_dspy.tuning.optimize import OptimizationJob, Outcome

BAR_CHARS = 20  # characters of a full bar
ENDINGS = ("submitted", "extracted", "stopped", "failed")


def side_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Summarise the rows of one side; an unknown cost makes the sum unknown."""
    scores = [row.score for row in rows]
    low, high = scoring.mean_interval(scores)
    costs = [row.cost for row in rows]
    shares = [row.prefix_share for row in rows if row.prefix_share is not None]
    quotes = sum(row.quotes for row in rows)
    seconds = [row.seconds for row in rows]
    return {
        "questions": len(rows),
        "score": scoring.mean(scores),
        "interval": [low, high],
        **{ending: sum(row.status == ending for row in rows) for ending in ENDINGS},
        "calls": sum(row.calls for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "cost": None if None in costs else sum(cost or 0.0 for cost in costs),
        "seconds_median": scoring.percentile(seconds, 0.5),
        "seconds_p95": scoring.percentile(seconds, 0.95),
        "prefix_share": scoring.mean(shares) if shares else None,
        "evidence": sum(row.verified for row in rows) / quotes if quotes else None,
        "quotes": quotes,
        "tasks": by_task(rows),
    }


def by_task(rows: Iterable[Row]) -> dict[str, float]:
    """Return the mean score of each task in the rows."""
    grouped: dict[str, list[float]] = {}
    for row in rows:
        if row.task:
            grouped.setdefault(row.task, []).append(row.score)
    return {task: scoring.mean(scores) for task, scores in sorted(grouped.items())}


def rows_by_side(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows by side, in order of appearance."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.side, []).append(row)
    return grouped


def compare_sides(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of each side, and its difference from the first side with an interval."""
    grouped = rows_by_side(rows)
    made = {name: side_figures(own) for name, own in grouped.items()}
    first, *others = grouped
    for name in others:
        against = {row.id: row.score for row in grouped[first]}
        differences = [row.score - against[row.id] for row in grouped[name] if row.id in against]
        low, high = scoring.mean_interval(differences)
        made[name]["difference"] = {"to": first, "mean": scoring.mean(differences), "interval": [low, high]}
    return made


# --- a table for terminals -----------------------------------------------------------------------------------------

_COLUMNS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("score", lambda f: f"{f['score']:.3f}"),
    ("95% interval", lambda f: f"{f['interval'][0]:.3f}–{f['interval'][1]:.3f}"),
    ("", lambda f: score_bar(f["score"])),
    ("submitted", lambda f: str(f["submitted"])),
    ("extracted", lambda f: str(f["extracted"])),
    ("stopped", lambda f: str(f["stopped"])),
    ("failed", lambda f: str(f["failed"])),
    ("calls", lambda f: f"{f['calls']:,}"),
    ("tokens", lambda f: f"{f['tokens']:,}"),
    ("cost", lambda f: "unknown" if f["cost"] is None else f"${f['cost']:.4f}"),
    ("s median", lambda f: f"{f['seconds_median']:.2f}"),
    ("s p95", lambda f: f"{f['seconds_p95']:.2f}"),
    ("prefix", lambda f: _percent_text(f["prefix_share"])),
    ("evidence", lambda f: _percent_text(f["evidence"])),
]


def score_bar(share: float, width: int = BAR_CHARS) -> str:
    """Return a bar of block characters for a number from 0 to 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width, "·")


def _percent_text(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def figure_cells(made: dict[str, Any], *, bars: bool = True) -> list[list[str]]:
    """Return the table of a comparison: a row for each figure, a column for each side."""
    shown = [(name, show) for name, show in _COLUMNS if bars or name]
    return [["", *made], *([name, *(show(found) for found in made.values())] for name, show in shown)]


def task_cells(made: dict[str, Any]) -> list[list[str]]:
    """Return the table of scores by task; empty if the rows have no tasks."""
    tasks = sorted({task for side_figures in made.values() for task in side_figures["tasks"]})
    head = ["task", *made]
    return (
        [head, *([task, *(f"{f['tasks'].get(task, 0.0):.3f}" for f in made.values())] for task in tasks)]
        if tasks
        else []
    )


def differences(made: dict[str, Any]) -> list[str]:
    """Return one line for each side compared with the first."""
    lines = []
    for name, found in made.items():
        if gap := found.get("difference"):
            low, high = gap["interval"]
            sure = "" if low > 0 or high < 0 else " (may be chance)"
            lines.append(f"{name} − {gap['to']}: {gap['mean']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}{sure}")
    return lines


# --- a page --------------------------------------------------------------------------------------------------------

_STYLE = (
    "body{font:14px system-ui;margin:2rem;max-width:75rem}table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}"
    "svg{display:block;margin:1rem 0}.failed,.stopped{color:#a00}"
)


def report_page(title: str, rows: Sequence[Row]) -> str:
    """Return a self-contained HTML page with the tables, plots of score and seconds, and every question."""
    made = compare_sides(rows)
    body = [f"<h1>{html.escape(title)}</h1>", _html_table(figure_cells(made, bars=False))]
    body += [_score_plot(made), _time_plot(rows_by_side(rows))]
    body += [f"<p>{html.escape(line)}</p>" for line in differences(made)]
    if by := task_cells(made):
        body.append(_html_table(by))
    listed = [["side", "question", "score", "ended", "answer", "expected", "calls", "seconds", "error"]]
    listed += [
        [
            r.side,
            r.id,
            f"{r.score:.2f}",
            r.status,
            r.answer or "",
            r.expected,
            str(r.calls),
            f"{r.seconds:.2f}",
            r.error or "",
        ]
        for r in rows
    ]
    body.append(_html_table(listed))
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}" for cell in head)]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rest]
    return f"<table>{''.join(lines)}</table>"


def _score_plot(made: dict[str, Any]) -> str:
    """Draw the score of each side as a bar with its interval."""
    parts = []
    for place, (name, found) in enumerate(made.items()):
        y, (low, high) = 10 + 30 * place, found["interval"]
        parts.append(f'<text x="0" y="{y + 14}">{html.escape(name)}</text>')
        parts.append(f'<rect x="100" y="{y}" width="{500 * found["score"]:.1f}" height="18" fill="#4a7fb5"/>')
        parts.append(
            f'<path d="M{100 + 500 * low:.1f} {y + 9}H{100 + 500 * high:.1f}" stroke="#222" stroke-width="2"/>'
        )
    return f'<svg width="640" height="{20 + 30 * len(made)}" role="img" aria-label="scores">{"".join(parts)}</svg>'


def _time_plot(grouped: dict[str, list[Row]]) -> str:
    """Draw the seconds of each question as a dot, side by side."""
    longest = max((row.seconds for rows in grouped.values() for row in rows), default=0.0) or 1.0
    parts = []
    for place, (name, rows) in enumerate(grouped.items()):
        y = 19 + 30 * place
        parts.append(f'<text x="0" y="{y + 5}">{html.escape(name)}</text>')
        parts += [
            f'<circle cx="{100 + 500 * row.seconds / longest:.1f}" cy="{y}" r="4" fill="#b5694a" fill-opacity=".5"/>'
            for row in rows
        ]
    parts.append(f'<text x="520" y="{15 + 30 * len(grouped)}">{longest:.1f} s</text>')
    return f'<svg width="640" height="{30 + 30 * len(grouped)}" role="img" aria-label="seconds">{"".join(parts)}</svg>'


def outcome_report(job: OptimizationJob, outcome: Outcome) -> dict[str, Any]:
    """Return the full report as JSON values."""
    ids = [str(one.get("id")) for one in job.val]
    against = {row.id: row.score for row in outcome.before}
    gaps = [row.score - against[row.id] for row in outcome.after if row.id in against]
    low, high = scoring.mean_interval(gaps)
    return {
        "optimizer": job.optimizer,
        "model": job.lm.model,
        "prompt_model": (job.prompt_lm or job.lm).model,
        "metric": job.metric.__name__,
        "questions": {"train": len(job.train), "val": len(job.val), "test": len(job.test)},
        "ended": outcome.ended,
        "calls": outcome.calls,
        "cost": outcome.cost,
        "before": side_figures(outcome.before),
        "after": side_figures(outcome.after),
        "gain": {"mean": scoring.mean(gaps), "interval": [low, high], "questions": len(gaps)},
        "demos": {"before": program.demos(outcome.base), "after": program.demos(outcome.program)},
        "diff": instruction_diff(outcome.base, outcome.program),
        "candidates": [_candidate_facts(one, ids, outcome) for one in outcome.candidate_log.candidates.values()],
        "dspy": dspy.__version__,
    }


def _candidate_facts(one: Candidate, ids: Sequence[str], outcome: Outcome) -> dict[str, Any]:
    above = outcome.parents.get(_instructions_text(one))
    parent = (
        next((c.number for c in outcome.candidate_log.candidates.values() if _instructions_text(c) == above), None)
        if above
        else None
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


def _instructions_text(one: Candidate) -> str:
    return json.dumps(one.instructions, sort_keys=True)


def instruction_diff(base: dspy.Module, made: dspy.Module) -> str:
    """Return the changes of the instructions, by predictor, as a unified diff."""
    old, new = program.instructions(base), program.instructions(made)
    parts: list[str] = []
    for name in old:
        lines = difflib.unified_diff(old[name].splitlines(), new[name].splitlines(), name, name, lineterm="", n=1)
        parts += lines
    return "\n".join(parts)


def report_markdown(made: dict[str, Any]) -> str:
    """Render the report as Markdown."""
    before, after, gain = made["before"], made["after"], made["gain"]
    low, high = gain["interval"]
    sure = "" if low > 0 or high < 0 else " (may be chance)"
    lines = [
        f"# {made['optimizer']} on {made['model']}",
        "",
        f"Ended: {made['ended']}. {made['calls']:,} calls, cost {_cost_text(made['cost'])}, metric {made['metric']}; "
        f"{made['questions']['train']} training, {made['questions']['val']} validation and "
        f"{made['questions']['test']} test questions. Instructions proposed by {made['prompt_model']}.",
        "",
        "| | score | 95% interval | calls | tokens | cost | seconds, median |",
        "|---|---|---|---|---|---|---|",
        _figure_row("before", before),
        _figure_row("after", after),
        "",
        f"Gain {gain['mean']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}{sure}.",
        "",
        "## The prompt",
        "",
        f"Demos: {_demo_counts(made['demos']['after'])} (before: {_demo_counts(made['demos']['before'])}).",
        "",
        "```diff",
        made["diff"] or "(the instructions are unchanged)",
        "```",
        "",
        "## What was tried",
        "",
        *candidate_tree(made["candidates"]),
    ]
    return "\n".join(lines) + "\n"


def _figure_row(name: str, found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return (
        f"| {name} | {found['score']:.3f} | {low:.3f}–{high:.3f} | {found['calls']:,} | {found['tokens']:,} | "
        f"{_cost_text(found['cost'])} | {found['seconds_median']:.2f} |"
    )


def _cost_text(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:.4f}"


def _demo_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def candidate_tree(candidates: Sequence[dict[str, Any]]) -> list[str]:
    """Return the candidates that ran on validation questions, each under the one it was made from.

    The others ran only to make demos, or were dropped after a few training questions; they are counted.
    """
    kept = [one for one in candidates if one["val_score"] is not None]
    numbers = {one["number"] for one in kept}
    lines: list[str] = []

    def add(parent: int | None, depth: int) -> None:
        for one in kept:
            above = one["parent"] if one["parent"] in numbers else None
            if above == parent:
                lines.append("  " * depth + _candidate_line(one))
                add(one["number"], depth + 1)

    add(None, 0)
    if others := len(candidates) - len(kept):
        lines += ["", f"{others} more ran on training questions only."]
    return lines


def _candidate_line(one: dict[str, Any]) -> str:
    chosen = " **chosen**" if one["chosen"] else ""
    return f"- {one['number']}: {one['val_score']:.3f} on {one['val_questions']}, {one['demos']} demos{chosen}"
