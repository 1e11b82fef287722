"""Why a reply could not be read as its signature's outputs, in one line: DSPy needs ten, and the whole reply."""

from __future__ import annotations

import re

from dspy.utils.exceptions import AdapterParseError

QUOTED = 80  # characters of a reply or value that are shown

_FIELD = re.compile(r"Failed to parse field (\w+) with value (.*?) from the LM response\. Error message: (.*)", re.S)


def explain_unread(error: AdapterParseError) -> str:
    """Say which output is missing or of the wrong kind, and what stands there."""
    text = str(error)
    if field := _FIELD.match(text):
        name, value, told = field.groups()
        reason = re.sub(r"^\d+ validation errors? for .*?\n\s*", "", told.partition("\n\n")[0])
        reason = reason.partition(" [type=")[0].partition("\n")[0]
        return f"output `{name}` cannot be {_shown(value)}: {reason[:200] or 'it is of another type'}"
    parsed = error.parsed_result if isinstance(error.parsed_result, dict) else {}
    missing = [name for name in error.signature.output_fields if name not in parsed]
    told = text.partition("\n")[0]
    told = "" if told.startswith("Adapter ") else f"{told} "
    return f"{told}The reply has no {', '.join(missing)}; it reads {_shown(str(error.lm_response or ''))}"


def _shown(text: str) -> str:
    words = " ".join(text.split())
    return repr(words if len(words) <= QUOTED else f"{words[: QUOTED - 1]}…")
