"""The command's output: answers to stdout, everything else to stderr, secrets to neither."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rlm_dspy.redact import Redactor

SCHEMA_VERSION = 1  # of what --json prints; docs/schemas describes it

_QUOTED = re.compile(r"`[^`\n]+`|(?<!\w)'[^'\n]+'(?!\w)")  # commands to copy
_NO_BREAK = "\ue000"  # a character of private use stands for a space where lines must not be cut


class Terminal:
    """Prints for one command.

    ``verbose``, ``quiet``, ``trusts_project`` and ``sends_spans`` reflect ``-v``, ``-q``, ``--trust-project`` and
    ``--otel``.
    """

    def __init__(self) -> None:
        self.verbose = 0
        self.quiet = False
        self.trusts_project = False
        self.sends_spans = False
        self.shows_events = False  # --events, and no line has ended the question yet
        self.guessed_command = False  # ask was not written, and the question may be meant as a command
        self.arguments: tuple[str, ...] = ()
        self._redactor: Redactor | None = None

    @property
    def redactor(self) -> Redactor:
        """The redactor of this process; created on first use, so that ``--help`` stays fast."""
        if self._redactor is None:
            from rlm_dspy.redact import Redactor

            self._redactor = Redactor()
        return self._redactor

    def answer(self, text: str) -> None:
        """Print a result to stdout."""
        print(self.printable_text(text), flush=True)

    def answer_json(self, facts: Mapping[str, Any], *, indent: int | None = 2) -> None:
        """Print an object to stdout with the version of its schema."""
        from rlm_dspy.report.json_output import redacted_json

        self.answer(redacted_json({"schema_version": SCHEMA_VERSION, **facts}, self.redactor, indent=indent))

    def masked(self, text: str) -> None:
        """Print a file to stdout as it is; its secrets are masked already."""
        print(text, end="", flush=True)

    def note(self, text: str, *, always: bool = False) -> None:
        """Print a note to stderr; with ``-q``, only if it must ``always`` be seen."""
        if always or not self.quiet:
            _print_note(_fit_words(self.printable_text(text)))

    def error(self, text: str, where: str = "rlm-dspy") -> None:
        """Print one line to stderr, even with ``-q``."""
        line = " ".join(self.printable_text(text).split())
        _print_note(_fit_words(f"{where}: {line}"))

    def crash(self, error: BaseException) -> None:
        """Print the traceback of an error, if ``-v``."""
        if self.verbose:
            _print_note(self.printable_text("".join(traceback.format_exception(error))))

    def excepthook(self, kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        """Report an unexpected error in one line; Python then exits with 1."""
        self.crash(error)
        if isinstance(error, FileNotFoundError) and not _has_current_folder():
            self.error("the current folder was deleted. Change to another one.")
            return
        if self.verbose:
            hint = ""
        else:
            hint = " This is a bug in rlm-dspy; run it again with -v for the traceback."
        self.error(f"unexpected {kind.__name__}: {error}.{hint}")

    def start_tracing(self) -> None:
        """Send the runs of this command as OpenTelemetry spans, if ``--otel``.

        Raises:
            ConfigurationError: OpenTelemetry is not installed.
        """
        if self.sends_spans:
            from rlm_dspy import telemetry

            telemetry.trace(redactor=self.redactor)

    def printable_text(self, text: str) -> str:
        """Return a text with secrets masked and control characters escaped."""
        from rlm_dspy.report.render import printable_text

        return printable_text(self.redactor.text(text))


def _print_note(text: str) -> None:
    """Print to stderr; a disk that is full, or a reader that has gone, costs the notes but not the answer."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def columns_of(stream: TextIO) -> int:
    """Return the columns of a terminal; 0 for another stream."""
    if not stream.isatty():
        return 0
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor, or without a size
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(stream.fileno()).columns
    return 0


def _fit_words(text: str) -> str:
    """Return a text for stderr, whose terminal would cut long lines within a word or a quoted command."""
    columns = columns_of(sys.stderr)
    if not columns or len(text) <= columns:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        kept = _QUOTED.sub(lambda match: match.group().replace(" ", _NO_BREAK), line)
        wrapped = textwrap.wrap(kept, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += wrapped if len(line) > columns else [line]
    return "\n".join(lines).replace(_NO_BREAK, " ")


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def reopen_closed_streams() -> bool:
    """Open the null device for each standard stream that is closed, and return whether stdout was open.

    Otherwise notes would go to stdout, and the next file or socket would get the number of the closed stream.
    """
    was_open = sys.stdout is not None
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    return was_open


def tolerate_any_text() -> None:
    """Make stdout and stderr escape characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
