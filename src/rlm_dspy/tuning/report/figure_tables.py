"""The figures of an evaluation as tables, and as short texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BAR_CHARS = 20  # characters of a full bar
BAR = ""  # the title of the row of bars


def _column_texts(figures: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of one side by the titles of their rows."""
    return {
        "score": score_text(figures),
        "95% interval": interval_text(figures["interval"]),
        BAR: "" if figures["score"] is None else score_bar(figures["score"]),
        "submitted": str(figures["submitted"]),
        "extracted": str(figures["extracted"]),
        "stopped": str(figures["stopped"]),
        "failed": str(figures["failed"]),
        "calls": calls_text(figures),
        "tokens": f"{figures['tokens']:,}",
        "cost": dollar_text(figures["cost"]),
        "s median": f"{figures['seconds_median']:.2f}",
        "s p95": f"{figures['seconds_p95']:.2f}",
        "prefix": _percent_text(figures["prefix_share"]),
        "evidence": _percent_text(figures["evidence"]),
    }


def score_text(figures: Mapping[str, Any]) -> str:
    """Return the score of a side, or why it has none."""
    if figures["score"] is not None:
        return f"{figures['score']:.3f}"
    if figures["questions"]:
        return "failed"
    return "not measured"


def interval_text(interval: list[float] | None) -> str:
    """Return an interval of scores, or a dash."""
    if interval is None:
        return "–"
    return f"{interval[0]:.3f}–{interval[1]:.3f}"


def score_interval_text(figures: Mapping[str, Any]) -> str:
    """Return the score of a side with its interval, or why it has none."""
    if figures["interval"] is None:
        interval = ""
    else:
        interval = f"  (95% interval {interval_text(figures['interval'])})"
    return f"{score_text(figures)}{interval}"


def calls_text(figures: Mapping[str, Any]) -> str:
    """Return the calls of a side, and how many of them a cache answered: those have no tokens, cost and time."""
    if figures["cached_calls"]:
        cached = f" ({figures['cached_calls']:,} cached)"
    else:
        cached = ""
    return f"{figures['calls']:,}{cached}"


def dollar_text(cost: float | None) -> str:
    """Return a cost in US dollars; an unknown one is never shown as 0."""
    if cost is None:
        return "unknown"
    return f"${cost:.4f}"


def gain_text(gain: Mapping[str, Any] | None) -> str:
    """Return a difference with its interval, and whether it may be chance."""
    if gain is None or gain["mean"] is None:
        return "unknown: one of the two was not measured"
    low, high = gain["interval"]
    sure = "" if low > 0 or high < 0 else " (may be chance)"
    return f"{gain['mean']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}{sure}"


def score_bar(share: float, width: int = BAR_CHARS) -> str:
    """Return a bar of block characters for a number from 0 to 1."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width, "·")


def _percent_text(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.0%}"


def figure_cells(by_side: dict[str, Any], *, bars: bool = True) -> list[list[str]]:
    """Return the table of a comparison: a row for each figure, a column for each side."""
    sides = [_column_texts(figures) for figures in by_side.values()]
    cells = [["", *by_side]]
    for name in sides[0] if sides else ():
        if bars or name != BAR:
            cells.append([name, *(side[name] for side in sides)])
    return cells


def task_cells(by_side: dict[str, Any]) -> list[list[str]]:
    """Return the table of scores by task; empty if the rows have no tasks."""
    scores = [figures["tasks"] for figures in by_side.values()]
    cells = [["task", *by_side]]
    for task in sorted(set().union(*scores)):
        cells.append([task, *(_task_text(each, task) for each in scores)])
    if len(cells) > 1:
        return cells
    return []


def _task_text(scores: Mapping[str, float | None], task: str) -> str:
    if task not in scores:
        return "–"
    score = scores[task]
    if score is None:
        return "failed"
    return f"{score:.3f}"


def differences(by_side: dict[str, Any]) -> list[str]:
    """Return one line for each side compared with the first, if both were measured."""
    gaps = {name: figures.get("difference") for name, figures in by_side.items()}
    return [f"{name} − {gap['to']}: {gain_text(gap)}" for name, gap in gaps.items() if gap]
