"""The corpus handle: many files over one buffer of bytes, decoded when they are read."""

import bisect
import collections
import json
from collections.abc import Iterable, Iterator
from typing import Any

from .delimited import TABLES, WORKBOOKS, sheet_rows, table_rows

FileInfo = collections.namedtuple("FileInfo", "name kind size lines")  # size counts characters

_CACHED = 64_000_000  # bytes of decoded files that a corpus caches
_QUOTED = 80  # characters of an argument that an error quotes


class CorpusTexts:
    """Many files as one value: ``corpus[name]`` is a text, ``corpus.files`` lists names and sizes."""

    def __init__(self, buffer: Any, index: dict[str, Any]) -> None:
        self._buffer = buffer
        entries = index["files"]
        self._spans = {entry["name"]: (entry["start"], entry["stop"]) for entry in entries}
        self._marks = {entry["name"]: entry["marks"] for entry in entries if entry.get("marks")}
        self.files = [FileInfo(e["name"], e["kind"], e["chars"], e["lines"]) for e in entries]
        self._numbers = {info.name: number for number, info in enumerate(self.files)}
        self._starts = [0]
        for info in self.files:
            self._starts.append(self._starts[-1] + info.size)
        self._cache: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._cached = 0

    @classmethod
    def from_texts(cls, texts: dict[str, str]) -> "CorpusTexts":
        """Make a corpus from texts by name."""
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
        """The number of characters in all files."""
        return self._starts[-1]

    def info(self, name: str) -> FileInfo:
        """Return the facts about one file: name, kind, size in characters, lines."""
        return self.files[self._numbers[self._checked_name(name)]]

    def raw(self, name: str) -> Any:
        """Return the UTF-8 bytes of one file without a copy."""
        start, stop = self._spans[self._checked_name(name)]
        return memoryview(self._buffer)[start:stop]

    def place(self, name: str, line: int) -> str | None:
        """Return the page, sheet row or cell of a line in a converted file, such as "page 3"."""
        return label(self._marks.get(name, ()), line)

    def rows(self, name: str) -> list[Any]:
        """Return the records of a CSV, TSV, JSON or JSONL file or of a workbook; table rows are dicts by header."""
        text, kind = self[name], self.info(name).kind
        ending = name.rpartition(".")[2].lower()
        if kind in TABLES or ending in TABLES:
            return table_rows(text, kind if kind in TABLES else ending)
        if kind in WORKBOOKS:
            return sheet_rows(text, self._marks.get(name, ()))
        if "jsonl" in (kind, ending) or ending == "ndjson":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        if "json" in (kind, ending):
            value = json.loads(text)
            if isinstance(value, list):
                return value
            return [value]
        raise ValueError(f"{name!r} has no rows: it is not a CSV, TSV, JSON or JSONL file or a workbook")

    def slice(self, start: int, end: int) -> Iterator[tuple[str, str]]:
        """Yield (name, part) for the files between two offsets in the whole corpus."""
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
        if isinstance(name, FileInfo):  # one of `files`
            name = name.name
        if isinstance(name, slice):
            start, end, _ = name.indices(self.chars)
            return "".join(part for _, part in self.slice(start, end))
        if not isinstance(name, str):
            raise KeyError(f"a corpus is indexed by file name, such as {quoted(self._some_name())}, not {quoted(name)}")
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        return self._cache_text(name, str(self.raw(name), "utf-8", "surrogatepass"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self.files)

    def __contains__(self, name: object) -> bool:
        return name in self._spans

    def __repr__(self) -> str:
        return f"Corpus({counted_noun(len(self), 'file')}, {self.chars:,} characters)"

    def _checked_name(self, name: str) -> str:
        if name not in self._spans:
            raise KeyError(f"no file {quoted(name)} in the corpus{spelling_hint(name, self._spans)}")
        return name

    def _some_name(self) -> str:
        return next(iter(self._spans), "README.md")

    def _cache_text(self, name: str, text: str) -> str:
        self._cache[name] = text
        self._cached += text.__sizeof__()
        while self._cached > _CACHED and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].__sizeof__()
        return text


def count_lines(text: str) -> int:
    """Count lines, including a last line without a line end."""
    return text.count("\n") + (1 if text and not text.endswith("\n") else 0)


def label(marks: Any, line: int) -> str | None:
    """Return the label of the last mark at or before a line; a counted one increments: "row 1", "row 2", …"""
    at = bisect.bisect_right(marks, line, key=lambda mark: mark[0]) - 1
    if at < 0:
        return None
    first, text, counted = marks[at]
    if counted:
        return f"{text} {line - first + 1}"
    return str(text)


def counted_noun(number: int, noun: str) -> str:
    """Return ``1 file``, ``2,345 files``, as ``rlm_dspy.counting`` does in the host."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def quoted(value: Any) -> str:
    """Return the repr of an argument for an error, cut to 80 characters."""
    if isinstance(value, (str, bytes)):
        shown = repr(value[: _QUOTED + 1])
    elif isinstance(value, (list, tuple, dict, set)) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value):,}"
    else:
        shown = repr(value)
    if len(shown) <= _QUOTED:
        return shown
    return shown[: _QUOTED - 1] + "…"


def spelling_hint(name: str, names: Iterable[str]) -> str:
    """Return a hint with the names that were probably meant, or an empty string."""
    import difflib  # needed only for misspelt names

    near = difflib.get_close_matches(name[:1000], list(names)[:5000], n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return ""
