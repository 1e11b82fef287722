"""Plots as SVG: with a title, axes, ticks and units, and colours that the page's style sets for light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlm_dspy.tuning import scoring
from rlm_dspy.tuning.evaluation import Row
from rlm_dspy.tuning.report.figure_tables import dollar_text, interval_text, score_text
from rlm_dspy.tuning.report.page_parts import safe_text

WIDTH = 760
LEFT = 190  # where the axis of a plot by side begins
RIGHT = 560  # where it ends; figures are printed to its right
TOP = 40
ROW_HEIGHT = 34
NAME_CHARS = 26
MAX_DOTS = 1_000  # per side


@dataclass(frozen=True)
class Axis:
    """A linear axis from 0 to ``high``, between two places on the page."""

    high: float
    start: float
    end: float

    def place_of(self, value: float) -> float:
        """Return the place of a value."""
        share = max(0.0, min(1.0, value / self.high))
        return round(self.start + share * (self.end - self.start), 1)

    def tick_values(self, count: int = 5) -> list[float]:
        """Return about ``count`` round numbers from 0 to the end of the axis."""
        raw = self.high / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.9)
        return [number * step for number in range(int(self.high / step * 1.001) + 1)]


def make_axis(values: Sequence[float]) -> Axis:
    """Return an axis that has room for the largest of the values."""
    return Axis(max((value for value in values if math.isfinite(value)), default=0.0) * 1.05 or 1.0, LEFT, RIGHT)


def tick_text(value: float) -> str:
    """Return a round number as short as it can be."""
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:.6g}"


def score_plot(by_side: Mapping[str, Any]) -> str:
    """Draw the score of each side as a bar, and its interval; a failed side says so."""
    axis = Axis(1.0, LEFT, RIGHT)
    marks = []
    for place, figures in enumerate(by_side.values()):
        y = _row_middle(place)
        if figures["score"] is None:
            marks.append(chart_label(LEFT + 6, y + 5, _failure_text(figures), "bad"))
            continue
        low, high = (axis.place_of(value) for value in figures["interval"])
        end = axis.place_of(figures["score"])
        marks.append(f'<rect class="bar" x="{LEFT}" y="{y - 9}" width="{end - LEFT:.1f}" height="18"/>')
        marks.append(f'<path class="whisker" d="M{low} {y}H{high}M{low} {y - 5}v10M{high} {y - 5}v10"/>')
        marks.append(chart_label(RIGHT + 12, y + 5, f"{score_text(figures)} ({interval_text(figures['interval'])})"))
    return _plot_by_side("Score by side", "mean score (0 to 1), with its 95% interval", axis, list(by_side), marks)


def _failure_text(figures: Mapping[str, Any]) -> str:
    count = figures["questions"]
    if not count:
        return "not measured"
    if count == 1:
        return "failed: its one question"
    return f"failed: all {count:,} questions"


def time_plot(grouped: Mapping[str, Sequence[Row]]) -> str:
    """Draw the seconds of each question as a dot, and the median of each side."""
    axis = make_axis([row.seconds for rows in grouped.values() for row in rows])
    marks, sampled = [], False
    for place, rows in enumerate(grouped.values()):
        y = _row_middle(place)
        step = math.ceil(len(rows) / MAX_DOTS)
        sampled = sampled or step > 1
        for number, row in enumerate(rows[::step]):
            kind = "dot bad" if row.status == "failed" else "dot"
            height = y - 7 + 14 * (number * 0.618 % 1)  # spread, so that equal values do not hide each other
            marks.append(f'<circle class="{kind}" cx="{axis.place_of(row.seconds)}" cy="{height:.1f}" r="3.5"/>')
        median = axis.place_of(scoring.percentile([row.seconds for row in rows], 0.5))
        marks.append(f'<path class="whisker" d="M{median} {y - 12}v24"/>')
        text = f"median {scoring.percentile([row.seconds for row in rows], 0.5):,.2f} s"
        failed = sum(row.status == "failed" for row in rows)
        if failed == len(rows):
            text += ", failed"
        elif failed:
            text += f", {failed} failed"
        marks.append(chart_label(RIGHT + 12, y + 5, text))
    what = f"seconds (a dot is a question{', of which a part is drawn' if sampled else ''}; the line is the median)"
    return _plot_by_side("Time per question", what, axis, list(grouped), marks)


def cost_plot(by_side: Mapping[str, Any]) -> str:
    """Draw the cost of each side as a bar; empty if no side cost anything."""
    axis = make_axis([figures["cost"] or 0.0 for figures in by_side.values()])
    if not any(figures["cost"] for figures in by_side.values()):
        return ""
    marks = []
    for place, figures in enumerate(by_side.values()):
        y = _row_middle(place)
        width = axis.place_of(figures["cost"] or 0.0) - LEFT
        marks.append(f'<rect class="bar cost" x="{LEFT}" y="{y - 9}" width="{width:.1f}" height="18"/>')
        text = dollar_text(figures["cost"])
        if figures["cost"] is not None:
            text += f", {dollar_text(figures['cost'] / max(1, figures['questions']))} each"
        marks.append(chart_label(RIGHT + 12, y + 5, text))
    return _plot_by_side("Cost by side", "US dollars for all questions", axis, list(by_side), marks)


def _plot_by_side(title: str, unit: str, axis: Axis, names: Sequence[str], marks: Sequence[str]) -> str:
    """Return a plot with a row for each side."""
    bottom = TOP + ROW_HEIGHT * len(names)
    parts = [_tick_marks(axis, bottom), *marks]
    for place, name in enumerate(names):
        if len(name) <= NAME_CHARS:
            short = name
        else:
            short = name[: NAME_CHARS - 1] + "…"
        parts.append(chart_label(LEFT - 12, _row_middle(place) + 5, short, "name"))
    parts.append(chart_label((axis.start + axis.end) / 2, bottom + 42, unit, "unit"))
    return plot_figure(title, bottom + 54, parts)


def plot_figure(title: str, height: float, parts: Sequence[str]) -> str:
    """Return a figure with its title."""
    heading = chart_label(0, 18, title, "title")
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{safe_text(title)}">'
        f"{heading}{''.join(parts)}</svg></figure>"
    )


def _row_middle(place: int) -> float:
    return TOP + ROW_HEIGHT * place + ROW_HEIGHT / 2


def _tick_marks(axis: Axis, bottom: float) -> str:
    parts = [f'<path class="axis" d="M{axis.start} {TOP}V{bottom}H{axis.end}"/>']
    for value in axis.tick_values():
        x = axis.place_of(value)
        parts.append(f'<path class="grid" d="M{x} {TOP}V{bottom + 5}"/>')
        parts.append(chart_label(x, bottom + 20, tick_text(value), "tick"))
    return "".join(parts)


def chart_label(x: float, y: float, text: str, kind: str = "") -> str:
    """Return a text of a plot."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{style}>{safe_text(text)}</text>'
