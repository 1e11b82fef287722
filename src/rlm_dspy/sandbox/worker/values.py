"""Convert values to JSON and back exactly: big integers, NaN, bytes, sets, dates and tuples keep their type.

Holds: decoding is total (a hostile frame gives ``ValueError``, never a hang or a foreign type); no class is
looked up by a name from the wire. Does not hold: identity and cycles are not kept.
"""

from __future__ import annotations

import binascii
import datetime
import decimal
import enum
import itertools
import math
import sys
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, KeysView, ValuesView
from typing import Any

from . import tables

TAG = "$"
SAFE_INT = 2**53
MAX_DEPTH = 100
MAX_COLLISIONS = 100
MOST_EXPONENT = 5_000  # of a Decimal, positive or negative
MAX_NUMBER = 4_300  # characters of one number, which Python itself converts; longer ones are slow and uninterruptible

_LISTLIKE: Any = (
    deque,
    range,
    KeysView,
    ValuesView,
    ItemsView,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)


class Record:
    """A received dataclass or model, with fields as attributes and as items."""

    _name: str

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)
        self.__dict__["_name"] = name

    def __getitem__(self, key: str) -> Any:
        try:
            return self._field_values()[key]
        except KeyError:
            raise KeyError(f"{self._name} has the fields {', '.join(self._field_values())}") from None

    def _field_values(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_name"}

    def keys(self) -> KeysView[str]:
        return self._field_values().keys()

    def items(self) -> ItemsView[str, Any]:
        return self._field_values().items()

    def get(self, key: str, default: Any = None) -> Any:
        return self._field_values().get(key, default)

    def __iter__(self) -> Any:
        return iter(self._field_values())

    def __contains__(self, key: object) -> bool:
        return key in self._field_values()

    def __len__(self) -> int:
        return len(self._field_values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self._name}({', '.join(f'{k}={v!r}' for k, v in self._field_values().items())})"


def encode(value: Any, depth: int = 0) -> Any:
    """Turn ``value`` into JSON data; raise ``TypeError`` for an unsupported type."""
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep (or refers to itself)")
    if kind is int:
        if -SAFE_INT < value < SAFE_INT:
            return value
        return {TAG: "int", "v": _bounded_text(hex(value))}
    if kind is float:
        if math.isfinite(value):
            return value
        return {TAG: "float", "v": repr(value)}
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is dict:
        return _encode_dict(value, depth)
    exact = _ENCODERS.get(kind)
    if exact is not None:
        return exact(value, depth)
    return _encode_other(value, depth)


def _encode_dict(value: dict[Any, Any], depth: int) -> Any:
    if all(type(key) is str for key in value) and TAG not in value:
        return {key: encode(item, depth + 1) for key, item in value.items()}
    return {TAG: "dict", "v": [[_encode_key(k, depth), encode(v, depth + 1)] for k, v in value.items()]}


def _encode_key(value: Any, depth: int) -> Any:
    """Encode a value that must be hashable when decoded."""
    encoded = encode(value, depth + 1)
    if not _is_hashable(encoded):
        raise TypeError(f"a {type(value).__name__} in a set or as a key cannot cross the border: use a tuple or a str")
    return encoded


def _is_hashable(encoded: Any) -> bool:
    if isinstance(encoded, dict):
        tag = encoded.get(TAG)
        if tag == "tuple":
            return all(map(_is_hashable, encoded["v"]))
        return tag not in (None, "dict", "set", "record")
    return not isinstance(encoded, list)


def _bounded_text(text: str) -> str:
    """Return the text of a number.

    Raises:
        ValueError: It is too long.
    """
    if len(text) > MAX_NUMBER:
        raise ValueError(f"a number of {len(text):,} characters is too long: the limit is {MAX_NUMBER:,}; use a text")
    return text


def _encode_many(tag: str) -> Callable[[Iterable[Any], int], Any]:
    return lambda value, depth: {TAG: tag, "v": [encode(item, depth + 1) for item in value]}


def _encode_set(tag: str) -> Callable[[Iterable[Any], int], Any]:
    # Sorted, because the order of a set of strings differs between processes.
    return lambda value, depth: {TAG: tag, "v": sorted((_encode_key(i, depth) for i in value), key=repr)}


def _encode_text(tag: str, render: Callable[[Any], str]) -> Callable[[Any, int], Any]:
    return lambda value, depth: {TAG: tag, "v": render(value)}


def _base64_text(value: bytes | bytearray) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _encode_delta(value: datetime.timedelta, depth: int) -> Any:
    return {TAG: "timedelta", "v": [value.days, value.seconds, value.microseconds]}


def _encode_complex(value: complex, depth: int) -> Any:
    return {TAG: "complex", "v": [encode(value.real), encode(value.imag)]}


def _encode_time(value: Any, depth: int) -> Any:
    return {TAG: type(value).__name__, "v": value.isoformat(), "fold": value.fold}


_ENCODERS: dict[type, Callable[[Any, int], Any]] = {
    tuple: _encode_many("tuple"),
    set: _encode_set("set"),
    frozenset: _encode_set("frozenset"),
    bytes: _encode_text("bytes", _base64_text),
    bytearray: _encode_text("bytes", _base64_text),
    complex: _encode_complex,
    datetime.date: _encode_text("date", datetime.date.isoformat),
    datetime.datetime: _encode_time,
    datetime.time: _encode_time,
    datetime.timedelta: _encode_delta,
    decimal.Decimal: _encode_text("decimal", lambda v: _bounded_text(str(_bounded_decimal(v)))),
}


def _encode_other(value: Any, depth: int) -> Any:
    if isinstance(value, enum.Enum):
        return encode(value.value, depth + 1)
    table = tables.plain_data(value)
    if table is not tables.OTHER:
        return encode(table, depth + 1)
    if isinstance(value, str) and hasattr(type(value), "record"):  # a hit of the toolkit
        return encode(value.record(), depth + 1)  # type: ignore[attr-defined]
    for base, plain in _SUBCLASSES:
        if isinstance(value, base):
            return encode(plain(value), depth + 1)
    fraction = sys.modules.get("fractions")  # not imported only for this: it takes longer than most cells
    if fraction is not None and isinstance(value, fraction.Fraction):
        return {TAG: "fraction", "v": _bounded_text(f"{hex(value.numerator)}/{hex(value.denominator)}")}
    fields = _fields_of(value)
    if fields is not None:
        return {
            TAG: "record",
            "n": type(value).__name__,
            "v": {key: encode(item, depth + 1) for key, item in fields.items()},
        }
    if isinstance(value, _LISTLIKE):
        return [encode(item, depth + 1) for item in value]
    raise TypeError(f"a value of type {type(value).__name__} cannot cross the sandbox's border")


_SUBCLASSES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, lambda v: int.__add__(v, 0)),
    (float, lambda v: float.__mul__(v, 1.0)),
    (dict, lambda v: dict(v.items())),
    (list, list),
    (tuple, tuple),
    (frozenset, frozenset),
    (set, set),
    (bytes, bytes),
    (datetime.datetime, lambda v: datetime.datetime.fromisoformat(v.isoformat())),
    (datetime.date, lambda v: datetime.date(v.year, v.month, v.day)),
    (decimal.Decimal, decimal.Decimal),
)


def _fields_of(value: Any) -> dict[str, Any] | None:
    """Return the fields of a record, dataclass or pydantic model, or None."""
    if isinstance(value, Record):
        return value._field_values()
    declared = getattr(type(value), "__dataclass_fields__", None)
    if isinstance(declared, dict):
        return {name: getattr(value, name) for name in declared if hasattr(value, name)}
    names = getattr(type(value), "model_fields", None)
    if isinstance(names, dict) and hasattr(value, "model_dump"):
        extra = getattr(value, "model_extra", None) or {}
        return {**{name: getattr(value, name) for name in names}, **extra}
    return None


def decode(value: Any, record: Callable[[str, dict[str, Any]], Any], depth: int = 0) -> Any:
    """Decode the output of ``encode``; ``record`` makes the object for a dataclass or model.

    Raises:
        ValueError: The data was not written by ``encode``.
    """
    if depth > MAX_DEPTH * 2:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [decode(item, record, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: decode(item, record, depth + 1) for key, item in value.items()}
    try:
        return _decode_tagged(value, record, depth)
    except (TypeError, KeyError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"malformed value: {type(error).__name__}") from None


def _decode_tagged(value: dict[str, Any], record: Callable[[str, dict[str, Any]], Any], depth: int) -> Any:
    tag, body = value[TAG], value["v"]
    if tag in ("tuple", "set", "frozenset"):
        items = [decode(item, record, depth + 1) for item in _checked_type(list, body)]
        if tag == "tuple":
            return tuple(items)
        _refuse_collisions(items)
        if tag == "set":
            return set(items)
        return frozenset(items)
    if tag == "dict":
        pairs = [(decode(k, record, depth + 1), decode(v, record, depth + 1)) for k, v in _checked_type(list, body)]
        _refuse_collisions([key for key, _ in pairs])
        return dict(pairs)
    if tag == "record":
        fields = {key: decode(item, record, depth + 1) for key, item in _checked_type(dict, body).items()}
        return record(_checked_type(str, value["n"])[:100], fields)
    return _DECODERS[tag](value)


def _checked_type(kind: type, body: Any) -> Any:
    if type(body) is not kind:
        raise ValueError(f"expected {kind.__name__}")
    return body


def _refuse_collisions(keys: list[Any]) -> None:
    """Reject keys crafted to share one hash: filling a set with them would take quadratic time."""
    if len(keys) <= MAX_COLLISIONS:
        return
    hashes = sorted(hash(key) for key in keys)
    run = 1
    for before, after in itertools.pairwise(hashes):
        run = run + 1 if before == after else 1
        if run > MAX_COLLISIONS:
            raise ValueError("keys collide")


def _decode_complex(value: dict[str, Any]) -> complex:
    real, imag = (decode(part, lambda name, fields: fields) for part in _checked_type(list, value["v"]))
    return complex(real, imag)


def _decode_fraction(value: dict[str, Any]) -> Any:
    from fractions import Fraction

    over, under = _number_text(value).split("/")
    return Fraction(int(over, 16), int(under, 16))


def _number_text(value: dict[str, Any]) -> str:
    return _bounded_text(_checked_type(str, value["v"]))


def _bounded_decimal(value: decimal.Decimal) -> decimal.Decimal:
    """Reject a Decimal that would take too long to convert to an integer."""
    if value.is_finite() and abs(value.adjusted()) > MOST_EXPONENT:
        raise ValueError(f"a Decimal with an exponent beyond {MOST_EXPONENT:,} cannot cross")
    return value


def _decode_float(value: dict[str, Any]) -> float:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[_checked_type(str, value["v"])]


_DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "int": lambda v: int(_number_text(v), 16),
    "float": _decode_float,
    "bytes": lambda v: binascii.a2b_base64(_checked_type(str, v["v"]).encode("ascii"), strict_mode=True),
    "complex": _decode_complex,
    "date": lambda v: datetime.date.fromisoformat(v["v"]),
    "datetime": lambda v: datetime.datetime.fromisoformat(v["v"]).replace(fold=v["fold"]),
    "time": lambda v: datetime.time.fromisoformat(v["v"]).replace(fold=v["fold"]),
    "timedelta": lambda v: datetime.timedelta(*v["v"]),
    "decimal": lambda v: _bounded_decimal(decimal.Decimal(_number_text(v))),
    "fraction": _decode_fraction,
}
