"""Locate quotes in the texts, which are read one at a time on demand because a corpus may be a gigabyte."""

from __future__ import annotations

import ast
import dataclasses
import datetime
import difflib
import enum
import json
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import PurePath
from typing import Any, Literal, Protocol
from uuid import UUID

import pydantic
from rapidfuzz import fuzz

from rlm_dspy.evidence.evidence import Evidence
from rlm_dspy.run import replace_surrogates


class SupportsItems(Protocol):
    """A collection of named texts, such as a corpus."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Yield (name, text)."""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """One text that may be quoted; ``source`` is None for a main text that is not a file."""

    variable: str
    source: str | None
    load: Callable[[], str]
    size: int
    place_in: Callable[[str, int], str | None] | None = None

    @property
    def text(self) -> str:
        """The text, loaded on each access."""
        return self.load()

    def place(self, line: int) -> str | None:
        """Return the page or row of a line, if there is one."""
        if self.place_in is not None and self.source is not None:
            return self.place_in(self.source, line)
        return None


@dataclass(frozen=True)
class TextRange:
    """A range of a text."""

    text: Text
    start: int
    end: int

    @property
    def line(self) -> int:
        """The line where it begins."""
        return self.text.text.count("\n", 0, self.start) + 1


def texts_of(contexts: Mapping[str, Any]) -> list[Text]:
    """Return all texts, files first, then parts of structured values, then single ones, longest first."""
    files: list[Text] = []
    parts: list[Text] = []
    single: list[tuple[str, str]] = []
    for variable, value in contexts.items():
        if isinstance(value, str):
            single.append((variable, value))
        elif hasattr(value, "sandbox_index"):
            files += _of_corpus(variable, value)
        else:
            for path, text in strings_of(value, variable):
                parts.append(Text(variable, path, _constant_loader(text), len(text)))
    single.sort(key=lambda pair: -len(pair[1]))
    named = bool(files or parts)
    files += parts
    for variable, text in single:
        files.append(Text(variable, variable if named else None, _constant_loader(text), len(text)))
        named = True
    return files


def _of_corpus(variable: str, corpus: Any) -> Iterator[Text]:
    place = getattr(corpus, "place", None)
    for file in corpus.sandbox_index()["files"]:
        name = str(file["name"])
        yield Text(variable, name, partial(corpus.__getitem__, name), file["chars"], place)


def _constant_loader(text: str) -> Callable[[], str]:
    return lambda: text


def words_of(quote: str) -> list[str]:
    """Return the distinct words of a quote, the longest first."""
    return sorted(set(re.findall(r"\w+", quote)), key=lambda word: (-len(word), word))


def word_offsets(body: str, word: str, most: int) -> Iterator[int]:
    """Yield the offsets of a word, at most ``most`` of them."""
    offset = body.find(word)
    while offset >= 0 and most:
        yield offset
        most -= 1
        offset = body.find(word, offset + len(word))


MAX_DEPTH = 20
MAX_PARTS = 1_000_000


def strings_of(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (path, text) for each string and key in a value, and for each number, date or truth value as it prints."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, bytes):
        yield path, value.decode("utf-8", "replace")
    elif isinstance(value, (int, float)):
        yield path, repr(value)
    elif isinstance(value, (datetime.date, datetime.time)):
        yield path, str(value)
        if isinstance(value, datetime.datetime):
            yield path, value.isoformat()
    elif isinstance(value, (Decimal, Fraction, UUID, datetime.timedelta, enum.Enum, PurePath)):
        yield path, str(value)
    elif depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            yield from ((path, key) for key in value if isinstance(key, str))
        for inner, part in parts_of(value, path):
            yield from strings_of(part, inner, depth + 1)


def records_of(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield (path, record) for each dict, model or row in a value, outer ones first."""
    fields = fields_of(value)
    if fields is not None:
        yield path, fields
    if depth < MAX_DEPTH:
        for inner, part in parts_of(value, path):
            yield from records_of(part, inner, depth + 1)


def parts_of(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, part) for each part of a container."""
    if isinstance(value, (list, tuple, deque)):
        for index, item in enumerate(islice(value, MAX_PARTS)):
            yield f"{path}[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in sorted(value, key=repr):
            yield path, item
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}[{json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key)}]", item
    elif (fields := fields_of(value)) is not None:
        for name, item in fields.items():
            yield f"{path}.{name}", item


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of a dict, model, dataclass or named tuple, or None for anything else."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, pydantic.BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    named = getattr(value, "_asdict", None)
    if callable(named) and isinstance(value, tuple):
        return dict(named())
    return None


def quoted_record(quote: str) -> dict[str, Any] | None:
    """Parse a quote that is the ``str()`` or the JSON of a record, or return None."""
    text = quote.strip()
    if not text.startswith("{"):
        return None
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, dict) and value:
            return {str(key): item for key, item in value.items()}
    return None


def has_quoted_fields(record: Mapping[str, Any], quoted: Mapping[str, Any]) -> bool:
    """Return whether a record has all values of a quoted one."""
    return all(name in record and str(record[name]) == str(item) for name, item in quoted.items())


MIN_LIKENESS = 92.0  # similarity, of 100, from which a passage counts as the quote
MIN_QUOTE_CHARS = 24  # minimum characters of such a quote

_MIN_WORD_LIKENESS = 75  # similarity from which a word is only misspelt
_MAX_WINDOWS = 60  # windows compared to find the nearest passage
_MAX_WINDOW_CHARS = 300  # characters of a window that are compared and shown
_MIN_SHOWN_LIKENESS = 50  # similarity from which a passage is worth showing
_MAX_SEARCHED_CHARS = 200_000_000  # characters searched for a passage
_NEGATIONS = frozenset({"not", "no", "never", "none", "without", "nor", "neither", "cannot", "nicht", "kein", "keine"})


def find_fuzzy_match(quote: str, texts: Sequence[Text]) -> TextRange | None:
    """Find a passage that equals the quote except for typos; its numbers and negations must be the same."""
    if len(quote) < MIN_QUOTE_CHARS:
        return None
    best: tuple[float, TextRange] | None = None
    for hit in _candidate_windows(quote, texts, len(quote)):
        window = hit.text.text[hit.start : hit.end]
        aligned = fuzz.partial_ratio_alignment(quote, window, score_cutoff=MIN_LIKENESS)
        if aligned is None or (best is not None and aligned.score <= best[0]):
            continue
        start, end = _whole_words(window, aligned.dest_start, aligned.dest_end)
        if _numbers_and_negations(window[start:end]) == _numbers_and_negations(quote) and _differs_by_slips(
            quote, window[start:end]
        ):
            best = aligned.score, TextRange(hit.text, hit.start + start, hit.start + end)
    if best is None:
        return None
    return best[1]


def _numbers_and_negations(text: str) -> tuple[Counter[str], Counter[str]]:
    """Return the numbers and negations, which a typo must not change."""
    words = re.findall(r"[a-z]+", text.lower().replace("n't", " not"))
    return Counter(re.findall(r"\d+", text)), Counter(word for word in words if word in _NEGATIONS)


def _differs_by_slips(quote: str, passage: str) -> bool:
    """Return whether the words differ only in letters, or in short words that are easily left out."""
    quoted, written = re.findall(r"\w+", quote.lower()), re.findall(r"\w+", passage.lower())
    matcher = difflib.SequenceMatcher(None, quoted, written, autojunk=False)
    for change, start, end, other_start, other_end in matcher.get_opcodes():
        ours, theirs = quoted[start:end], written[other_start:other_end]
        if change == "replace" and fuzz.ratio(" ".join(ours), " ".join(theirs)) < _MIN_WORD_LIKENESS:
            return False
        if change in ("insert", "delete") and any(len(word) > 3 for word in (*ours, *theirs)):
            return False
    return True


def _whole_words(window: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and window[start - 1].isalnum() and window[start : start + 1].isalnum():
        start -= 1
    while end < len(window) and window[end].isalnum() and window[end - 1 : end].isalnum():
        end += 1
    return start, end


def missing_quote_advice(quote: str, texts: Sequence[Text], variables: Sequence[str]) -> str:
    """Return one line for the model: the quote was not found, and what it may have meant."""
    shown_quote = _one_line(quote, 80)
    where = " or ".join(f"`{name}`" for name in variables) or "any context"
    near = _nearest_passage(quote, texts)
    if near is None:
        return f"the quote {shown_quote} is not in {where}, nor anything like it: quote what is there, word for word."
    passage = _one_line(near.text.text[near.start : near.end], _MAX_WINDOW_CHARS)
    place = Evidence(quote="", source=near.text.source, line=near.line).where
    nearest = f"The nearest passage, at {place}, is {passage}: copy from it exactly."
    return f"the quote {shown_quote} is not in {where}. {nearest}"


def _nearest_passage(quote: str, texts: Sequence[Text]) -> TextRange | None:
    """Return the passage most similar to a quote, among windows around its rarest words, or None."""
    quote = quote[:_MAX_WINDOW_CHARS]
    wanted = set(re.findall(r"\w+", quote.lower()))
    best: list[tuple[int, int, TextRange]] = []
    for hit in _candidate_windows(quote, texts, 20):
        shared = len(wanted & set(re.findall(r"\w+", hit.text.text[hit.start : hit.end].lower())))
        best.append((-shared, len(best), hit))
    ranked = sorted(best, key=lambda passage: passage[:2])[:5]
    closest = [(fuzz.ratio(quote, hit.text.text[hit.start : hit.end]), -order, hit) for _, order, hit in ranked]
    closest = [passage for passage in closest if passage[0] >= _MIN_SHOWN_LIKENESS]
    if closest:
        return max(closest, key=lambda passage: passage[:2])[2]
    return None


def _candidate_windows(quote: str, texts: Sequence[Text], slack: int) -> Iterator[TextRange]:
    """Yield windows around the rarest words of a quote."""
    texts = _searchable_texts(texts)
    counts = {word: 0 for word in words_of(quote)[:8] if len(word) > 2}
    for text in texts:
        body = text.text
        for word in counts:
            counts[word] += body.count(word)
    for _, word in sorted((count, word) for word, count in counts.items() if count)[:3]:
        yield from _windows_around(texts, word, quote.find(word), len(quote), slack)


def _searchable_texts(texts: Sequence[Text]) -> list[Text]:
    """Return the first texts, up to as many characters as can be searched quickly."""
    left = _MAX_SEARCHED_CHARS
    chosen: list[Text] = []
    for text in texts:
        left -= text.size
        if left < 0 and chosen:
            break
        chosen.append(text)
    return chosen


def _windows_around(texts: Sequence[Text], word: str, before: int, length: int, slack: int) -> Iterator[TextRange]:
    """Yield windows with as much text around a word as the quote has, ending at a whole word."""
    left = _MAX_WINDOWS
    for text in texts:
        body = text.text
        for offset in word_offsets(body, word, left):
            left -= 1
            low, high = max(0, offset - before), min(len(body), offset - before + length + slack)
            cut = body.rfind(" ", offset, high) if high < len(body) else -1
            yield TextRange(text, low, cut if cut > offset else high)
        if not left:
            return


def _one_line(text: str, most: int) -> str:
    shown = " ".join(replace_surrogates(text).split())
    if len(shown) > most:
        return f'"{shown[: most - 1]}…"'
    return f'"{shown}"'


MIN_QUOTE = 3
MAX_QUOTE = 2_000

_UNPLACED = {"match": None, "start": None, "end": None, "line": None, "place": None}
_MAX_PRINTED_CHARS = 5_000_000  # texts in a structured value that is written out to find a quote
_MAX_PLACES = 5_000  # offsets where a modified quote is tried

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
        evidence: The model's quotes; source, start and line are hints where a quote occurs more than once.
        contexts: Texts, or corpora, by the names of their variables.

    Returns:
        The evidence in order, each piece with its true place or, if it was not found, without ``match``; and one line
        of advice for each piece that was not found.
    """
    if evidence and not contexts:
        advice = "the quote is not in any context, because there is no context: give an empty list of evidence."
        return [item.model_copy(update=_UNPLACED) for item in evidence], [advice]
    texts = texts_of(contexts)
    checked, problems = [], []
    for number, item in enumerate(evidence, 1):
        problem = _why_unfit(item.quote)
        location = None if problem else _locate_evidence(item, contexts, texts)
        if location is None:
            location = item.model_copy(update=_UNPLACED)
            problems.append(f"evidence {number}: {problem or missing_quote_advice(item.quote, texts, list(contexts))}")
        checked.append(location)
    return checked, problems


def _why_unfit(quote: str) -> str | None:
    if len(quote.strip(_OUTER)) < MIN_QUOTE:
        return f"the quote {quote[:20]!r} is too short to prove anything: copy a whole phrase from the context."
    if len(quote) > MAX_QUOTE:
        return f"the quote has {len(quote):,} characters; copy only the part that matters (at most {MAX_QUOTE:,})."
    return None


def _locate_quote(item: Evidence, texts: Sequence[Text]) -> Evidence | None:
    ranked = sorted(texts, key=lambda text: _source_distance(item.source, text))
    match: Literal["exact", "normalized", "fuzzy"] = "exact"
    hit = _first_hit(_exact_match(item, text) for text in ranked)
    if hit is None:
        match = "normalized"
        spelled = [item.model_copy(update={"quote": quote}) for quote in _spellings(item.quote)]
        hit = _first_hit(_exact_match(other, text) for other in spelled for text in ranked)
    if hit is None:
        pattern, words = _quote_pattern(item.quote), words_of(item.quote)
        hit = _first_hit(_normalized_match(item, text, pattern, words) for text in ranked)
    if hit is None:
        match, hit = "fuzzy", find_fuzzy_match(item.quote, ranked)
    if hit is None:
        return None
    quote, line = hit.text.text[hit.start : hit.end], hit.line
    place = {"source": hit.text.source, "start": hit.start, "end": hit.end, "line": line, "place": hit.text.place(line)}
    return item.model_copy(update={"quote": quote, "match": match, **place})


def _first_hit(hits: Iterable[TextRange | None]) -> TextRange | None:
    return next((hit for hit in hits if hit is not None), None)


def _spellings(quote: str) -> Iterator[str]:
    """Yield a quote with its accents as one character or two, and as it stands in JSON, where it differs."""
    written = [unicodedata.normalize("NFC", quote), unicodedata.normalize("NFD", quote), json.dumps(quote)[1:-1]]
    yield from (other for other in written if other != quote)


def _locate_evidence(item: Evidence, contexts: Mapping[str, Any], texts: Sequence[Text]) -> Evidence | None:
    """Locate a quote verbatim, as a record, or without the bars that previews put before lines."""
    plain = re.sub(r"^\| ?", "", item.quote, flags=re.MULTILINE)
    if plain != item.quote and not _why_unfit(plain) and not any(item.quote in text.text for text in texts):
        item = item.model_copy(update={"quote": plain})
    return _locate_quote(item, texts) or _locate_record(item, contexts, texts) or _locate_printed(item, contexts, texts)


def _locate_printed(item: Evidence, contexts: Mapping[str, Any], texts: Sequence[Text]) -> Evidence | None:
    """Find a quote in a structured value as Python or JSON writes it out, which is how the model saw it."""
    for variable, value in contexts.items():
        if isinstance(value, (list, tuple, dict)):
            chars = sum(text.size for text in texts if text.variable == variable)
            if chars <= _MAX_PRINTED_CHARS and any(item.quote.strip() in text for text in _printed_forms(value)):
                return item.model_copy(update={**_UNPLACED, "match": "normalized", "source": variable})
    return None


def _printed_forms(value: Any) -> Iterator[str]:
    with suppress(RecursionError):
        yield str(value)
    for indent in (None, 1, 2, 4):
        with suppress(ValueError, TypeError, RecursionError):
            yield json.dumps(value, ensure_ascii=False, indent=indent, default=str)


def _locate_record(item: Evidence, contexts: Mapping[str, Any], texts: Sequence[Text]) -> Evidence | None:
    """Find the record, or the line of a table, that a quote such as ``str(row)`` stands for."""
    quoted = quoted_record(item.quote)
    if quoted is None:
        return None
    for variable, value in contexts.items():
        if isinstance(value, str) or hasattr(value, "sandbox_index"):
            continue
        for path, record in records_of(value, variable):
            if has_quoted_fields(record, quoted):
                return item.model_copy(update={**_UNPLACED, "match": "exact", "source": path})
    values = [str(part).strip() for part in quoted.values() if str(part).strip()]
    for text in sorted(texts, key=lambda text: _source_distance(item.source, text)):
        line = _line_with(text.text, values)
        if line is not None:
            location = _locate_quote(item.model_copy(update={"quote": line[0], "start": line[1]}), [text])
            return location and location.model_copy(update={"match": "normalized"})
    return None


def _line_with(body: str, values: Sequence[str]) -> tuple[str, int] | None:
    """Return the first line that holds all values, and where it begins."""
    longest = max(values, key=len, default="")
    if not longest:
        return None
    for offset in word_offsets(body, longest, _MAX_PLACES):
        start = body.rfind("\n", 0, offset) + 1
        end = body.find("\n", offset)
        line = body[start : end if end >= 0 else len(body)]
        if all(value in line for value in values):
            return line.rstrip("\r"), start
    return None


def _source_distance(source: str | None, text: Text) -> int:
    """Return how poorly a text matches the source that the model named."""
    if not source or source == text.source:
        return 0
    name = text.source or text.variable
    if name.startswith((f"{source}[", f"{source}.")):
        return 1
    if source == text.variable or name.endswith("/" + source) or source.endswith("/" + name):
        return 1
    if name.rpartition("/")[2] == source.rpartition("/")[2]:
        return 2
    return 3


def _exact_match(item: Evidence, text: Text) -> TextRange | None:
    body, quote = text.text, item.quote
    first = body.find(quote)
    if first < 0:
        return None
    hint = _hinted_offset(item, body)
    if hint is not None and hint > first:
        nearest = [body.rfind(quote, 0, hint + len(quote)), body.find(quote, hint)]
        first = min((offset for offset in nearest if offset >= 0), key=lambda offset: abs(offset - hint), default=first)
    return TextRange(text, first, first + len(quote))


def _hinted_offset(item: Evidence, body: str) -> int | None:
    """Return the offset that the model's start or line refers to in this text."""
    if item.start is not None:
        return item.start
    if item.line is None:
        return None
    offset = 0
    for _ in range(item.line - 1):
        following = body.find("\n", offset) + 1
        if not following:
            break
        offset = following
    return offset


def _quote_pattern(quote: str) -> re.Pattern[str]:
    """Return a pattern for a quote that allows other spacing, quotation marks, dashes and ellipses."""
    parts = []
    for piece in _PIECES.finditer(quote.strip(_OUTER)):
        if piece["space"]:
            parts.append(_SPACE)
        elif piece["dots"]:
            parts.append(r"(?:…|\.\.\.)")
        else:
            # Match a run of marks as a whole, or searching for a long run would never end.
            alike = next((marks for marks in _MARKS if re.match(marks, piece[0])), None)
            parts.append(f"(?<!{alike}){alike}++" if alike else re.escape(piece[0]))
    return re.compile("".join(parts))


def _normalized_match(item: Evidence, text: Text, pattern: re.Pattern[str], words: Sequence[str]) -> TextRange | None:
    """Try the pattern around each occurrence of the quote's rarest long word."""
    body, quote = text.text, item.quote
    counts = [(body.count(word), word) for word in words[:3]]
    if not counts or min(counts)[0] == 0:
        return None
    reach = 2 * len(quote) + 200
    matches: list[tuple[int, int]] = []
    beyond = 0
    for offset in word_offsets(body, min(counts)[1], _MAX_PLACES):
        if offset >= beyond:
            match = pattern.search(body, max(beyond, offset - reach), min(len(body), offset + reach))
            if match:
                matches.append(match.span())
                beyond = match.end()
    if not matches:
        return None
    hint = _hinted_offset(item, body)
    if hint is None:
        start, end = matches[0]
    else:
        start, end = min(matches, key=lambda span: abs(span[0] - hint))
    return TextRange(text, start, end)
