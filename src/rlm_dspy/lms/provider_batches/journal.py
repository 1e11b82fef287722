"""The journal of provider batches: what was sent, in which batch, and what came back, so that nothing is paid twice.

Each line is one JSON object. All but replies are on disk before the program goes on; replies can be read again:

    {"wave": …, "lane": …, "time": …, "calls": {custom_id: {"key": …, "question": …}}}   before anything is sent
    {"wave": …, "file": …}        the requests are uploaded; a batch is about to be created
    {"wave": …, "batch": …}       the batch exists; before it is asked about for the first time
    {"wave": …, "id": custom_id, "reply": …}   one request was answered
    {"wave": …, "closed": status} everything that the batch has was read

It holds replies, and only hashes of prompts; nobody but the user can read it.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.safe_files import append_line, try_lock


@dataclass
class WaveRecord:
    """What the journal says about one wave that is not closed; ``keys`` are those of its unanswered requests by id."""

    wave_id: str
    lane: str
    time: float
    keys: dict[str, str]
    size: int
    file_id: str | None = None
    batch_id: str | None = None
    questions: dict[str, str] = field(default_factory=dict)


class WaveJournal:
    """The journal in a file, or in memory without one.

    Attributes:
        replies: the bodies of replies by key.
        open_waves: the waves of earlier processes that are not closed.

    Raises:
        ConfigurationError: the file cannot be read or written, is not a journal, or is used by another process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.replies: dict[str, dict[str, Any]] = {}
        self.open_waves: dict[str, WaveRecord] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        if path is None:
            return
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error.strerror}. Choose another file.") from error
        try:
            if not try_lock(self._file):
                raise ConfigurationError(f"another batch is using {path}; wait for it or choose another file")
            self._load_rows()
        except ConfigurationError:
            self.close()
            raise

    def append(self, row: dict[str, Any]) -> None:
        """Write one line, to disk unless it is a reply.

        Raises:
            OSError: the disk is full, or the file cannot be written for another reason.
        """
        line = json.dumps(row, ensure_ascii=True).encode() + b"\n"
        with self._lock:
            if self._file is None:
                return
            try:
                append_line(self._file, line, sync="reply" not in row)
            except OSError as error:
                error.filename = str(self.path)  # for the message; a descriptor has no name
                raise

    def close(self) -> None:
        """Close the file and release its lock."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None

    def _load_rows(self) -> None:
        """Read the lines; an incomplete last one is removed."""
        if self._file is None or self.path is None:
            return
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline), b""), 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._load_row(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    message = f"{self.path}:{number} is not a row of this journal; choose another file"
                    raise ConfigurationError(message) from error
                whole += len(line)
        os.ftruncate(self._file, whole)

    def _load_row(self, row: dict[str, Any]) -> None:
        name = str(row["wave"])
        if "calls" in row:
            keys = {custom_id: str(call["key"]) for custom_id, call in row["calls"].items()}
            questions = {custom_id: str(call["question"]) for custom_id, call in row["calls"].items()}
            self.open_waves[name] = WaveRecord(
                name, str(row["lane"]), float(row["time"]), keys, len(keys), questions=questions
            )
        elif "closed" in row:
            self.open_waves.pop(name, None)
        elif name in self.open_waves:
            wave = self.open_waves[name]
            if "reply" in row:
                self.replies[wave.keys.pop(row["id"])] = dict(row["reply"])
            else:
                wave.file_id = row.get("file", wave.file_id)
                wave.batch_id = row.get("batch", wave.batch_id)
