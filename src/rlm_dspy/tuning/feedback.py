"""Feedback on a run for an optimizer's reflection: brief facts from the whole record.

The question, the answer, the steps that failed and why, wasted or missing sub-calls, evidence that was not found, the
usage, and how the run ended. At most ``MAX_FEEDBACK_CHARS`` characters, without any context.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_dspy.counting import counted_noun
from rlm_dspy.rlm.inputs import QUESTION_FIELDS
from rlm_dspy.run import Run, Step, replace_surrogates

MAX_FEEDBACK_CHARS = 2_000
_PRINTED_BY_EYE_CHARS = 3_000  # printed characters that suggest reading by eye what code could have computed


def write_feedback(
    *, asked: Mapping[str, Any], expected: Any, got: Any, score: float, name: str, run: Run | None, error: str = ""
) -> str:
    """Return the feedback on one answer.

    Args:
        asked: the short inputs of the example, by name.
        expected: the expected answer.
        got: the actual answer, or None.
        score: the metric's score.
        name: the metric's name.
        run: the record, if there is one.
        error: the error, if the program raised one.
    """
    lines = [f"Asked: {shorten_line(asked_text(asked), 300)}"]
    lines.append(f"Expected: {shorten_line(expected, 250)}")
    lines.append(f"Got: {shorten_line(got, 250)}" if got is not None else "Got no answer.")
    lines.append(f"Score: {score:.2f} ({name}).")
    if error:
        lines.append(f"Error: {shorten_line(error, 300)}")
    if run is not None:
        facts = [_ending_line(run), _failures_line(run), _habits_line(run), _evidence_line(run), _spending_line(run)]
        lines += [line for line in facts if line]
    text = "\n".join(lines)
    if len(text) <= MAX_FEEDBACK_CHARS:
        return text
    return text[: MAX_FEEDBACK_CHARS - 1] + "…"


def shorten_line(value: Any, limit: int) -> str:
    """Return a value as one line of at most ``limit`` characters, head and tail."""
    text = " ".join(replace_surrogates(str(value)).split())
    half = (limit - 3) // 2
    if len(text) <= limit:
        return text
    return f"{text[:half]} … {text[-half:]}"


def asked_text(inputs: Mapping[str, Any]) -> str:
    """Return the question among the inputs of an example, or its short inputs."""
    named = {name: value for name, value in inputs.items() if name in QUESTION_FIELDS}
    short = named or {name: value for name, value in inputs.items() if not _is_context(value)}
    if len(short) == 1:
        return str(next(iter(short.values())))
    return "; ".join(f"{name}: {shorten_line(value, 150)}" for name, value in short.items())


def _is_context(value: Any) -> bool:
    return hasattr(value, "sandbox_index") or type(value).__name__ == "Context" or len(str(value)) > MAX_FEEDBACK_CHARS


def _ending_line(run: Run) -> str:
    steps = len(run.steps)
    match run.status:
        case "submitted":
            early = ""
            if steps == 1 and not _printed_chars(run.steps):
                early = " without looking at anything first"
            return f"Ended: submitted at step {steps}{early}."
        case "extracted":
            limit = f"{run.stopped_by} stopped it after {counted_noun(steps, 'step')}"
            return f"Ended: {limit}, and the answer was extracted: SUBMIT earlier."
        case _:
            why = shorten_line(run.error or run.stopped_by, 250)
            return f"Ended without an answer after {counted_noun(steps, 'step')}: {why}"


def _printed_chars(steps: Iterable[Step]) -> int:
    return sum(len(step.output) for step in steps if not step.submitted)


def _failures_line(run: Run) -> str:
    failed = [step for step in run.steps if step.error or step.timed_out]
    remarks = []
    for step in failed[:4]:
        why = "timed out" if step.timed_out else shorten_line(step.error, 160)
        remarks.append(f"step {step.index} ({shorten_line(step.code, 80)}): {why}")
    more = f" and {len(failed) - 4} more" if len(failed) > 4 else ""
    if failed:
        return f"Failed steps: {'; '.join(remarks)}{more}."
    return ""


def _habits_line(run: Run) -> str:
    remarks = []
    silent = [step.index for step in run.steps if step.output.startswith("(no output")]
    if silent:
        remarks.append(f"steps {silent} printed nothing")
    codes = Counter(step.code.strip() for step in run.steps if step.code.strip())
    if repeated := sum(count - 1 for count in codes.values()):
        remarks.append(f"{counted_noun(repeated, 'step')} repeated code that had run before")
    remarks += _sub_call_remarks(run)
    if remarks:
        return f"Habits: {'; '.join(remarks)}."
    return ""


def _sub_call_remarks(run: Run) -> list[str]:
    calls = [call for step in run.steps for call in step.sub_calls]
    if not calls:
        read = _printed_chars(run.steps)
        if read <= _PRINTED_BY_EYE_CHARS:
            return []
        return [f"no sub-call was made, {read:,} characters were printed and read instead"]
    remarks = [counted_noun(len(calls), "sub-call")]
    prompts = Counter(call.prompt for call in calls)
    if wasted := sum(count - 1 for count in prompts.values()):
        remarks.append(f"{wasted} of them asked again what was asked before")
    if failed := [call for call in calls if call.error]:
        remarks.append(f"{len(failed)} of them failed ({shorten_line(failed[0].error, 120)})")
    return remarks


def _evidence_line(run: Run) -> str:
    unverified = [warning for warning in run.warnings if warning.startswith("unverified evidence")]
    verified = sum(item.get("match") is not None for item in run.evidence)
    if unverified:
        first = shorten_line(unverified[0], 250)
        return f"Evidence: found {counted_noun(verified, 'quote')}, not found {len(unverified)}: {first}"
    if run.evidence:
        return f"Evidence: {counted_noun(verified, 'quote')}, all found in the context."
    return ""


def _spending_line(run: Run) -> str:
    usage = run.usage
    cost = "unknown cost" if usage.cost is None else f"${usage.cost:.4f}"
    return (
        f"Spent: {counted_noun(len(run.steps), 'step')}, {counted_noun(usage.calls, 'LM call')} "
        f"({run.sub_calls} by sub-calls), "
        f"{usage.total_tokens:,} tokens, {cost}, {run.seconds:.1f} s."
    )
