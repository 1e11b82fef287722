"""What one cell brought back, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Execution:
    """The outcome of one cell; nothing here is an exception, because failures of the code are data.

    Attributes:
        stdout: what it printed, head and tail within the cap.
        stderr: what it wrote to standard error, likewise.
        exception: the traceback of the cell's own lines, None if it ended well.
        final: the values given to SUBMIT, by output name.
        has_final: whether SUBMIT was called.
        value: repr of the last expression, None if there was none.
        result: its value, where it can cross the border.
        timed_out: whether a time limit ended it.
        truncated: whether something was left out of stdout or stderr.
        seconds: time the code took, time in host calls excluded.
        names: names created or bound anew.
        restored: protected inputs that the cell had bound to something else, and that are the inputs again.
        note: what else happened, and what was lost.
        kind: "ok", "error", "syntax", "refused", "exit", "memory", "timeout", "interrupted" or "died".
    """

    stdout: str = ""
    stderr: str = ""
    exception: str | None = None
    final: Any | None = None
    has_final: bool = False
    value: str | None = None
    result: Any = None
    timed_out: bool = False
    truncated: bool = False
    seconds: float = 0.0
    names: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()
    note: str | None = None
    kind: str = "ok"

    @property
    def text(self) -> str:
        """What a model should be shown: output, echo, errors, traceback and note, in this order."""
        parts = (self.stdout, self.value, self.stderr, self.exception, self.note and f"[{self.note}]")
        return "\n".join(part.rstrip("\n") for part in parts if part)
