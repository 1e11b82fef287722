"""Find answers that a model made up: no output and no input contains their numbers or words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rlm_dspy.evidence.locate import SupportsItems, texts_of

MOST_WORDS = 6  # of an answer whose words are searched; longer ones are usually paraphrased
MIN_WORD_CHARS = 3  # minimum characters of a significant word
_OWN_WORDS = frozenset(
    {"yes", "no", "none", "true", "false", "null", "unknown", "nothing", "not", "found", "the", "and", "corpus"}
)


def unshown_answers(
    outputs: Mapping[str, Any], code: str, shown: Iterable[str], contexts: Mapping[str, str | SupportsItems]
) -> list[str]:
    """Return the answers that are literals in ``code`` and whose numbers or words nothing else contains.

    Args:
        outputs: The submitted values; only texts and numbers are checked.
        code: The model's code that submitted them; it does not contain computed answers.
        shown: The outputs of the run.
        contexts: The inputs of the run.
    """
    texts = list(shown)
    answers = []
    for name, value in outputs.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            continue
        written = str(value)
        if written not in code:
            continue
        made_up = bool(unseen_numbers({name: written}, texts, contexts))
        if made_up or (isinstance(value, str) and _holds_no_word(written, texts, contexts)):
            answers.append(written)
    return answers


def _holds_no_word(answer: str, shown: Iterable[str], contexts: Mapping[str, str | SupportsItems]) -> bool:
    """Return whether a short answer has words, none of which occurs elsewhere."""
    words = re.findall(r"[^\W_]+", answer.casefold())
    if not words or len(words) > MOST_WORDS:
        return False
    significant = [
        word for word in words if len(word) >= MIN_WORD_CHARS and word not in _OWN_WORDS and not word.isdecimal()
    ]
    if not significant:
        return False
    if any(_holds_any(text, significant) for text in shown):
        return False
    return not any(_holds_any(text.text, significant) for text in texts_of(contexts))


def _holds_any(text: str, words: list[str]) -> bool:
    folded = text.casefold()
    return any(word in folded for word in words)


_MAX_UNFLAGGED_NUMBER = 12  # whole numbers up to this one are never flagged
_MAX_NUMBER_CHARS = 100  # characters of a number; longer ones are keys or dumps
_MAX_SEARCHED_CHARS = 1_000_000_000  # characters of input, counted for each number that is searched for
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?P<grouped>[1-9]\d{0,2}(?P<mark>[.,\u00a0\u202f' ])\d{3}(?:(?P=mark)\d{3})*)|(?P<whole>\d+))"
    r"(?:[.,](?P<part>\d+))?(?!\w)"
)


def unseen_numbers(
    outputs: Mapping[str, Any], shown: Iterable[str], contexts: Mapping[str, str | SupportsItems]
) -> list[str]:
    """Return a warning for each output with numbers that no shown output and no context contains."""
    asked = {name: _parsed_numbers(_plain_text(value)) for name, value in outputs.items()}
    unseen = {forms for numbers in asked.values() for forms in numbers.values()}
    for printed in shown if unseen else ():
        known: set[str] = set().union(*_parsed_numbers(printed).values())
        unseen = {forms for forms in unseen if not forms & known}
    left = _MAX_SEARCHED_CHARS
    for text in texts_of(contexts) if unseen else ():
        left -= text.size * len(unseen)
        if left < 0:
            return ["the numbers of the answer were not looked for in the inputs: both are too many"]
        body = text.text
        unseen = {forms for forms in unseen if not any(_holds_number(body, number) for number in forms)}
    warnings = []
    for name, numbers in asked.items():
        if missing := [written for written, forms in numbers.items() if forms in unseen]:
            listed = ", ".join(missing[:8])
            warnings.append(f"unseen numbers in {name}: {listed} (in no output and no input of the run)")
    return warnings


def _holds_number(body: str, number: str) -> bool:
    """Return whether a text contains a number in any common notation."""
    whole, dot, part = number.partition(".")
    grouped = f"{int(whole):,}"
    forms = {head + dot + part for head in (whole, grouped, grouped.replace(",", " "), grouped.replace(",", "'"))}
    comma = "," if part else ""
    forms |= {whole + comma + part, grouped.replace(",", ".") + comma + part}
    matching = (form for form in forms if form in body)
    zeros = "0*" if part else "(?:[.,]0+)?"
    return any(re.search(rf"(?<!\d){re.escape(form)}{zeros}(?!\d)", body) for form in matching)


def _plain_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (list, tuple, set)):
        return "\n".join(_plain_text(item) for item in value)
    if isinstance(value, dict):
        return "\n".join(_plain_text(item) for item in value.values())
    return ""


def _parsed_numbers(text: str) -> dict[str, frozenset[str]]:
    """Return the numbers of a text as written, each with its possible values: "1.200" is 1200 or 1.2, "0.125" 0.125."""
    numbers = {}
    for match in _NUMBER.finditer(text):
        if len(match[0]) > _MAX_NUMBER_CHARS:
            continue
        whole, part = match["grouped"] or match["whole"], match["part"] or ""
        forms = {_canonical_number(re.sub(r"\D", "", whole), part)}
        if not part and len(halves := re.split("[.,]", whole)) == 2:
            forms.add(_canonical_number(*halves))
        if meant := frozenset(form for form in forms if "." in form or int(form) > _MAX_UNFLAGGED_NUMBER):
            numbers[match[0]] = meant
    return numbers


def _canonical_number(whole: str, part: str) -> str:
    """Return the canonical form of a number, in which 1200.0 is 1200."""
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    if part:
        return f"{whole}.{part}"
    return whole
