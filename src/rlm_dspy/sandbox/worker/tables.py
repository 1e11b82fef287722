"""Arrays of numpy and tables of pandas as plain data, and back; neither is ever imported here, only recognised.

A DataFrame is a list of dicts, one for each row (an index that tells something comes first, as columns); a Series is a
list, an array nested lists, a scalar Python's own. What a table misses (NaN, NaT, NA) is None; NaN in an array stays.
Times keep microseconds. Both ends use this: the host for what it hands over, the worker for what it submits.
"""

from __future__ import annotations

import sys
from typing import Any

OTHER = object()
_FINER = ("[ns]", "[ps]", "[fs]", "[as]")  # than Python's times


def plain_data(value: Any) -> Any:
    """Return a value of numpy or pandas as plain data, ``OTHER`` for anything else.

    Raises:
        TypeError: a table whose columns share a name.
    """
    library = type(value).__module__.partition(".")[0]
    if library == "numpy" and hasattr(value, "tolist"):
        return _from_numpy(value)
    return _from_pandas(value) if library == "pandas" else OTHER


def _from_numpy(value: Any) -> Any:
    if value.dtype.str.endswith(_FINER):
        value = value.astype(value.dtype.str.rpartition("[")[0] + "[us]")
    found = value.tolist()
    if type(found) is type(value):  # a number wider than Python's
        return complex(value) if value.dtype.kind == "c" else float(value)
    return found


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
    return _plain_column(value) if hasattr(value, "tolist") else OTHER


def _labels_and_columns(frame: Any) -> tuple[list[Any], list[list[Any]]]:
    if not frame.columns.is_unique:
        raise TypeError("a table whose columns share a name cannot cross the sandbox's border; rename them")
    if _has_own_index(frame):
        frame = frame.reset_index()
    return frame.columns.tolist(), [_plain_column(frame.iloc[:, at]) for at in range(frame.shape[1])]


def _has_own_index(frame: Any) -> bool:
    """Tell whether the index of a table is more than the count of its rows."""
    index = frame.index
    counts = type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1
    return not counts or index.name is not None


def _plain_column(column: Any) -> list[Any]:
    return [None if _is_missing(item) else item for item in column.tolist()]


def _is_missing(item: Any) -> bool:
    return type(item).__name__ in ("NaTType", "NAType") or (isinstance(item, float) and item != item)


def type_description(value: Any) -> dict[str, Any] | None:
    """Return what ``revived`` needs beyond the plain data, None for what is plain for good."""
    if plain_kind(value) == "ndarray" and value.dtype.kind in "biufcSUMm":
        return {"dtype": value.dtype.str}
    if plain_kind(value) == "DataFrame":
        names = list(value.index.names) if _has_own_index(value) else []
        labels, kinds = [str(label) for label in value.columns], [str(kind) for kind in value.dtypes]
        return {"labels": labels, "dtypes": kinds, "index": names}
    return None


def plain_kind(value: Any) -> str:
    """Return the name of a class of numpy or pandas, "" for a value of any other."""
    kind = type(value)
    return kind.__name__ if kind.__module__.partition(".")[0] in ("numpy", "pandas") else ""


def restored_value(data: Any, like: dict[str, Any]) -> Any:
    """Make of plain data what it was, where the library is loaded; else leave it."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if "dtype" in like:
        return numpy.array(data, dtype=like["dtype"]) if numpy else data
    if pandas is None:
        return data
    if not data:
        return pandas.DataFrame(columns=like["labels"])
    labels, names = list(data[0]), like["index"]
    kinds = [None] * len(names) + like["dtypes"]
    columns = {at: _restored_series(pandas, [row[label] for row in data], kinds[at]) for at, label in enumerate(labels)}
    frame = pandas.DataFrame(columns)
    frame.columns = labels
    if names:
        frame = frame.set_index(labels[: len(names)])
        frame.index.names = names
    return frame


def _restored_series(pandas: Any, items: list[Any], kind: str | None) -> Any:
    try:
        return pandas.Series(items, dtype=kind)
    except Exception:  # a type of column that needs what is not here, as the names of time zones
        return pandas.Series(items)
