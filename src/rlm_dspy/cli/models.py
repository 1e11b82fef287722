"""The model of a question, chosen by the LM layer."""

from __future__ import annotations

import os
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
    """Choose the models of a question, and say so if it is the offline engine that will answer.

    Raises:
        ConfigurationError: a name cannot be a model's.
        LMAuthError: the provider's key is not set.
    """
    choice = lms.choose(values.model, os.environ, values.named_by)
    notice = f"No language model: {OFFLINE.format(reason=choice.reason)}" if choice.offline else ""
    options: dict[str, Any] = {"fallback": values.fallback, "num_ctx": values.num_ctx}
    options = {name: value for name, value in options.items() if value is not None}
    sub_lm = lms.lm(values.sub_model, **options) if values.sub_model else None
    return Chosen(lm=lms.lm(choice.model, **options), sub_lm=sub_lm, notice=notice)


OFFLINE = (
    "the offline engine looks passages up by keywords ({reason}). "
    "For a model use -m or RLM_DSPY_MODEL, e.g. ollama_chat/qwen3:8b, or set GROQ_API_KEY."
)
