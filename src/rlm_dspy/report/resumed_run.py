"""Read what an unanswered ``ask`` left in its logs: the request and its finished calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.replay import CallPlace, RecordedCall, RecordedReply, Replay
from rlm_dspy.report.run_log import ASKED, MASKED, RUNNING
from rlm_dspy.report.run_store import StoredRun, load_run
from rlm_dspy.run import UNFINISHED, Run, Span, Usage
from rlm_dspy.spans import is_sub_call, kept_text, root_step


@dataclass(frozen=True)
class ResumedRun:
    """A run that was killed, stopped or failed, and can be resumed.

    Attributes:
        run: the run as far as it went.
        asked: its question, paths, options and the digest of its files, as ``ask`` recorded them.
        calls: the LM calls of the whole ``ask``.
        run_ids: the ids of its root runs, in order.
    """

    run: Run
    asked: Mapping[str, Any]
    calls: tuple[RecordedCall, ...]
    run_ids: tuple[str, ...]

    @property
    def in_flight(self) -> int:
        """The calls that had not ended when the run did, or whose reply cannot be used."""
        return sum(call.reply is None for call in self.calls)

    def make_replay(self, redactor: Redactor, *, limits_changed: bool, on_end: Callable[[str], None]) -> Replay:
        """Return the replay of the recorded calls."""

        def as_recorded(text: str) -> str:
            return redactor.text(kept_text(text))

        return Replay(self.calls, self.run_ids, as_recorded, limits_changed=limits_changed, on_end=on_end)


def read_resumed(stored: StoredRun) -> ResumedRun:
    """Return what is needed to go on with a stored run.

    Raises:
        RLMError: the run is finished or still running, or its record lacks what is needed.
    """
    run, path = stored.run, stored.path
    if run.stopped_by == RUNNING:
        raise RLMError(f"the run {run.id} is still running; `rlm-dspy trace {run.id}` shows how far it is")
    if path.suffix != ".jsonl" or run.status != "stopped":
        ended = run.stopped_by or run.status
        raise RLMError(f"the run {run.id} has ended ({ended}), so there is nothing to resume")
    if run.content != "full":
        raise RLMError(
            f"the run {run.id} cannot be resumed: its record keeps no prompts and replies (content={run.content!r})"
        )
    asked = _asked_facts(path)
    if asked is None:
        raise RLMError(
            f"the run {run.id} cannot be resumed: its record does not say what was asked of which files. "
            "`rlm-dspy ask` writes that since this version; runs of chat and of Python programs do not have it."
        )
    names = (*asked["earlier_runs"], run.id)
    calls: list[RecordedCall] = []
    for attempt, name in enumerate(names):
        log = path.with_name(f"{name}.jsonl")
        if not log.is_file():
            raise RLMError(f"the run {run.id} cannot be resumed: the record of its first part, {log}, is missing")
        calls += _calls_of_log(log, attempt)
    return ResumedRun(load_run(path).run, asked, tuple(calls), names)


def can_be_resumed(stored: StoredRun) -> bool:
    """Return whether ``ask --resume`` can go on with a stored run."""
    try:
        read_resumed(stored)
    except RLMError:
        return False
    return True


def _rows_of_log(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            yield json.loads(line)
        except RecursionError as error:
            raise ValueError("a line of the log is nested too deeply") from error


def _asked_facts(path: Path) -> dict[str, Any] | None:
    for row in _rows_of_log(path):
        if isinstance(row.get(ASKED), dict):
            facts: dict[str, Any] = row[ASKED]
            return facts
    return None


def _calls_of_log(path: Path, attempt: int) -> Iterator[RecordedCall]:
    """Yield the calls of each part of a log; each time the run is resumed, the log gets another part."""
    spans: dict[int, Span] = {}
    masked: set[int] = set()
    for row in _rows_of_log(path):
        if "run" in row and row["run"].get("stopped_by") == UNFINISHED:
            yield from _calls_of_spans(spans, masked, attempt)
            spans, masked = {}, set()
        span = Span.model_validate(row.get("ended") or row["started"])
        spans[span.id] = span
        if "ended" in row and row.get(MASKED):
            masked.add(span.id)
    yield from _calls_of_spans(spans, masked, attempt)


def _calls_of_spans(spans: Mapping[int, Span], masked: set[int], attempt: int) -> Iterator[RecordedCall]:
    whole = Run(id="", status="stopped", spans=tuple(spans.values()))
    for span in whole.spans:
        if span.kind != "lm" or span.parent is None:
            continue
        above = spans[span.parent]
        place = CallPlace(attempt, root_step(above, spans), is_sub_call(above), above.input)
        prompt = tuple((message.role, message.content) for message in whole.prompt_of(span))
        is_finished = span.seconds is not None and span.error is None and span.id not in masked
        usage = span.usage or Usage()
        if usage.replayed_calls:  # it was paid for in an earlier part
            continue
        yield RecordedCall(place, prompt, reply_of_span(span) if is_finished else None)


def reply_of_span(span: Span) -> RecordedReply:
    """Return the reply of an LM call, with its hidden thinking split off."""
    thinking, rest = span.output[: span.thinking], span.output[span.thinking :]
    text = rest.removeprefix("\n\n") if thinking else rest
    return RecordedReply(text, thinking, span.finish, span.usage or Usage())
