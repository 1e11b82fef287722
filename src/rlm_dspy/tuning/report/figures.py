"""The figures of an evaluation: each side's score, usage and time, and its difference from the first side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rlm_dspy.tuning import scoring
from rlm_dspy.tuning.evaluation import Row

ENDINGS = ("submitted", "extracted", "stopped", "failed")


def side_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Summarise the rows of one side; an unknown cost makes the sum unknown.

    ``score`` and ``interval`` are None if nothing was measured: there are no rows, or every row failed.
    """
    scores = measured_scores(rows)
    costs = [row.cost for row in rows]
    shares = [row.prefix_share for row in rows if row.prefix_share is not None]
    quotes = sum(row.quotes for row in rows)
    seconds = [row.seconds for row in rows]
    statuses: Counter[str] = Counter(row.status for row in rows)
    return {
        "questions": len(rows),
        "score": scoring.mean(scores) if scores else None,
        "interval": list(scoring.mean_interval(scores)) if scores else None,
        **{ending: statuses[ending] for ending in ENDINGS},
        "calls": sum(row.calls for row in rows),
        "cached_calls": sum(row.cached_calls for row in rows),
        "tokens": sum(row.tokens for row in rows),
        "cost": None if None in costs else sum(cost or 0.0 for cost in costs),
        "seconds_median": scoring.percentile(seconds, 0.5),
        "seconds_p95": scoring.percentile(seconds, 0.95),
        "prefix_share": scoring.mean(shares) if shares else None,
        "evidence": sum(row.verified for row in rows) / quotes if quotes else None,
        "quotes": quotes,
        "tasks": by_task(rows),
    }


def measured_scores(rows: Sequence[Row]) -> list[float]:
    """Return the scores of the rows; none if every row failed, because that measures nothing."""
    if any(row.status != "failed" for row in rows):
        return [row.score for row in rows]
    return []


def by_task(rows: Iterable[Row]) -> dict[str, float | None]:
    """Return the mean score of each task in the rows; None for a task whose rows all failed."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        if row.task:
            grouped.setdefault(row.task, []).append(row)
    means = {}
    for task, own in sorted(grouped.items()):
        scores = measured_scores(own)
        means[task] = scoring.mean(scores) if scores else None
    return means


def rows_by_side(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows by side, in order of appearance."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.side, []).append(row)
    return grouped


def compare_sides(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of each side, and its difference from the first side with an interval.

    A difference is None if one of the two sides failed.
    """
    grouped = rows_by_side(rows)
    by_side = {name: side_figures(own) for name, own in grouped.items()}
    first, *others = grouped
    for name in others:
        gap = paired_difference(grouped[first], grouped[name])
        by_side[name]["difference"] = {"to": first, **gap} if gap else None
    return by_side


def paired_difference(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Any] | None:
    """Return the mean difference on the questions that both have, with its interval; None if one side failed."""
    against = {row.id: row.score for row in before}
    gaps = [row.score - against[row.id] for row in after if row.id in against]
    if not gaps or not measured_scores(before) or not measured_scores(after):
        return None
    return {"mean": scoring.mean(gaps), "interval": list(scoring.mean_interval(gaps)), "questions": len(gaps)}
