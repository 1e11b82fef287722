"""Whether an answer says that the context does not hold one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

ABSENT = "not in the corpus"
_WHOLE = r"in (?:any of )?(?:the |this |these |any )?(?:given |provided )?(?:corpus|context|texts?|files|documents?)"
_ABSENT = re.compile(  # "not in" alone may contrast: in a.py, not in the tests
    rf"\b(?:not (?:{_WHOLE}|found|mentioned|stated|given|present|provided|contained|available|specified|listed)|"
    rf"no (?:such|mention|information|answer|record)|nothing (?:{_WHOLE}|about|was found)|"
    r"does not (?:say|state|mention|contain|appear|provide|specify)|"
    r"cannot be (?:found|answered|determined)|unanswerable|n/a)\b",
    re.I,
)


MAX_MISS_CHARS = 120  # of an answer that only says that nothing was found


def is_miss(answer: Any, evidence: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether an answer only says that nothing was found, and no quote backs it."""
    if not isinstance(answer, str) or any(quote.get("match") for quote in evidence):
        return False
    return len(answer) <= MAX_MISS_CHARS and is_absent(answer)


def is_absent(value: Any) -> bool:
    """Return whether an answer is empty or says that the context does not hold one."""
    return value is None or value in ([], "") or (isinstance(value, str) and bool(_ABSENT.search(value)))
