"""What a model can take: its window and size, and the manner of prompting that follows from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from dspy.clients import model_metadata

from rlm_dspy.lms.routes import Route

SMALL_BILLIONS = 14.0
SMALL_WINDOW = 16_384
_CHARS_PER_TOKEN = 3  # on the safe side: code and names have shorter tokens than prose


@dataclass(frozen=True)
class Profile:
    """How to prompt a model: ``small`` ones get short prompts, an example and low caps."""

    name: Literal["small", "standard"]
    window: int | None
    max_llm_calls: int
    max_output_tokens: int

    @property
    def sub_prompt_chars(self) -> int:
        """Characters that fit into one sub-call, a quarter of the window kept for instructions and the reply."""
        return (self.window or SMALL_WINDOW) * _CHARS_PER_TOKEN * 3 // 4


def profile(lm: Any, name: Literal["small", "standard"] | None = None) -> Profile:
    """Return the profile of an LM from what is known of its model; ``name`` overrides the class."""
    size = window(lm)
    billions = parameters(lm.model)
    small = (billions is not None and billions <= SMALL_BILLIONS) or (size is not None and size <= SMALL_WINDOW)
    chosen: Literal["small", "standard"] = name or ("small" if small else "standard")
    if chosen == "small":
        return Profile("small", size, max_llm_calls=16, max_output_tokens=1024)
    return Profile("standard", size, max_llm_calls=50, max_output_tokens=4096)


def window(lm: Any) -> int | None:
    """Return the tokens that fit into an LM's prompt, or None if nobody says."""
    route = getattr(getattr(lm, "engine", None), "route", None)
    if isinstance(route, Route) and route.is_ollama:
        return route.window()
    return metadata(lm.model).get("max_input_tokens")


def metadata(model: str) -> dict[str, Any]:
    """Return what LiteLLM's packaged table says of a model; empty if it has no entry."""
    provider, slash, name = model.partition("/")
    found: dict[str, Any] = (
        model_metadata.model_info(provider, name) if slash else model_metadata.model_info("openai", model)
    )
    return found


def parameters(model: str) -> float | None:
    """Return the billions of parameters that a model's name tells, such as 8.0 of ``qwen3:8b``."""
    found = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", re.sub(r"[-_:/]", " ", model))
    return max(map(float, found)) if found else None
