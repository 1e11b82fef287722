"""Rank passages: BM25 over pieces of about 600 characters, without an index.

Words of the query are searched as plain substrings, rarest first, and only the passages where they occur are split
into words. So the cost is a few scans, whatever the size.
"""

import collections
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

from .matching import hit_fields, read

PASSAGE = 600  # characters of a ranked passage, give or take half

_OCCURRENCES = 200_000  # occurrences that one search considers before ranking
_RANKED = 2_000  # passages that one search reads in full

_STOP = frozenset(
    """a about an and are as at be by can could did do does for from had has have how i in into is it its me
    my of on or should that the their there this to was we were what when where which who why will with would
    you your""".split()  # noqa: SIM905 - a list of fifty quoted words is harder to read
)
# Compiled on first use, because that takes longer than all imports here.
_HUMP = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
_WORD = r"[^\W_]+"
_DENSE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts without spaces between words
_SUFFIXES = ("ing", "ed", "es", "s")

Term = tuple[tuple[str, ...], tuple[str, ...], float]  # consecutive stems, substrings to search for, weight


def _lowered_text(text: str) -> str:
    """Return the lower case at the same length; a single character has a longer one."""
    return text.replace("\u0130", "i").lower()


@functools.lru_cache(50_000)
def stem(word: str) -> str:
    if len(word) <= 3 or word.endswith("ss"):
        return word
    cut = next((word.removesuffix(end) for end in _SUFFIXES if word.endswith(end) and len(word) - len(end) > 2), word)
    return cut[:-1] if len(cut) > 3 and (cut[-1] == "e" or cut[-1] == cut[-2]) else cut


def words_of(text: str) -> list[str]:
    """Return lower-case words, with identifiers split into parts and unspaced scripts into character pairs."""
    words = re.findall(_WORD, re.sub(_HUMP, " ", text).lower())
    if text.isascii() or not re.search(_DENSE, text):
        return words
    split: list[str] = []
    for word in words:
        pairs = [word[at : at + 2] for at in range(len(word) - 1)] if re.search(_DENSE, word) else []
        split.extend(pairs or [word])
    return split


def terms_of(query: str) -> list[Term]:
    """Return the terms of a query: its words, and also its identifiers (max_iters, dspy.RLM) as a whole."""
    words = words_of(query[:2000])
    kept = [word for word in words if word not in _STOP] or words
    terms: dict[tuple[str, ...], Term] = {}
    for word in kept:
        root = stem(word)
        terms[(root,)] = ((root,), (root,), 1.0)
    for name in re.findall(r"\w+(?:[.:/-]\w+)*", query[:2000]):
        parts = words_of(name)
        if len(parts) > 1 and not re.search(_DENSE, name):
            needles = (_lowered_text(name), "_".join(parts), "".join(parts))
            stems = tuple(map(stem, parts))
            terms[stems] = (stems, tuple(dict.fromkeys(needles)), 1.5)
    return list(terms.values())[:32]


def rank_passages(data: Any, names: Sequence[Any], terms: Sequence[Term], limit: int) -> list[dict[str, Any]]:
    counts, passages = [], 0
    for name in names:
        low = _lowered_text(read(data, name))
        passages += len(low) // PASSAGE + 1
        counts.append([sum(low.count(needle) for needle in needles) for _, needles, _ in terms])
    if not counts:
        return []
    totals = [sum(column) for column in zip(*counts, strict=True)]
    weights = [
        weight * math.log(1 + (passages + 0.5) / (min(total, passages) + 0.5))
        for (_, _, weight), total in zip(terms, totals, strict=True)
    ]
    chosen = _rarest_terms(totals)
    rough: dict[tuple[int, int], float] = {}
    for number, name in enumerate(names):
        present = [at for at in chosen if counts[number][at]]
        if present:
            _add_term_weights(read(data, name), number, [(terms[at][1], weights[at]) for at in present], rough)
    best = sorted(rough, key=lambda place: (-rough[place], place))[:_RANKED]
    scored = _scored_passages(data, names, sorted(best), terms, weights)
    scored.sort(key=lambda one: (-one[0], one[1], one[2]))
    return [passage_record(data, names[number], at, score) for score, number, at in scored[:limit]]


def _rarest_terms(totals: Sequence[int]) -> list[int]:
    """Return the positions of the terms that occur, rarest first, up to the limit of one search."""
    order = sorted((total, at) for at, total in enumerate(totals) if total)
    chosen: list[int] = []
    seen = 0
    for total, at in order:
        seen += total
        if chosen and seen > _OCCURRENCES:
            break
        chosen.append(at)
    return chosen


def _add_term_weights(
    body: str, number: int, wanted: list[tuple[tuple[str, ...], float]], rough: dict[tuple[int, int], float]
) -> None:
    """Add each term's weight to the passages of a file in which it occurs."""
    low = _lowered_text(body)
    for needles, weight in wanted:
        seen: set[int] = set()
        for needle in needles:
            place = low.find(needle)
            while place >= 0 and len(seen) < _OCCURRENCES:
                at = place // PASSAGE
                at += place >= passage_start(body, at + 1)
                seen.add(at)
                place = low.find(needle, max(place + len(needle), passage_start(body, at + 1) - len(needle) + 1))
        for at in seen:
            rough[number, at] = rough.get((number, at), 0.0) + weight


def passage_start(body: str, at: int) -> int:
    """Return where a passage begins: after the last blank line, line or word before a multiple of its length."""
    stop = at * PASSAGE
    if stop <= 0 or stop >= len(body):
        return min(max(stop, 0), len(body))
    for mark in ("\n\n", "\n", " "):
        found = body.rfind(mark, stop - PASSAGE // 2, stop)
        if found >= 0:
            return found + len(mark)
    return stop


def _scored_passages(
    data: Any,
    names: Sequence[Any],
    places: list[tuple[int, int]],
    terms: Sequence[Term],
    weights: Sequence[float],
) -> list[tuple[float, int, int]]:
    scored = []
    last, body, titles = -1, "", frozenset[str]()
    for number, at in places:
        if number != last:
            last, body = number, read(data, names[number])
            titles = frozenset(map(stem, words_of(str(names[number] or ""))))
        stems = list(map(stem, words_of(body[passage_start(body, at) : passage_start(body, at + 1)])))
        score = bm25(stems, titles, terms, weights)
        if score > 0:
            scored.append((round(score, 4), number, at))
    return scored


def bm25(stems: list[str], titles: frozenset[str], terms: Sequence[Term], weights: Sequence[float]) -> float:
    """Return BM25, plus half a point for words in the file's name, scaled by the share of the query covered."""
    length = 1.2 * (0.5 + 0.5 * len(stems) / 80)
    counts = collections.Counter(stems)
    score = title = covered = 0.0
    for (row, _, _), weight in zip(terms, weights, strict=True):
        often = counts[row[0]] if len(row) == 1 else _count_runs(stems, row) if counts[row[0]] else 0
        score += weight * often * 2.2 / (often + length)
        title += 0.5 * weight if titles.issuperset(row) else 0.0
        covered += weight if often or titles.issuperset(row) else 0.0
    return (score + title) * (0.5 + 0.5 * covered / sum(weights)) if score else 0.0


def _count_runs(stems: list[str], row: tuple[str, ...]) -> int:
    """Return how often the stems occur consecutively in this order."""
    return sum(tuple(stems[at : at + len(row)]) == row for at, one in enumerate(stems) if one == row[0])


def passage_record(data: Any, name: Any, at: int, score: float) -> dict[str, Any]:
    """Return a passage as the record of a hit with a score."""
    body = read(data, name)
    start, end = passage_start(body, at), passage_start(body, at + 1)
    shown = body[start:end]
    start += len(shown) - len(shown.lstrip("\r\n"))
    end -= len(shown) - len(shown.rstrip())
    line = body.count("\n", 0, start) + 1
    return {"score": score, **hit_fields(data, name, line, start, end), "text": body[start:end]}
