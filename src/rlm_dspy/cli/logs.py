"""Logging for the command, on stderr: our warnings, and more with ``-v``, ``-vv`` or ``--log-json``."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.redact import Redactor
from rlm_dspy.report.render import printable_text

OURS = "rlm_dspy"
# Libraries that log to stderr themselves; shown from -vv on.
NOISY_LOGGERS = (
    *("dspy", "LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "litellm", "py.warnings", "httpx", "mcp"),
    *("fsspec", "s3fs", "aiobotocore", "botocore", "gcsfs", "google", "adlfs", "azure"),
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed in ``extra=``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class PlainFormatter(logging.Formatter):
    """One line per record for people: level, message, then ``name=value`` of each extra."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Render the record with its extras, with secrets masked."""
        line = super().format(record)
        if extra := extra_fields(record):
            line += " " + " ".join(f"{name}={value!r}" for name, value in self._redactor.named(extra).items())
        return printable_text(self._redactor.text(line))


class JsonFormatter(logging.Formatter):
    """One JSON object per line for machines: time, level, logger, message, the extras, the error."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Render the record as JSON, with secrets masked."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        plain = json.loads(json.dumps(entry, default=str))
        return json.dumps(self._redactor.named(plain))


class WarningFormatter(logging.Formatter):
    """One line for the user, in the style of the command's own notes."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Render only the message, with secrets masked."""
        return printable_text(self._redactor.text(f"warning: {record.getMessage()}"))


def configure(terminal: Terminal, as_json: bool = False) -> None:
    """Set up logging at the start of a command: ``-v`` shows INFO, ``-vv`` DEBUG and the libraries.

    Without them only warnings are shown, unless ``-q``.
    """
    logging.captureWarnings(True)
    handler: logging.Handler = logging.NullHandler()
    warnings: logging.Handler = logging.NullHandler()
    if terminal.verbose or as_json:
        handler = logging.StreamHandler(sys.stderr)
        formatter = JsonFormatter if as_json else PlainFormatter
        handler.setFormatter(formatter(terminal.redactor))
    elif not terminal.quiet:
        warnings = logging.StreamHandler(sys.stderr)
        warnings.setLevel(logging.WARNING)
        warnings.setFormatter(WarningFormatter(terminal.redactor))
    ours = logging.getLogger(OURS)
    ours.handlers = [handler, warnings]
    ours.propagate = False
    ours.setLevel(logging.DEBUG if terminal.verbose > 1 else logging.INFO)
    for name in NOISY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if terminal.verbose > 1 else logging.CRITICAL + 1)
