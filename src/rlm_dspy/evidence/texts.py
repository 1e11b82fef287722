"""The texts that may be quoted: read when they are looked into, one at a time, for a corpus may be a gigabyte."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rlm_dspy.evidence.parts import strings_of


class SupportsItems(Protocol):
    """Several texts by name, such as a corpus."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Yield (name, text)."""


class Text:
    """One text that may be quoted; ``source`` is None for the main one if it is no file."""

    __slots__ = ("_load", "_place", "size", "source", "variable")

    def __init__(
        self,
        variable: str,
        source: str | None,
        load: Callable[[], str],
        size: int,
        place: Callable[[str, int], str | None] | None = None,
    ) -> None:
        self.variable = variable
        self.source = source
        self.size = size
        self._load = load
        self._place = place

    @property
    def text(self) -> str:
        """The text, which is not kept."""
        return self._load()

    def place(self, line: int) -> str | None:
        """Return the page or row of a line, if there is one."""
        return self._place(self.source, line) if self._place is not None and self.source is not None else None


@dataclass(frozen=True)
class Hit:
    """A range of a text."""

    text: Text
    start: int
    end: int

    @property
    def line(self) -> int:
        """The line in which it begins."""
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
                parts.append(Text(variable, path, _constant(text), len(text)))
    single.sort(key=lambda pair: -len(pair[1]))
    named = bool(files or parts)
    files += parts
    for variable, text in single:
        files.append(Text(variable, variable if named else None, _constant(text), len(text)))
        named = True
    return files


def _of_corpus(variable: str, corpus: Any) -> Iterator[Text]:
    place = getattr(corpus, "place", None)
    for file in corpus.sandbox_index()["files"]:
        name = str(file["name"])
        yield Text(variable, name, lambda name=name: str(corpus[name]), file["chars"], place)  # type: ignore[misc]


def _constant(text: str) -> Callable[[], str]:
    return lambda: text


def words_of(quote: str) -> list[str]:
    """Return the distinct words of a quote, the longest first."""
    return sorted(set(re.findall(r"\w+", quote)), key=lambda word: (-len(word), word))


def places(body: str, word: str, most: int) -> Iterator[int]:
    """Yield where a word stands, at most so often."""
    place = body.find(word)
    while place >= 0 and most:
        yield place
        most -= 1
        place = body.find(word, place + len(word))
