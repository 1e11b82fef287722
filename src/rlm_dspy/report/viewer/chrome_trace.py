"""A run as Chrome trace events, which Perfetto (ui.perfetto.dev) and chrome://tracing show."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.report.render import printable_text
from rlm_dspy.run import Run, Span, one_line

_LANES = {
    "run": "runs", "step": "steps", "lm": "model calls", "cell": "cells", "sub_call": "sub-calls", "wait": "waits",
}  # fmt: skip


def chrome_trace(run: Run, redactor: Redactor) -> str:
    """Return the trace as JSON: one event per span, in lanes by kind; spans that overlap are in separate lanes.

    Raises:
        RLMError: the record has no times.
    """
    spans = [span for span in run.spans if math.isfinite(span.started)]
    if not spans:
        raise RLMError(
            f"run {run.id} has no times of its parts: it was recorded by an earlier version. Ask again, or use --html."
        )
    first = min(span.started for span in spans)
    last = max(span.started + (_known_seconds(span) or 0.0) for span in spans)
    lanes = lane_numbers(spans, last)
    names = {lane: _LANES[span.kind] for span, lane in zip(spans, lanes, strict=True)}
    events: list[dict[str, Any]] = [_name_event("process_name", 0, _short_text(f"run {run.id}", redactor))]
    events += [_name_event("thread_name", lane, names[lane]) for lane in sorted(names)]
    events += [_span_event(span, lane, (first, last), redactor) for span, lane in zip(spans, lanes, strict=True)]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False) + "\n"


def lane_numbers(spans: Sequence[Span], last: float) -> list[int]:
    """Return the lane of each span: lanes are in the order of kinds, and no two spans of a lane overlap."""
    numbers = [0] * len(spans)
    first_lane = 1
    for kind in _LANES:
        ends: list[float] = []  # when the last span of each lane of this kind ends
        indices = [index for index, span in enumerate(spans) if span.kind == kind]
        for index in sorted(indices, key=lambda index: spans[index].started):
            span = spans[index]
            lane = next((lane for lane, end in enumerate(ends) if end <= span.started), len(ends))
            if lane == len(ends):
                ends.append(0.0)
            ends[lane] = _span_end(span, last)
            numbers[index] = first_lane + lane
        first_lane += len(ends)
    return numbers


def _known_seconds(span: Span) -> float | None:
    if span.seconds is not None and math.isfinite(span.seconds):
        return span.seconds
    return None


def _span_end(span: Span, last: float) -> float:
    seconds = _known_seconds(span)
    if seconds is None:
        return last
    return span.started + max(seconds, 0.0)


def _name_event(what: str, lane: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": 1, "tid": lane, "name": what, "args": {"name": name}}


def _span_event(span: Span, lane: int, times: tuple[float, float], redactor: Redactor) -> dict[str, Any]:
    first, last = times
    args: dict[str, Any] = {"step": span.step, "depth": span.depth, "run": _short_text(span.run, redactor)}
    texts = {name: getattr(span, name) for name in ("error", "input", "output", "finish")}
    args |= {name: _short_text(text, redactor) for name, text in texts.items() if text}
    if usage := span.usage:
        args |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        args |= {"cached_tokens": usage.cached_tokens, "cost": "unknown" if usage.cost is None else str(usage.cost)}
    if _known_seconds(span) is None:
        args["unfinished"] = True
    if span.kind == "step":
        name = f"step {span.step}"
    else:
        name = f"{span.kind} {_short_text(span.name, redactor)}".strip()
    start, duration = span.started - first, max(_span_end(span, last) - span.started, 0.0)
    event = {"ph": "X", "pid": 1, "tid": lane, "cat": span.kind, "name": name, "args": args}
    return event | {"ts": round(start * 1e6), "dur": round(duration * 1e6)}


def _short_text(text: str, redactor: Redactor) -> str:
    """Return one short line, masked before it is cut: a cut could leave a part of a secret."""
    return printable_text(one_line(redactor.text(text)))
