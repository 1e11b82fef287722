"""Quotes that back an answer, found again in the context by the host.

A model names a quote and perhaps where it stands; the host looks for it and fills in the rest, so that what comes
out is literally in the context, with a true line. White space, quotation marks, dashes and ellipses may differ: such
a match is marked ``normalized``. Slips of the pen (likeness of ``nearest.FUZZY`` or more, the same numbers and
negations) are marked ``fuzzy``. In both cases the quote becomes the text as it stands. Nothing else is forgiven.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlm_dspy.evidence.model import Evidence
from rlm_dspy.evidence.nearest import advice, fuzzy
from rlm_dspy.evidence.parts import agrees, quoted_record, records_of
from rlm_dspy.evidence.texts import Hit, SupportsItems, Text, places, texts_of, words_of

MIN_QUOTE = 3
MAX_QUOTE = 2_000

_UNPLACED = {"match": None, "start": None, "end": None, "line": None, "place": None}
_TRIED = 5_000  # places where a changed quote is tried

_QUOTES = "\"'`\u00b4\u00ab\u00bb\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2039\u203a"
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_SPACE = r"[\s\u00a0\u200b\ufeff]+"
_MARKS = tuple(f"[{re.escape(group)}]" for group in (_QUOTES, _DASHES))
_PIECES = re.compile(
    rf"(?P<space>{_SPACE})|(?P<dots>…|\.\.\.)|(?P<word>\w+)|{'|'.join(f'{marks}+' for marks in _MARKS)}|.", re.DOTALL
)
_OUTER = " \t\r\n\u00a0\u200b\ufeff\u2026" + _QUOTES


def check(
    evidence: Sequence[Evidence], contexts: Mapping[str, str | SupportsItems]
) -> tuple[list[Evidence], list[str]]:
    """Find each quote in the contexts.

    Args:
        evidence: What the model gave; source, start and line serve as hints where a quote occurs more than once.
        contexts: Texts, or corpora, by the names of their variables.

    Returns:
        The evidence that was found, with its true place, and one line of advice for each piece that was not.
    """
    if evidence and not contexts:
        return [], ["the quote is not in any context, for there is none here: give an empty list of evidence."]
    texts = texts_of(contexts)
    located, problems = [], []
    for number, item in enumerate(evidence, 1):
        problem = _unfit(item.quote)
        found = None if problem else _found(item, contexts, texts)
        if found is not None:
            located.append(found)
        else:
            problems.append(f"evidence {number}: {problem or advice(item.quote, texts, list(contexts))}")
    return located, problems


def verified(
    items: Sequence[Evidence], contexts: Mapping[str, str | SupportsItems]
) -> tuple[list[Evidence], list[str]]:
    """Return all evidence in order, located where it was found and else with no ``match``, and what was wrong."""
    checked, problems = [], []
    for item in items:
        located, wrong = check([item], contexts)
        checked.append(located[0] if located else item.model_copy(update=_UNPLACED))
        problems += wrong
    return checked, problems


def _unfit(quote: str) -> str | None:
    if len(quote.strip(_OUTER)) < MIN_QUOTE:
        return f"the quote {quote[:20]!r} is too short to prove anything: copy a whole phrase from the context."
    if len(quote) > MAX_QUOTE:
        return f"the quote has {len(quote):,} characters; copy only the part that matters (at most {MAX_QUOTE:,})."
    return None


def _locate(item: Evidence, texts: Sequence[Text]) -> Evidence | None:
    ranked = sorted(texts, key=lambda text: _distance(item.source, text))
    hit = next((hit for text in ranked if (hit := _exact(item, text))), None)
    match: Literal["exact", "normalized", "fuzzy"] = "exact"
    if hit is None:
        match, pattern, words = "normalized", _pattern(item.quote), words_of(item.quote)
        hit = next((hit for text in ranked if (hit := _changed(item, text, pattern, words))), None)
    if hit is None:
        match, hit = "fuzzy", fuzzy(item.quote, ranked)
    if hit is None:
        return None
    quote, line = hit.text.text[hit.start : hit.end], hit.line
    place = {"source": hit.text.source, "start": hit.start, "end": hit.end, "line": line, "place": hit.text.place(line)}
    return item.model_copy(update={"quote": quote, "match": match, **place})


def _found(item: Evidence, contexts: Mapping[str, Any], texts: Sequence[Text]) -> Evidence | None:
    """Locate a quote as it is, as a record, or without the bars that a preview has before its lines."""
    plain = re.sub(r"^\| ?", "", item.quote, flags=re.MULTILINE)
    if plain != item.quote and not _unfit(plain) and not any(item.quote in text.text for text in texts):
        item = item.model_copy(update={"quote": plain})
    return _locate(item, texts) or _locate_record(item, contexts, texts)


def _locate_record(item: Evidence, contexts: Mapping[str, Any], texts: Sequence[Text]) -> Evidence | None:
    """Find the record, or the line of a table, that a quote such as ``str(row)`` stands for."""
    quoted = quoted_record(item.quote)
    if quoted is None:
        return None
    for variable, value in contexts.items():
        if isinstance(value, str) or hasattr(value, "sandbox_index"):
            continue
        for path, record in records_of(value, variable):
            if agrees(record, quoted):
                return item.model_copy(update={**_UNPLACED, "match": "exact", "source": path})
    values = [str(part).strip() for part in quoted.values() if str(part).strip()]
    for text in sorted(texts, key=lambda text: _distance(item.source, text)):
        line = _line_with(text.text, values)
        if line is not None:
            found = _locate(item.model_copy(update={"quote": line[0], "start": line[1]}), [text])
            return found and found.model_copy(update={"match": "normalized"})
    return None


def _line_with(body: str, values: Sequence[str]) -> tuple[str, int] | None:
    """Return the first line that holds all values, and where it begins."""
    longest = max(values, key=len, default="")
    if not longest:
        return None
    for place in places(body, longest, _TRIED):
        start = body.rfind("\n", 0, place) + 1
        end = body.find("\n", place)
        line = body[start : end if end >= 0 else len(body)]
        if all(value in line for value in values):
            return line.rstrip("\r"), start
    return None


def _distance(source: str | None, text: Text) -> int:
    """How badly a text fits the source that the model named."""
    if not source or source == text.source:
        return 0
    name = text.source or text.variable
    if name.startswith((f"{source}[", f"{source}.")):
        return 1
    if source == text.variable or name.endswith("/" + source) or source.endswith("/" + name):
        return 1
    return 2 if name.rpartition("/")[2] == source.rpartition("/")[2] else 3


def _exact(item: Evidence, text: Text) -> Hit | None:
    body, quote = text.text, item.quote
    first = body.find(quote)
    if first < 0:
        return None
    hint = _hint(item, body)
    if hint is not None and hint > first:
        nearest = [body.rfind(quote, 0, hint + len(quote)), body.find(quote, hint)]
        first = min((place for place in nearest if place >= 0), key=lambda place: abs(place - hint), default=first)
    return Hit(text, first, first + len(quote))


def _hint(item: Evidence, body: str) -> int | None:
    """The offset that the model's start or line means in this text."""
    if item.start is not None:
        return item.start
    if item.line is None:
        return None
    place = 0
    for _ in range(item.line - 1):
        following = body.find("\n", place) + 1
        if not following:
            break
        place = following
    return place


def _pattern(quote: str) -> re.Pattern[str]:
    """A pattern for a quote in which spacing, quotation marks, dashes and ellipses may differ."""
    parts = []
    for piece in _PIECES.finditer(quote.strip(_OUTER)):
        if piece["space"]:
            parts.append(_SPACE)
        elif piece["dots"]:
            parts.append(r"(?:…|\.\.\.)")
        else:
            # A run is taken as a whole, from its first mark on, or looking for a long one would never end.
            alike = next((marks for marks in _MARKS if re.match(marks, piece[0])), None)
            parts.append(f"(?<!{alike}){alike}++" if alike else re.escape(piece[0]))
    return re.compile("".join(parts))


def _changed(item: Evidence, text: Text, pattern: re.Pattern[str], words: Sequence[str]) -> Hit | None:
    """Try the pattern around each place of the quote's rarest long word."""
    body, quote = text.text, item.quote
    counts = [(body.count(word), word) for word in words[:3]]
    if not counts or min(counts)[0] == 0:
        return None
    reach = 2 * len(quote) + 200
    found: list[tuple[int, int]] = []
    beyond = 0
    for place in places(body, min(counts)[1], _TRIED):
        if place >= beyond:
            match = pattern.search(body, max(beyond, place - reach), min(len(body), place + reach))
            if match:
                found.append(match.span())
                beyond = match.end()
    if not found:
        return None
    hint = _hint(item, body)
    start, end = found[0] if hint is None else min(found, key=lambda span: abs(span[0] - hint))
    return Hit(text, start, end)
