"""Rank passages: BM25 over pieces of about 600 characters, without an index.

Words of the query are searched as plain substrings, rarest first, and only the passages where they occur are split
into words. So the cost is a few scans, whatever the size.

A word is reduced to its stem by cutting off endings, so a stem is always the start of the word (without accents). Both
a substring search and an index of whole words can find it.
"""

import bisect
import collections
import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .cutting import headings
from .matching import hit_fields, read
from .scopes import CODE, definition_names

PASSAGE = 600  # characters of a ranked passage, give or take half

_OCCURRENCES = 200_000  # occurrences that one search considers before ranking
_RANKED = 2_000  # passages that one search reads in full
_REFINED = 100  # of these, the best that are scored by phrases, lines and titles too
_QUERY = 2_000  # characters of a query that are searched
_TERMS = 32  # terms of a query that are searched

# Points of a word of the query, times its weight
_FILE = 0.5  # in the file's name
_TITLE = 1.0  # in a heading above, a name defined here, or a column's name
_LINE = 1.0  # in the line that has most of the query
_PHRASE = 1.0  # beside the same neighbour as in the query

_STOP = frozenset(
    """a about an and are as at be by can could did do does for from had has have how i in into is it its me
    my of on or should that the their there this to was we were what when where which who why will with would
    you your""".split()  # noqa: SIM905 - a list of fifty quoted words is harder to read
)
# Endings without accents, and how many letters must be left.
_ENDINGS = (
    ("ing ed es s e ies ied y", 3),
    ("ation ations ator ate ated ates ating ion ions ment ments er ers or ors al ly ness ance ence able", 4),
)
# Compiled on first use, because that takes longer than all imports here.
# Between a small letter and a capital, before the last of several capitals, and before a number after two letters.
_HUMP = r"(?=[A-Z0-9])(?:(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_]{2})(?=\d))"
_WORD = r"[^\W_]+"
DENSE = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # scripts without spaces between words

Term = tuple[tuple[str, ...], tuple[str, ...], float]  # consecutive stems, substrings to search for, weight


class Query:
    """What a query searches for: ``terms``, and the ``pairs`` of neighbouring stems."""

    def __init__(self, text: str) -> None:
        """Split a query into its words, and also its identifiers (max_iters, dspy.RLM) as a whole."""
        text = text[:_QUERY]
        words = words_of(text)
        kept = [word for word in words if word not in _STOP] or words
        terms: dict[tuple[str, ...], Term] = {}
        for word in kept:
            root = stem(word)
            terms[(root,)] = ((root,), tuple(dict.fromkeys((word[: len(root)], root))), 1.0)
        for name in re.findall(r"\w+(?:[.:/-]\w+)*", text):
            parts = words_of(name)
            if len(parts) > 1 and not re.search(DENSE, name):
                needles = (_lowered_text(name), "_".join(parts), "".join(parts))
                stems = tuple(stem(part) for part in parts)
                terms[stems] = (stems, tuple(dict.fromkeys(needles)), 1.5)
        self.terms: list[Term] = list(terms.values())[:_TERMS]
        roots = [stem(word) for word in kept]
        self.pairs = frozenset(itertools.pairwise(roots))

    def stems_of(self, text: str) -> list[str]:
        """Return the stems of a text's words."""
        return [stem for word in re.findall(_WORD, text) for stem in _word_stems(word)]


def _lowered_text(text: str) -> str:
    """Return the lower case at the same length; a single character has a longer one."""
    return text.replace("\u0130", "i").lower()


@functools.lru_cache(50_000)
def stem(word: str) -> str:
    """Return a word without accents and endings; what is left is the start of the word, and has no ending."""
    word = word if word.isascii() else word.translate(_plain_letters())
    if len(word) <= 3:
        return word
    left = _without_ending(word)
    while left != word:
        word, left = left, _without_ending(left)
    return word


def _without_ending(word: str) -> str:
    for size in range(min(7, len(word) - 3), 0, -1):
        least = _ending_table().get(word[-size:])
        if least is not None and len(word) - size >= least and not (size == 1 and word.endswith("ss")):
            return word[:-size]
    if len(word) > 3 and word[-1] == word[-2]:
        return word[:-1]
    return word


@functools.cache
def _ending_table() -> dict[str, int]:
    return {ending: least for endings, least in _ENDINGS for ending in endings.split()}


@functools.cache
def _plain_letters() -> dict[int, str]:
    """Return the Latin letters with accents, and the same letters without."""
    table = {}
    for number in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        plain = unicodedata.normalize("NFD", chr(number))[0]
        if plain.isascii():
            table[number] = plain
    return table


def split_names(text: str) -> str:
    """Return a text with names such as ``maxIters`` and ``http2`` split into words."""
    return re.sub(_HUMP, " ", text)


def words_of(text: str) -> list[str]:
    """Return lower-case words, with identifiers split into parts and unspaced scripts into character pairs."""
    return [part for word in re.findall(_WORD, text) for part in _word_parts(word)]


@functools.lru_cache(50_000)
def _word_parts(word: str) -> tuple[str, ...]:
    parts = re.findall(_WORD, _lowered_text(split_names(word)))
    if word.isascii() or not re.search(DENSE, word):
        return tuple(parts)
    return tuple(pair for part in parts for pair in _letter_pairs(part))


def _letter_pairs(word: str) -> list[str]:
    if len(word) < 2 or not re.search(DENSE, word):
        return [word]
    return [word[at : at + 2] for at in range(len(word) - 1)]


@functools.lru_cache(50_000)
def _word_stems(word: str) -> tuple[str, ...]:
    return tuple(stem(part) for part in _word_parts(word))


def rank_passages(data: Any, names: Sequence[Any], query: Query, limit: int) -> list[dict[str, Any]]:
    """Return the best passages of the named texts as records of hits with a score, best first."""
    terms = query.terms
    counts, passages = [], 0
    for name in names:
        low = _lowered_text(read(data, name))
        passages += len(low) // PASSAGE + 1
        counts.append([sum(map(low.count, needles)) for _, needles, _ in terms])
    if not counts:
        return []
    totals = [sum(column) for column in zip(*counts, strict=True)]
    weights = term_weights(terms, totals, passages)
    chosen = _rarest_terms(totals)
    rough: dict[tuple[int, int], float] = {}
    for number, name in enumerate(names):
        present = [at for at in chosen if counts[number][at]]
        if present:
            _add_term_weights(read(data, name), number, [(terms[at][1], weights[at]) for at in present], rough)
    best = sorted(rough, key=lambda place: (-rough[place], place))[:_RANKED]
    places = [(names[number], at) for number, at in sorted(best)]
    scored = scored_passages(lambda name: read(data, name), places, query, weights)
    return [passage_record(data, name, at, score) for score, name, at in scored[:limit]]


def term_weights(terms: Sequence[Term], totals: Sequence[int], passages: int) -> list[float]:
    """Return the weight of each term: the fewer of the passages have it, the higher."""
    return [
        weight * math.log(1 + (passages + 0.5) / (min(total, passages) + 0.5))
        for (_, _, weight), total in zip(terms, totals, strict=True)
    ]


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
        mark_at = body.rfind(mark, stop - PASSAGE // 2, stop)
        if mark_at >= 0:
            return mark_at + len(mark)
    return stop


class PassageScorer:
    """Scores passages for a query, given the weight of each of its terms."""

    def __init__(self, query: Query, weights: Sequence[float]) -> None:
        self._query = query
        self._weights = list(weights)
        self._whole = sum(weights)
        self._by_stem = {
            row[0]: weight for (row, _, _), weight in zip(query.terms, weights, strict=True) if len(row) == 1
        }

    def points(self, titles: "PassageTitles", start: int, end: int) -> float:
        """Return all points of a passage."""
        lines = [self._query.stems_of(line) for line in titles.text(start, end).split("\n")]
        stems = list(itertools.chain.from_iterable(lines))
        around = titles.around(start, end)
        score = self.word_points(stems, titles.file, around)
        return score + self.phrase_points(stems) + self.line_points(lines, around)

    def word_points(self, stems: list[str], file: frozenset[str], titles: frozenset[str]) -> float:
        """Return BM25 and the points of titles, scaled by the share of the query that is covered."""
        length = 1.2 * (0.5 + 0.5 * len(stems) / 80)
        counts = collections.Counter(stems)
        score = title = covered = 0.0
        for (row, _, _), weight in zip(self._query.terms, self._weights, strict=True):
            often = counts[row[0]]
            if often and len(row) > 1:
                often = _count_runs(stems, row)
            score += weight * often * 2.2 / (often + length)
            points = 0.0
            if titles.issuperset(row):
                points = _TITLE
            elif file.issuperset(row):
                points = _FILE
            title += points * weight
            covered += weight if often or points else 0.0
        if score:
            return (score + title) * (0.5 + 0.5 * covered / self._whole)
        return 0.0

    def phrase_points(self, stems: list[str]) -> float:
        """Return points for neighbouring words of the query that are neighbours here, in this order."""
        found = self._query.pairs.intersection(itertools.pairwise(stems))
        return _PHRASE * sum(min(self._by_stem.get(one, 0.0), self._by_stem.get(two, 0.0)) for one, two in found)

    def line_points(self, lines: list[list[str]], titles: frozenset[str]) -> float:
        """Return points for the line that, together with its titles, has most of the query."""
        above = titles.intersection(self._by_stem)
        best = max((above.union(line).intersection(self._by_stem) for line in lines), key=self._weight_of)
        return _LINE * self._weight_of(best)

    def _weight_of(self, stems: frozenset[str]) -> float:
        return math.fsum(self._by_stem[stem] for stem in stems)


class PassageTitles:
    """The words that stand for a whole part of a file: its name, headings, definitions, columns."""

    def __init__(self, name: Any, body: str, query: Query) -> None:
        self._name = str(name or "")
        self._body = body
        self._query = query
        self.file = frozenset(query.stems_of(self._name))
        self._is_code = self._name.lower().endswith(CODE)
        self._is_table = self._name.lower().endswith((".csv", ".tsv"))
        self._columns = body[: body.find("\n") + 1][:2000]
        self._starts: list[int] = []
        self._chains: list[tuple[str, ...]] = []

    def around(self, start: int, end: int) -> frozenset[str]:
        """Return the stems of the titles of a passage."""
        if self._is_code:
            return self._stems(definition_names(self._body[start:end]))
        if self._is_table:
            return self._stems([self._columns])
        if not self._starts:
            self._read_headings()
        first, last = bisect.bisect_right(self._starts, start), bisect.bisect_left(self._starts, end)
        return self._stems(itertools.chain.from_iterable(self._chains[max(0, first - 1) : last]))

    def text(self, start: int, end: int) -> str:
        """Return the text of a passage, that of a table with its columns."""
        if self._is_table and start > 0:
            return self._columns + self._body[start:end]
        return self._body[start:end]

    def _stems(self, titles: Iterable[str]) -> frozenset[str]:
        return frozenset(stem for title in titles for stem in self._query.stems_of(title))

    def _read_headings(self) -> None:
        """Note each heading with those it stands under."""
        self._starts, self._chains = [-1], [()]
        open_titles: list[tuple[int, str]] = []
        for start, title in headings(self._body) if "#" in self._body else ():
            level = len(title) - len(title.lstrip("#"))
            open_titles = [one for one in open_titles if one[0] < level]
            open_titles.append((level, title))
            self._starts.append(start)
            self._chains.append(tuple(text for _, text in open_titles))


def scored_passages(
    body_of: Callable[[Any], str], places: Sequence[tuple[Any, int]], query: Query, weights: Sequence[float]
) -> list[tuple[float, Any, int]]:
    """Return (score, name, number) of passages, best first; those of one file must be together.

    The best ``_REFINED`` by their words alone are scored by titles, phrases and lines too, and come first.
    """
    scorer = PassageScorer(query, weights)
    rough = []
    for order, titles, body in _with_titles(body_of, places, range(len(places)), query):
        at = places[order][1]
        stems = query.stems_of(body[passage_start(body, at) : passage_start(body, at + 1)])
        points = scorer.word_points(stems, titles.file, frozenset())
        if points > 0:
            rough.append((-round(points, 4), order))
    rough.sort()
    best = sorted(order for _, order in rough[:_REFINED])
    refined = []
    for order, titles, body in _with_titles(body_of, places, best, query):
        at = places[order][1]
        points = scorer.points(titles, passage_start(body, at), passage_start(body, at + 1))
        refined.append((-round(points, 4), order))
    refined.sort()
    return [(-points, *places[order]) for points, order in [*refined, *rough[_REFINED:]]]


def _with_titles(
    body_of: Callable[[Any], str], places: Sequence[tuple[Any, int]], chosen: Iterable[int], query: Query
) -> Iterator[tuple[int, PassageTitles, str]]:
    """Yield chosen passages by their position, with the titles and the text of their file, each read once."""
    for name, orders in itertools.groupby(chosen, key=lambda order: places[order][0]):
        body = body_of(name)
        titles = PassageTitles(name, body, query)
        for order in orders:
            yield order, titles, body


def _count_runs(stems: list[str], row: tuple[str, ...]) -> int:
    """Return how often the stems occur consecutively in this order."""
    return sum(tuple(stems[at : at + len(row)]) == row for at, stem in enumerate(stems) if stem == row[0])


def passage_record(data: Any, name: Any, at: int, score: float) -> dict[str, Any]:
    """Return a passage as the record of a hit with a score."""
    body = read(data, name)
    start, end = passage_start(body, at), passage_start(body, at + 1)
    shown = body[start:end]
    start += len(shown) - len(shown.lstrip("\r\n"))
    end -= len(shown) - len(shown.rstrip())
    line = body.count("\n", 0, start) + 1
    return {"score": score, **hit_fields(data, name, line, start, end), "text": body[start:end]}
