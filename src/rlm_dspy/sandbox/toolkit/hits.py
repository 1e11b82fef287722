"""Search results: a hit, which reads like its line, and the list of all hits, each created on access.

Models treat a hit as a string, a dict, a pair of line and text, or an ``re`` match: all of these work.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .corpus_handle import counted_noun, quoted

SHOWN = 20  # hits shown in a printed list

_FIELDS = ("source", "line", "text", "start", "end", "range", "place", "score")
_PRINTED = 400  # characters of a hit's line in a printed list
_FILES = 8  # files listed with their counts


class _Offset(int):
    """A callable number, because ``re`` has ``match.start()``."""

    def __call__(self) -> int:
        return int(self)


class Hit(str):
    """A search result: its line as a str, its fields as attributes and items; printed with its location."""

    __slots__ = ("_at", "_facts", "_origin")

    _facts: dict[str, Any]
    _origin: Any
    _at: int

    def __new__(cls, text: str, facts: dict[str, Any], origin: Any = None, at: int = 0) -> "Hit":
        """Make a hit from its text and its other fields; ``at`` is the offset of the match in the text."""
        hit = super().__new__(cls, text)
        hit._facts, hit._origin, hit._at = facts, origin, at
        return hit

    @classmethod
    def of(cls, record: dict[str, Any], origin: Any = None) -> "Hit":
        """Make a hit from a record that includes its text."""
        facts = {name: value for name, value in record.items() if name != "text"}
        facts["range"] = (record["start"], record["end"])
        return cls(record["text"], facts, origin)

    def __getattr__(self, name: str) -> Any:
        if name in ("start", "end"):
            return _Offset(self._facts[name])
        if name in _FIELDS:
            return self[name]
        raise AttributeError(f"a hit has no {quoted(name)}; it has {', '.join(self.keys())}, scope and group()")

    def __getitem__(self, key: Any) -> Any:
        """Return a field by name, the line or text by index 0 or 1, or part of the text by a slice."""
        if isinstance(key, slice):
            return self._line_text()[key]
        if isinstance(key, str):
            if key == "text":
                return self._line_text()
            if key in self._facts or key in _FIELDS:
                return self._facts.get(key)
            raise KeyError(f"a hit has {', '.join(self.keys())}, not {quoted(key)}")
        return (self._facts["line"], self._line_text())[key]

    def __iter__(self) -> Iterator[Any]:
        return iter((self._facts["line"], self._line_text()))

    @property
    def scope(self) -> str:
        """The enclosing class and function in a program: "class Shop > def price"."""
        if self._origin is None:
            return ""
        return str(self._origin.scope(self._facts["start"]))

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field, or ``default`` if the hit lacks it."""
        return self.record().get(key, default)

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return [name for name in _FIELDS if name == "text" or name in self._facts]

    def values(self) -> list[Any]:
        """Return the fields."""
        return [self[name] for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Return (name, value) of each field."""
        return [(name, self[name]) for name in self.keys()]

    def record(self) -> dict[str, Any]:
        """Return the fields as a plain dict, the form in which a hit leaves the sandbox."""
        return dict(self.items())

    def group(self, *which: Any) -> Any:
        """Return the pattern's match, or some of its groups."""
        match = self._pattern_match()
        if match is None:
            return self._line_text()
        return match.group(*which)

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        """Return the groups of the pattern."""
        match = self._pattern_match()
        if match is None:
            return ()
        return match.groups(default)

    def groupdict(self) -> dict[str, Any]:
        """Return the named groups of the pattern."""
        match = self._pattern_match()
        if match is None:
            return {}
        return match.groupdict()

    def span(self) -> tuple[int, int]:
        """Return the range."""
        return self._facts["start"], self._facts["end"]

    def _pattern_match(self) -> "re.Match[str] | None":
        if self._origin is None:
            return None
        match: re.Match[str] | None = self._origin.matched(self._facts["start"])
        return match

    def _line_text(self) -> str:
        return str.__str__(self)

    def __str__(self) -> str:
        return self.printed(len(self) + 2)

    def printed(self, most: int) -> str:
        """Return ``source:line: text`` with about ``most`` characters of the text around the match."""
        text = self._line_text()
        if len(text) > most:
            low = max(0, min(self._at - most // 2, len(text) - most))
            after = "…" if low + most < len(text) else ""
            text = ("…" if low else "") + text[low : low + most] + after
        source, line, place = (self._facts.get(name) for name in ("source", "line", "place"))
        if place is None and self._origin is not None:
            place = self._origin.scope(self._facts["start"], printed=True)
        where = str(line) if source is None else f"{source}:{line}"
        if place:
            return f"{where} ({place}): {text}"
        return f"{where}: {text}"

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __reduce__(self) -> Any:
        return Hit, (self._line_text(), self._facts, None, self._at)


class Matches(list[Hit]):
    """All hits of a search as a list; printing shows the first 20, ``counts`` has the number per file.

    Hits are created on access from ``store`` and the indexes in ``order``; modifying the list creates all of them.
    """

    def __init__(self, hits: Iterable[Hit] = (), store: Any = None, order: range = range(0)) -> None:
        super().__init__(hits)
        self._store = store
        self._order = order

    @property
    def counts(self) -> dict[str, int]:
        """The number of matches per file, including those beyond ``max_matches``."""
        if self._store is not None and len(self._order) == len(self._store):
            known: dict[str, int] = self._store.counts
            return known
        counted: dict[str, int] = {}
        for hit in self:
            counted[hit.source or ""] = counted.get(hit.source or "", 0) + 1
        return counted

    @property
    def complete(self) -> bool:
        """Whether all matches were counted."""
        return self._store is None or len(self._order) < len(self._store) or bool(self._store.complete)

    @property
    def total(self) -> int:
        """The number of matches counted, in this list or not."""
        return sum(self.counts.values())

    @property
    def cut(self) -> str:
        """A note on the matches missing from the list, or an empty string."""
        whole = self.complete and self.total <= len(self)
        if whole:
            return ""
        return self._count_note(len(self), "raise max_matches or narrow by source=")

    def _count_note(self, shown: int, advice: str) -> str:
        if self._store is not None and self._store.full:
            end = f"the list ends at {len(self._store):,}, the most that one grep finds"
            advice = f"{end}: narrow the pattern or source="
        elif not self.complete and self.total <= len(self):
            return f"{shown:,} {'match' if shown == 1 else 'matches'} shown; raise max_matches to see if there are more"
        note = f"{shown:,} of {'' if self.complete else 'at least '}{self.total:,} matches shown"
        named = sorted(((name, count) for name, count in self.counts.items() if name), key=lambda item: -item[1])
        if named:
            if len(named) > _FILES:
                rest = f", {counted_noun(len(named) - _FILES, 'more file')}"
            else:
                rest = ""
            note += f"; by file: {', '.join(f'{name} {count:,}' for name, count in named[:_FILES])}{rest}"
        return f"{note}; {advice}"

    def __repr__(self) -> str:
        if not self:
            return "[]"
        hits = self[:SHOWN]
        lines = []
        for hit in hits:
            room = len(hit) if "\n" in hit[:] else _PRINTED
            lines.append(hit.printed(room))
        apart = "\n--\n" if any("\n" in line for line in lines) else "\n"
        note = ""
        if self.cut or len(self) > SHOWN:
            if self.cut:
                advice = "raise max_matches"
            else:
                advice = "all are in the list: loop over it,"
            note = f"\n[{self._count_note(len(hits), f'{advice} or narrow by source=')}]"
        return apart.join(_lines_with_counts(lines)) + note

    # Reading, which creates only the hits that are read

    def __len__(self) -> int:
        if self._store is None:
            return super().__len__()
        return len(self._order)

    def __iter__(self) -> Iterator[Hit]:
        if self._store is None:
            return super().__iter__()
        return map(self._store.make_hit, self._order)

    def __reversed__(self) -> Iterator[Hit]:
        if self._store is None:
            return super().__reversed__()
        return map(self._store.make_hit, reversed(self._order))

    def __getitem__(self, key: Any) -> Any:
        if self._store is None:
            part = super().__getitem__(key)
            if isinstance(key, slice):
                return Matches(part)
            return part
        if isinstance(key, slice):
            return Matches(store=self._store, order=self._order[key])
        try:
            return self._store.make_hit(self._order[key])
        except IndexError:
            raise IndexError(f"there is no hit {key}: {len(self):,} were found") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __contains__(self, item: object) -> bool:
        return any(item == hit for hit in self)

    def __add__(self, other: Any) -> Any:
        return Matches([*self, *other])

    def __radd__(self, other: Any) -> Any:
        return Matches([*other, *self])

    def copy(self) -> "Matches":
        """Return a list of the same hits."""
        hits: Matches = self[:]
        return hits

    def __reduce__(self) -> Any:
        return Matches, (list(self),)


def _lines_with_counts(lines: list[str]) -> Iterator[str]:
    """Yield lines, with consecutive repeats joined and counted."""
    for line, same in itertools.groupby(lines):
        often = len(list(same))
        yield line if often == 1 else f"{line} (×{often})"


def _changing_method(name: str) -> Callable[..., Any]:
    """Return a ``list`` method that creates all hits first."""
    method = getattr(list, name)

    def changed(self: Matches, *arguments: Any, **keywords: Any) -> Any:
        if self._store is not None:
            hits = list(self)
            self._store = None
            list.extend(self, hits)
        return method(self, *arguments, **keywords)

    changed.__name__ = name
    return changed


for _name in ("append", "clear", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"):
    setattr(Matches, _name, _changing_method(_name))
for _name in ("__delitem__", "__iadd__", "__imul__", "__mul__", "__rmul__", "__setitem__"):
    setattr(Matches, _name, _changing_method(_name))
