"""Conversations on disk, a file each, so that ``chat -c`` can continue the newest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rlm_dspy import safe_files
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.report.json_output import redacted_json
from rlm_dspy.safe_files import entry_error, replace_file


class AnsweredQuestion(BaseModel):
    """A question, its answer, and the quotes that prove it, each as ``path:line "quote"``."""

    model_config = ConfigDict(frozen=True)

    question: str
    answer: str
    evidence: tuple[str, ...] = ()


class Conversation(BaseModel):
    """What a conversation is about, and its turns so far.

    Attributes:
        paths: absolute paths and addresses.
        flags: the settings that options named, such as the model.
        choice: the options that chose files.
        files: a digest of the names of the files that were read.
        turns: the answered questions.
    """

    paths: tuple[str, ...] = ()
    flags: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    files: str = ""
    turns: list[AnsweredQuestion] = []


class ConversationFile:
    """The file of one conversation in a folder; another chat may continue the same conversation.

    Args:
        folder: holds a file for each conversation.
        path: the file, None for a new conversation.
    """

    def __init__(self, folder: Path, path: Path | None = None) -> None:
        self._folder = folder
        self.path = path or _new_path(folder)
        self._seen = _version_of(self.path)

    def save(self, conversation: Conversation, redactor: Redactor) -> Path | None:
        """Write the conversation; return the file of another chat that has continued it too, which is kept.

        Raises:
            OSError: the file cannot be written.
        """
        safe_files.make_private(self._folder)
        other = None
        if _version_of(self.path) != self._seen:
            other, self.path = self.path, _new_path(self._folder)
        replace_file(self.path, [redacted_json(conversation.model_dump(), redactor).encode()], mode=0o600)
        self._seen = _version_of(self.path)
        return other


def _new_path(folder: Path) -> Path:
    return folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{os.getpid()}.json"


def _version_of(path: Path) -> tuple[int, int] | None:
    """Return what changes when another process writes a file, None if it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def load_newest(folder: Path) -> tuple[Conversation, ConversationFile]:
    """Return the conversation that was continued last, with its file.

    Raises:
        RLMError: there is none, or its file cannot be read.
    """
    if blocked := entry_error(folder):
        raise RLMError(f"{blocked}, so there is no conversation to continue")
    paths = sorted(folder.glob("*.json"), key=lambda path: (_version_of(path) or (0, 0))[1])
    if not paths:
        raise RLMError("there is no conversation to continue yet; start one with `rlm-dspy chat PATH`")
    try:
        file = ConversationFile(folder, paths[-1])
        return Conversation.model_validate_json(file.path.read_bytes()), file
    except (OSError, ValidationError) as error:
        if isinstance(error, OSError):
            reason = error.strerror
        else:
            reason = "it is not a conversation of this version"
        raise RLMError(f"the last conversation in {paths[-1]} cannot be read: {reason}") from error


def digest_of(names: Iterable[str]) -> str:
    """Return a digest of the names of files."""
    return hashlib.sha256("\0".join(sorted(names)).encode("utf-8", "surrogatepass")).hexdigest()


def as_markdown(turns: Sequence[AnsweredQuestion]) -> str:
    """Return turns as a Markdown text, for ``/save``."""
    blocks: list[str] = []
    for turn in turns:
        blocks += [f"## {' '.join(turn.question.split())}", turn.answer]
        if turn.evidence:
            blocks.append("\n".join(f"> {line}" for line in turn.evidence))
    return "\n\n".join(blocks) + "\n"
