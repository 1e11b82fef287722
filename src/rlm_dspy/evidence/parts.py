"""The texts inside a structured input: each string by its path, each record as the REPL shows it.

A path is written as code would reach the part: ``documents[3]``, ``docs["a.txt"].body``.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic

MAX_DEPTH = 20
MAX_PARTS = 1_000_000


def strings_of(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (path, text) for each string in a value, and for each number as Python writes it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, bytes):
        yield path, value.decode("utf-8", "replace")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, repr(value)
    elif depth < MAX_DEPTH:
        for inner, part in parts_of(value, path):
            yield from strings_of(part, inner, depth + 1)


def records_of(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield (path, record) for each dict, model or row in a value, the outer ones first."""
    fields = fields_of(value)
    if fields is not None:
        yield path, fields
    if depth < MAX_DEPTH:
        for inner, part in parts_of(value, path):
            yield from records_of(part, inner, depth + 1)


def parts_of(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, part) for each part of a container."""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value[:MAX_PARTS]):
            yield f"{path}[{index}]", item
    elif isinstance(value, (set, frozenset)):
        for item in sorted(value, key=repr):
            yield path, item
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}[{json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key)}]", item
    elif (fields := fields_of(value)) is not None:
        for name, item in fields.items():
            yield f"{path}.{name}", item


def fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of a dict, a model, a dataclass or a named tuple, None of anything else."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, pydantic.BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    named = getattr(value, "_asdict", None)
    return dict(named()) if callable(named) and isinstance(value, tuple) else None


def quoted_record(quote: str) -> dict[str, Any] | None:
    """Return the record that a quote is the ``str()`` or the JSON of, None if it is neither."""
    text = quote.strip()
    if not text.startswith("{"):
        return None
    for read in (ast.literal_eval, json.loads):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, dict) and value:
            return {str(key): item for key, item in value.items()}
    return None


def agrees(record: Mapping[str, Any], quoted: Mapping[str, Any]) -> bool:
    """Return whether a record has all that a quoted one says."""
    return all(name in record and str(record[name]) == str(item) for name, item in quoted.items())
