"""Documents, and the corpus that holds them.

A corpus may be 100 MB and is passed around as a DSPy input, so it renders as one short line wherever it is printed,
logged, dumped to JSON or put into a prompt. Its text is available only through ``corpus[name]``.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from rlm_dspy.corpus.store import Store, StoredText
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import CorpusError
from rlm_dspy.run import html_table

if TYPE_CHECKING:
    from rlm_dspy.corpus.index import Index

NO_MEMORY = "beyond the memory that is free"
# Reasons that are not reported for files nobody named; all other reasons are reported.
LEFT_OUT = (
    *("hidden", "ignored by", "excluded", "empty", "only white space", "a lock file", "minified", "installed packages"),
    *("a virtual environment", "a symbolic link", "not a regular file", "an image", "a program", "binary"),
)

MAX_FILES_IN_NOTEBOOK = 10
_PIECE_BYTES = 8 << 20

LineMark = tuple[int, str, bool]  # a line, what begins there ("page 3"), and whether lines after it are counted


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus: ``name`` is a POSIX path, ``size`` its stored bytes, ``note`` what was guessed or cut off.

    ``path`` is the file on disk, followed by the path inside it ("/data/all.zip/a.txt"); empty for none.
    """

    name: str
    kind: str
    body: StoredText = field(repr=False)
    size: int
    chars: int
    lines: int
    note: str = ""
    marks: tuple[LineMark, ...] = field(default=(), repr=False)
    path: str = field(default="", repr=False)

    @classmethod
    def of(
        cls,
        name: str,
        text: str | bytes,
        *,
        kind: str = "text",
        size: int | None = None,
        note: str = "",
        marks: Sequence[LineMark] = (),
        store: Store | None = None,
        path: str = "",
    ) -> Document:
        """Make a document from a text (bytes must be ASCII) and count its lines and characters."""
        if isinstance(text, str):
            data = text.encode("utf-8", "surrogatepass")
        else:
            data = text
        lines = data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)
        body = store.add(data) if store is not None else StoredText.of(data)
        stored = len(data) if size is None else size
        return cls(name, kind, body, stored, len(text), lines, note, tuple(marks), path)

    @property
    def text(self) -> str:
        """The text, decoded on each access."""
        return self.body.text()

    def place(self, line: int) -> str | None:
        """Return the page, sheet row, cell or table row that a line belongs to, such as "page 3"."""
        from rlm_dspy.sandbox.toolkit import label  # imports DSPy, which reading does not need

        if self.kind in ("csv", "tsv"):
            return self._row_label(line)
        return label(self.marks, line)

    def _row_label(self, line: int) -> str:
        """Return the table row of a line; a quoted cell may span several lines."""
        if b'"' not in bytes(self.body.view()):
            return f"row {line}"
        table = csv.reader(io.StringIO(self.text, newline=""), delimiter="\t" if self.kind == "tsv" else ",")
        with contextlib.suppress(csv.Error):
            for number, _ in enumerate(table, 1):
                if table.line_num >= line:
                    return f"row {number}"
        return f"row {line}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was found but not read, and why."""

    name: str
    reason: str

    @property
    def missed(self) -> bool:
        """Whether it could have held an answer: it was not empty, excluded or noise."""
        return not self.reason.startswith(LEFT_OUT)

    @property
    def limited(self) -> bool:
        """Whether it exceeded a limit that the user can raise."""
        return " limit of " in self.reason or self.reason.startswith(NO_MEMORY)


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was not read, or not fully, and why; ``given`` means that the user named it."""

    name: str
    reason: str
    given: bool = False
    unread: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {'not read: ' if self.unread else ''}{self.reason}"


class Corpus:
    """An immutable collection of documents, ordered by name; ``corpus[name]`` is a document's text.

    Example:
        >>> corpus = Corpus.from_texts({"b.md": "second", "a.md": "first"})
        >>> corpus, corpus.names, corpus["a.md"]
        (Corpus(2 files, 11 characters), ('a.md', 'b.md'), 'first')
    """

    def __init__(
        self,
        documents: Iterable[Document],
        skipped: Iterable[Skipped] = (),
        *,
        origin: str = "",
        given: Iterable[str] = (),
        roots: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.documents = tuple(sorted(documents, key=lambda document: document.name))
        self.skipped = tuple(skipped)
        self._origin = origin
        self._given = frozenset(given)  # files the user named directly, not by their folder
        self._roots = dict(roots)  # paths of named files and folders, by name prefix
        self._by_name = {document.name: document for document in self.documents}
        if len(self._by_name) < len(self.documents):
            raise CorpusError("two documents of a corpus have the same name: give each its own name")

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Corpus:
        """Make a corpus from texts by name, without files."""
        return cls(Document.of(name, text) for name, text in texts.items())

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Files read only in part or with a guess, and unread files that could have held an answer."""
        problems: list[Problem] = []
        for document in self.documents:
            if document.note:
                problems.append(Problem(document.name, document.note, self._is_given(document.name)))
        for file in self.skipped:
            is_named = self._is_given(file.name)
            if is_named or file.missed:
                problems.append(Problem(file.name, file.reason, is_named, unread=True))
        return tuple(problems)

    def path_of(self, name: str) -> str | None:
        """Return the absolute path of a file that was read or skipped, or None if it has no path."""
        document = self._by_name.get(name)
        if document is not None:
            return document.path or None
        root = max((one for one in self._roots if name.startswith(one)), key=len, default=None)
        if root is None:
            return None
        return self._roots[root] + name[len(root) :]

    def _is_given(self, name: str) -> bool:
        """Return whether the user named a file or the archive it is in."""
        parts = name.split("/")
        return any("/".join(parts[:many]) in self._given for many in range(1, len(parts) + 1))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the documents, in order."""
        return tuple(self._by_name)

    @cached_property
    def chars(self) -> int:
        """The number of characters in all texts."""
        return sum(document.chars for document in self.documents)

    @cached_property
    def lines(self) -> int:
        """The number of lines in all texts."""
        return sum(document.lines for document in self.documents)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and texts: equal for equal content, wherever it is stored."""
        total = hashlib.sha256()
        for document in self.documents:
            for part in (document.name.encode("utf-8", "surrogatepass"), document.body.view()):
                total.update(b"%d:" % len(part))
                total.update(part)
        return total.hexdigest()

    @cached_property
    def texts_digest(self) -> str:
        """SHA-256 over the texts alone: independent of file names, which depend on how the path was typed."""
        total = hashlib.sha256()
        for digest in sorted(document.body.digest() for document in self.documents):
            total.update(digest)
        return total.hexdigest()

    def add(self, more: Corpus) -> Corpus:
        """Return a corpus with the documents of both; on equal names those of ``more`` win.

        Example:
            >>> Corpus.from_texts({"a": "1"}).add(Corpus.from_texts({"b": "2"})).names
            ('a', 'b')
        """
        documents = {document.name: document for document in (*self.documents, *more.documents)}
        skipped = [one for one in dict.fromkeys((*self.skipped, *more.skipped)) if one.name not in documents]
        origin = hashlib.sha256((self.origin + more.origin).encode()).hexdigest()
        return Corpus(documents.values(), skipped, origin=origin)

    @property
    def origin(self) -> str:
        """A digest of the paths read; it stays the same when a file in a folder changes."""
        return self._origin or self.digest

    @cached_property
    def index(self) -> Index:
        """The search index on disk, used if it was built."""
        from rlm_dspy.corpus.index import Index

        return Index(self)

    def search_index(self, query: str, k: int, names: Sequence[str] | None = None) -> list[dict[str, Any]] | None:
        """Rank passages with the index; return None if there is none, and the toolkit searches the texts itself."""
        return self.index.rank(query, k, names)

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield the name and text of each document."""
        return ((document.name, document.text) for document in self.documents)

    def place(self, name: str, line: int) -> str | None:
        """Return the page, sheet row or cell of a line of a document, or None."""
        return self._by_name[name].place(line)

    @cached_property
    def _store(self) -> Store | None:
        """The store that holds all texts, or None if there is no single one."""
        stores = {id(document.body.store) for document in self.documents}
        if len(stores) == 1:
            return self.documents[0].body.store
        return None

    def sandbox_file(self) -> tuple[int, int] | None:
        """Return the descriptor and size of a sealed file with the bytes of ``sandbox_chunks``, or None."""
        if self._store is None:
            return None
        return self._store.descriptor, self._store.size

    def sandbox_index(self) -> dict[str, Any]:
        """Return where each document is in the bytes of ``sandbox_chunks``."""
        files: list[dict[str, Any]] = []
        start = 0
        for document in self.documents:
            body = document.body
            if self._store is not None:
                start = body.start
            stop = start + body.stop - body.start
            entry: dict[str, Any] = {"name": document.name, "kind": document.kind, "start": start, "stop": stop}
            entry |= {"chars": document.chars, "lines": document.lines}
            if document.marks:
                entry["marks"] = document.marks
            files.append(entry)
            start = stop
        return {"files": files}

    def sandbox_chunks(self) -> Iterator[memoryview]:
        """Yield the texts as UTF-8, one after the other."""
        if self._store is None:
            yield from (document.body.view() for document in self.documents)
            return
        for at in range(0, self._store.size, _PIECE_BYTES):
            yield self._store.view(at, min(at + _PIECE_BYTES, self._store.size))

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
        return f"Corpus({counted_noun(len(self), 'file')}, {self.chars:,} characters)"

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: the size, the first files, and how many were not read."""
        rows: list[tuple[str, Any]] = [("corpus", repr(self))]
        rows += [(one.name, counted_noun(one.lines, "line")) for one in self.documents[:MAX_FILES_IN_NOTEBOOK]]
        left = len(self) - MAX_FILES_IN_NOTEBOOK
        rows += [("…", counted_noun(left, "more file"))] if left > 0 else []
        if self.skipped:
            rows += [("skipped", counted_noun(len(self.skipped), "file"))]
        if self.problems:
            rows += [("problems", counted_noun(len(self.problems), "file"))]
        return html_table(rows)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("index", "_store")}

    def __copy__(self) -> Corpus:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Corpus:
        return self

    def toDict(self) -> str:
        """Return the short rendering, which DSPy saves in examples and demos."""
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
