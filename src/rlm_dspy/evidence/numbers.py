"""Numbers of an answer that nobody ever saw: neither an output of the run nor an input holds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_dspy.evidence.texts import SupportsItems, texts_of

_SMALL = 12  # whole numbers up to this one are counted by heart
_READ = 300_000_000  # characters of input in which numbers are looked for
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,\u00a0\u202f' ]\d{3})*(?:[.,]\d+)?(?!\w)")


def unseen_numbers(
    outputs: Mapping[str, Any], shown: Iterable[str], contexts: Mapping[str, str | SupportsItems]
) -> list[str]:
    """Return a warning for each output with numbers that are in nothing shown and in no context."""
    asked = {name: _numbers(_plain(value)) for name, value in outputs.items()}
    open_ones = {number for numbers in asked.values() for number in numbers.values()}
    open_ones -= {form for text in shown for form in _numbers(text).values()} if open_ones else set()
    left = _READ
    for text in texts_of(contexts) if open_ones else ():
        left -= text.size
        if left < 0:
            return []  # not all was looked at, so nothing can be said
        body = text.text
        open_ones -= {number for number in open_ones if _holds(body, number)}
    warnings = []
    for name, numbers in asked.items():
        if missing := [written for written, number in numbers.items() if number in open_ones]:
            told = ", ".join(missing[:8])
            warnings.append(f"unseen numbers in {name}: {told} (in no output and no input of the run)")
    return warnings


def _holds(body: str, number: str) -> bool:
    """Tell whether a text has a number, in one of the usual ways to write it."""
    whole, dot, part = number.partition(".")
    grouped = f"{int(whole):,}"
    forms = {head + dot + part for head in (whole, grouped, grouped.replace(",", " "), grouped.replace(",", "'"))}
    forms |= {whole + "," + part, grouped.replace(",", ".") + "," + part} if part else {grouped.replace(",", ".")}
    found = (form for form in forms if form in body)
    zeros = "0*" if part else "(?:[.,]0+)?"
    return any(re.search(rf"(?<!\d){re.escape(form)}{zeros}(?!\d)", body) for form in found)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (list, tuple, set)):
        return "\n".join(_plain(item) for item in value)
    return "\n".join(_plain(item) for item in value.values()) if isinstance(value, dict) else ""


def _numbers(text: str) -> dict[str, str]:
    """Return the numbers of a text as written, each with a form in which 1,200.0 is 1200."""
    found = {}
    for written in _NUMBER.findall(text):
        digits = re.sub(r"[,\u00a0\u202f' .](?=\d{3}(?:\D|$))", "", written).replace(",", ".")
        whole, _, part = digits.partition(".")
        number = whole.lstrip("0") or "0"
        part = part.rstrip("0")
        if part or int(number) > _SMALL:
            found[written] = f"{number}.{part}" if part else number
    return found
