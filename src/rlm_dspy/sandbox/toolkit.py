"""Text tools that run where the data is: peek, grep, chunk, select, search, and the handle of a corpus.

This file imports only the standard library and nothing of ours, and it runs as plain source in any other
interpreter: execute it, then ``bind(globals(), "context")``. It therefore has no ``__future__`` import (the
source may be put after other code) and no dataclass (these need a registered module).

All ranges are character offsets, end exclusive. On a corpus they count within one file (the match has its
``source``), or, where no file is named, within the texts of all files put one after the other.
"""

import bisect
import collections
import difflib
import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

FileInfo = collections.namedtuple("FileInfo", "name kind size lines")  # size counts characters

_PEEK = 2000  # characters that peek shows when no end is given
_LINE = 400  # characters of one line that a match shows
_CACHED = 64_000_000  # bytes of decoded files that a corpus keeps
_PASSAGE = 600  # a ranked passage has between half and one and a half of this many characters
_OCCURRENCES = 200_000  # places that one search looks at before it ranks
_RANKED = 2_000  # passages that one search reads in full


class Corpus:
    """Many files as one value: ``corpus[name]`` is a text, ``corpus.files`` lists names and sizes."""

    def __init__(self, buffer: Any, index: dict[str, Any]) -> None:
        self._buffer = buffer
        self._spans = {entry["name"]: (entry["start"], entry["stop"]) for entry in index["files"]}
        self.files = [FileInfo(e["name"], e["kind"], e["chars"], e["lines"]) for e in index["files"]]
        self._starts = [0]
        for info in self.files:
            self._starts.append(self._starts[-1] + info.size)
        self._cache: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._cached = 0

    @classmethod
    def from_texts(cls, texts: dict[str, str]) -> "Corpus":
        """Make a corpus of texts by name."""
        files, parts, start = [], [], 0
        for name, text in texts.items():
            data = text.encode("utf-8", "surrogatepass")
            entry = {"name": name, "kind": "text", "start": start, "stop": start + len(data)}
            files.append(entry | {"chars": len(text), "lines": count_lines(text)})
            parts.append(data)
            start += len(data)
        return cls(b"".join(parts), {"files": files})

    @property
    def names(self) -> list[str]:
        """The names of the files, in order."""
        return list(self._spans)

    @property
    def chars(self) -> int:
        """The characters of all files together."""
        return self._starts[-1]

    def slice(self, start: int, end: int) -> Iterator[tuple[str, str]]:
        """Yield (name, part) for the files that lie between two offsets of the whole corpus."""
        first = max(0, bisect.bisect_right(self._starts, start) - 1)
        for position in range(first, len(self.files)):
            base = self._starts[position]
            if base >= end:
                return
            part = self[self.files[position].name][max(0, start - base) : end - base]
            if part:
                yield self.files[position].name, part

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield (name, text) of each file."""
        return ((name, self[name]) for name in self._spans)

    def values(self) -> Iterator[str]:
        """Yield the text of each file."""
        return (self[name] for name in self._spans)

    def keys(self) -> list[str]:
        """The names of the files, in order."""
        return list(self._spans)

    def __getitem__(self, name: Any) -> str:
        if isinstance(name, slice):
            start, end, _ = name.indices(self.chars)
            return "".join(part for _, part in self.slice(start, end))
        if not isinstance(name, str):
            raise KeyError(f"a corpus is indexed by file name, such as {self._some_name()!r}, not {name!r}")
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        if name not in self._spans:
            raise KeyError(f"no file {name!r} in the corpus{_closest(name, self._spans)}")
        start, stop = self._spans[name]
        return self._keep(name, bytes(self._buffer[start:stop]).decode("utf-8", "surrogatepass"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self.files)

    def __contains__(self, name: object) -> bool:
        return name in self._spans

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"Corpus({len(self):,} file{plural}, {self.chars:,} characters)"

    def _some_name(self) -> str:
        return next(iter(self._spans), "README.md")

    def _keep(self, name: str, text: str) -> str:
        self._cache[name] = text
        self._cached += text.__sizeof__()
        while self._cached > _CACHED and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].__sizeof__()
        return text


class Toolkit:
    """The text tools over one main context, which they look up by name at each call."""

    def __init__(self, namespace: dict[str, Any], main: str | None) -> None:
        self._namespace = namespace
        self._main = main

    def __repr__(self) -> str:
        return f"Toolkit(main={self._main!r})"

    def peek(self, start: int = 0, end: int | None = None, source: str | None = None, text: Any = None) -> str:
        """Return the text from start to end (default 2,000 characters); source="path" for one file."""
        data = self._data(text)
        if source is not None:
            data = _read(data, _names(data, source, single=True)[0])
        total = data.chars if isinstance(data, Corpus) else len(_flat(data))
        low, high = _window(start, end, total)
        if not isinstance(data, Corpus):
            return _flat(data)[low:high]
        parts = list(data.slice(low, high))
        if len(data) == 1:
            return "".join(part for _, part in parts)
        return "\n".join(f"=== {name} ===\n{part}" for name, part in parts)

    def grep(
        self,
        pattern: Any,
        max_matches: int | None = 20,
        context: int = 0,
        text: Any = None,
        source: str | None = None,
        ignore_case: bool = False,
    ) -> list[dict[str, Any]]:
        """Find a regular expression: dicts of line, text, start, end, range, source (a glob limits it)."""
        expression = _compile(pattern, ignore_case)
        limit = math.inf if max_matches is None else _count("max_matches", max_matches, 1)
        around = _count("context", context, 0)
        found: list[dict[str, Any]] = []
        for name, body in _sources(self._data(text), source):
            place, line = 0, 1
            for match in expression.finditer(body):
                start, end = match.span()
                line += body.count("\n", place, start)
                place = start
                found.append(_entry(name, line, _show(body, start, end, around), start, end))
                if len(found) >= limit:
                    return found
        return found

    def chunk(
        self,
        mode: str = "lines",
        size: int = 200,
        overlap: int = 0,
        text: Any = None,
        source: str | None = None,
    ) -> list[tuple[Any, ...]]:
        """Cut into ranges for select(); size counts lines, or characters with mode="chars"/"paragraphs"."""
        if mode not in _CUTTERS:
            raise ValueError(f"mode must be one of {', '.join(_CUTTERS)}, not {mode!r}")
        length, shared = _count("size", size, 1), _count("overlap", overlap, 0)
        if shared >= length:
            shared = length // 2  # a chunk must advance; half is the usual most
        ranges: list[tuple[Any, ...]] = []
        for name, body in _sources(self._data(text), source):
            cuts = _CUTTERS[mode](body, length, shared)
            ranges.extend(cuts if name is None else ((name, start, end) for start, end in cuts))
        return ranges

    def select(self, ranges: Any, text: Any = None) -> str:
        """Return the joined text of ranges: (start, end), (source, start, end), or what grep/search found."""
        data = self._data(text)
        one = isinstance(ranges, dict) or (isinstance(ranges, tuple) and bool(ranges) and isinstance(ranges[-1], int))
        return "".join(_cut(data, item) for item in ([ranges] if one else ranges))

    def search(self, query: str, k: int = 10, text: Any = None, source: str | None = None) -> list[dict[str, Any]]:
        """Rank passages by the words of a query: the k best as dicts of score, line, text, range, source."""
        limit = _count("k", k, 1)
        if not isinstance(query, str):
            raise ValueError(f"query must be a string, not {type(query).__name__}")
        terms = _terms(query)
        return _rank(self._data(text), source, terms, limit)

    def _data(self, text: Any) -> Any:
        """The given text, or else the main context as it is bound now: a string or a mapping of strings."""
        if text is None and self._main is None:
            raise ValueError("there is no main context here: pass text=...")
        data = self._namespace.get(str(self._main)) if text is None else text
        if isinstance(data, (list, tuple)):
            return {str(position): item for position, item in enumerate(data)}
        if isinstance(data, str) or (hasattr(data, "items") and hasattr(data, "__getitem__")):
            return data
        what = f"the main context {self._main!r}" if text is None else "text"
        raise ValueError(f"{what} must be a str, a corpus, or a dict or list of texts, not {type(data).__name__}")


def bind(namespace: dict[str, Any], main: str | None) -> None:
    """Put the text tools into a namespace, and the main context as ``P`` if it is there."""
    tools = Toolkit(namespace, main)
    for tool in (tools.peek, tools.grep, tools.chunk, tools.select, tools.search):
        namespace[tool.__name__] = tool
    if main is not None and main in namespace:
        namespace["P"] = namespace[main]


def count_lines(text: str) -> int:
    """Count lines; a last line without an end counts too."""
    return text.count("\n") + (1 if text and not text.endswith("\n") else 0)


# Arguments

# What may make a pattern that begins with ".*" match elsewhere than from a line's start, or over its end.
_ACROSS_LINES = re.compile(r"^\.\*[?+{]|\||\(\?|\[\^|\n|\\[\dnsWDxuUN]")


def _count(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value


def _window(start: Any, end: Any, total: int) -> tuple[int, int]:
    for name, value in (("start", start), ("end", 0 if end is None else end)):
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
    low = slice(start, None).indices(total)[0]
    return low, low + _PEEK if end is None else slice(0, end).indices(total)[1]


def _compile(pattern: Any, ignore_case: bool) -> "re.Pattern[str]":
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"pattern must be a non-empty string or a compiled regular expression, not {pattern!r}")
    # A leading ".*" matches from the line's start or not at all: saying so spares a scan per character.
    anchored = pattern.startswith(".*") and not _ACROSS_LINES.search(pattern)
    try:
        return re.compile("^" + pattern if anchored else pattern, re.M | (re.I if ignore_case else 0))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"bad regular expression {pattern[:200]!r}: {error}; use re.escape() for plain text") from None


def _listed(data: Any, source: Any) -> list[Any]:
    """The names of what is to be read; None stands for a single text."""
    if not isinstance(data, str):
        return list(data) if source is None else _names(data, source)
    if source is not None:
        raise ValueError("source= names a file of a corpus; this context is a single text")
    return [None]


def _read(data: Any, name: Any) -> str:
    body = data if name is None else data[name]
    return body if isinstance(body, str) else str(body)


def _sources(data: Any, source: str | None) -> Iterator[tuple[str | None, str]]:
    """Yield (name, text) of what is to be read."""
    return ((name, _read(data, name)) for name in _listed(data, source))


def _flat(data: Any) -> str:
    return data if isinstance(data, str) else "".join(body for _, body in _sources(data, None))


def _names(data: Any, source: Any, *, single: bool = False) -> list[str]:
    """The names that ``source`` means: a name, a glob, the end of a path, or a folder."""
    if isinstance(data, str) or not isinstance(source, str):
        raise ValueError(f"source must be a file name or a glob of a corpus, not {source!r}")
    names = [name for name in data if isinstance(name, str)]
    found = [source] if source in names else fnmatch.filter(names, source)
    found = found or [name for name in names if name.endswith("/" + source)]
    found = found or [name for name in names if name.startswith(source.rstrip("/") + "/")]
    if not found:
        raise ValueError(f"no file matches {source!r}{_closest(source, names)}")
    if single and len(found) > 1:
        raise ValueError(f"{source!r} means {len(found)} files ({', '.join(found[:5])}): name one")
    return found


def _closest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _cut(data: Any, item: Any) -> str:
    """The text of one range."""
    if isinstance(item, dict):
        item = (item.get("source"), *item["range"]) if "range" in item else ()
    if not isinstance(item, (list, tuple)) or len(item) not in (2, 3):
        raise ValueError(f"a range is (start, end) or (source, start, end), not {item!r}")
    source, (start, end) = (item[0] if len(item) == 3 else None), item[-2:]
    if not isinstance(start, int) or not isinstance(end, int):
        raise ValueError(f"a range has whole numbers, not {item!r}")
    if source is not None:
        data = _read(data, _names(data, source, single=True)[0])
    return str((data if isinstance(data, Corpus) else _flat(data))[start:end])


# Showing a match


def _entry(name: str | None, line: int, shown: str, start: int, end: int) -> dict[str, Any]:
    place = {} if name is None else {"source": name}
    return {**place, "line": line, "text": shown, "start": start, "end": end, "range": (start, end)}


def _show(body: str, start: int, end: int, around: int) -> str:
    """The line or lines of a match, cut around it if they are long, with whole lines before and after."""
    end = min(end, start + _LINE)
    spare = (_LINE - (end - start)) // 2
    low, high = body.rfind("\n", 0, start) + 1 if around else 0, len(body)
    left = body.rfind("\n", max(0, start - spare), start)
    left = left + 1 if left >= 0 else max(0, start - spare)
    right = body.find("\n", end, end + spare)
    right = right if right >= 0 else min(high, end + spare)
    shown = body[left:right].removesuffix("\r")
    if left > 0 and body[left - 1] != "\n":
        shown = "…" + shown
    if right < high and body[right] != "\n":
        shown += "…"
    if not around:
        return shown
    before, after = _lines_before(body, low, around), _lines_after(body, body.find("\n", end), around)
    return "\n".join([*before, shown, *after])


def _lines_before(body: str, place: int, many: int) -> list[str]:
    lines: list[str] = []
    while place > 0 and len(lines) < many:
        start = body.rfind("\n", 0, place - 1) + 1
        lines.append(_short(body, start, place - 1))
        place = start
    return lines[::-1]


def _lines_after(body: str, place: int, many: int) -> list[str]:
    lines: list[str] = []
    while 0 <= place < len(body) - 1 and len(lines) < many:
        stop = body.find("\n", place + 1)
        lines.append(_short(body, place + 1, stop if stop >= 0 else len(body)))
        place = stop
    return lines


def _short(body: str, start: int, stop: int) -> str:
    return body[start : min(stop, start + _LINE)].removesuffix("\r") + ("…" if stop - start > _LINE else "")


# Chunks


def _cut_lines(body: str, size: int, shared: int) -> list[tuple[int, int]]:
    step = size - shared
    starts, ends, line, place = [], [], 0, 0
    while place < len(body):
        if line % step == 0:
            starts.append(place)
        if line >= size and (line - size) % step == 0:
            ends.append(place)
        place = body.find("\n", place) + 1 or len(body)
        line += 1
    return list(zip(starts, [*ends, len(body)], strict=False))


def _cut_chars(body: str, size: int, shared: int) -> list[tuple[int, int]]:
    last = max(1, len(body) - shared) if body else 0  # a chunk that starts here or later would add nothing
    return [(start, min(start + size, len(body))) for start in range(0, last, size - shared)]


def _cut_paragraphs(body: str, size: int, shared: int) -> list[tuple[int, int]]:
    """Pack whole paragraphs, each with the blank lines after it; cut one that is longer than a chunk."""
    length, start, ranges = size - shared, 0, []
    while start < len(body):
        stop = _paragraph_stop(body, start, start + length)
        ranges.append((max(0, start - shared), stop))
        start = stop
    return ranges


def _paragraph_stop(body: str, start: int, most: int) -> int:
    if most >= len(body):
        return len(body)
    blank = body.rfind("\n\n", start, most)
    if blank >= 0:
        stop = blank + 2
        while stop < most and body[stop] == "\n":
            stop += 1
        return stop
    half = start + (most - start) // 2
    places = (body.rfind(mark, half, most) + len(mark) for mark in ("\n", ". ", " "))
    return next((place for place in places if place > half), most)


_CUTTERS: dict[str, Callable[[str, int, int], list[tuple[int, int]]]] = {
    "lines": _cut_lines,
    "chars": _cut_chars,
    "paragraphs": _cut_paragraphs,
}


# Ranking: BM25 over passages. Words of the query are looked for as plain substrings, rarest first, and only
# the passages where they occur are split into words; so the cost is that of a few scans, whatever the size.

_STOP = frozenset(
    """a about an and are as at be by can could did do does for from had has have how i in into is it its me
    my of on or should that the their there this to was we were what when where which who why will with would
    you your""".split()  # noqa: SIM905 - a list of fifty quoted words is harder to read
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")
_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")  # scripts that put no space between words
_SUFFIXES = ("ing", "ed", "es", "s")

_Term = tuple[tuple[str, ...], tuple[str, ...], float]  # stems in a row, substrings to look for, weight


def _lower(text: str) -> str:
    """Lower case of the same length: one character alone has a longer one."""
    return text.replace("\u0130", "i").lower()


def _stem(word: str) -> str:
    if len(word) <= 3 or word.endswith("ss"):
        return word
    cut = next((word.removesuffix(end) for end in _SUFFIXES if word.endswith(end) and len(word) - len(end) > 2), word)
    return cut[:-1] if len(cut) > 3 and (cut[-1] == "e" or cut[-1] == cut[-2]) else cut


def _words(text: str) -> list[str]:
    """Lower-case words, identifiers split into their parts, unspaced scripts into pairs of characters."""
    words = _WORD.findall(_HUMP.sub(" ", text).lower())
    if not _DENSE.search(text):
        return words
    split: list[str] = []
    for word in words:
        pairs = [word[at : at + 2] for at in range(len(word) - 1)] if _DENSE.search(word) else []
        split.extend(pairs or [word])
    return split


def _terms(query: str) -> list[_Term]:
    """What a query looks for: its words, and its identifiers (max_iters, dspy.RLM) as a whole too."""
    words = _words(query[:2000])
    kept = [word for word in words if word not in _STOP] or words
    terms: dict[tuple[str, ...], _Term] = {}
    for word in kept:
        stem = _stem(word)
        terms[(stem,)] = ((stem,), (stem,), 1.0)
    for name in re.findall(r"\w+(?:[.:/-]\w+)*", query[:2000]):
        parts = _words(name)
        if len(parts) > 1 and not _DENSE.search(name):
            needles = (_lower(name), "_".join(parts), "".join(parts))
            stems = tuple(map(_stem, parts))
            terms[stems] = (stems, tuple(dict.fromkeys(needles)), 1.5)
    return list(terms.values())[:32]


def _rank(data: Any, source: str | None, terms: Sequence[_Term], limit: int) -> list[dict[str, Any]]:
    names = _listed(data, source)
    counts, passages = [], 0
    for name in names:
        low = _lower(_read(data, name))
        passages += len(low) // _PASSAGE + 1
        counts.append([sum(low.count(needle) for needle in needles) for _, needles, _ in terms])
    totals = [sum(column) for column in zip(*counts, strict=True)]
    weights = [
        weight * math.log(1 + (passages + 0.5) / (min(total, passages) + 0.5))
        for (_, _, weight), total in zip(terms, totals, strict=True)
    ]
    chosen = _rarest(totals)
    rough: dict[tuple[int, int], float] = {}
    for number, name in enumerate(names):
        present = [at for at in chosen if counts[number][at]]
        if present:
            _gather(_read(data, name), number, [(terms[at][1], weights[at]) for at in present], rough)
    best = sorted(rough, key=lambda place: (-rough[place], place))[:_RANKED]
    scored = _score(data, names, sorted(best), terms, weights)
    scored.sort(key=lambda one: (-one[0], one[1], one[2]))
    return [_passage(data, names[number], at, score) for score, number, at in scored[:limit]]


def _rarest(totals: Sequence[int]) -> list[int]:
    """The positions of the terms that occur, rarest first, as many as one search can look at."""
    order = sorted((total, at) for at, total in enumerate(totals) if total)
    chosen: list[int] = []
    seen = 0
    for total, at in order:
        seen += total
        if chosen and seen > _OCCURRENCES:
            break
        chosen.append(at)
    return chosen


def _gather(
    body: str, number: int, wanted: list[tuple[tuple[str, ...], float]], rough: dict[tuple[int, int], float]
) -> None:
    """Add each term's weight to the passages of a file in which it occurs."""
    low = _lower(body)
    for needles, weight in wanted:
        seen: set[int] = set()
        for needle in needles:
            place = low.find(needle)
            while place >= 0 and len(seen) < _OCCURRENCES:
                at = place // _PASSAGE
                at += place >= _edge(body, at + 1)
                seen.add(at)
                place = low.find(needle, max(place + len(needle), _edge(body, at + 1) - len(needle) + 1))
        for at in seen:
            rough[number, at] = rough.get((number, at), 0.0) + weight


def _edge(body: str, at: int) -> int:
    """Where a passage begins: after the last blank line, line or word before a multiple of its length."""
    stop = at * _PASSAGE
    if stop <= 0 or stop >= len(body):
        return min(max(stop, 0), len(body))
    for mark in ("\n\n", "\n", " "):
        found = body.rfind(mark, stop - _PASSAGE // 2, stop)
        if found >= 0:
            return found + len(mark)
    return stop


def _score(
    data: Any,
    names: list[Any],
    places: list[tuple[int, int]],
    terms: Sequence[_Term],
    weights: Sequence[float],
) -> list[tuple[float, int, int]]:
    scored = []
    last, body, titles = -1, "", frozenset[str]()
    for number, at in places:
        if number != last:
            last, body = number, _read(data, names[number])
            titles = frozenset(map(_stem, _words(str(names[number] or ""))))
        stems = list(map(_stem, _words(body[_edge(body, at) : _edge(body, at + 1)])))
        score = _bm25(stems, titles, terms, weights)
        if score > 0:
            scored.append((round(score, 4), number, at))
    return scored


def _bm25(stems: list[str], titles: frozenset[str], terms: Sequence[_Term], weights: Sequence[float]) -> float:
    """BM25, half a point more for a word of the file's name, scaled by how much of the query is covered."""
    length = 1.2 * (0.5 + 0.5 * len(stems) / 80)
    counts = collections.Counter(stems)
    score = title = covered = 0.0
    for (row, _, _), weight in zip(terms, weights, strict=True):
        often = counts[row[0]] if len(row) == 1 else _runs(stems, row) if counts[row[0]] else 0
        score += weight * often * 2.2 / (often + length)
        title += 0.5 * weight if titles.issuperset(row) else 0.0
        covered += weight if often or titles.issuperset(row) else 0.0
    return (score + title) * (0.5 + 0.5 * covered / sum(weights)) if score else 0.0


def _runs(stems: list[str], row: tuple[str, ...]) -> int:
    """How often some stems stand next to each other in this order."""
    return sum(tuple(stems[at : at + len(row)]) == row for at, stem in enumerate(stems) if stem == row[0])


def _passage(data: Any, name: Any, at: int, score: float) -> dict[str, Any]:
    body = _read(data, name)
    start, end = _edge(body, at), _edge(body, at + 1)
    shown = body[start:end]
    start += len(shown) - len(shown.lstrip("\r\n"))
    end -= len(shown) - len(shown.rstrip())
    line = body.count("\n", 0, start) + 1
    return {"score": score, **_entry(name, line, body[start:end], start, end)}
