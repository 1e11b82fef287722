"""Quotes that back an answer, found again in the context by the host.

A model names a quote and perhaps where it stands; the host looks for it and fills in the rest, so that what comes
out is literally in the context, with a true line. White space, quotation marks, dashes and ellipses may differ:
such a match is marked ``normalized`` and the quote becomes the text as it stands. Nothing else is forgiven.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_QUOTE = 3
MAX_QUOTE = 2_000

_TRIED = 5_000  # places where a changed quote is tried
_NEAR = 60  # windows compared to find the nearest passage
_COMPARED = 300  # characters of a window that are compared and shown

_QUOTES = "\"'`\u00b4\u00ab\u00bb\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2039\u203a"
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_SPACE = r"[\s\u00a0\u200b\ufeff]+"
_PIECES = re.compile(rf"(?P<space>{_SPACE})|(?P<dots>…|\.\.\.)|(?P<word>\w+)|(?P<other>.)", re.DOTALL)
_OUTER = " \t\r\n\u00a0\u200b\ufeff\u2026" + _QUOTES
_PLACE = re.compile(
    r"(?P<path>.*?)(?:#L|:\s*(?:line\s*)?|\s+line\s+|^lines?\s+)(?P<line>\d+)(?:\s*[-\u2013:].*)?", re.DOTALL
)


class SupportsItems(Protocol):
    """Several texts by name, such as a corpus."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Yield (name, text)."""


class Evidence(BaseModel):
    """A quote of the context that backs an answer; the host fills in and checks all but the quote."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    quote: str = Field(description="words copied exactly from the context")
    source: str | None = Field(default=None, description="the file's name, on a corpus")
    start: int | None = None
    end: int | None = None
    line: int | None = None
    match: Literal["exact", "normalized"] | None = Field(default=None, description="set by the host")

    @model_validator(mode="before")
    @classmethod
    def _accept(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"quote": _valid(value)}
        if not isinstance(value, Mapping):
            return value
        given = {key: value.get(key) for key in ("quote", "source", "start", "end", "line", "match")}
        if given["quote"] is None:
            given["quote"] = next((value[key] for key in ("text", "passage", "snippet") if key in value), None)
        if given["source"] is None:
            given["source"] = next((value[key] for key in ("path", "file", "name") if key in value), None)
        span = value.get("range")
        if given["start"] is None and isinstance(span, (list, tuple)) and len(span) == 2:
            given["start"], given["end"] = span
        if isinstance(given["quote"], str):
            given["quote"] = _valid(given["quote"])
        _split_place(given)
        return given | {key: _whole(given[key]) for key in ("start", "end", "line")}

    @property
    def where(self) -> str:
        """Where the quote stands: ``path:line``, or ``line N`` in a single text."""
        if self.line is None:
            return self.source or ""
        return f"line {self.line}" if self.source is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class _Text:
    """One text that may be quoted; ``source`` is None for the main one if it is no file."""

    variable: str
    source: str | None
    text: str


@dataclass(frozen=True)
class _Hit:
    text: _Text
    start: int
    end: int

    @property
    def line(self) -> int:
        return self.text.text.count("\n", 0, self.start) + 1


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
    texts = _texts(contexts)
    located, problems = [], []
    for number, item in enumerate(evidence, 1):
        problem = _unfit(item.quote)
        found = None if problem else _locate(item, texts)
        if found is not None:
            located.append(found)
        else:
            problems.append(f"evidence {number}: {problem or _advice(item.quote, texts, list(contexts))}")
    return located, problems


def _texts(contexts: Mapping[str, str | SupportsItems]) -> list[_Text]:
    """All texts, files first, then single ones, the longest first: a question is the last place to quote from."""
    files: list[_Text] = []
    single: list[tuple[str, str]] = []
    for variable, value in contexts.items():
        if isinstance(value, str):
            single.append((variable, value))
        else:
            files.extend(_Text(variable, str(name), text) for name, text in value.items() if isinstance(text, str))
    single.sort(key=lambda pair: -len(pair[1]))
    named = bool(files)
    for variable, text in single:
        files.append(_Text(variable, variable if named else None, text))
        named = True
    return files


def _unfit(quote: str) -> str | None:
    if len(quote.strip(_OUTER)) < MIN_QUOTE:
        return f"the quote {quote[:20]!r} is too short to prove anything: copy a whole phrase from the context."
    if len(quote) > MAX_QUOTE:
        return f"the quote has {len(quote):,} characters; copy only the part that matters (at most {MAX_QUOTE:,})."
    return None


def _locate(item: Evidence, texts: Sequence[_Text]) -> Evidence | None:
    ranked = sorted(texts, key=lambda text: _distance(item.source, text))
    hit = next((hit for text in ranked if (hit := _exact(item, text))), None)
    match: Literal["exact", "normalized"] = "exact"
    if hit is None:
        match, pattern, words = "normalized", _pattern(item.quote), _words(item.quote)
        hit = next((hit for text in ranked if (hit := _changed(item, text, pattern, words))), None)
    if hit is None:
        return None
    quote = hit.text.text[hit.start : hit.end]
    place = {"source": hit.text.source, "start": hit.start, "end": hit.end, "line": hit.line}
    return item.model_copy(update={"quote": quote, "match": match, **place})


def _distance(source: str | None, text: _Text) -> int:
    """How badly a text fits the source that the model named."""
    if not source or source == text.source:
        return 0
    name = text.source or text.variable
    if source == text.variable or name.endswith("/" + source) or source.endswith("/" + name):
        return 1
    return 2 if name.rpartition("/")[2] == source.rpartition("/")[2] else 3


def _exact(item: Evidence, text: _Text) -> _Hit | None:
    body, quote = text.text, item.quote
    first = body.find(quote)
    if first < 0:
        return None
    hint = _hint(item, body)
    if hint is not None and hint > first:
        nearest = [body.rfind(quote, 0, hint + len(quote)), body.find(quote, hint)]
        first = min((place for place in nearest if place >= 0), key=lambda place: abs(place - hint), default=first)
    return _Hit(text, first, first + len(quote))


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
            alike = next((group for group in (_QUOTES, _DASHES) if piece[0] in group), None)
            parts.append(f"[{re.escape(alike)}]+" if alike else re.escape(piece[0]))
    return re.compile("".join(parts))


def _words(quote: str) -> list[str]:
    """The distinct words of a quote, the longest first."""
    return sorted(set(re.findall(r"\w+", quote)), key=lambda word: (-len(word), word))


def _changed(item: Evidence, text: _Text, pattern: re.Pattern[str], words: Sequence[str]) -> _Hit | None:
    """Try the pattern around each place of the quote's rarest long word."""
    body, quote = text.text, item.quote
    counts = [(body.count(word), word) for word in words[:3]]
    if not counts or min(counts)[0] == 0:
        return None
    reach = 2 * len(quote) + 200
    found: list[tuple[int, int]] = []
    beyond = 0
    for place in _places(body, min(counts)[1], _TRIED):
        if place >= beyond:
            match = pattern.search(body, max(beyond, place - reach), min(len(body), place + reach))
            if match:
                found.append(match.span())
                beyond = match.end()
    if not found:
        return None
    hint = _hint(item, body)
    start, end = found[0] if hint is None else min(found, key=lambda span: abs(span[0] - hint))
    return _Hit(text, start, end)


def _places(body: str, word: str, most: int) -> Iterator[int]:
    place = body.find(word)
    while place >= 0 and most:
        yield place
        most -= 1
        place = body.find(word, place + len(word))


# Advice


def _advice(quote: str, texts: Sequence[_Text], variables: Sequence[str]) -> str:
    told = _one_line(quote, 80)
    where = " or ".join(f"`{name}`" for name in variables) or "any context"
    near = _nearest(quote, texts)
    if near is None:
        return f"the quote {told} is not in {where}, nor anything like it: quote what is there, word for word."
    passage = _one_line(near.text.text[near.start : near.end], _COMPARED)
    place = Evidence(quote="", source=near.text.source, line=near.line).where
    return f"the quote {told} is not in {where}. The nearest passage, at {place}, is {passage}: copy from it exactly."


def _nearest(quote: str, texts: Sequence[_Text]) -> _Hit | None:
    """The passage most like a quote, among windows around its rarest words; None if none is much like it."""
    quote = quote[:_COMPARED]
    counts = {word: sum(text.text.count(word) for text in texts) for word in _words(quote)[:8] if len(word) > 2}
    rare = sorted((count, word) for word, count in counts.items() if count)[:3]
    wanted = set(re.findall(r"\w+", quote.lower()))
    best: list[tuple[int, int, _Hit]] = []
    for _, word in rare:
        for hit in _windows(texts, word, quote.find(word), len(quote)):
            shared = len(wanted & set(re.findall(r"\w+", hit.text.text[hit.start : hit.end].lower())))
            best.append((-shared, len(best), hit))
    ranked = sorted(best, key=lambda one: one[:2])[:5]
    closest = [(_ratio(quote, hit), -order, hit) for _, order, hit in ranked]
    closest = [one for one in closest if one[0] >= 0.5]
    return max(closest, key=lambda one: one[:2])[2] if closest else None


def _windows(texts: Sequence[_Text], word: str, before: int, length: int) -> Iterator[_Hit]:
    """Yield as much text around a word as the quote has around it, up to whole words."""
    left = _NEAR
    for text in texts:
        for place in _places(text.text, word, left):
            left -= 1
            low, high = max(0, place - before), min(len(text.text), place - before + length + 20)
            cut = text.text.rfind(" ", place, high) if high < len(text.text) else -1
            yield _Hit(text, low, cut if cut > place else high)
        if not left:
            return


def _ratio(quote: str, hit: _Hit) -> float:
    return difflib.SequenceMatcher(None, quote, hit.text.text[hit.start : hit.end], autojunk=False).ratio()


def _one_line(text: str, most: int) -> str:
    shown = " ".join(_valid(text).split())
    return f'"{shown[: most - 1]}…"' if len(shown) > most else f'"{shown}"'


# What models write


def _valid(text: str) -> str:
    """Replace lone surrogates, which pydantic and every encoder refuse."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _whole(value: Any) -> int | None:
    """A position that a model gave, or None if it is none: the host finds the true one anyway."""
    digits = re.match(r"\s*(\d{1,12})", str(value)) if isinstance(value, (int, str)) else None
    return int(digits[1]) if digits and not isinstance(value, bool) else None


def _split_place(given: dict[str, Any]) -> None:
    """Take the line out of a source written as ``path:line``, ``path#L12`` or ``line 12``."""
    source = given["source"]
    place = _PLACE.fullmatch(source.strip()) if isinstance(source, str) else None
    if place:
        given["source"] = place["path"].strip(" ,") or None
        given["line"] = place["line"] if given["line"] is None else given["line"]
    elif source is not None:
        given["source"] = _valid(str(source)) or None
