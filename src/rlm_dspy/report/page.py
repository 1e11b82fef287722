"""A run as one HTML file: a collapsible tree, without scripts or external resources."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from rlm_dspy.report import journal, render
from rlm_dspy.run import Run, Step, SubCall, Usage

# The policy protects even if an escape is missing: no script, no style but ours, no request.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ background: #8882; padding: .6rem; overflow: auto; max-height: 28rem; white-space: pre-wrap }}
details {{ margin: .4rem 0 .4rem 1rem }} summary {{ cursor: pointer }} .failed {{ color: #c33 }}
</style></head><body>
"""


def html_page(run: Run) -> str:
    """Return the HTML file."""
    title = f"run {run.id}"
    lines = [_HEAD.format(title=escape(title)), f"<h1>{escape(title)}</h1>", *_run_lines(run), "</body></html>"]
    return "\n".join(lines)


def _run_lines(run: Run) -> Iterator[str]:
    ending = f"{run.status} by {run.stopped_by}" if run.stopped_by else run.status
    facts = [ending, run.model, _usage_text(run.usage), f"{run.seconds:.1f} s", f"{run.sub_calls:,} sub-calls"]
    yield f"<p>{escape(' · '.join(fact for fact in facts if fact))}</p>"
    for name, value in run.inputs.items():
        yield from _block_lines(name, value)
    yield from (line for step in run.steps for line in _step_lines(step))
    for name, value in run.outputs.items():
        if name != "evidence":
            yield from _block_lines(name, render.outputs_text({name: value}))
    for row in map(journal.evidence_row, run.evidence):
        yield from _block_lines(
            f"evidence, {journal.evidence_location(row)}{', weak' if row['weak'] else ''}", row["quote"]
        )
    for text in (*run.warnings, *([run.error] if run.error else [])):
        yield f'<p class="failed">{escape(text)}</p>'


def _step_lines(step: Step) -> Iterator[str]:
    failed = ' class="failed"' if step.error else ""
    facts = " · ".join([f"step {step.index}", _usage_text(step.usage), f"{step.seconds:.1f} s"])
    yield f"<details open><summary{failed}>{escape(facts)}</summary>"
    for name, text in (("reasoning", step.reasoning), ("code", step.code), ("output", step.output)):
        yield from _block_lines(name, text)
    yield from (line for call in step.sub_calls for line in _sub_call_lines(call))
    yield "</details>"


def _sub_call_lines(call: SubCall) -> Iterator[str]:
    failed = ' class="failed"' if call.error else ""
    facts = " · ".join([f"{call.kind} sub-call", _usage_text(call.usage), f"{call.seconds:.1f} s"])
    yield f"<details><summary{failed}>{escape(facts)}</summary>"
    for name, text in (("asked", call.prompt), ("answered", call.output), ("failed", call.error or "")):
        yield from _block_lines(name, text)
    if call.run:
        yield from _run_lines(call.run)
    yield "</details>"


def _block_lines(name: str, text: str) -> Iterator[str]:
    if text.strip():
        yield f"<div>{escape(name)}</div><pre>{escape(render.printable_text(text))}</pre>"


def _usage_text(usage: Usage) -> str:
    return f"{render.counted_noun(usage.total_tokens, 'token')}, {render.cost_text(usage.cost)}"
