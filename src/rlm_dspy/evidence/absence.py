"""Whether an answer says that the context does not hold one."""

from __future__ import annotations

import re
from typing import Any

ABSENT = "not in the corpus"
_WHOLE = r"in (?:any of )?(?:the |this |these |any )?(?:given |provided )?(?:corpus|context|texts?|files|documents?)"
_ABSENT = re.compile(  # "not in" alone may contrast: in a.py, not in the tests
    rf"\b(?:not (?:{_WHOLE}|found|mentioned|stated|given|present|contained|available|specified|listed)|no (?:such|"
    rf"mention|information|answer|record)|nothing (?:{_WHOLE}|about|was found)|does not (?:say|state|mention|contain|"
    r"appear)|cannot be (?:found|answered|determined)|unanswerable|n/a)\b",
    re.I,
)


def is_absent(value: Any) -> bool:
    """Return whether an answer is empty or says that the context does not hold one."""
    return value is None or value in ([], "") or (isinstance(value, str) and bool(_ABSENT.search(value)))
