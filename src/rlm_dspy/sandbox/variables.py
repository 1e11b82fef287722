"""Pack the host's values for the sandbox: small ones as JSON, large ones as sealed memory.

A text, bytes or corpus is written once into a sealed anonymous file; the worker and its copies map it. Values
that cannot be passed are rejected here, by name, before any code runs.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rlm_dspy.safe_files import anonymous_file, seal_file, write_all

from .errors import HandoverError
from .worker import tables, values
from .worker.wire import MAX_DESCRIPTORS

LARGE_BYTES = 1 << 16
PIECE_BYTES = 8 << 20
NUMBERS = frozenset("?bBhHiIlLqQfd")  # array types that memory views also support
FORBIDDEN = frozenset({"SUBMIT", "__builtins__", "__name__"})


@runtime_checkable
class Mapped(Protocol):
    """A corpus that can be passed as mapped bytes instead of objects."""

    def sandbox_index(self) -> dict[str, Any]:
        """Return the position of each file: ``{"files": [{"name", "kind", "start", "stop", "chars", "lines"}, …]}``."""
        ...

    def sandbox_chunks(self) -> Iterable[bytes]:
        """Yield the UTF-8 text of the files, one after the other."""
        ...


@dataclass
class Parcel:
    """A packed variable: the message, and a descriptor if the body is sent separately."""

    message: dict[str, Any]
    descriptors: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close the host's copies of the descriptors."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def pack(name: str, value: Any) -> Parcel:
    """Prepare ``value`` to become the variable ``name``.

    Raises:
        HandoverError: The name or the value cannot be a variable of the sandbox.
    """
    if not isinstance(name, str) or not name.isidentifier() or name in FORBIDDEN:
        raise HandoverError(f"{name!r} cannot be the name of a variable in the sandbox")
    try:
        return _pack_value(name, value)
    except (TypeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EFBIG:  # such as what the user's own corpus raises
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if reason.endswith("border"):
            reason = f"{reason}. {_passable_form(value)}"
        raise HandoverError(f"variable {name!r} cannot be handed to the sandbox: {reason}") from None


def _passable_form(value: Any) -> str:
    """Return what to pass instead of a value that cannot cross the border."""
    if isinstance(value, os.PathLike):
        return "Pass rlm_dspy.read(path) to read the files there, or str(path) for its name."
    if hasattr(value, "read"):
        return "Pass what it holds, such as file.read()."
    if callable(value):
        return "Pass functions as tools=[function], which cells can call."
    if hasattr(value, "__next__"):
        return "Pass its items as list(value)."
    return "Pass plain data: texts, numbers, lists, dicts, dates, tables."


def _pack_value(name: str, value: Any) -> Parcel:
    if type(value) is str and len(value) >= LARGE_BYTES:
        return _pack_text(name, value)
    if type(value) in (bytes, bytearray) and len(value) >= LARGE_BYTES:
        return sealed_parcel({"name": name, "kind": "bytes"}, _byte_pieces(value))
    if isinstance(value, Mapped) and not isinstance(value, type):
        return _pack_corpus(name, value)
    if hasattr(value, "sandbox_assignment") and hasattr(value, "to_sandbox"):
        return _pack_serializable(name, value)
    like = tables.type_description(value)
    if like is not None:
        return _pack_table(name, value, like)
    return _pack_plain(name, value)


def _pack_table(name: str, value: Any, like: dict[str, Any]) -> Parcel:
    """Pack an array or table as plain data, with the information to rebuild it where its library is loaded."""
    if "dtype" in like and value.nbytes >= LARGE_BYTES and value.dtype.isnative and value.dtype.char in NUMBERS:
        message = {"name": name, "kind": "numbers", "format": value.dtype.char, "shape": value.shape}
        parcel = sealed_parcel(message, _byte_pieces(value.tobytes()))
    else:
        parcel = _pack_plain(name, value)
    parcel.message["like"] = like
    return parcel


def _pack_plain(name: str, value: Any) -> Parcel:
    encoded = values.encode(value)
    text = json.dumps(encoded, separators=(",", ":"))
    if len(text) >= LARGE_BYTES:
        return sealed_parcel({"name": name, "kind": "json"}, _byte_pieces(text.encode("ascii")))
    return Parcel({"name": name, "kind": "value", "v": encoded})


def _pack_corpus(name: str, value: Mapped) -> Parcel:
    """Pack a corpus, reusing its sealed file if it has one; a long index is sent separately too."""
    index = value.sandbox_index()
    text = json.dumps(index, separators=(",", ":")).encode("ascii")
    sealed: Callable[[], tuple[int, int] | None] = getattr(value, "sandbox_file", lambda: None)
    message: dict[str, Any] = {"name": name, "kind": "corpus"}
    file = sealed()
    if file is not None and file[1] > 0:
        parcel = Parcel(message | {"size": file[1]}, [os.dup(file[0])])
    else:
        parcel = sealed_parcel(message, value.sandbox_chunks())
    if len(text) < LARGE_BYTES:
        parcel.message["index"] = index
        return parcel
    try:
        rest = sealed_parcel({}, _byte_pieces(text))
    except BaseException:
        parcel.close()
        raise
    parcel.message["index_size"] = rest.message["size"]
    parcel.descriptors += rest.descriptors
    return parcel


def _pack_serializable(name: str, value: Any) -> Parcel:
    """Pack DSPy's ``SandboxSerializable``: its data is sent, then its own two pieces of code run."""
    data = value.to_sandbox()
    raw = f"_{name}_data"
    try:
        payload: Any = data.decode("utf-8") if isinstance(data, bytes) else str(data)
    except UnicodeDecodeError:
        payload = data
    parcel = _pack_value(raw, payload)
    parcel.message |= {"name": name, "raw": raw}
    assignment = value.sandbox_assignment(name, raw)
    parcel.message["run"] = [code for code in (value.sandbox_setup(), assignment, f"del {raw}") if code.strip()]
    return parcel


def _pack_text(name: str, text: str) -> Parcel:
    """Pack a long text in the fixed width that Python uses to store it."""
    width = 1 if text.isascii() else _char_width(text)
    message = {"name": name, "kind": "text", "width": width, "chars": len(text), "ascii": text.isascii()}
    codec = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[width]
    errors = "surrogatepass" if width > 1 else "strict"
    pieces = (text[at : at + PIECE_BYTES].encode(codec, errors) for at in range(0, len(text), PIECE_BYTES))
    return sealed_parcel(message, pieces, pad=width)


def _char_width(text: str) -> int:
    """Return the bytes per character with which CPython stores a non-ASCII text."""
    width = 1
    for at in range(0, len(text), PIECE_BYTES):
        piece = text[at : at + PIECE_BYTES]
        if width == 1:
            try:
                piece.encode("latin-1")
                continue
            except UnicodeEncodeError:
                width = 2
        if len(piece.encode("utf-16-le", "surrogatepass")) != 2 * len(piece):
            return 4
    return width


def _byte_pieces(data: bytes | bytearray) -> Iterator[memoryview]:
    view = memoryview(data)
    for at in range(0, len(view), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]


def sealed_parcel(message: dict[str, Any], chunks: Iterable[bytes | memoryview], pad: int = 0) -> Parcel:
    """Write the chunks into a sealed anonymous file."""
    descriptor = anonymous_file("rlm")
    parcel = Parcel(message, [descriptor])
    try:
        size = 0
        for chunk in chunks:
            size += len(chunk)
            write_all(descriptor, chunk)
        if pad:
            size += os.write(descriptor, bytes(pad))  # Python's strings end in a null character
        message["size"] = size
        seal_file(descriptor)
    except BaseException:
        parcel.close()
        raise
    return parcel


@dataclass(eq=False, frozen=True)
class HandedValue:
    """One handover of a value; a second handover of the same value is a different one."""

    value: Any


HandedValues = dict[str, HandedValue]


class VariableBook:
    """The variables handed over, and those that the worker (``held``) and its sleeping copy (``safe``) have."""

    def __init__(self) -> None:
        self._given: HandedValues = {}  # the latest value of every name
        self._before = self._given  # the same before the latest cell
        self.held: HandedValues = {}
        self.safe: HandedValues = {}

    def pack(self, variables: dict[str, Any]) -> list[Parcel]:
        """Pack new variables; a long text, bytes or corpus that the worker already has is not sent again.

        Raises:
            HandoverError: One of them cannot be passed; none is recorded then.
        """
        fresh = {name: HandedValue(value) for name, value in variables.items() if not self._is_unchanged(name, value)}
        parcels = _packed_parcels(fresh)
        self._before, self._given = self._given, self._given | fresh
        return parcels

    def pack_lost(self, coming: list[Parcel]) -> list[Parcel]:
        """Pack earlier variables that were lost with a process, except those already ``coming``."""
        names = {parcel.message["name"] for parcel in coming}
        return _packed_parcels({k: v for k, v in self._given.items() if k not in names and self.held.get(k) is not v})

    def with_those(self, names: Collection[str]) -> HandedValues:
        """Return the variables that the worker holds after these were handed over."""
        return self.held | {name: self._given[name] for name in names if name in self._given}

    def refused(self, result: Mapping[str, Any], handed: Collection[str]) -> HandoverError:
        """Forget the rejected variable and those handed over with it, and return the error to raise."""
        name = result["name"]
        self._given = {k: v for k, v in self._before.items() if k != name}
        self.held = {k: v for k, v in self.held.items() if k not in handed}
        return HandoverError(f"variable {name!r} cannot be handed to the sandbox: {str(result.get('exc'))[:500]}")

    def lose(self) -> None:
        """Record that every process has ended."""
        self.held, self.safe = {}, {}

    def _is_unchanged(self, name: str, value: Any) -> bool:
        before = self.held.get(name)
        return (
            before is not None
            and before is self._given.get(name)
            and before.value is value
            and _is_long_and_fixed(value)
        )


def _is_long_and_fixed(value: Any) -> bool:
    """Return whether a value is long and immutable on the host."""
    return (isinstance(value, str | bytes) and len(value) >= LARGE_BYTES) or isinstance(value, Mapped)


def _packed_parcels(handed: HandedValues) -> list[Parcel]:
    parcels: list[Parcel] = []
    try:
        for name, handing in handed.items():
            parcels.append(pack(name, handing.value))
            if sum(len(parcel.descriptors) for parcel in parcels) > MAX_DESCRIPTORS:
                raise HandoverError(
                    f"more than {MAX_DESCRIPTORS} large variables at once cannot be handed to the sandbox: put them "
                    "into one list or dict"
                )
    except BaseException:
        for parcel in parcels:
            parcel.close()
        raise
    return parcels
