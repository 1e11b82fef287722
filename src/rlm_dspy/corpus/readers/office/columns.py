"""Parquet, Arrow and Feather files as text: tab-separated rows below a header. They need pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .database import MOST_CELLS, cell_text
from .pieces import CutError, Notes, Piece

_AT_ONCE = 1_000  # rows


def parquet_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
    yield from _row_pieces(file.schema_arrow.names, file.iter_batches(batch_size=_AT_ONCE, use_threads=False))


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
    yield from _row_pieces(file.schema.names, batches)


def _row_pieces(names: list[str], batches: Iterable[Any]) -> Iterator[Piece]:
    yield "=== table ===", "", False
    yield "\t".join(map(cell_text, names)), "", False
    rows = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _AT_ONCE):
            part = batch.slice(start, _AT_ONCE)
            columns = [_column_values(column) for column in part.columns]
            lines = ["\t".join(map(cell_text, row)) for row in zip(*columns, strict=True)]
            yield "\n".join(lines), "row" if not rows else "", not rows
            rows += part.num_rows
            if rows * len(names) > MOST_CELLS:
                raise CutError(f"cut after row {rows:,}: it has too many cells")


def _column_values(column: Any) -> list[Any]:
    """Return the values of a column; dates and times as text, because Python's have no nanoseconds."""
    import pyarrow

    if pyarrow.types.is_temporal(column.type):
        column = column.cast(pyarrow.string())
    values: list[Any] = column.to_pylist()
    return values
