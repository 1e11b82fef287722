"""The functions that a cell calls: peek, grep, chunk, select, search and outline over the main context."""

import fnmatch
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .corpus import Corpus, closest
from .cutting import CUTTERS, cut_by, outlined
from .matching import Matches, find, read
from .patterns import compiled
from .ranking import rank, terms_of

INDEXED = "_search_index"  # the host's own search over the main context, where there is one

_PEEK = 2000  # characters that peek shows when no end is given


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
            data = read(data, _names(data, source, single=True)[0])
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
    ) -> Matches:
        """Find a regular expression: dicts of line, text, start, end, range, source (a glob limits it)."""
        expression = compiled(pattern, ignore_case)
        limit = math.inf if max_matches is None else _count("max_matches", max_matches, 1)
        around = _count("context", context, 0)
        data = self._data(text)
        return find(expression, data, _listed(data, source), limit, around)

    def chunk(
        self,
        mode: "str | Callable[[str], Iterable[Any]]" = "lines",
        size: int = 200,
        overlap: int = 0,
        text: Any = None,
        source: str | None = None,
    ) -> list[tuple[Any, ...]]:
        """Cut into ranges for select(): by lines, chars, paragraphs, headings, definitions, or a function(text)."""
        if not callable(mode) and mode not in CUTTERS:
            raise ValueError(f"mode must be one of {', '.join(CUTTERS)} or a function, not {mode!r}")
        length, shared = _count("size", size, 1), _count("overlap", overlap, 0)
        if shared >= length:
            shared = length // 2  # a chunk must advance; half is the usual most
        ranges: list[tuple[Any, ...]] = []
        for name, body in _sources(self._data(text), source):
            cuts = cut_by(mode, body) if callable(mode) else CUTTERS[mode](body, length, shared)
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
        data = self._data(text)
        names = _listed(data, source)
        indexed = self._namespace.get(INDEXED)
        if indexed is not None and isinstance(data, Corpus) and data is self._namespace.get(str(self._main)):
            found = indexed(query=query, k=limit, names=None if source is None else names)
            if found is not None:
                return [{**one, "range": (one["start"], one["end"])} for one in found]
        return rank(data, names, terms_of(query), limit)

    def outline(self, text: Any = None, source: str | None = None) -> str:
        """Return the tree of files with sizes, headings and top-level definitions, each with its line."""
        data = self._data(text)
        return outlined(data, _listed(data, source))

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
    for tool in (tools.peek, tools.grep, tools.chunk, tools.select, tools.search, tools.outline):
        namespace[tool.__name__] = tool
    if main is not None and main in namespace:
        namespace["P"] = namespace[main]


# Arguments


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


def _listed(data: Any, source: Any) -> list[Any]:
    """The names of what is to be read; None stands for a single text."""
    if not isinstance(data, str):
        return list(data) if source is None else _names(data, source)
    if source is not None:
        raise ValueError("source= names a file of a corpus; this context is a single text")
    return [None]


def _sources(data: Any, source: str | None) -> Iterator[tuple[str | None, str]]:
    """Yield (name, text) of what is to be read."""
    return ((name, read(data, name)) for name in _listed(data, source))


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
        raise ValueError(f"no file matches {source!r}{closest(source, names)}")
    if single and len(found) > 1:
        raise ValueError(f"{source!r} means {len(found)} files ({', '.join(found[:5])}): name one")
    return found


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
        data = read(data, _names(data, source, single=True)[0])
    return str((data if isinstance(data, Corpus) else _flat(data))[start:end])
