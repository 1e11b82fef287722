"""A run as a readable tree: steps, their sub-calls, the runs of children, and the usage of each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rlm_dspy.counting import counted_noun
from rlm_dspy.report import json_output, render
from rlm_dspy.report.run_log import KILLED, UNFINISHED_RUNS
from rlm_dspy.run import INTERRUPTED, Run, Span, Step, SubCall

MAX_LINES = 12  # lines shown of a block of code or output, unless everything is requested
MAX_WIDTH = 160
MIN_ROOM = 16  # columns of text beside the rails; a narrower terminal wraps the lines itself

_LINE = re.compile(r"((?:│  )*)((?:├─ )?)( *)(.*)", re.DOTALL)


def tree_lines(run: Run, *, whole: bool = False) -> Iterator[str]:
    """Yield the lines of the tree; the middle of long blocks is omitted unless ``whole``."""
    facts = [f"run {run.id}", ending_text(run), run.model or "no model", counted_noun(len(run.steps), "step")]
    facts += [counted_noun(run.sub_calls, "sub-call"), render.usage_text(run.usage), f"{run.seconds:.1f} s"]
    yield " · ".join(facts) + (" to its last event" if run.stopped_by == KILLED else "")
    for name, value in run.inputs.items():
        yield f"{name}: {_short_line(value, whole)}"
    for step in run.steps:
        yield from _step_lines(step, whole)
    if run.stopped_by in UNFINISHED_RUNS:
        yield from _unfinished_lines(run, whole)
    if run.error:
        yield f"error: {_short_line(run.error, whole)}"
    for name, value in run.outputs.items():
        if name != "evidence":
            yield from _block_lines(f"{name}:", render.outputs_text({name: value}), whole)
    for row in map(json_output.evidence_row, run.evidence):
        yield f"evidence: {render.evidence_line(row)}"
    for warning in run.warnings:
        yield f"warning: {_short_line(warning, whole)}"
    if len(run.usage_by_model) > 1:
        for model, usage in run.usage_by_model.items():
            yield f"used by {model}: {counted_noun(usage.calls, 'call')}, {render.usage_text(usage)}"


def fitted_lines(lines: Iterable[str], columns: int) -> Iterator[str]:
    """Yield the lines of a tree cut to the columns of a terminal, with the rails of each before its later parts."""
    for line in lines:
        rails, branch, indent, rest = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]  # it matches any line
        first = f"{rails}{branch}{indent}"
        if cell_len(line) <= columns or columns - len(first) < MIN_ROOM:
            yield line
            continue
        later = f"{rails}{'│  ' if branch else ''}{indent}"
        for number, piece in enumerate(Text(rest).wrap(Console(), columns - len(first), overflow="fold")):
            yield f"{later if number else first}{piece.plain.rstrip()}"


def _step_lines(step: Step, whole: bool) -> Iterator[str]:
    marks = [f"step {step.index}", f"{step.seconds:.1f} s", render.usage_text(step.usage)]
    if step.timed_out:
        marks.append("timed out")
    if step.error:
        marks.append("failed")
    if step.submitted:
        marks.append("submitted")
    yield "├─ " + " · ".join(marks)
    for name, text in (("reasoning", step.reasoning), ("code", step.code), ("output", step.output)):
        if text.strip():
            yield from (f"│  {line}" for line in _block_lines(f"{name}:", text, whole))
    for call in step.sub_calls:
        yield from (f"│  {line}" for line in _sub_call_lines(call, whole))


def _unfinished_lines(run: Run, whole: bool) -> Iterator[str]:
    """Yield the spans that belong to no finished step."""
    below: dict[int | None, list[Span]] = defaultdict(list)
    for span in run.spans:
        below[span.parent].append(span)
    finished = {step.span for step in run.steps}
    for root in below[None]:
        for span in below[root.id]:
            if span.id not in finished:
                yield from _span_lines(span, below, whole)


def _span_lines(span: Span, below: Mapping[int | None, Sequence[Span]], whole: bool) -> Iterator[str]:
    title, asked, answered = _SPAN_WORDS[span.kind]
    facts = [title.format(span=span), render.usage_text(span.usage) if span.usage else ""]
    facts.append(f"not ended{_clock_text(span.started)}" if span.seconds is None else f"{span.seconds:.1f} s")
    yield "├─ " + " · ".join(fact for fact in facts if fact)
    for name, text in ((asked, span.input), (answered, span.output), ("failed", span.error or "")):
        if text.strip():
            yield from (f"│  {line}" for line in _block_lines(f"{name}:", text, whole))
    for child in below.get(span.id, ()):
        yield from (f"│  {line}" for line in _span_lines(child, below, whole))


def _clock_text(started: float) -> str:
    try:
        return f", started at {datetime.fromtimestamp(started):%H:%M:%S}"
    except (OverflowError, ValueError, OSError):  # of a damaged record
        return ""


# By the kind of span: its title, and the labels of its input and of its output.
_SPAN_WORDS = {
    "run": ("run {span.run}", "", ""),
    "step": ("step {span.step}", "", ""),
    "lm": ("call of {span.name}", "", "answered"),
    "cell": ("cell", "code", "output"),
    "sub_call": ("{span.name} sub-call", "asked", "answered"),
    "wait": ("wait for {span.name}", "", ""),
}


def _sub_call_lines(call: SubCall, whole: bool) -> Iterator[str]:
    facts = [f"{call.kind} sub-call", call.model, render.usage_text(call.usage), f"{call.seconds:.1f} s"]
    yield "├─ " + " · ".join(fact for fact in facts if fact)
    yield f"│  asked: {_short_line(call.prompt, whole)}"
    if call.run:
        yield from (f"│  {line}" for line in tree_lines(call.run, whole=whole))
    elif call.error is None:
        yield f"│  answered: {_short_line(call.output, whole)}"
    if call.error is not None:
        yield f"│  failed: {_short_line(call.error, whole)}"


def _block_lines(title: str, text: str, whole: bool) -> Iterator[str]:
    lines = text.strip("\n").split("\n")
    if len(lines) == 1:
        yield f"{title} {_short_line(lines[0], whole)}"
        return
    yield title
    if not whole and len(lines) > MAX_LINES:
        half = MAX_LINES // 2
        lines = [
            *lines[:half],
            f"[… {counted_noun(len(lines) - 2 * half, 'line')}; --full shows them]",
            *lines[-half:],
        ]
    yield from (f"  {_short_line(line, whole)}" for line in lines)


def _short_line(text: str, whole: bool) -> str:
    flat = text if "\n" not in text else " ".join(text.split())
    if whole or len(flat) <= MAX_WIDTH:
        return flat
    return f"{flat[: MAX_WIDTH - 1]}…"


def ending_text(run: Run) -> str:
    """Return how a run ended, such as "extracted by max_iters"."""
    if run.stopped_by in (*UNFINISHED_RUNS, INTERRUPTED):
        return str(run.stopped_by)
    if run.stopped_by:
        return f"{run.status} by {run.stopped_by}"
    return run.status
