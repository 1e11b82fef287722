"""What a reader hands over: documents, and the corpus that holds them.

A corpus may be 100 MB, and it travels as a DSPy input: its rendering is one short line wherever it is printed,
logged, dumped to JSON or put into a prompt, so that its text never leaves except through ``corpus[name]``.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from rlm_dspy.errors import CorpusError


@dataclass(frozen=True)
class Document:
    """One text of a corpus: ``name`` is a POSIX path, ``size`` its stored bytes, ``note`` what was mended."""

    name: str
    kind: str
    text: str = field(repr=False)
    size: int
    lines: int
    note: str = ""

    @classmethod
    def of(cls, name: str, text: str, *, kind: str = "text", size: int | None = None, note: str = "") -> Document:
        """Make a document of a text, counting what there is to count."""
        stored = len(text.encode("utf-8", "surrogatepass")) if size is None else size
        lines = text.count("\n") + (1 if text and not text.endswith("\n") else 0)
        return cls(name=name, kind=kind, text=text, size=stored, lines=lines, note=note)


@dataclass(frozen=True)
class Skipped:
    """Something that was met and not read, and why."""

    name: str
    reason: str


class Corpus:
    """Documents in the order of their names, immutable, with the text of each behind ``corpus[name]``.

    Example:
        >>> corpus = Corpus.from_texts({"b.md": "second", "a.md": "first"})
        >>> corpus, corpus.names, corpus["a.md"]
        (Corpus(2 files, 11 characters), ('a.md', 'b.md'), 'first')
    """

    def __init__(self, documents: Iterable[Document], skipped: Iterable[Skipped] = ()) -> None:
        self.documents = tuple(sorted(documents, key=lambda document: document.name))
        self.skipped = tuple(skipped)
        self._by_name = {document.name: document for document in self.documents}
        if len(self._by_name) < len(self.documents):
            raise CorpusError("two documents of a corpus have the same name: give each its own")

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Corpus:
        """Make a corpus of texts by name, with no files behind it."""
        return cls(Document.of(name, text) for name, text in texts.items())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the documents, in order."""
        return tuple(self._by_name)

    @cached_property
    def chars(self) -> int:
        """The characters of all texts together."""
        return sum(len(document.text) for document in self.documents)

    @cached_property
    def lines(self) -> int:
        """The lines of all texts together."""
        return sum(document.lines for document in self.documents)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and texts: equal for equal content, wherever it lies."""
        total = hashlib.sha256()
        for document in self.documents:
            for part in (document.name, document.text):
                data = part.encode("utf-8", "surrogatepass")
                total.update(b"%d:" % len(data))
                total.update(data)
        return total.hexdigest()

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield the name and text of each document."""
        return ((document.name, document.text) for document in self.documents)

    def sandbox_index(self) -> dict[str, Any]:
        """Tell where each document lies in the bytes of ``sandbox_chunks``."""
        files, start = [], 0
        for document in self.documents:
            text = document.text
            stop = start + (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))
            place = {"name": document.name, "kind": document.kind, "start": start, "stop": stop}
            files.append(place | {"chars": len(text), "lines": document.lines})
            start = stop
        return {"files": files}

    def sandbox_chunks(self) -> Iterator[bytes]:
        """Yield the texts as UTF-8, one after the other."""
        return (document.text.encode("utf-8", "surrogatepass") for document in self.documents)

    def __getitem__(self, name: str) -> str:
        if name in self._by_name:
            return self._by_name[name].text
        near = difflib.get_close_matches(str(name), self.names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise KeyError(f"no document {name!r} in the corpus{hint}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.documents)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Corpus):
            return NotImplemented
        return self is other or self.documents == other.documents

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"Corpus({len(self):,} file{plural}, {self.chars:,} characters)"

    def __copy__(self) -> Corpus:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Corpus:
        return self

    def toDict(self) -> str:
        """Stand for this corpus where DSPy saves examples and demos: as the short rendering."""
        return repr(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # A corpus is validated by its type alone and serialised as its short rendering, never as its text.
        return core_schema.is_instance_schema(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(
                repr, return_schema=core_schema.str_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"type": "string", "description": "a corpus: many documents, read by name"}
