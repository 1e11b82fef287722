"""The host's own search: find the parts of an input that best match a question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlm_dspy.sandbox.toolkit.ranking import Query, Term, rank_passages, words_of

MAX_SEARCHED_CHARS = 20_000_000  # largest input, in characters, that the host searches unasked; a model may search any
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NAME = re.compile(r"\b[A-Z]\w+")
LINKED_CANDIDATES = 50  # lines of which the linked ones are chosen
MAX_LINE_CHARS = 200  # characters shown of a line


def best_passages(value: Any, question: str, most: int) -> list[dict[str, Any]]:
    """Return the passages of a text or corpus that best match a question, as hit records, best first.

    Each has ``text`` (300 to 900 characters), ``line``, ``start``, ``end``, ``score``, and in a corpus ``source``.
    """
    query = Query(question)
    if isinstance(value, str):
        return rank_passages(value, [None], query, most)
    index = getattr(value, "index", None)
    if index is not None:
        passages: list[dict[str, Any]] | None = index.rank(question, most)
        if passages is not None:
            return passages
    return rank_passages(value, list(value), query, most)


def best_lines(value: Any, question: str, most: int, chars: int) -> list[str]:
    """Return the lines that best match a question as ``source:line: text``, best first, within ``chars`` characters.

    They come from the best passages; question words that are rare in these count most.
    """
    size = len(value) if isinstance(value, str) else int(value.chars)
    if size > MAX_SEARCHED_CHARS:
        return []
    return _ranked_lines(value, question, most, chars)


def linked_lines(value: Any, question: str, lines: Sequence[str], most: int) -> list[str]:
    """Return the best line about each name, such as a person's, that the found lines have and the question has not.

    A question that takes several hops needs these lines next, and they show how else the text says what was found.
    Names shared by several found lines do not count.
    """
    asked = frozenset(words_of(question))
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(set(_NAME.findall(line.partition(": ")[2])))
    names = [name for name, count in counts.items() if count == 1 and asked.isdisjoint(words_of(name))]
    if not names:
        return []
    shown_lines: list[str] = []
    for line in _ranked_lines(value, f"{' '.join(names)} {question}", LINKED_CANDIDATES, MAX_SEARCHED_CHARS):
        new_names = set(names).intersection(_NAME.findall(line))
        if new_names and line not in lines and len(shown_lines) < most:
            shown_lines.append(line)
            names = [name for name in names if name not in new_names]
    return shown_lines


def _ranked_lines(value: Any, question: str, most: int, chars: int) -> list[str]:
    query = Query(question)
    lines: list[tuple[str, frozenset[str]]] = []
    for passage in best_passages(value, question, 2 * most):
        lines += _lines_of(passage, query)
    weights = _term_weights(query.terms, lines)
    scored = [(_line_score(stems, weights), shown) for shown, stems in lines]
    scored.sort(key=lambda item: -item[0])
    shown_lines: list[str] = []
    for score, shown in scored[:most]:
        chars -= len(shown) + 1
        if score <= 0 or chars < 0:
            break
        shown_lines.append(shown)
    return shown_lines


def place_of(passage: dict[str, Any]) -> str:
    """Return where a passage begins: ``file:line``, or ``line 12`` in a single text."""
    source = passage.get("source")
    if source:
        return f"{source}:{passage['line']}"
    return f"line {passage['line']}"


def _lines_of(passage: dict[str, Any], query: Query) -> list[tuple[str, frozenset[str]]]:
    """Return the lines of a passage as shown (sentences of long lines), each with the stems of its words."""
    source = f"{passage['source']}:" if passage.get("source") else ""
    lines = []
    for number, text in enumerate(passage["text"].splitlines(), passage["line"]):
        parts = [text] if len(text) <= MAX_LINE_CHARS else _SENTENCE_END.split(text)
        for part in parts:
            shown = part
            if len(part) > MAX_LINE_CHARS:
                shown = f"{part[:MAX_LINE_CHARS]}…"
            lines.append((f"{source}{number}: {shown}", frozenset(query.stems_of(part))))
    return lines


def _term_weights(terms: list[Term], lines: list[tuple[str, frozenset[str]]]) -> dict[tuple[str, ...], float]:
    """Return the weight of each term: the fewer lines have it, the higher."""
    weights = {}
    for stems, _, weight in terms:
        having = sum(stems_of_line.issuperset(stems) for _, stems_of_line in lines)
        weights[stems] = weight / having if having else 0.0
    return weights


def _line_score(stems_of_line: frozenset[str], weights: dict[tuple[str, ...], float]) -> float:
    return sum(weight for stems, weight in weights.items() if stems_of_line.issuperset(stems))
