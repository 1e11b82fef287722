"""Tables of SQLite, Parquet, Arrow and Feather files as text: tab-separated rows below a header.

All but those of SQLite need pyarrow.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from .pieces import MOST_CHARS, CutError, Notes, Piece, RefusedError

MOST_CELLS = 20_000_000  # of a table
_MOST_BLOB = 40  # bytes shown of a binary value
_AT_ONCE = 1_000  # rows


def sqlite_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield each table below a header, so that line numbers give row numbers; skip views and indexes."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        names = _load_table_names(database, data)
        if not names:
            raise RefusedError("a database without tables")
        if data[18:20] == b"\x02\x02":
            notes.append("its newest rows may be in a -wal file beside it, which is not read")
        cells = CellTexts()
        for name in names:
            yield f"=== {' '.join(name.split())} ===", f"table {name}", False
            yield from _row_pieces(database, name, notes, cells)
        cells.add_note(notes)


def _load_table_names(database: sqlite3.Connection, data: bytes) -> list[str]:
    """Open a file in memory, read-only, and return the names of its tables."""
    try:
        database.deserialize(_without_log(data))
        database.text_factory = lambda text: text.decode("utf-8", "replace")
        database.execute("pragma query_only = on")
        database.execute("pragma trusted_schema = off")
        rows = database.execute(
            "select name from sqlite_master where type = 'table' and name not like 'sqlite\\_%' escape '\\' "
            "and sql not like 'create virtual%' order by rowid"
        )
        return [str(name) for (name,) in rows]
    except sqlite3.Error as error:
        raise RefusedError(f"a broken or encrypted database: {error}") from None


def _without_log(data: bytes) -> bytes:
    """Return a WAL-mode database marked as having no WAL, which an in-memory database cannot have."""
    if data[18:20] == b"\x02\x02":
        return data[:18] + b"\x01\x01" + data[20:]
    return data


def _row_pieces(database: sqlite3.Connection, name: str, notes: Notes, cells: CellTexts) -> Iterator[Piece]:
    try:
        cursor = database.execute(f"select * from {_quoted_name(name)}")
        header = cells.line(column[0] for column in cursor.description)
        yield header, "", False
        left, size, number = MOST_CELLS, 0, 0
        while rows := cursor.fetchmany(_AT_ONCE):
            text = "\n".join(map(cells.line, rows))
            size += len(text)
            left -= len(header.split("\t")) * len(rows)
            yield text, f"table {name} row" if not number else "", not number
            number += len(rows)
            if size > MOST_CHARS or left < 0:
                cells.add_note(notes)
                raise CutError(f"cut after row {number:,} of table {name}: it has too many cells")
    except sqlite3.Error as error:
        notes.append(f"the rest of table {name} cannot be read: {error}")


class CellTexts:
    """Writes values as cells of a line, and counts the binary ones that it shows in part."""

    def __init__(self) -> None:
        self.cut = 0

    def line(self, values: Iterable[object]) -> str:
        """Return the values of a row as one line."""
        return "\t".join(map(self.text, values))

    def text(self, value: object) -> str:
        """Return a value as one cell; bytes that are a text as such, others as digits."""
        if value is None:
            return ""
        if isinstance(value, bytes):
            return _text_in(value) or self._digits(value)
        return " ".join(str(value).split())

    def _digits(self, value: bytes) -> str:
        if len(value) <= _MOST_BLOB:
            return f"x'{value.hex()}'"
        self.cut += 1
        return f"x'{value[:_MOST_BLOB].hex()}…'"

    def add_note(self, notes: Notes) -> None:
        """Note the binary values that were cut."""
        if self.cut:
            count = "a binary value is" if self.cut == 1 else f"{self.cut:,} binary values are"
            notes.append(f"{count} shown only to {_MOST_BLOB} bytes")


def _text_in(value: bytes) -> str:
    """Return the text that bytes hold, on one line, or "" if they hold none."""
    try:
        text = " ".join(value.decode("utf-8").split())
    except UnicodeDecodeError:
        return ""
    if text.isprintable():
        return text
    return ""


def _quoted_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def parquet_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
    yield from _batch_pieces(file.schema_arrow.names, file.iter_batches(batch_size=_AT_ONCE, use_threads=False), notes)


def arrow_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the rows of an Arrow file or stream, or of a Feather file."""
    import pyarrow
    import pyarrow.feather
    import pyarrow.ipc

    source = pyarrow.BufferReader(data)
    batches: Iterable[Any]
    if data.startswith(b"ARROW1"):
        file = pyarrow.ipc.open_file(source)
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    elif data.startswith(b"FEA1"):
        file = pyarrow.feather.read_table(source, use_threads=False)
        batches = file.to_batches()
    else:
        file = pyarrow.ipc.open_stream(source)
        batches = file
    yield from _batch_pieces(file.schema.names, batches, notes)


def _batch_pieces(names: list[str], batches: Iterable[Any], notes: Notes) -> Iterator[Piece]:
    cells = CellTexts()
    yield "=== table ===", "table", False
    yield cells.line(names), "", False
    rows = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _AT_ONCE):
            part = batch.slice(start, _AT_ONCE)
            columns = [_column_values(column) for column in part.columns]
            lines = map(cells.line, zip(*columns, strict=True))
            yield "\n".join(lines), "row" if not rows else "", not rows
            rows += part.num_rows
            if rows * len(names) > MOST_CELLS:
                cells.add_note(notes)
                raise CutError(f"cut after row {rows:,}: it has too many cells")
    cells.add_note(notes)


def _column_values(column: Any) -> list[Any]:
    """Return the values of a column; dates and times as text, because Python's have no nanoseconds."""
    import pyarrow

    if pyarrow.types.is_temporal(column.type):
        column = column.cast(pyarrow.string())
    values: list[Any] = column.to_pylist()
    return values
