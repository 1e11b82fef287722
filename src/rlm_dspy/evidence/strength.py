"""Whether a quote supports an answer, or is only found in the context."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_dspy.evidence.model import Evidence

SHORT_ANSWER_CHARS = 80  # an answer up to this long can be looked for in a quote
STRONG_WORDS = 5  # a quote of so many words says something by itself


def is_weak(quote: str, answers: Iterable[str]) -> bool:
    """Return whether a quote neither holds one of the short answers nor has at least five words."""
    if len(re.findall(r"\w+", quote)) >= STRONG_WORDS:
        return False
    plain = _plain(quote)
    return not any(_plain(answer) in plain for answer in answers if _plain(answer))


def short_answers(outputs: Mapping[str, Any]) -> list[str]:
    """Return the texts and numbers among the outputs that are short enough to be looked for."""
    found: list[str] = []
    for value in outputs.values():
        items = value if isinstance(value, (list, tuple, set)) else [value]
        for item in items:
            if isinstance(item, (str, int, float)) and not isinstance(item, bool):
                found.append(str(item))
    return [answer for answer in found if len(answer) <= SHORT_ANSWER_CHARS]


def weak_advice(weak: list[Evidence]) -> str:
    """Say what is wrong with weak quotes."""
    quotes = ", ".join(repr(item.quote[:60]) for item in weak[:3])
    return (
        f"the evidence {quotes} is in the context, but does not show the answer: quote the words that hold it (or at "
        "least five words around them), or correct the answer. If it was computed, or is not there, give an empty list."
    )


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
