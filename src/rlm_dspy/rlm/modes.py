"""The modes in which a question can be answered; nothing here imports a model library."""

from __future__ import annotations

import re
from typing import Literal

Mode = Literal["auto", "rlm", "direct", "retrieve"]
DIRECT_TOKENS = 16_000  # texts up to about this size are answered better by one call than by exploring

# What a usual question takes, in tokens, for estimates before it is asked.
PROTOCOL_TOKENS = 2_000  # instructions in each prompt
REPLY_TOKENS = 350  # a step's reasoning and code
OUTPUT_TOKENS = 900  # what a step's output adds to the following prompts
PASSAGES_TOKENS = 1_000  # those that are shown in the mode "retrieve"
SUB_PROMPT_TOKENS = 4_000  # a sub-call
USUAL_STEPS = (3, 8)  # steps, low and high

_ALL_TEXT_WORDS = re.compile(
    r"\b(?:how (?:many|much|often)|number of|count|totals?|sum|average|mean|most|least|fewest|highest|lowest|largest|"
    r"smallest|all|each|every|list|compare|first|last)\b",
    re.IGNORECASE,
)


def asks_about_all(question: str) -> bool:
    """Return whether a question is about all of the text, not about one place in it."""
    return _ALL_TEXT_WORDS.search(question) is not None


def first_mode(mode: str, tokens: int, *, direct_tokens: int = DIRECT_TOKENS, is_compiled: bool = False) -> str:
    """Return the mode to begin with: "auto" is "direct" for small texts, and a compiled program explores.

    Args:
        mode: one of ``Mode``.
        tokens: the size of the corpus.
        direct_tokens: the size up to which "auto" sends the whole text in one call.
        is_compiled: whether the RLM was compiled by an optimizer, or has tools that only it can use.
    """
    if is_compiled:
        return "rlm"
    if mode != "auto":
        return mode
    if tokens <= direct_tokens:
        return "direct"
    return "rlm"
