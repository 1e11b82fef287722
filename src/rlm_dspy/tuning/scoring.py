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
    return sum(values) / len(values) if values else 0.0


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
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:_\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])")
_PATH = re.compile(r"[\w./-]+\.\w{1,5}")


def normal_text(value: Any) -> str:
    """Normalise a value to text for comparison, ignoring case, outer punctuation, articles and white space."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = unicodedata.normalize("NFKC", text).casefold()
    bare = re.sub(r"\b(?:a|an|the)\b", " ", text)
    return next((kept for kept in map(_trim_text, (bare, text)) if kept), "")


def _trim_text(text: str) -> str:
    return " ".join(text.split()).strip(" .,;:!?\"'`*()[]{}")


def number_in(value: Any) -> float | None:
    """Return a number, or the number in a text that contains exactly one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    found = NUMBER.findall(str(value)) if value is not None else []
    return float(found[0].replace(",", "").replace("_", "")) if len(found) == 1 else None


def listed_items(value: Any) -> list[str]:
    """Return the normalised items of a list, or of a text with items as lines, separated by commas, or as JSON."""
    if isinstance(value, str):
        value = _split_list(value)
    if value is None:
        return []
    if not isinstance(value, (list, tuple, set, frozenset)):
        value = [value]
    found = []
    for item in value:
        whole = ", ".join(map(str, item)) if isinstance(item, (list, tuple)) else item
        if text := normal_text(whole):
            found.append(text)
    return found


def _split_list(text: str) -> list[Any]:
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
    return [part for part in re.split(r"[,;]| and ", text) if part.strip()]


def exact(expected: Any, got: Any) -> float:
    """Score 1 for the same text, number or list, else 0."""
    if isinstance(expected, (int, float)) and not isinstance(expected, bool):
        value = number_in(got)
        return float(value is not None and math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9))
    if isinstance(expected, list):
        return float(listed_items(expected) == listed_items(got))
    if _PATH.fullmatch(str(expected)):  # answers may be written as path:line, like evidence
        got = re.sub(r":\d+$", "", str(got).strip())
    return float(got is not None and normal_text(expected) == normal_text(got))


def f1(expected: Any, got: Any) -> float:
    """Score the words that two texts share, as the harmonic mean of precision and recall."""
    return _overlap_f1(Counter(normal_text(expected).split()), Counter(normal_text("" if got is None else got).split()))


def closeness(expected: Any, got: Any) -> float:
    """Score a number by 0.75 to the power of its distance from the expected one, as OOLONG does."""
    wanted, value = number_in(expected), number_in(got)
    if wanted is None or value is None:
        return 0.0
    return float(0.75 ** min(abs(wanted - value), 1_000.0))


def set_f1(expected: Any, got: Any) -> float:
    """Score two lists as sets, whatever their order."""
    return _overlap_f1(Counter(set(listed_items(expected))), Counter(set(listed_items(got))))


def abstention(expected: Any, got: Any) -> float:
    """Score 1 for declining if there is no answer, and for the right answer otherwise."""
    if is_absent(expected) or is_absent(got):
        return float(is_absent(expected) and is_absent(got))
    return exact(expected, got)


def _overlap_f1(wanted: Counter[str], got: Counter[str]) -> float:
    if not wanted or not got:
        return float(not wanted and not got)
    shared = sum((wanted & got).values())
    return 2 * shared / (sum(wanted.values()) + sum(got.values()))


SCORERS: dict[str, Callable[[Any, Any], float]] = {
    "exact": exact,
    "f1": f1,
    "closeness": closeness,
    "set_f1": set_f1,
    "abstention": abstention,
}
