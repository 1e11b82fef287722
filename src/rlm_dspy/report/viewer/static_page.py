"""A run as plain HTML: what the page shows where scripts do not run."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from rlm_dspy.counting import counted_noun
from rlm_dspy.report import json_output, render
from rlm_dspy.report.tree import ending_text
from rlm_dspy.report.viewer.rows import TextTable
from rlm_dspy.run import Run, Step, SubCall

MAX_STEPS = 200
MAX_CHARS = 100_000  # of each text; the script shows more

Part = Run | Step | SubCall | str
"""A finished line, or a record whose lines are made when their turn comes: trees may be deeper than Python's stack."""


def static_lines(run: Run, texts: TextTable) -> Iterator[str]:
    """Yield the lines of a run, or one line that says why it is too large."""
    title = escape(texts.shown_text(f"run {run.id}"))
    yield f"<h1>{title}</h1>"
    steps = _count_steps(run)
    if steps > MAX_STEPS:
        yield (
            f"<p>This run has {steps:,} steps. Without scripts, runs of up to {MAX_STEPS} steps are shown: allow "
            f"scripts for this file, or use <code>rlm-dspy trace {title.removeprefix('run ')} --full</code>.</p>"
        )
        return
    parts: list[Part] = [run]
    while parts:
        part = parts.pop()
        if isinstance(part, str):
            yield part
        else:
            parts.extend(reversed(list(_parts_of(part, texts))))


def _count_steps(run: Run) -> int:
    count, runs = 0, [run]
    while runs:
        record = runs.pop()
        count += len(record.steps)
        runs += [call.run for step in record.steps for call in step.sub_calls if call.run]
    return count


def _parts_of(record: Run | Step | SubCall, texts: TextTable) -> Iterator[Part]:
    if isinstance(record, Run):
        return _run_parts(record, texts)
    if isinstance(record, Step):
        return _step_parts(record, texts)
    return _sub_call_parts(record, texts)


def _run_parts(run: Run, texts: TextTable) -> Iterator[Part]:
    ending = ending_text(run)
    facts = [
        ending,
        run.model,
        render.usage_text(run.usage),
        f"{run.seconds:.1f} s",
        counted_noun(run.sub_calls, "sub-call"),
    ]
    yield f"<p>{escape(texts.shown_text(' · '.join(fact for fact in facts if fact)))}</p>"
    for name, value in run.inputs.items():
        yield from _block_lines(name, value, texts)
    yield from run.steps
    for name, value in run.outputs.items():
        if name != "evidence":
            yield from _block_lines(name, render.outputs_text({name: value}), texts)
    for row in map(json_output.evidence_row, run.evidence):
        place = f"evidence, {render.evidence_location(row)}{', weak' if row['weak'] else ''}"
        yield from _block_lines(place, str(row["quote"]), texts)
    problems = list(run.warnings)
    if run.error:
        problems.append(run.error)
    for text in problems:
        yield f'<p class="failed">{escape(texts.shown_text(text, MAX_CHARS))}</p>'


def _step_parts(step: Step, texts: TextTable) -> Iterator[Part]:
    failed = ' class="failed"' if step.error else ""
    facts = " · ".join([f"step {step.index}", render.usage_text(step.usage), f"{step.seconds:.1f} s"])
    yield f"<details open><summary{failed}>{escape(facts)}</summary>"
    for name, text in (("reasoning", step.reasoning), ("code", step.code), ("output", step.output)):
        yield from _block_lines(name, text, texts)
    yield from step.sub_calls
    yield "</details>"


def _sub_call_parts(call: SubCall, texts: TextTable) -> Iterator[Part]:
    failed = ' class="failed"' if call.error else ""
    facts = " · ".join([f"{call.kind} sub-call", render.usage_text(call.usage), f"{call.seconds:.1f} s"])
    yield f"<details><summary{failed}>{escape(facts)}</summary>"
    for name, text in (("asked", call.prompt), ("answered", call.output), ("failed", call.error or "")):
        yield from _block_lines(name, text, texts)
    if call.run:
        yield call.run
    yield "</details>"


def _block_lines(name: str, text: str, texts: TextTable) -> Iterator[str]:
    if text.strip():
        yield f"<div>{escape(texts.shown_text(name))}</div><pre>{escape(texts.shown_text(text, MAX_CHARS))}</pre>"
