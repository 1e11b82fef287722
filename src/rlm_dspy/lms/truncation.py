"""Finding out that a server read less of a prompt than it was sent."""

from __future__ import annotations

import re

from dspy.lm15 import Request

from rlm_dspy.metering import CHARS_PER_TOKEN

# A token is seldom more than a few characters; far fewer tokens than this mean that part of a prompt was not read.
MOST_CHARS = 10
SHORTEST = 8_000  # characters below which the count says too little
_RUN = re.compile(r"(.)\1{4,}", re.DOTALL)


def size(request: Request) -> int:
    """Return how many characters a request has."""
    return sum(map(len, _texts(request)))


def shortfall(request: Request, reported_tokens: int | None) -> int | None:
    """Return about how many tokens were sent if far fewer were read, else None."""
    if not reported_tokens:  # LiteLLM makes 0 of what a server does not report
        return None
    # A long run of one character (blanks of a table, a rule) counts as the few tokens that it is.
    chars = sum(len(_RUN.sub(r"\1\1\1\1", text)) for text in _texts(request))
    return chars // CHARS_PER_TOKEN if chars >= SHORTEST and reported_tokens * MOST_CHARS < chars else None


def _texts(request: Request) -> list[str]:
    return [request.system if isinstance(request.system, str) else "", *(m.text or "" for m in request.messages)]
