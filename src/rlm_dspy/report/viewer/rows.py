"""A run as the rows of the viewer's tree: one for each span, or, in records without spans, for each step and call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rlm_dspy.redact import Redactor
from rlm_dspy.report import json_output, render
from rlm_dspy.run import Run, Span, Step, SubCall, Usage

MAX_CHARS = 1_000_000  # of one text

Row = dict[str, Any]
Record = Run | Step | SubCall


class TextTable:
    """The texts of a page, each kept once, with secrets masked and control characters escaped.

    Every text of a record passes through it on its way into a page, so that nothing is shown unmasked.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._numbers: dict[str, int] = {}  # by the text as recorded
        self.texts: list[str] = []

    def number_of(self, text: str) -> int:
        """Return the number of a text; the same text always has the same."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(self.shown_text(text))
        return number

    def shown_text(self, text: str, limit: int = MAX_CHARS) -> str:
        """Return a text as a page shows it; what is left out beyond ``limit`` characters is stated at its end."""
        masked = self._redactor.text(text)  # before the cut, which could leave a part of a secret
        left_out = len(masked) - limit
        shown = render.printable_text(masked[:limit])
        if left_out > 0:
            shown += f"\n[… {left_out:,} more characters are not in this page; `rlm-dspy trace RUN --json` has them]"
        return shown.encode("utf-8", "replace").decode()


@dataclass
class RecordsBySpan:
    """The records of a tree of runs by the spans that they belong to."""

    records: dict[int, Step | SubCall] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    def record_of(self, span: Span) -> Record | None:
        """Return the record that a span belongs to, if the run holds it."""
        if span.kind == "run":
            return self.runs.get(span.run)
        return self.records.get(span.id)


def joined_records(run: Run) -> RecordsBySpan:
    """Return the steps and sub-calls of the whole tree by their span, and its runs by their id."""
    joined, runs = RecordsBySpan(), [run]
    while runs:
        record = runs.pop()
        joined.runs.setdefault(record.id, record)
        for step in record.steps:
            if step.span is not None:
                joined.records.setdefault(step.span, step)
            for call in step.sub_calls:
                if call.span is not None:
                    joined.records.setdefault(call.span, call)
                if call.run:
                    runs.append(call.run)
    return joined


def ordered_spans(spans: Iterable[Span]) -> list[tuple[Span, int | None]]:
    """Return each span with the position of its parent in this list, parents first.

    Spans without a known parent, or in a circle of parents, stand at the top: a damaged record is still shown.
    """
    by_id = {span.id: span for span in spans}
    below: dict[int | None, list[Span]] = {}
    for span in by_id.values():
        known = span.parent is not None and span.parent in by_id
        below.setdefault(span.parent if known else None, []).append(span)
    placed: dict[int, int] = {}
    ordered: list[tuple[Span, int | None]] = []
    for top in [*below.get(None, []), *by_id.values()]:
        waiting: list[tuple[Span, int | None]] = [] if top.id in placed else [(top, None)]
        while waiting:
            span, parent = waiting.pop()
            if span.id in placed:
                continue
            placed[span.id] = len(ordered)
            ordered.append((span, parent))
            waiting += [(child, placed[span.id]) for child in reversed(below.get(span.id, []))]
    return ordered


class RunRows:
    """The rows of one run, parents before their children, and the headers of the runs in its tree."""

    def __init__(self, run: Run, texts: TextTable) -> None:
        self._texts = texts
        self.rows: list[Row] = []
        self.heads: list[Row] = [run_head(run, texts)]
        self._run = run
        unplaced: list[Record] = [run]
        if run.spans:
            self._add_spans(run)
            unplaced = [step for step in run.steps if step.span is None]
        for record in unplaced:
            self._add_records(record, 0 if self.rows else None)

    def _add_spans(self, run: Run) -> None:
        joined = joined_records(run)
        ordered = ordered_spans(run.spans)
        first = min((each.started for each in run.spans if math.isfinite(each.started)), default=0.0)
        prompts = {span.id: number for number, (span, _) in enumerate(ordered) if span.kind == "lm"}
        summed = _summed_usage(ordered)
        for number, (span, parent) in enumerate(ordered):
            if span.parent is not None or span.kind != "run":
                record = joined.record_of(span)
            else:
                record = run
            row = self._span_row(span, prompts)
            row |= self._record_facts(record) if record else {}
            row |= {"parent": parent, "start": finite_number(span.started - first)}
            row["seconds"] = finite_number(span.seconds)
            row.setdefault("usage", _usage_figures(summed[number]))
            self.rows.append(row)

    def _span_row(self, span: Span, prompts: dict[int, int]) -> Row:
        if span.kind == "run" and span.parent is not None:
            kind = "child"
        else:
            kind = span.kind
        row: Row = {"kind": kind, "step": span.step, "depth": span.depth} | self._texts_of(
            name=span.name, error=span.error, input=span.input, output=span.output, finish=span.finish
        )
        if span.kind == "lm":
            row["messages"] = _numbered_pairs(
                ((message.role, message.content) for message in span.messages), self._texts
            )
            row["same"] = max(span.same_messages, 0)
            if span.previous is not None and span.previous < span.id:  # a circle would never end
                row["previous"] = prompts.get(span.previous)
        return row

    def _add_records(self, top: Record, parent: int | None) -> None:
        """Add rows for a record and all below it, whose times are not known."""
        waiting: list[tuple[Record, int | None, int, int]] = [(top, parent, 0, 0)]
        while waiting:
            record, above, step, depth = waiting.pop()
            kind = "sub_call"
            if isinstance(record, Run):
                kind, depth = "run" if above is None else "child", record.depth
            elif isinstance(record, Step):
                kind, step = "step", record.index
            row: Row = {"kind": kind, "parent": above, "start": None, "seconds": finite_number(record.seconds)}
            row |= {"step": step, "depth": depth} | self._record_facts(record)
            self.rows.append(row)
            waiting += [(child, len(self.rows) - 1, step, depth) for child in reversed(list(_records_below(record)))]

    def _record_facts(self, record: Record) -> Row:
        if isinstance(record, Run):
            row: Row = self._texts_of(name=record.signature, model=record.model, error=record.error)
            row |= {"head": self._head_number(record), "usage": _usage_figures(record.usage)}
        elif isinstance(record, Step):
            row = self._texts_of(
                reasoning=record.reasoning, input=record.code, output=record.output, error=record.error
            )
            row["marks"] = []
            if record.timed_out:
                row["marks"].append("timed out")
            if record.submitted:
                row["marks"].append("submitted")
            row["usage"] = _usage_figures(record.total_usage)
        else:
            row = self._texts_of(
                name=record.kind, input=record.prompt, output=record.output, error=record.error, model=record.model
            )
            row["usage"] = _usage_figures(record.usage)
        return row

    def _head_number(self, run: Run) -> int:
        if run is self._run:
            return 0
        self.heads.append(run_head(run, self._texts))
        return len(self.heads) - 1

    def _texts_of(self, **texts: str | None) -> Row:
        return {name: self._texts.number_of(text) for name, text in texts.items() if text}


def _records_below(record: Record) -> Iterator[Record]:
    if isinstance(record, Run):
        yield from record.steps
    elif isinstance(record, Step):
        yield from record.sub_calls
    elif record.run:
        yield record.run


def _summed_usage(ordered: list[tuple[Span, int | None]]) -> list[Usage | None]:
    """Return for each span the usage of everything below it."""
    summed = [span.usage for span, _ in ordered]
    for number in range(len(ordered) - 1, -1, -1):
        usage, parent = summed[number], ordered[number][1]
        if usage is not None and parent is not None:
            above = summed[parent]
            summed[parent] = usage if above is None else above + usage
    return summed


def finite_number(value: float | None) -> float | None:
    """Return a number as JSON can hold it: None for NaN and infinities."""
    if value is not None and math.isfinite(value):
        return round(value, 6)
    return None


def _usage_figures(usage: Usage | None) -> list[Any] | None:
    """Return prompt, completion and cached tokens, cost, calls, estimated calls, retries, seconds waited."""
    if usage is None or usage == Usage():
        return None
    counts = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens]
    more = [usage.calls, usage.estimated_calls, usage.retries, finite_number(usage.waited_seconds)]
    return [*counts, finite_number(usage.cost), *more]


def run_head(run: Run, texts: TextTable) -> Row:
    """Return what the header of a run shows."""
    head: Row = {name: texts.number_of(str(getattr(run, name) or "")) for name in _HEAD_TEXTS}
    values = {name: render.outputs_text({name: value}) for name, value in run.outputs.items() if name != "evidence"}
    return head | {
        "inputs": _numbered_pairs(run.inputs.items(), texts),
        "outputs": _numbered_pairs(values.items(), texts),
        "warnings": [texts.number_of(warning) for warning in run.warnings],
        "unread": [texts.number_of(file) for file in run.unread],
        "evidence": [_evidence_facts(item, texts) for item in run.evidence],
        "usage": _usage_figures(run.usage),
        "usage_by_model": [
            [texts.number_of(name), _usage_figures(usage)] for name, usage in run.usage_by_model.items()
        ],
        "steps": len(run.steps),
        "sub_calls": run.sub_calls,
        "seconds": finite_number(run.seconds),
        "started": finite_number(run.started) or None,
        "timed": bool(run.spans),
    }


_HEAD_TEXTS = ("id", "status", "stopped_by", "error", "model", "sub_model", "signature", "probe")


def _numbered_pairs(items: Iterable[tuple[str, str]], texts: TextTable) -> list[list[int]]:
    return [[texts.number_of(name), texts.number_of(value)] for name, value in items]


def _evidence_facts(item: dict[str, Any], texts: TextTable) -> Row:
    row = json_output.evidence_row(item)
    facts = {
        "quote": row["quote"],
        "around": str(item.get("around") or ""),
        "place": render.evidence_location(row),
        "match": row["match"] or "",
    }
    return {name: texts.number_of(str(text)) for name, text in facts.items()} | {"weak": bool(row["weak"])}
