"""The functions for cells: peek, grep, chunk, select, search and outline over the main context."""

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .corpus_handle import CorpusTexts, quoted, spelling_hint
from .cutting import CUTTERS, cut_by, outline_text
from .hits import Hit, Matches
from .matching import Part, find_matches, read
from .patterns import compiled_pattern
from .ranking import Query, rank_passages

INDEXED = "_search_index"  # the host's own search over the main context, if available

_LONG = 300  # characters above which a string is a text, not a name or a query
_PEEK = 2000  # characters that peek shows by default


class Toolkit:
    """The text tools over one main context, which is looked up by name at each call."""

    def __init__(self, namespace: dict[str, Any], main: str | None) -> None:
        self._namespace = namespace
        self._main = main

    def __repr__(self) -> str:
        return f"Toolkit(main={self._main!r})"

    def peek(self, start: Any = 0, end: Any = None, source: Any = None, text: Any = None) -> str:
        """Return the text from start to end (default 2,000 characters); source="path" for one file."""
        if not isinstance(start, int):
            start, end, source, text = self._peek_arguments(start, end, source, text)
        data = self._text_or_main(text)
        if source is not None:
            data = read(data, _matching_names(data, source, single=True)[0])
        if isinstance(data, CorpusTexts):
            total = data.chars
        else:
            total = len(_joined_text(data))
        low, high = _peek_range(start, end, total)
        if not isinstance(data, CorpusTexts):
            return _joined_text(data)[low:high]
        parts = list(data.slice(low, high))
        if len(data) == 1:
            return "".join(part for _, part in parts)
        return "\n".join(f"=== {name} ===\n{part}" for name, part in parts)

    def _peek_arguments(self, first: Any, start: Any, end: Any, text: Any) -> tuple[Any, Any, Any, Any]:
        """Interpret ``peek(text, start, end)``, ``peek(source, …)``, ``peek(hit)`` and ``peek((start, end))``."""
        if isinstance(first, Hit):
            return first.start, start, first.source, text
        if isinstance(first, tuple) and len(first) in (2, 3) and isinstance(first[-1], int):
            return first[-2], first[-1], first[0] if len(first) == 3 else None, text
        if not _is_text(first):
            raise ValueError(f"start must be a whole number, not {quoted(first)}")
        source, whole = self._file_or_text(first)
        if start is None:
            start = 0
        if whole is not None:
            text = whole
        return start, end, source, text

    def grep(
        self,
        pattern: Any,
        context: Any = 0,
        ignore_case: Any = False,
        max_matches: Any = None,
        text: Any = None,
        source: str | None = None,
        flags: int = 0,
    ) -> Matches:
        """Find a regular expression: all hits, with .line .text .source .start .end; printing shows the first 20."""
        if (_is_text(pattern) and not isinstance(pattern, str)) or (self._is_long(pattern) and _is_text(context)):
            pattern, context = context, pattern
        hits: Any = None
        others: list[Any] = []
        for value in (context, ignore_case):
            others.append(None)
            if isinstance(value, re.RegexFlag):
                flags |= value
            elif _is_hits(value):
                hits = value
            elif _is_text(value):
                named, whole = self._file_or_text(value)
                source, text = named or source, text if whole is None else whole
            else:
                others[-1] = value
        expression = compiled_pattern(pattern, flags | (re.I if others[1] else 0))
        if max_matches is None:
            limit = math.inf
        else:
            limit = _checked_count("max_matches", max_matches, 1)
        if context is None:
            raise ValueError("the second argument is None: pass the text to search, or the lines to show around a hit")
        around = _checked_count("context", others[0] or 0, 0)
        if hits is not None:
            if not getattr(hits, "complete", True):
                raise ValueError("these hits are not all that there are: search the text, with one pattern for both")
            return Matches([hit for hit in hits if expression.search(hit)][:max_matches])
        data = self._text_or_main(text)
        return find_matches(expression, data, _names_to_read(data, source), limit, around)

    def chunk(
        self,
        mode: "str | Callable[[str], Iterable[Any]] | Any" = "lines",
        size: Any = 200,
        overlap: Any = 0,
        text: Any = None,
        source: str | None = None,
    ) -> list[tuple[Any, ...]]:
        """Cut into ranges for select(): by lines, chars, paragraphs, headings, definitions, or a function(text)."""
        if self._is_long(mode) or mode == "":
            mode, size, overlap, text = _chunk_arguments(mode, size, overlap)
        if not callable(mode) and mode not in CUTTERS:
            modes = ", ".join(CUTTERS)
            hint = "a short text goes in text=..."
            raise ValueError(f"mode must be one of {modes} or a function, not {quoted(mode)}; {hint}")
        length, shared = _checked_count("size", size, 1), _checked_count("overlap", overlap, 0)
        if shared >= length:
            shared = length // 2  # chunks must advance; half is the usual maximum
        ranges: list[tuple[Any, ...]] = []
        for name, body in _named_texts(self._text_or_main(text), source):
            if callable(mode):
                cuts = cut_by(mode, body)
            else:
                cuts = CUTTERS[mode](body, length, shared)
            if name is None:
                ranges += cuts
            else:
                ranges += [(name, start, end) for start, end in cuts]
        return ranges

    def select(self, ranges: Any, text: Any = None) -> str:
        """Return the joined text of ranges: (start, end), (source, start, end), or what grep/search found."""
        if isinstance(ranges, int) and isinstance(text, int):
            ranges, text = (ranges, text), None
        if _is_text(ranges) and len(ranges) and not isinstance(ranges, Hit) and "range" not in ranges:
            ranges, text = text, ranges
        data = self._text_or_main(text)
        is_single = isinstance(ranges, (dict, Hit)) or (
            isinstance(ranges, tuple) and ranges and isinstance(ranges[-1], int)
        )
        if not is_single and not isinstance(ranges, Iterable):
            raise ValueError(f"ranges come from chunk, grep or search, or are (start, end) pairs, not {quoted(ranges)}")
        if is_single:
            ranges = [ranges]
        return "".join(_range_text(data, item) for item in ranges)

    def search(self, query: Any, k: Any = 10, text: Any = None, source: str | None = None) -> Matches:
        """Rank passages by the words of a query: the k best hits, with .score .line .text .range .source."""
        if (_is_text(query) and not isinstance(query, str)) or (self._is_long(query) and _is_text(k)):
            query, k = k, query
        if _is_text(k):
            named, whole = self._file_or_text(k)
            source, text, k = named or source, text if whole is None else whole, 10
        limit = _checked_count("k", k, 1)
        if not isinstance(query, str):
            raise ValueError(f"query must be a string, not {type(query).__name__}")
        data = self._text_or_main(text)
        names = _names_to_read(data, source)
        indexed = self._namespace.get(INDEXED)
        found = None
        if indexed is not None and isinstance(data, CorpusTexts) and data is self._namespace.get(str(self._main)):
            found = indexed(query=query, k=limit, names=None if source is None else names)
        if found is None:
            found = rank_passages(data, names, Query(query), limit)
        return Matches([Hit.of(passage, Part(data, passage.get("source"), None, 0)) for passage in found])

    def outline(self, text: Any = None, source: str | None = None) -> str:
        """Return the tree of files with sizes, headings and top-level definitions, each with its line."""
        if isinstance(text, str) and source is None:
            source, text = self._file_or_text(text)
        data = self._text_or_main(text)
        return outline_text(data, _names_to_read(data, source))

    def _is_long(self, value: Any) -> bool:
        """Return whether an argument is a text to work on, not a name, pattern or query."""
        if not isinstance(value, str):
            return _is_text(value)
        return len(value) > _LONG or "\n" in value or value is self._namespace.get(str(self._main))

    def _file_or_text(self, value: Any) -> tuple[Any, Any]:
        """Interpret an argument as (file name, None) or (None, text)."""
        data = self._namespace.get(str(self._main))
        if not value or not isinstance(value, str) or isinstance(data, (str, list, type(None))) or self._is_long(value):
            return None, value
        try:
            _matching_names(data, value)
        except ValueError as error:
            raise ValueError(f"{error}; to work on this text itself, pass text=...") from None
        return value, None

    def _text_or_main(self, text: Any) -> Any:
        """Return the given text, or else the current main context: a string or a mapping of strings."""
        if text is None and self._main is None:
            raise ValueError("there is no main context here: pass text=...")
        data = self._namespace.get(str(self._main)) if text is None else text
        if isinstance(data, (list, tuple)):
            return {str(position): item for position, item in enumerate(data)}
        if isinstance(data, str) or (hasattr(data, "items") and hasattr(data, "__getitem__")):
            return data
        what = f"the main context {self._main!r}" if text is None else "text"
        raise ValueError(f"{what} must be a str, a corpus, or a dict or list of texts, not {type(data).__name__}")


def bind(namespace: dict[str, Any], main: str | None) -> list[str]:
    """Add the text tools to a namespace, and the main context as ``P`` if it exists; return the names of the tools."""
    tools = Toolkit(namespace, main)
    functions = (tools.peek, tools.grep, tools.chunk, tools.select, tools.search, tools.outline)
    for function in functions:
        namespace[function.__name__] = function
    if main is not None and main in namespace:
        namespace["P"] = namespace[main]
    return [function.__name__ for function in functions]


# Arguments


def _is_text(value: Any) -> bool:
    """Return whether an argument is a text, a corpus, or several texts."""
    if isinstance(value, (str, CorpusTexts, dict)):
        return True
    if isinstance(value, tuple):  # a range has numbers
        return all(isinstance(item, str) for item in value)
    return isinstance(value, list) and all(isinstance(item, str) and not isinstance(item, Hit) for item in value[:1])


def _is_hits(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Hit) for item in value)


def _chunk_arguments(text: Any, first: Any, second: Any) -> tuple[Any, Any, Any, Any]:
    """Interpret ``chunk(text)``, ``chunk(text, "lines", 200)`` and ``chunk(text, 2000)``, which means characters."""
    if isinstance(first, str) or callable(first):
        return first, second or 200, 0, text
    return "lines" if first == 200 and not second else "chars", first, second, text


def _checked_count(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {quoted(value)}")
    return value


def _peek_range(start: Any, end: Any, total: int) -> tuple[int, int]:
    for name, value in (("start", start), ("end", 0 if end is None else end)):
        if not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, not {quoted(value)}")
    low = slice(start, None).indices(total)[0]
    if end is None:
        return low, low + _PEEK
    return low, slice(0, end).indices(total)[1]


def _names_to_read(data: Any, source: Any) -> list[Any]:
    """Return the names of the texts to read; None stands for a single text."""
    if not isinstance(data, str):
        if source is None:
            return list(data)
        return _matching_names(data, source)
    if source is not None:
        raise ValueError("source= names a file of a corpus; this context is a single text")
    return [None]


def _named_texts(data: Any, source: str | None) -> Iterator[tuple[str | None, str]]:
    """Yield (name, text) of the texts to read."""
    return ((name, read(data, name)) for name in _names_to_read(data, source))


def _joined_text(data: Any) -> str:
    if isinstance(data, str):
        return data
    return "".join(body for _, body in _named_texts(data, None))


def _matching_names(data: Any, source: Any, *, single: bool = False) -> list[str]:
    """Return the names that ``source`` matches: a name, a glob, the end of a path, or a folder."""
    if isinstance(data, str) or not isinstance(source, str):
        raise ValueError(f"source must be a file name or a glob of a corpus, not {quoted(source)}")
    names = [name for name in data if isinstance(name, str)]
    matching = [source] if source in names else fnmatch.filter(names, source)
    matching = matching or [name for name in names if name.endswith("/" + source)]
    matching = matching or [name for name in names if name.startswith(source.rstrip("/") + "/")]
    if not matching:
        raise ValueError(f"no file matches {quoted(source)}{spelling_hint(source, names)}")
    if single and len(matching) > 1:
        raise ValueError(f"{quoted(source)} means {len(matching)} files ({', '.join(matching[:5])}): name one")
    return matching


def _range_text(data: Any, item: Any) -> str:
    """Return the text of one range."""
    if isinstance(item, (dict, Hit)):
        if item.get("range"):
            item = (item.get("source"), *item["range"])
        else:
            item = ()
    if not isinstance(item, (list, tuple)) or len(item) not in (2, 3):
        raise ValueError(f"a range is (start, end) or (source, start, end), not {quoted(item)}")
    source = item[0] if len(item) == 3 else None
    start, end = item[-2:]
    if not isinstance(start, int) or not isinstance(end, int):
        raise ValueError(f"a range has whole numbers, not {quoted(item)}")
    if source is not None:
        data = read(data, _matching_names(data, source, single=True)[0])
    return str((data if isinstance(data, CorpusTexts) else _joined_text(data))[start:end])
