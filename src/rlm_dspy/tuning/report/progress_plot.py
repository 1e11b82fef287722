"""The plot of an optimization: validation scores over LM calls, and the test set before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlm_dspy.counting import counted_noun
from rlm_dspy.tuning.report.figure_tables import interval_text, score_text
from rlm_dspy.tuning.report.page_parts import safe_text
from rlm_dspy.tuning.report.plots import Axis, chart_label, plot_figure, tick_text

LEFT, RIGHT, TOP, BOTTOM = 70, 590, 44, 320
LABEL_HEIGHT = 18
MAX_POINTS = 2_000


def progress_plot(outcome: Mapping[str, Any]) -> str:
    """Draw each measured candidate, the best so far, and the test set before and after with its interval."""
    calls = Axis(max(1.0, outcome["calls"] * 1.04), LEFT, RIGHT)
    score = Axis(1.0, BOTTOM, TOP)
    points = sorted(
        (candidate for candidate in outcome["candidates"] if _is_measured(candidate)),
        key=lambda candidate: candidate["calls"],
    )
    parts = [
        _axes_marks(calls, score),
        _test_marks(outcome["before"], "before", outcome["before"]["calls"], calls, score),
        _test_marks(outcome["after"], "after", outcome["calls"], calls, score),
        *_test_labels(outcome, score),
        _best_line(points, outcome["calls"], calls, score),
        *(_candidate_mark(candidate, calls, score) for candidate in points[:MAX_POINTS]),
        *_legend_marks(points),
    ]
    figure = plot_figure("Score over LM calls", BOTTOM + 92, parts)
    return figure + _missing_note(outcome["candidates"], points)


def _is_measured(candidate: Mapping[str, Any]) -> bool:
    return candidate.get("calls") is not None and candidate["val_score"] is not None


def _missing_note(candidates: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]) -> str:
    """Say which candidates have no place in the plot."""
    partly = sum(candidate["val_score"] is not None for candidate in candidates) - len(points)
    if not partly:
        return ""
    what = f"{partly:,} candidates are not in this plot: they"
    if partly == 1:
        what = "1 candidate is not in this plot: it"
    return f"<p>{what} did not run on the whole validation set, or the report does not say when.</p>"


def _axes_marks(calls: Axis, score: Axis) -> str:
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>']
    for value in calls.tick_values(6):
        x = calls.place_of(value)
        parts.append(f'<path class="grid" d="M{x} {BOTTOM}v5"/>{chart_label(x, BOTTOM + 20, tick_text(value), "tick")}')
    for value in score.tick_values(5):
        y = score.place_of(value)
        parts.append(f'<path class="grid" d="M{LEFT - 5} {y}H{RIGHT}"/>')
        parts.append(chart_label(LEFT - 10, y + 4, tick_text(value), "side"))
    parts.append(chart_label((LEFT + RIGHT) / 2, BOTTOM + 42, "LM calls so far, all of them counted", "unit"))
    middle = (TOP + BOTTOM) / 2
    parts.append(
        f'<text class="unit" transform="rotate(-90 18 {middle})" x="18" y="{middle}">mean score (0 to 1)</text>'
    )
    return "".join(parts)


def _test_marks(figures: Mapping[str, Any], name: str, at: int, calls: Axis, score: Axis) -> str:
    """Return the score of the test set as a diamond with its interval, and a band across the plot."""
    if figures["score"] is None:
        return ""
    x, y = calls.place_of(at), score.place_of(figures["score"])
    low, high = (score.place_of(value) for value in figures["interval"])
    band = f'<rect class="band" x="{LEFT}" y="{high}" width="{RIGHT - LEFT}" height="{max(1.0, low - high):.1f}"/>'
    bar = f'<path class="test" d="M{x} {low}V{high}M{x - 5} {low}h10M{x - 5} {high}h10"/>'
    mark = f'<path class="test mark" d="M{x} {y - 6}l6 6l-6 6l-6 -6z"/>'
    tip = f"test {name}: {score_text(figures)} ({interval_text(figures['interval'])})"
    return f"<g><title>{safe_text(tip)}</title>{band}{bar}{mark}</g>"


def _test_labels(outcome: Mapping[str, Any], score: Axis) -> list[str]:
    """Return labels with the test scores, to the right of the plot, moved apart if they would overlap."""
    figures = {name: outcome[name] for name in ("before", "after")}
    # What was not measured has its label at the bottom.
    places = {name: score.place_of(each["score"] or 0.0) for name, each in figures.items()}
    upper, lower = sorted(places, key=lambda name: places[name])
    if places[lower] - places[upper] < LABEL_HEIGHT:
        places[upper] = places[lower] - LABEL_HEIGHT
    labels = []
    for name, each in figures.items():
        kind = "bad" if each["score"] is None else "testname"
        labels.append(chart_label(RIGHT + 10, places[name] + 4, f"test {name}: {score_text(each)}", kind))
    return labels


def _best_line(points: Sequence[Mapping[str, Any]], end: int, calls: Axis, score: Axis) -> str:
    """Return the best validation score so far, as steps."""
    best, path = -1.0, ""
    for candidate in points:
        if candidate["val_score"] > best:
            best = candidate["val_score"]
            x, y = calls.place_of(candidate["calls"]), score.place_of(best)
            path += f"H{x}V{y}" if path else f"M{x} {y}"
    if path:
        return f'<path class="best" d="{path}H{calls.place_of(end)}"/>'
    return ""


def _candidate_mark(candidate: Mapping[str, Any], calls: Axis, score: Axis) -> str:
    kind = "candidate chosen" if candidate["chosen"] else "candidate"
    when = counted_noun(candidate["calls"], "call")
    tip = f"candidate {candidate['number']}: {candidate['val_score']:.3f} after {when}"
    x, y = calls.place_of(candidate["calls"]), score.place_of(candidate["val_score"])
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="5"><title>{safe_text(tip)}</title></circle>'


def _legend_marks(points: Sequence[Mapping[str, Any]]) -> list[str]:
    y = BOTTOM + 70
    marks = [
        f'<path class="test mark" d="M{LEFT} {y - 10}l6 6l-6 6l-6 -6z"/>',
        chart_label(LEFT + 12, y, "test set, 95% interval"),
    ]
    if points:
        marks += [
            f'<circle class="candidate" cx="{LEFT + 190}" cy="{y - 4}" r="5"/>',
            chart_label(LEFT + 202, y, "candidate on the validation set"),
            f'<circle class="candidate chosen" cx="{LEFT + 430}" cy="{y - 4}" r="5"/>',
            chart_label(LEFT + 442, y, "chosen"),
            f'<path class="best" d="M{LEFT + 510} {y - 4}h24"/>',
            chart_label(LEFT + 540, y, "best so far"),
        ]
    return marks
