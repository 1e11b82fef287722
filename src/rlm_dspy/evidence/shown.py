"""Answers that a model wrote down without having seen them: no output and no input shows their numbers or words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_dspy.evidence.numbers import unseen_numbers
from rlm_dspy.evidence.texts import SupportsItems, texts_of

MOST_WORDS = 6  # of an answer whose words are looked for: longer ones are put in the model's own words
SHORTEST = 3  # characters of a word that tells something
_OWN_WORDS = frozenset(
    {"yes", "no", "none", "true", "false", "null", "unknown", "nothing", "not", "found", "the", "and", "corpus"}
)


def unshown_answers(
    outputs: Mapping[str, Any], code: str, shown: Iterable[str], contexts: Mapping[str, str | SupportsItems]
) -> list[str]:
    """Return the answers that stand as they are in ``code`` and whose numbers or words nothing else shows.

    Args:
        outputs: what was submitted; only texts and numbers are looked at.
        code: what the model wrote to submit it; an answer that it computed is not in there.
        shown: the outputs of the run.
        contexts: its inputs.
    """
    texts = list(shown)
    found = []
    for name, value in outputs.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            continue
        written = str(value)
        if written not in code:
            continue
        made_up = bool(unseen_numbers({name: written}, texts, contexts))
        if made_up or (isinstance(value, str) and _holds_no_word(written, texts, contexts)):
            found.append(written)
    return found


def _holds_no_word(answer: str, shown: Iterable[str], contexts: Mapping[str, str | SupportsItems]) -> bool:
    """Tell whether a short answer has words of its own, of which nothing shows any."""
    words = re.findall(r"[^\W_]+", answer.casefold())
    if not words or len(words) > MOST_WORDS:
        return False
    telling = [word for word in words if len(word) >= SHORTEST and word not in _OWN_WORDS and not word.isdecimal()]
    if not telling:
        return False
    if any(word in text.casefold() for text in shown for word in telling):
        return False
    return not any(word in text.text.casefold() for text in texts_of(contexts) for word in telling)
