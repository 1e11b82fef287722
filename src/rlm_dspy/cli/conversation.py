"""The turns of a conversation on disk, so that ``chat -c`` can go on with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rlm_dspy import folders
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.report.journal import redacted_json, replace_file


class AnsweredQuestion(BaseModel):
    """A question, its answer, and the quotes that prove it, each as ``path:line "quote"``."""

    model_config = ConfigDict(frozen=True)

    question: str
    answer: str
    evidence: tuple[str, ...] = ()


class Conversation(BaseModel):
    """The absolute paths that a conversation is about, the model if ``-m`` named one, and its turns so far."""

    paths: tuple[str, ...] = ()
    model: str | None = None
    turns: list[AnsweredQuestion] = []

    def save(self, path: Path, redactor: Redactor) -> None:
        """Write the conversation for :func:`load`.

        Raises:
            OSError: the file cannot be written.
        """
        folders.make_private(path.parent)
        replace_file(path, [redacted_json(self.model_dump(), redactor).encode()], mode=0o600)


def load(path: Path) -> Conversation:
    """Return the last conversation.

    Raises:
        RLMError: there is none, or its file cannot be read.
    """
    try:
        return Conversation.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RLMError("there is no conversation to continue yet; start one with `rlm-dspy chat PATH`") from None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a conversation of this version"
        raise RLMError(f"the last conversation in {path} cannot be read: {reason}") from error


def as_markdown(turns: Sequence[AnsweredQuestion]) -> str:
    """Return turns as a Markdown text, for ``/save``."""
    blocks: list[str] = []
    for turn in turns:
        blocks += [f"## {' '.join(turn.question.split())}", turn.answer]
        if turn.evidence:
            blocks.append("\n".join(f"> {line}" for line in turn.evidence))
    return "\n\n".join(blocks) + "\n"
