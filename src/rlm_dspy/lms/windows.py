"""The size of a model's window and the text that fits, from what is actually known about it."""

from __future__ import annotations

import re
from typing import Any

from rlm_dspy import local_servers
from rlm_dspy.counting import CHARS_PER_TOKEN
from rlm_dspy.metering import metadata

DEFAULT_WINDOW_TOKENS = 32_768  # tokens assumed if unknown: between small local models and hosted ones
SMALL_WINDOW = 16_384  # tokens
SMALL_WEIGHTS = 14  # billions
TINY_WEIGHTS = 4  # billions
# The share of a window that a prompt may fill; the rest is for the reply and for tokens of fewer than four characters.
PROMPT_SHARE = 0.6


def window_tokens(lm: Any) -> int:
    """Return an LM's window in tokens, or a guess if unknown."""
    return known_window(lm) or DEFAULT_WINDOW_TOKENS


def known_window(lm: Any) -> int | None:
    """Return an LM's window in tokens, as allocated by its server or as published, or None."""
    allocated = getattr(getattr(lm, "engine", None), "window", None) or getattr(lm, "kwargs", {}).get("num_ctx")
    if isinstance(allocated, int) and allocated > 0:
        return allocated
    if isinstance(getattr(lm, "engine", None), str):  # DSPy's own engines, which know no windows
        served = _served_window(str(lm.model), lm.kwargs)
        if served is not None:
            return served
    published = metadata(str(getattr(lm, "model", ""))).get("max_input_tokens")
    if isinstance(published, int) and published > 0:
        return published
    return None


def _served_window(model: str, options: dict[str, Any]) -> int | None:
    """Return the window reported by the user's own server, or None."""
    base = options.get("api_base") or options.get("base_url")
    access = local_servers.access_to(model, base, options.get("api_key"), options.get("headers"))
    return local_servers.window_of(access, model.partition("/")[2] or model)


def weight_billions(model: str) -> float | None:
    """Return the billions of weights in a model's name, such as 8.0 for ``qwen3:8b``."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", re.sub(r"[-_:/]", " ", model))
    if sizes:
        return max(map(float, sizes))
    return None


def prompt_capacity_chars(lm: Any) -> int:
    """Return the maximum characters of one prompt to an LM."""
    return int(window_tokens(lm) * PROMPT_SHARE) * CHARS_PER_TOKEN


def is_small(lm: Any) -> bool:
    """Return whether an LM needs the short protocol: a window of at most 16K tokens, or at most 14B weights by name."""
    tokens = known_window(lm)
    if tokens is not None and tokens <= SMALL_WINDOW:
        return True
    billions = weight_billions(str(getattr(lm, "model", "")))
    return billions is not None and billions <= SMALL_WEIGHTS


def is_small_profile(profile: str, lm: Any) -> bool:
    """Return whether a profile ("auto", "small" or "standard") means the short protocol for an LM."""
    if profile == "auto":
        return is_small(lm)
    return profile == "small"


def is_tiny(lm: Any) -> bool:
    """Return whether an LM has at most 4B weights by name; such models repeat themselves and make up answers."""
    billions = weight_billions(str(getattr(lm, "model", "")))
    return billions is not None and billions <= TINY_WEIGHTS
