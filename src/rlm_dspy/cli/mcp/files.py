"""The tools that need no model: list, read, search and outline files, and look at tables."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from rlm_dspy.corpus import Corpus
from rlm_dspy.corpus.corpus import Document
from rlm_dspy.counting import counted_noun
from rlm_dspy.daemon_threads import daemon_future
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.rlm.passages import best_passages
from rlm_dspy.sandbox.toolkit.corpus_handle import spelling_hint
from rlm_dspy.sandbox.toolkit.cutting import outline_text
from rlm_dspy.sandbox.toolkit.delimited import TABLES, WORKBOOKS, sheet_rows, table_rows

MAX_CHARS = 20_000  # characters of text in a result, which with its frame stays below 25,000
MAX_CELL_CHARS = 500  # characters of a cell of a table; a wide table gets fewer
MIN_CELL_CHARS = 10
MAX_PATTERN_CHARS = 200  # of a glob, whose cost grows with the square of its length
_LINES = re.compile(r"(\d{1,12})(?:\s*[-:–]\s*(\d{1,12}))?")

Item = TypeVar("Item")


class FileRow(BaseModel):
    """A file that can be read."""

    path: str
    kind: str
    lines: int
    characters: int
    note: str = Field(default="", description="what was not read of it, or guessed")


class FileList(BaseModel):
    """Files, and how many there are."""

    files: list[FileRow]
    total: int = Field(description="files that match, of which `files` may be a part")
    skipped: int = Field(description="files below the roots that were not read")
    next_offset: int | None = Field(default=None, description="where to go on, if there are more")


class FoundPassage(BaseModel):
    """A passage that matches a query."""

    path: str
    line: int
    text: str
    score: float


class FoundPassages(BaseModel):
    """The best passages, best first."""

    passages: list[FoundPassage]
    note: str = ""


class Excerpt(BaseModel):
    """Lines of a file."""

    path: str
    first_line: int
    last_line: int
    total_lines: int
    text: str
    place: str | None = Field(default=None, description="page, sheet or row of the first line, in a converted file")
    next_line: int | None = Field(default=None, description="where to go on, if there is more")


class Outline(BaseModel):
    """Headings and top-level definitions, each with its line."""

    text: str
    note: str = ""


class Table(BaseModel):
    """Rows of a table, as texts by column."""

    path: str
    columns: list[str]
    total_columns: int
    rows: list[dict[str, str]]
    total_rows: int = Field(description="rows that match, of which `rows` may be a part")
    next_offset: int | None = Field(default=None, description="where to go on, if there are more")
    note: str = ""


class FileTools:
    """Looks at the files below fixed roots; no path reaches beyond them.

    Args:
        read: reads the files; it runs in a thread, and the first call of a tool waits for it.
        redactor: masks secrets before a text is cut, so that no part of one remains.
    """

    def __init__(self, read: Callable[[], Corpus], redactor: Redactor | None = None) -> None:
        self._redactor = redactor or Redactor()
        self._corpus = daemon_future(read)

    @property
    def corpus(self) -> Corpus:
        """The files, once they are read."""
        return self._corpus.result()

    def list_files(self, pattern: str, limit: int, offset: int) -> FileList:
        """Return the files whose path matches the pattern as a glob, or contains it."""
        if len(pattern) > MAX_PATTERN_CHARS:
            raise RLMError(f"the pattern has more than {MAX_PATTERN_CHARS} characters")
        documents = [one for one in self.corpus.documents if _matches_path(one.name, pattern)]
        rows: list[FileRow] = []
        for one in _fitting_items(documents[offset : offset + limit], lambda one: len(one.name) + len(one.note) + 80):
            rows.append(FileRow(path=one.name, kind=one.kind, lines=one.lines, characters=one.chars, note=one.note))
        end = offset + len(rows)
        return FileList(
            files=rows,
            total=len(documents),
            skipped=len(self.corpus.skipped),
            next_offset=end if end < len(documents) and rows else None,
        )

    def search_files(self, query: str, path: str, limit: int) -> FoundPassages:
        """Return the passages that match the words of a query best."""
        if not query.strip():
            raise RLMError("the query is empty: give words to look for")
        corpus = self._part(path)
        passages: list[FoundPassage] = []
        room = MAX_CHARS
        for one in best_passages(corpus, query, limit):
            room -= _json_size(one["text"]) + _json_size(one["source"]) + 60
            if room < 0:
                return FoundPassages(
                    passages=passages, note="more passages did not fit; ask for fewer, or narrow by path"
                )
            passages.append(
                FoundPassage(path=one["source"], line=one["line"], text=one["text"], score=round(one["score"], 2))
            )
        return FoundPassages(passages=passages, note="" if passages else "no passage has any of these words")

    def read_lines(self, path: str, lines: str) -> Excerpt:
        """Return lines of a file, as many as fit."""
        document = self.document(path)
        whole = self._redactor.text(document.text).split("\n")
        total = document.lines
        first, last = _line_range(lines, total)
        shown = list(_fitting_items(whole[first - 1 : last], lambda line: _json_size(line) + 2))
        if not shown and first <= total:  # one line is longer than a result
            line = whole[first - 1]
            shown = [f"{line[: MAX_CHARS * len(line) // _json_size(line)]}… ({len(line):,} characters)"]
        end = first + len(shown) - 1
        return Excerpt(
            path=document.name,
            first_line=first,
            last_line=end,
            total_lines=total,
            text="\n".join(shown),
            place=self.corpus.place(document.name, first),
            next_line=end + 1 if end < total else None,
        )

    def outline_files(self, path: str) -> Outline:
        """Return the outline of a file, or of the files below a folder."""
        corpus = self._part(path)
        text = outline_text(corpus, list(corpus.names))
        if (size := _json_size(text)) <= MAX_CHARS:
            return Outline(text=text)
        return Outline(
            text=text[: MAX_CHARS * len(text) // size], note=f"cut from {len(text):,} characters; narrow by path"
        )

    def table_rows(self, path: str, columns: Sequence[str], where: Mapping[str, str], limit: int, offset: int) -> Table:
        """Return rows of a table: those whose columns have the texts of ``where``."""
        document = self.document(path)
        every = rows_of(document)
        names = list(dict.fromkeys(name for row in every for name in row))
        if unknown := [name for name in (*columns, *where) if name not in names]:
            raise RLMError(f"{document.name} has no column {unknown[0][:200]!r}{spelling_hint(unknown[0], names)}")
        matching = [row for row in every if _has_texts(row, where)]
        shown = fitting_names(names)
        kept = fitting_names(list(dict.fromkeys(columns)) or names)
        if left_out := [name for name in dict.fromkeys(columns) if name not in kept]:
            raise RLMError(f"{counted_noun(len(left_out), 'of these column')} too many for one result: ask for fewer")
        note = ""
        if len(shown) < len(names):
            note = f"{len(shown)} of {len(names):,} columns fit here; name those that you need in `columns`"
        rows: list[dict[str, str]] = []
        room = MAX_CHARS - MAX_CHARS // 5
        most = max(MIN_CELL_CHARS, min(MAX_CELL_CHARS, room // (4 * max(1, len(kept)))))
        for row in matching[offset : offset + limit]:
            cells = {name: _cut_cell(self._redactor.text(row.get(name, "")), most) for name in kept}
            room -= sum(_json_size(name) + _json_size(cell) + 6 for name, cell in cells.items()) + 4
            if room < 0 and rows:
                break
            rows.append(cells)
        end = offset + len(rows)
        return Table(
            path=document.name,
            columns=shown,
            rows=rows,
            total_columns=len(names),
            total_rows=len(matching),
            note=note,
            next_offset=end if end < len(matching) and rows else None,
        )

    def document(self, path: str) -> Document:
        """Return the file of a path: its name here, or its absolute path.

        Raises:
            RLMError: no file that was read has this path.
        """
        corpus = self.corpus
        wanted = path.removeprefix("./")
        for one in corpus.documents:
            if wanted in (one.name, one.path):
                return one
        raise RLMError(
            f"there is no file {path[:200]!r} among those read{spelling_hint(wanted, corpus.names)}; ls lists them"
        )

    def _part(self, path: str) -> Corpus:
        """Return the files that are, or are below, a path; all if it is empty."""
        corpus, wanted = self.corpus, path.removeprefix("./").rstrip("/")
        if wanted in ("", "."):
            return corpus
        texts = {one.name: one.text for one in corpus.documents if f"{one.name}/".startswith(f"{wanted}/")}
        if not texts:
            document = self.document(path)
            texts = {document.name: document.text}
        return Corpus.from_texts(texts)


def rows_of(document: Document) -> list[dict[str, str]]:
    """Return the records of a table, a workbook or a JSON file, with texts as values.

    Raises:
        RLMError: the file holds no table.
    """
    kind, ending = document.kind, document.name.rpartition(".")[2].lower()
    if kind in TABLES or ending in TABLES:
        return table_rows(document.text, kind if kind in TABLES else ending)
    if kind in WORKBOOKS:
        return sheet_rows(document.text, document.marks)
    try:
        if ending in ("jsonl", "ndjson"):
            values = [json.loads(line) for line in document.text.split("\n") if line.strip()]
        elif ending == "json":
            whole = json.loads(document.text)
            values = whole if isinstance(whole, list) else [whole]
        else:
            raise RLMError(f"{document.name} is not a table: CSV, TSV, JSON, JSONL and workbooks are")
    except (ValueError, RecursionError) as error:
        raise RLMError(f"{document.name} is not valid JSON: {error}") from error
    return [_text_row(value) for value in values]


def _text_row(value: Any) -> dict[str, str]:
    row = value if isinstance(value, dict) else {"value": value}
    texts = {}
    for name, cell in row.items():
        texts[str(name)] = cell if isinstance(cell, str) else json.dumps(cell)
    return texts


def _has_texts(row: Mapping[str, str], where: Mapping[str, str]) -> bool:
    """Return whether each column named in ``where`` contains its text, in any case."""
    return all(text.lower() in row.get(name, "").lower() for name, text in where.items())


def _matches_path(name: str, pattern: str) -> bool:
    return not pattern or pattern in name or fnmatch.fnmatch(name, pattern)


def _line_range(lines: str, total: int) -> tuple[int, int]:
    """Return the first and last line that a text such as "40", "40-80" or "" names."""
    if not lines.strip():
        return 1, total
    match = _LINES.fullmatch(lines.strip())
    if match is None:
        raise RLMError(f"lines {lines[:40]!r} is not a range: write it like 40-80")
    first = max(1, int(match[1]))
    last = int(match[2]) if match[2] else first
    if first > max(total, 1) or last < first:
        raise RLMError(f"lines {lines!r}: the file has {counted_noun(total, 'line')}")
    return first, min(last, total)


def _cut_cell(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}…"


def _json_size(text: str) -> int:
    """Return the characters that a text takes in JSON, in which some take six."""
    if text:
        return len(json.dumps(text, ensure_ascii=False)) - 2
    return 0


def fitting_names(names: Sequence[str]) -> list[str]:
    """Return the first names that fit into a fifth of the characters of an answer."""
    return list(_fitting_items(names, lambda name: _json_size(name) + 4, MAX_CHARS // 5))


def _fitting_items(items: Iterable[Item], size_of: Callable[[Item], int], room: int = MAX_CHARS) -> Iterator[Item]:
    """Yield the first items that fit into a number of characters."""
    for item in items:
        room -= size_of(item)
        if room < 0:
            return
        yield item
