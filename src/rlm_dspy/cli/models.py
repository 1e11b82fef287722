"""The model of a question, chosen by the LM layer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import dspy

from rlm_dspy import lms
from rlm_dspy.cli.settings import Settings


@dataclass(frozen=True)
class Chosen:
    """The LM that steers, the one for sub-calls (None: the same), and what the user should know of the choice."""

    lm: Any
    sub_lm: Any
    notice: str = ""

    @property
    def name(self) -> str:
        """The steering model's name."""
        return str(self.lm.model)

    def active(self) -> AbstractContextManager[None]:
        """Return the DSPy context in which the LM is the configured one."""
        return dspy.context(lm=self.lm)  # type: ignore[no-any-return]


def choose(values: Settings) -> Chosen:
    return Chosen(lms.offline_lm(), None, "offline")
