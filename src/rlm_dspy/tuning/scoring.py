"""Scorers, and the statistics of a report: means with bootstrap intervals, medians, 95th percentiles."""

from __future__ import annotations

import json
import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rlm_dspy.evidence.absence import is_absent

RESAMPLES = 2_000
CONFIDENCE = 0.95  # of the interval of a mean


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, 0 for no values."""
    if values:
        return sum(values) / len(values)
    return 0.0


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a bootstrap interval that holds the mean with ``CONFIDENCE``; deterministic."""
    if len(set(values)) < 2:
        return (mean(values), mean(values))
    rng = random.Random(0)
    means = sorted(mean(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    cut = (1 - CONFIDENCE) / 2
    return (means[int(cut * RESAMPLES)], means[int((1 - cut) * RESAMPLES) - 1])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of the values do not exceed, 0 for no values."""
    ordered = sorted(values)
    if ordered:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
    return 0.0


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:_\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
# A number, the unit that is written directly behind it ("5km"), and a factor that is a word ("5 million").
NUMBER = re.compile(
    rf"(?<![\w.])([-+]?{_DIGITS})([^\W\d_]{{1,10}})?(?!\w|\.\d)(?:\s+(thousand|[mb]illion|trillion)s?\b)?",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(rf"[-+]?(?!0\d){_DIGITS}")
_FACTORS = {"": 1.0, "k": 1e3, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_AMBIGUOUS_UNITS = {"m", "mn", "b", "bn"}  # metres or millions
_EXACT_DIGITS = 15  # of a number whose neighbours are other floats
_QUOTES = {**dict.fromkeys("‘’‚‛′", "'"), **dict.fromkeys("“”„‟″«»", '"')}
_TYPOGRAPHY = str.maketrans({**_QUOTES, **dict.fromkeys("‐‑‒–—−", "-")})
_TRIMMED = " .,;:!?\"'`*()[]{}"
_SEPARATOR = re.compile(r"[,;]| and ")
_PATH = re.compile(r"[\w./-]+\.\w{1,5}")
_BOOLS = ({"yes", "true"}, {"no", "false"})


def normal_text(value: Any) -> str:
    """Normalise a value to text for comparison.

    Case, outer punctuation, articles before a word, white space, and the kind of quotes and dashes make no difference.
    """
    if isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    text = unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHY).casefold()
    text = " ".join(re.sub(r"\b(?:a|an|the)\s+(?=\S)", " ", text).split())
    return text.strip(_TRIMMED) or text


def number_in(value: Any) -> float | None:
    """Return a number, or the number in a text that contains exactly one."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return _finite(value)
    numbers = list(NUMBER.finditer(str(value).translate(_TYPOGRAPHY)))
    if len(numbers) != 1:
        return None
    digits, unit, factor = numbers[0].groups(default="")
    if unit.lower() in _AMBIGUOUS_UNITS:
        return None
    return _read_number(digits) * _FACTORS.get(unit.lower(), 1.0) * _FACTORS[factor.lower()]


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:  # of an int
        return None
    if math.isfinite(number):
        return number
    return None


def _read_number(text: str) -> float:
    return float(text.replace(",", "").replace("_", ""))


def _comparable(value: Any) -> float | str:
    """Return a text that is a number as a float, and anything else as normalised text."""
    text = normal_text(value)
    is_number = _PLAIN_NUMBER.fullmatch(text) and sum(map(str.isdecimal, text)) <= _EXACT_DIGITS
    if is_number:
        return _read_number(text)
    return text


def listed_items(value: Any, known: Any = ()) -> list[str]:
    """Return the normalised items of a list, or of a text with items as lines, separated by commas, or as JSON.

    Args:
        value: the list or text.
        known: items that count as one in a text although they hold a separator themselves, such as "Paris, France".
    """
    if isinstance(value, str):
        value = _split_list(value, known if isinstance(known, list) else ())
    if value is None:
        return []
    if not isinstance(value, (list, tuple, set, frozenset)):
        value = [value]
    items = []
    for item in value:
        if isinstance(item, (list, tuple)):
            whole = ", ".join(map(str, item))
        else:
            whole = item
        if (text := normal_text(whole)).strip(_TRIMMED):
            items.append(text)
    return items


def _split_list(text: str, known: Sequence[Any]) -> list[Any]:
    try:
        read = json.loads(text)
    except ValueError:
        read = None
    if isinstance(read, list):
        return read
    lines = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line) for line in text.splitlines() if line.strip()]
    pairs = re.findall(r"\(([^()]*)\)", text)
    if len(pairs) > 1 or (pairs and len(lines) == 1):
        return pairs
    if len(lines) > 1:
        return lines
    return _split_at_separators(text.translate(_TYPOGRAPHY).replace("\0", ""), known)


def _split_at_separators(text: str, known: Sequence[Any]) -> list[str]:
    """Split a line at separators, but not inside known items, the longest of which are looked for first."""
    forms = [_written_form(item) for item in known]
    whole = sorted((form for form in forms if _SEPARATOR.search(form)), key=len, reverse=True)
    for number, form in enumerate(whole):
        text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", f"\0{number}\0", text, flags=re.IGNORECASE)
    parts = [part for part in _SEPARATOR.split(text) if part.strip()]
    return [re.sub("\0(\\d+)\0", lambda mark: whole[int(mark[1])], part) for part in parts]


def _written_form(item: Any) -> str:
    """Return an item as an answer writes it."""
    if isinstance(item, int):
        return f"{item:,}"
    return str(item).translate(_TYPOGRAPHY).strip()


def exact(expected: Any, got: Any) -> float:
    """Score 1 for the same text, number or list, else 0.

    If one of them is a bool, yes is true and no is false. Where None or "" is expected, an answer that says that the
    context holds none is right.
    """
    if got is None:
        return 0.0
    if expected is None or expected == "":
        return float(is_absent(got))
    if isinstance(expected, bool) or isinstance(got, bool):
        both = {normal_text(expected), normal_text(got)}
        return float(len(both) == 1 or any(both <= names for names in _BOOLS))
    if isinstance(expected, (int, float)) and (wanted := _finite(expected)) is not None:
        value = number_in(got)
        return float(value is not None and math.isclose(value, wanted, rel_tol=1e-9, abs_tol=1e-9))
    if isinstance(expected, list):
        return _exact_list(expected, got)
    if _PATH.fullmatch(str(expected)):  # answers may be written as path:line, like evidence
        got = re.sub(r":\d+$", "", str(got).strip())
    return float(_comparable(expected) == _comparable(got))


def _exact_list(expected: list[Any], got: Any) -> float:
    """Score a list; one that has a single item may be answered by the item."""
    is_single = len(expected) == 1 and not isinstance(expected[0], list) and not isinstance(got, list)
    if is_single and exact(expected[0], got):
        return 1.0
    wanted, given = listed_items(expected), listed_items(got, expected)
    return float([_comparable(item) for item in wanted] == [_comparable(item) for item in given])


def any_of(expected: Any, got: Any) -> float:
    """Score 1 if the answer is one of those that are right, else 0."""
    if not isinstance(expected, list):
        return exact(expected, got)
    return max((exact(allowed, got) for allowed in expected), default=0.0)


def f1(expected: Any, got: Any) -> float:
    """Score the words that two texts share, as the harmonic mean of precision and recall."""
    return _overlap_f1(Counter(_words(expected)), Counter(_words("" if got is None else got)))


def _words(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        text = " ".join(map(str, value))
    else:
        text = value
    words = [word.strip(_TRIMMED) for word in normal_text(text).split()]
    return [word for word in words if word]


def closeness(expected: Any, got: Any) -> float:
    """Score a number by 0.75 to the power of its distance from the expected one, as OOLONG does."""
    wanted, value = number_in(expected), number_in(got)
    if wanted is None or value is None:
        return 0.0
    return float(0.75 ** min(abs(wanted - value), 1_000.0))


def set_f1(expected: Any, got: Any) -> float:
    """Score two lists as sets, whatever their order."""
    wanted = {_comparable(item) for item in listed_items(expected)}
    given = {_comparable(item) for item in listed_items(got, expected)}
    return _overlap_f1(Counter(wanted), Counter(given))


def abstention(expected: Any, got: Any) -> float:
    """Score 1 for declining if there is no answer, and for the right answer otherwise."""
    if is_absent(expected) or is_absent(got):
        return float(is_absent(expected) and is_absent(got))
    return exact(expected, got)


def _overlap_f1(wanted: Counter[Any], got: Counter[Any]) -> float:
    if not wanted or not got:
        return float(not wanted and not got)
    shared = sum((wanted & got).values())
    return 2 * shared / (sum(wanted.values()) + sum(got.values()))


SCORERS: dict[str, Callable[[Any, Any], float]] = {
    "exact": exact,
    "any": any_of,
    "f1": f1,
    "closeness": closeness,
    "set_f1": set_f1,
    "abstention": abstention,
}
