"""Previews of arrays and tables for the model: shape, columns, first rows, and type in the REPL."""

from __future__ import annotations

from typing import Any

from rlm_dspy.counting import counted_noun

from .worker import tables

ROWS, COLUMNS, VALUES = 5, 50, 20


def is_array_or_table(value: Any) -> bool:
    """Return whether ``value`` is a numpy array or a pandas table."""
    return bool(tables.plain_kind(value) and getattr(value, "shape", ()))


def extent_text(value: Any) -> str:
    """Return the size of an array or table, and its type in the REPL."""
    if tables.plain_kind(value) == "DataFrame":
        rows, columns = value.shape
        here = "a DataFrame where pandas can be imported, else a list of dicts, one a row"
        return f"{counted_noun(rows, 'row')}, {counted_noun(columns, 'column')}; {here}"
    here = "here a list" if value.ndim == 1 else "here nested lists"
    unless = ", unless numpy can be imported" if tables.plain_kind(value) == "ndarray" else ""
    return f"shape {tuple(value.shape)}, {value.dtype}; {here}{unless}"


def first_rows(value: Any) -> str:
    """Return the column types and first rows of a table, or the first values of an array."""
    if tables.plain_kind(value) != "DataFrame":
        return "\n".join(map(repr, tables.plain_data(value[:VALUES])))
    kinds = [f"{name}: {kind}" for name, kind in zip(value.columns, value.dtypes, strict=True)]
    more = [f"… {counted_noun(len(kinds) - COLUMNS, 'more column')}"] if len(kinds) > COLUMNS else []
    rows = tables.plain_data(value.iloc[:ROWS, :COLUMNS])
    return "\n".join([", ".join(kinds[:COLUMNS] + more), *map(repr, rows)])
