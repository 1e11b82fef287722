"""The answers file, which is its own journal.

While a batch runs, each row is appended and flushed to disk before it counts. When the batch ends, the file is replaced
by one row per question, in the order of the questions. Rows are looked up by key: the same question about the same
texts, asked of the same program. An incomplete last line is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlm_dspy import safe_files
from rlm_dspy.errors import ActionError, ConfigurationError
from rlm_dspy.redact import Redactor
from rlm_dspy.report import json_output
from rlm_dspy.report.render import jsonable

Row = dict[str, Any]


def answer_key(question: str, corpus: str, program: str) -> str:
    """Return the key of an answer, from the question, the digest of the corpus and the digest of the program."""
    return hashlib.sha256(json.dumps([question, corpus, program]).encode()).hexdigest()


class Answers:
    """The rows of one batch on disk; ``resume`` reuses the answers already in the file.

    Raises:
        ConfigurationError: the file exists and ``resume`` is not set, is not a regular file or not an answers file,
            cannot be written, or is being written by another batch.
    """

    def __init__(self, path: Path, *, resume: bool = False, redactor: Redactor | None = None) -> None:
        self.path = path = path.resolve()  # write to a link's target and keep the link
        self._redactor = redactor or Redactor()
        self._saved: dict[str, Row] = {}  # the rows in the file, by key
        self.backup: Path | None = None  # the backup of rows of other questions, texts or programs
        if os.path.exists(path) and not os.path.isfile(path):
            raise ConfigurationError(f"{path} is not a regular file; choose another file")
        if os.path.exists(path) and path.stat().st_size and not resume:
            raise ConfigurationError(f"{path} already holds answers: resume it (--resume) or choose another file")
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}. Choose another file.") from error
        try:
            if not safe_files.try_lock(self._file):  # the lock ends with the process
                raise ConfigurationError(f"another batch is writing {path}; wait for it or choose another file")
            rows = safe_files.read_rows(path, _parse_row, repair=True)
            self._saved = {row["key"]: row for row in rows if not row.get("duplicate")}
        except ConfigurationError:
            self._file.close()
            raise

    def take(self, keys: Iterable[str]) -> dict[str, Row]:
        """Return the good answers for ``keys``; rows with other keys are backed up before they are replaced."""
        wanted = set(keys)
        if not self._saved.keys() <= wanted:
            self.backup = self._unused_backup()
            shutil.copyfile(self.path, self.backup)
        return {name: row for name, row in self._saved.items() if name in wanted and row.get("ok")}

    def unreadable(self) -> frozenset[str]:
        """Return the keys of the questions that failed because of the model's own replies."""
        failed = [row for row in self._saved.values() if (row.get("error") or {}).get("type") == ActionError.__name__]
        return frozenset(row["key"] for row in failed)

    def _unused_backup(self) -> Path:
        place = self.path.with_name(f"{self.path.name}.bak")
        number = 1
        while os.path.exists(place):
            number += 1
            place = self.path.with_name(f"{self.path.name}.bak{number}")
        return place

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row to disk; a row that could not be written whole is removed again.

        Raises:
            OSError: the disk is full, or the file cannot be written for another reason.
        """
        safe_files.append_line(self._file.fileno(), self._encode_row(row))

    def settle(self, rows: Iterable[Mapping[str, Any]]) -> str | None:
        """Replace the file atomically by these rows; if that fails, return why, and the appended rows stay."""
        try:
            safe_files.replace_file(self.path, map(self._encode_row, rows))
        except OSError as error:
            return f"{self.path} has every answer, but could not be put in order: {error.strerror}"
        return None

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()

    def _encode_row(self, row: Mapping[str, Any]) -> bytes:
        return json_output.redacted_json(jsonable(row), self._redactor).encode() + b"\n"


def _parse_row(line: bytes) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        raise ValueError("it has no key")
    return row
