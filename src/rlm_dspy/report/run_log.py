"""Write a run to disk as it happens, one JSON line per start or end of a span, so that a killed run is kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from rlm_dspy import safe_files
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.report.json_output import escaped_json
from rlm_dspy.report.render import jsonable
from rlm_dspy.run import UNFINISHED, Run, Span, Step, SubCall, Usage
from rlm_dspy.safe_files import lock, try_lock

RUNNING = "running"  # ``stopped_by`` of a run in progress
KILLED = "killed"  # ... of one whose process ended before the run did
UNFINISHED_RUNS = (RUNNING, KILLED)
ASKED = "asked"  # in the first line: what `ask` needs to go on with a killed run
MASKED = "masked"  # in a line in which a secret was masked


class RunLog:
    """Writes runs to ``<folder>/<id>.jsonl`` as they happen; a listener of spans.

    The first line of a file is the run as far as it is known at its start. Each other line is the start or the end of a
    span; the end of a step includes the step. The file is locked while its run is in progress. A resumed run is
    appended to its own file, where its part begins with another line of the run as it starts.

    Attributes:
        asked: what the first line says about the question, the files and the options; None if it cannot be resumed.
        resumed: the ids of the runs that are resumed.
    """

    label = "the log of the run on disk"

    def __init__(self, folder: Path, redactor: Redactor) -> None:
        self._folder = folder
        self._redactor = redactor
        self._files: dict[int, BinaryIO] = {}  # by open span
        self._paths: list[Path] = []
        self.asked: Mapping[str, Any] | None = None
        self.resumed: tuple[str, ...] = ()

    def started(self, span: Span, record: Run | None) -> None:
        """Write the start of a span; that of a root run creates its file."""
        if span.parent is not None:
            self._files[span.id] = self._files[span.parent]
            self._write_line(span, {"started": span_values(span)})
        elif record is not None:
            safe_files.make_private(self._folder)
            path = self._folder / f"{record.id}.jsonl"
            file = self._files[span.id] = self._open_file(path)
            lock(file)
            values = {"run": record.model_dump(), "started": span_values(span)}
            if self.asked is not None:
                values[ASKED] = {**self.asked, "earlier_runs": [path.stem for path in self._paths]}
            self._paths.append(path)
            self._write_line(span, values)

    def _open_file(self, path: Path) -> BinaryIO:
        """Open the file of a run; a resumed run has one already, whose incomplete last line is removed."""
        if path.stem not in self.resumed:
            return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        whole = path.read_bytes()
        os.truncate(path, whole.rfind(b"\n") + 1)
        return open(path, "ab")

    def ended(self, span: Span, record: Run | Step | SubCall | None) -> None:
        """Write the end of a span; that of a root run closes its file."""
        values: dict[str, Any] = {"ended": span_values(span)}
        if isinstance(record, Step) and not span.depth:
            values["step"] = record.model_dump()
        elif isinstance(record, Run) and span.parent is None:
            values["run"] = record.model_dump(exclude={"steps"})
        self._write_line(span, values)
        file = self._files.pop(span.id)
        if span.parent is None:
            file.close()

    @property
    def path(self) -> Path | None:
        """The file of the newest run, None if there is none."""
        if self._paths:
            return self._paths[-1]
        if self.resumed:
            return self._folder / f"{self.resumed[-1]}.jsonl"
        return None

    def discard(self) -> None:
        """Delete the logs of finished runs, whose whole records are saved elsewhere."""
        for path in (*self._paths, *(self._folder / f"{run_id}.jsonl" for run_id in self.resumed)):
            path.unlink(missing_ok=True)
        self._paths.clear()

    def _write_line(self, span: Span, values: dict[str, Any]) -> None:
        file = self._files[span.id]
        plain = jsonable(values)
        safe = self._redactor.value(plain)
        if safe != plain:
            safe = {**safe, MASKED: True}
        file.write(escaped_json(safe).encode() + b"\n")
        file.flush()


def span_values(span: Span) -> dict[str, Any]:
    """Return the fields of a span that differ from their defaults."""
    return span.model_dump(exclude_defaults=True)


def is_being_written(path: Path) -> bool:
    """Return whether the process that writes a log is still running."""
    with open(path, "rb") as file:
        return not try_lock(file, shared=True)


def read_log(path: Path) -> Run:
    """Return the run of a log as far as it goes; an incomplete last line is ignored.

    Raises:
        RLMError: the file is not the log of a run.
        OSError: it cannot be read.
    """
    is_running = is_being_written(path)
    run: Run | None = None
    parts = [_Part()]  # one more each time that the run was resumed
    lines = path.read_bytes().split(b"\n")
    try:
        for line in lines[:-1]:
            values = json.loads(line)
            if "run" in values:
                run = Run.model_validate(values["run"])
                if run.stopped_by == UNFINISHED:
                    parts.append(_Part(run))
            if "step" in values:
                parts[-1].steps.append(Step.model_validate(values["step"]))
            span = Span.model_validate(values.get("ended") or values["started"])
            parts[-1].spans[span.id] = span
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ValidationError):
            what = error.errors()[0]["msg"]
        else:
            what = str(error)
        raise RLMError(f"{path} is not the log of a run of this version: {what}") from error
    if run is None:
        raise RLMError(f"{path} holds no run yet")
    if run.stopped_by != UNFINISHED:
        return run.model_copy(update={"steps": tuple(parts[-1].steps), "spans": tuple(parts[-1].spans.values())})
    if is_running:
        return parts[-1].record(RUNNING, time.time())
    return max(reversed(parts[1:]), key=_Part.progress).record(KILLED)


@dataclass
class _Part:
    """What a log holds of a run from one start of its process to the next."""

    run: Run | None = None
    steps: list[Step] = field(default_factory=list)
    spans: dict[int, Span] = field(default_factory=dict)

    def progress(self) -> tuple[int, int]:
        """Return how far it went: its steps, and the spans that ended."""
        return len(self.steps), sum(span.seconds is not None for span in self.spans.values())

    def record(self, status: str, now: float | None = None) -> Run:
        """Return the run as far as it is known, until ``now`` (Unix seconds) or its last event."""
        assert self.run is not None
        spans = self.spans.values()
        last = max((span.started + (span.seconds or 0.0) for span in spans), default=self.run.started)
        return self.run.model_copy(
            update={
                "stopped_by": status,
                "steps": tuple(self.steps),
                "spans": tuple(spans),
                "usage": sum((span.usage for span in spans if span.usage), Usage()),
                "sub_calls": sum(span.kind == "sub_call" for span in spans),
                "seconds": (now or last) - self.run.started,
            }
        )
