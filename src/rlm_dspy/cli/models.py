"""The model of a question, chosen by the LM layer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import dspy

from rlm_dspy import folders, lms
from rlm_dspy.cli.settings import Settings
from rlm_dspy.lms.local_servers import is_loopback


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
    folders.protect_dspy_cache()
    choice = lms.choose(values.model, os.environ, values.named_by)
    options: dict[str, Any] = {"fallback": values.fallback, "num_ctx": values.num_ctx, "timeout": values.timeout}
    options = {name: value for name, value in options.items() if value is not None}
    lm = lms.lm(choice.model, **options)
    sub_lm = lms.lm(values.sub_model, **options) if values.sub_model else None
    if choice.offline:
        notice = f"No language model: {OFFLINE.format(reason=choice.reason)}"
    else:
        names = [name for name in (choice.model, values.sub_model, values.fallback) if name and name != lms.OFFLINE]
        notice = "\n".join(_describe_destinations(dict.fromkeys(names), values))
    return Chosen(lm=lm, sub_lm=sub_lm, notice=notice)


def _describe_destinations(names: Iterable[str], values: Settings) -> Iterator[str]:
    """Name where questions and passages go, if it is not what the user's own settings and the provider say.

    That is a server of another machine which is not the provider's own, or a cloud model of the current folder's file.
    """
    described = set()
    for name in names:
        address = lms.server_address(lms.lm(name))
        if address is not None and is_loopback(address):
            continue
        if address is not None and address not in described:
            described.add(address)
            yield f"{name} is asked at {address}: the questions and what is read of the files go there."
        elif file := values.project_models.get(name):
            yield f"{file} names {name}: the questions and what is read of the files go there."


OFFLINE = (
    "the offline engine looks passages up by keywords ({reason}). "
    "For a model use -m or RLM_DSPY_MODEL, e.g. ollama_chat/qwen3:8b, or set GROQ_API_KEY."
)
