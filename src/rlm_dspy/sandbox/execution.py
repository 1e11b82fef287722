"""The outcome of one cell, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dspy.primitives.code_interpreter import FinalOutput

from .cell import CellEnding, as_dict
from .errors import CodeExecutionError, InterpreterDiedError
from .worker import values
from .worker.wire import Message


@dataclass(frozen=True)
class Execution:
    """The outcome of one cell; failures of the code are data, not exceptions.

    Attributes:
        stdout: What it printed, head and tail within the cap.
        stderr: What it wrote to standard error, likewise.
        exception: The traceback of the cell's own lines, None if it succeeded.
        final: The values passed to SUBMIT, by output name.
        has_final: Whether SUBMIT was called.
        value: The repr of the last expression, None if there was none.
        result: The value of the last expression, if it can leave the sandbox.
        timed_out: Whether a time limit ended it.
        truncated: Whether stdout or stderr was cut.
        seconds: The time the code took, excluding host calls.
        names: The names it created or rebound.
        restored: Protected inputs, and tools, that the cell had rebound and that were restored.
        note: What else happened, and what was lost.
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
        """The text to show to the model: output, echo, errors, traceback and note, in this order."""
        parts = (self.stdout, self.value, self.stderr, self.exception, self.note and f"[{self.note}]")
        return "\n".join(part.rstrip("\n") for part in parts if part)


KINDS = frozenset({"error", "syntax", "refused", "exit", "memory", "interrupt", "cpu"})
SLACK_CHARS = 200

SESSION_ROLLED_BACK = (
    "The session was put back to where it was before this cell: what the cell printed and assigned is lost, all "
    "earlier names are kept."
)
SESSION_KEPT = "The session goes on: all names are kept, what the cell printed is lost."
SESSION_RESTARTED = (
    "The session ended and a new one begins: the input variables are there again, every other name is lost."
)


class MalformedError(ValueError):
    """The worker's result is malformed."""


def from_result(ending: CellEnding, timeout: float, memory_mb: int, cap: int) -> Execution:
    """Return the outcome of a cell that reported its result.

    Raises:
        MalformedError: A field is missing, too long or of the wrong type.
    """
    message = ending.result
    kind = message.get("kind")
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        raise MalformedError("unknown kind")
    stopped = ending.timed_out or ending.interrupted
    exception = _text_field(message, "exc", 10_000)
    note = _result_note(message, kind, ending, timeout, memory_mb)
    if kind in ("interrupt", "cpu") or (stopped and exception is None and "final" not in message):
        exception = _stop_message(exception, kind, ending, timeout)
        if ending.interrupted and not ending.timed_out:
            kind = "interrupted"
        else:
            kind = "timeout"
    return Execution(
        stdout=_text_field(message, "out", cap + SLACK_CHARS) or "",
        stderr=_text_field(message, "err", cap + SLACK_CHARS) or "",
        exception=exception,
        final=_final_outputs(message),
        has_final="final" in message,
        value=_text_field(message, "value", cap + SLACK_CHARS),
        result=_decoded_field(message, "data"),
        timed_out=kind == "timeout",
        truncated=message.get("cut") is True,
        seconds=round(ending.seconds, 6),
        names=_names_field(message, "names"),
        restored=_names_field(message, "restored"),
        note=note,
        kind=kind or "ok",
    )


def from_killed(ending: CellEnding, timeout: float, *, is_lost: bool) -> Execution:
    """Return the outcome of a cell whose process was replaced by its sleeping copy, or, if lost, had none."""
    kind, note = "error", SESSION_KEPT if ending.kept else SESSION_ROLLED_BACK
    if is_lost:
        kind, note = "died", SESSION_RESTARTED
    elif ending.timed_out:
        kind = "timeout"
    elif ending.interrupted:
        kind = "interrupted"
    return Execution(
        exception=_death_message(ending, timeout),
        timed_out=ending.timed_out,
        seconds=round(ending.seconds, 6),
        note=note,
        kind=kind,
    )


def for_dspy(done: Execution) -> Any:
    """Return or raise what DSPy's protocol expects from a cell.

    Raises:
        SyntaxError: The code is not valid Python.
        CodeExecutionError: The code failed.
        SandboxDiedError: The session ended.
    """
    if done.kind == "died":
        raise InterpreterDiedError(done.note or "the session ended")
    if done.kind == "syntax":
        raise SyntaxError((done.exception or "SyntaxError").removeprefix("SyntaxError: "))
    if done.exception is not None:
        raise CodeExecutionError(done.text)
    if done.has_final:
        return FinalOutput(done.final)
    if done.result is not None and not done.stdout and not done.stderr:
        return done.result
    return done.text or None


def _death_message(ending: CellEnding, timeout: float) -> str:
    if ending.timed_out:
        return f"TimeoutError: the cell ran longer than {timeout:g} s, did not stop when interrupted, and was killed"
    if ending.interrupted:
        return "KeyboardInterrupt: the cell did not stop when interrupted, and was killed"
    if ending.how == "protocol":
        return f"RuntimeError: the cell broke the sandbox's protocol ({ending.detail[:200]}), and was killed"
    return "RuntimeError: the Python process of this cell crashed or was killed (memory, stack or a fatal call)"


def _stop_message(exception: str | None, kind: Any, ending: CellEnding, timeout: float) -> str:
    """Return the traceback of a stopped cell followed by the limit that ended it."""
    where = (exception or "").rpartition("\n")[0]
    if ending.interrupted and not ending.timed_out:
        reason = "KeyboardInterrupt: the cell was interrupted"
    elif kind == "cpu" and not ending.timed_out:
        reason = "TimeoutError: the cell used up its processor time"
    else:
        reason = f"TimeoutError: the cell ran longer than {timeout:g} s (time in host functions not counted)"
    if where:
        return f"{where}\n{reason}"
    return reason


def _result_note(message: Message, kind: Any, ending: CellEnding, timeout: float, memory_mb: int) -> str | None:
    notes = []
    if kind == "memory":
        notes.append(f"the session may use {memory_mb} MB beyond its inputs; delete large names or work in pieces")
    if ending.timed_out and "final" in message:
        notes.append(f"the cell ran longer than {timeout:g} s")
    crowd = message.get("crowd")
    if isinstance(crowd, int):
        notes.append(f"the session holds {crowd:,} names; keep data in lists or dicts instead")
    return "; ".join(notes) or None


def _text_field(message: Message, key: str, limit: int) -> str | None:
    text = message.get(key)
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > limit:
        raise MalformedError(f"bad field {key!r}")
    return text


def _decoded_field(message: Message, key: str) -> Any:
    try:
        return values.decode(message.get(key), as_dict)
    except (ValueError, RecursionError):
        raise MalformedError(f"bad field {key!r}") from None


def _final_outputs(message: Message) -> Any:
    if "final" not in message:
        return None
    final = _decoded_field(message, "final")
    if not isinstance(final, dict) or not all(isinstance(key, str) for key in final):
        raise MalformedError("bad field 'final'")
    return final


def _names_field(message: Message, key: str) -> tuple[str, ...]:
    names = message.get(key, [])
    if not isinstance(names, list) or len(names) > 1000 or not all(isinstance(n, str) and len(n) <= 200 for n in names):
        raise MalformedError(f"bad field {key!r}")
    return tuple(names)
