"""What the command ``ask`` was given; ``chat`` makes one for each question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_dspy.cli import settings
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import estimate_tokens
from rlm_dspy.rlm.modes import first_mode

if TYPE_CHECKING:
    from rlm_dspy.report.resumed_run import ResumedRun


@dataclass(frozen=True)
class AskRequest:
    """The arguments of the command line."""

    question: str
    paths: tuple[str, ...]
    flags: Mapping[str, Any]
    choice: Mapping[str, Any]
    out: str = "answer: str"
    as_json: bool = False
    trace: Path | None = None
    dry_run: bool = False
    log_json: bool = False
    program: str | Path | None = None  # a path once it is found
    index: bool = False
    events: bool = False
    mcp: tuple[str, ...] = ()
    resume: str | None = None
    force: bool = False
    limits_changed: bool = False  # of a resumed run
    resumed: ResumedRun | None = None

    def first_mode(self, values: settings.Settings, corpus: Corpus) -> str:
        """Return the mode to begin with."""
        tokens = estimate_tokens(corpus.chars)
        is_compiled = self.program is not None or bool(self.mcp)
        return first_mode(values.mode, tokens, direct_tokens=values.direct_tokens, is_compiled=is_compiled)
