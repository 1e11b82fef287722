"""Convert numpy arrays and pandas tables to plain data and back, without importing either library.

A DataFrame becomes a list of dicts, one per row (a meaningful index becomes the first columns); a Series a list, an
array nested lists, a scalar a Python value. Missing values in a table (NaN, NaT, NA) become None; NaN in an array
stays. Times keep microseconds. Both ends use this: the host for inputs, the worker for submitted values.
"""

from __future__ import annotations

import sys
from typing import Any

OTHER = object()
_FINER = ("[ns]", "[ps]", "[fs]", "[as]")  # finer than Python's times


def plain_data(value: Any) -> Any:
    """Return a numpy or pandas value as plain data, ``OTHER`` for anything else.

    Raises:
        TypeError: Columns of the table share a name.
    """
    library = type(value).__module__.partition(".")[0]
    if library == "numpy" and hasattr(value, "tolist"):
        return _from_numpy(value)
    if library == "pandas":
        return _from_pandas(value)
    return OTHER


def _from_numpy(value: Any) -> Any:
    if value.dtype.str.endswith(_FINER):
        value = value.astype(value.dtype.str.rpartition("[")[0] + "[us]")
    plain = value.tolist()
    if type(plain) is type(value):  # a number wider than Python's
        if value.dtype.kind == "c":
            return complex(value)
        return float(value)
    return plain


def _from_pandas(value: Any) -> Any:
    kind = type(value).__name__
    if kind == "DataFrame":
        labels, columns = _labels_and_columns(value)
        return [dict(zip(labels, row, strict=True)) for row in zip(*columns, strict=True)]
    if kind in ("NaTType", "NAType"):
        return None
    if kind == "Timestamp":
        return value.to_pydatetime(warn=False)
    if kind == "Timedelta":
        return value.to_pytimedelta()
    if hasattr(value, "tolist"):
        return _plain_column(value)
    return OTHER


def _labels_and_columns(frame: Any) -> tuple[list[Any], list[list[Any]]]:
    if not frame.columns.is_unique:
        raise TypeError("a table whose columns share a name cannot cross the sandbox's border; rename them")
    if _has_own_index(frame):
        frame = frame.reset_index()
    return frame.columns.tolist(), [_plain_column(frame.iloc[:, at]) for at in range(frame.shape[1])]


def _has_own_index(frame: Any) -> bool:
    """Return whether a table's index is more than row numbers."""
    index = frame.index
    counts = type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1
    return not counts or index.name is not None


def _plain_column(column: Any) -> list[Any]:
    return [None if _is_missing(item) else item for item in column.tolist()]


def _is_missing(item: Any) -> bool:
    return type(item).__name__ in ("NaTType", "NAType") or (isinstance(item, float) and item != item)


def type_description(value: Any) -> dict[str, Any] | None:
    """Return what ``restored_value`` needs besides the plain data, or None if the value stays plain."""
    if plain_kind(value) == "ndarray" and value.dtype.kind in "biufcSUMm":
        return {"dtype": value.dtype.str}
    if plain_kind(value) == "DataFrame":
        names = list(value.index.names) if _has_own_index(value) else []
        labels, kinds = [str(label) for label in value.columns], [str(kind) for kind in value.dtypes]
        return {"labels": labels, "dtypes": kinds, "index": names}
    return None


def plain_kind(value: Any) -> str:
    """Return the class name of a numpy or pandas value, "" for any other value."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in ("numpy", "pandas"):
        return kind.__name__
    return ""


def restored_value(data: Any, like: dict[str, Any]) -> Any:
    """Rebuild the original from plain data if its library is loaded; else return the data."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if "dtype" in like:
        if numpy:
            return numpy.array(data, dtype=like["dtype"])
        return data
    if pandas is None:
        return data
    if not data:
        return pandas.DataFrame(columns=like["labels"])
    labels, names = list(data[0]), like["index"]
    kinds = [None] * len(names) + like["dtypes"]
    columns = {}
    for at, label in enumerate(labels):
        columns[at] = _restored_series(pandas, [row[label] for row in data], kinds[at])
    frame = pandas.DataFrame(columns)
    frame.columns = labels
    if names:
        frame = frame.set_index(labels[: len(names)])
        frame.index.names = names
    return frame


def _restored_series(pandas: Any, items: list[Any], kind: str | None) -> Any:
    try:
        return pandas.Series(items, dtype=kind)
    except Exception:  # a column type that needs missing data, such as time zone names
        return pandas.Series(items)
