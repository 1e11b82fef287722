"""The page of an optimization: gain, score over calls, and the tree of candidates with what each changed.

It is made from the values of ``report.json`` alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from rlm_dspy.counting import counted_noun
from rlm_dspy.tuning.report.figure_tables import dollar_text, figure_cells, gain_text
from rlm_dspy.tuning.report.outcome import children_by_number, demo_counts, failure_lines
from rlm_dspy.tuning.report.page_parts import TextAllowance, facts_html, page_html, safe_text, table_html
from rlm_dspy.tuning.report.progress_plot import progress_plot

MAX_CANDIDATES = 1_000
MAX_DIFF_LINES = 500  # of instructions that are compared
MAX_DEPTH = 60  # of nested lists; what is deeper stands at this depth
_FIGURES = (
    "", "score", "95% interval", "calls", "tokens", "cost", "s median", "submitted", "extracted", "stopped", "failed",
)  # fmt: skip


def outcome_page(outcome: Mapping[str, Any], *, data: str = "") -> str:
    """Return a self-contained HTML page of a report.

    Args:
        outcome: the report, see :func:`outcome_report`, without secrets.
        data: the name of the file with the questions.
    """
    cells = [
        row
        for row in figure_cells({"before": outcome["before"], "after": outcome["after"]}, bars=False)
        if row[0] in _FIGURES
    ]
    test, texts = outcome["questions"]["test"], TextAllowance()
    body = [
        facts_html(outcome_facts(outcome, data)),
        f'<p class="gain"><b>Gain</b> on the {test:,} test questions: {safe_text(gain_text(outcome["gain"]))}.</p>',
        table_html(cells, caption="The test set, which the optimizer never saw, before and after"),
        progress_plot(outcome),
        "<h2>Changes of the instructions</h2>",
        f"<p>Demos: {safe_text(demo_counts(outcome['demos']['after']))} "
        f"(before: {safe_text(demo_counts(outcome['demos']['before']))}).</p>",
        diff_html(outcome["diff"].splitlines(), texts) if outcome["diff"] else "<p>The instructions are unchanged.</p>",
        "<h2>Candidates</h2>",
        *_candidate_parts(outcome["candidates"], texts),
    ]
    return page_html(f"{outcome['optimizer']} on {outcome['model']}", body)


def outcome_facts(outcome: Mapping[str, Any], data: str) -> dict[str, str]:
    """Return what the head of the page tells."""
    sizes = outcome["questions"]
    return {
        "date": outcome.get("written", ""),
        "optimizer": outcome["optimizer"],
        "model": outcome["model"],
        "sub-call model": outcome.get("sub_model") or "",
        "instructions proposed by": outcome["prompt_model"],
        "metric": outcome["metric"],
        "data": data,
        "questions": f"{sizes['train']:,} training, {sizes['val']:,} validation, {sizes['test']:,} test",
        "ended": outcome["ended"],
        "failures": " ".join(failure_lines(outcome)),
        "LM calls": f"{outcome['calls']:,}",
        "cost": dollar_text(outcome["cost"]),
        "limits in all": _limits_text(outcome.get("limits")),
        "limits per question": _limits_text(outcome.get("limits_per_question")),
        "seed": str(outcome.get("seed", "")),
        "versions": outcome.get("versions") or f"dspy {outcome['dspy']}",
    }


def _limits_text(limits: Mapping[str, Any] | None) -> str:
    found = (limits or {}).items()
    return ", ".join(f"{name.replace('_', '-')} {value:,}" for name, value in found if value is not None)


def _candidate_parts(candidates: Sequence[dict[str, Any]], texts: TextAllowance) -> list[str]:
    measured = [candidate for candidate in candidates if candidate["val_score"] is not None]
    kept = measured[:MAX_CANDIDATES]
    by_number = {candidate["number"]: candidate for candidate in kept}
    below = children_by_number(kept)
    parts = [f'<ul class="tree">{_tree_html(below, by_number, texts)}</ul>']
    if left := len(measured) - len(kept):
        parts.append(
            f'<p class="cut">{counted_noun(left, "more candidate")} left out of this page; report.json has all.</p>'
        )
    if others := len(candidates) - len(measured):
        parts.append(f"<p>{others:,} more ran on training questions only.</p>")
    return parts


def _tree_html(
    below: Mapping[int | None, list[dict[str, Any]]], by_number: Mapping[int, dict[str, Any]], texts: TextAllowance
) -> str:
    """Return the items of the tree, as nested lists."""
    first = next(iter(by_number.values()), None)
    parts: list[str] = []
    waiting: list[tuple[dict[str, Any] | None, int]] = [(candidate, 0) for candidate in reversed(below.get(None, []))]
    while waiting:
        candidate, depth = waiting.pop()
        if candidate is None:
            parts.append("</ul></li>")
            continue
        parts.append(f"<li>{_candidate_html(candidate, by_number.get(candidate['parent']), first, texts)}")
        children = below.get(candidate["number"], [])
        if children and depth < MAX_DEPTH:
            parts.append("<ul>")
            waiting += [(None, depth), *((child, depth + 1) for child in reversed(children))]
        else:
            parts.append("</li>")
            waiting += [(child, depth) for child in reversed(children)]
    return "".join(parts)


def _candidate_html(
    candidate: Mapping[str, Any],
    parent: Mapping[str, Any] | None,
    first: Mapping[str, Any] | None,
    texts: TextAllowance,
) -> str:
    """Return a candidate: its figures, its changes and its instructions."""
    facts = [f"{candidate['val_score']:.3f} on {candidate['val_questions']:,} validation questions"]
    facts.append(counted_noun(candidate["demos"], "demo"))
    if candidate.get("calls") is not None:
        facts.append(f"measured after {counted_noun(candidate['calls'], 'call')}")
    if "cost" in candidate:
        facts.append(f"cost of its runs {dollar_text(candidate['cost'])}")
    badge = ' <span class="badge">chosen</span>' if candidate["chosen"] else ""
    against = parent or (first if first is not candidate else None)
    if against:
        changes = _changes_html(candidate, against, texts, known=parent is not None)
    else:
        changes = ""
    whole, note = texts.cut_text("\n\n".join(f"{name}:\n{text}" for name, text in candidate["instructions"].items()))
    return (
        f"<b>{candidate['number']}</b> {safe_text(', '.join(facts))}{badge}{changes}"
        f"<details><summary>instructions</summary><pre>{safe_text(whole)}</pre>{note}</details>"
    )


def _changes_html(candidate: Mapping[str, Any], other: Mapping[str, Any], texts: TextAllowance, *, known: bool) -> str:
    """Return the changes of the instructions against another candidate, folded up."""
    lines: list[str] = []
    for name, text in candidate["instructions"].items():
        before = other["instructions"].get(name, "")
        lines += difflib.unified_diff(_text_lines(before), _text_lines(text), name, name, lineterm="", n=1)
    if not lines:
        if candidate["demos"] == other["demos"]:
            return f"<p>The instructions are those of {other['number']}.</p>"
        return ""
    if known:
        whose = f"its parent {other['number']}"
    else:
        whose = f"{other['number']} (its parent is not known)"
    return f"<details><summary>changes against {whose}</summary>{diff_html(lines, texts)}</details>"


def _text_lines(text: str) -> list[str]:
    lines = text.splitlines()
    if len(lines) <= MAX_DIFF_LINES:
        return lines
    more = counted_noun(len(lines) - MAX_DIFF_LINES, "more line")
    return [*lines[:MAX_DIFF_LINES], f"({more} not compared)"]


def diff_html(lines: Sequence[str], texts: TextAllowance) -> str:
    """Return a unified diff, its lines coloured and with their signs."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    whole, note = texts.cut_text("\n".join(lines))
    shown = []
    for line in whole.split("\n"):
        if line.startswith(("+++", "---")):
            kind = "place"
        else:
            kind = kinds.get(line[:1], "same")
        shown.append(f'<span class="{kind}">{safe_text(line)}</span>')
    return f"<pre>{''.join(shown)}</pre>{note}"
