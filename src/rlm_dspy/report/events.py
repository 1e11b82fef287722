"""The events of a question as JSON lines, as ``ask --events`` prints them; docs/events.md describes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlm_dspy.redact import Redactor
from rlm_dspy.report.json_output import redacted_json
from rlm_dspy.report.render import jsonable
from rlm_dspy.run import Event

VERSION = 1  # of the format; increased when a field is removed or changes its meaning


class EventLines:
    """Prints each event of a run as one line of JSON; ``write`` prints a line."""

    wants_text = True

    def __init__(self, write: Callable[[str], None], redactor: Redactor) -> None:
        self._write = write
        self._redactor = redactor

    def __call__(self, event: Event) -> None:
        """Print an event without the fields that do not apply to its kind."""
        fields = {name: getattr(event, name) for name in ("step", "max_steps", "depth", "sub_calls", "usage")}
        fields |= event.model_dump(exclude={"kind", "step_usage", *fields}, exclude_defaults=True)
        if event.kind == "output":
            fields["step_usage"] = event.step_usage
        self._print_line(event.kind, fields)

    def end(self, answer: Mapping[str, Any]) -> None:
        """Print the last line, which has the answer as ``ask --json`` prints it."""
        self._print_line("answer", answer)

    def fail(self, error: BaseException, exit_code: int) -> None:
        """Print the last line of a question that failed: the error."""
        self._print_line("error", {"error": str(error), "type": type(error).__name__, "exit_code": exit_code})

    def _print_line(self, event: str, fields: Mapping[str, Any]) -> None:
        line = {"version": VERSION, "event": event, **fields}
        self._write(redacted_json(jsonable(line), self._redactor))
