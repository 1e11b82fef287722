"""Receive variables from the host: small ones inside the message, large ones as sealed memory."""

from __future__ import annotations

import sys
from collections import deque
from mmap import MAP_PRIVATE, PROT_READ, mmap
from os import close
from typing import Any

from . import own, tables, values
from .zstr import Maker

WIDE = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}


class ReceiveVariableError(Exception):
    """A variable could not be received; ``name`` is its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


def receive_variables(
    parcels: list[dict[str, Any]], descriptors: deque[int], namespace: dict[str, Any], zstr: Maker | None, toolkit: Any
) -> None:
    """Put each parcel's value into the namespace; all descriptors of the message are consumed in any case."""
    wanted = sum((parcel.get("size") is not None) + ("index_size" in parcel) for parcel in parcels)
    mine = deque(descriptors.popleft() for _ in range(min(wanted, len(descriptors))))
    try:
        if len(mine) < wanted:
            raise ReceiveVariableError(
                parcels[0]["name"], f"{wanted} large parts at once are too many; hand over fewer"
            )
        for parcel in parcels:
            _receive_variable(parcel, mine, namespace, zstr, toolkit)
    finally:
        for unused in mine:
            close(unused)


def _receive_variable(
    parcel: dict[str, Any], descriptors: deque[int], namespace: dict[str, Any], zstr: Maker | None, toolkit: Any
) -> None:
    name = parcel["name"]
    if parcel.get("size") is not None:
        descriptor = descriptors.popleft()
    else:
        descriptor = -1
    index = descriptors.popleft() if "index_size" in parcel else -1
    try:
        if index >= 0:
            parcel["index"] = own.loads(bytes(_mapped_bytes(index, parcel["index_size"])))
        namespace[parcel.get("raw", name)] = _opened_value(parcel, descriptor, zstr, toolkit)
        if "like" in parcel:
            namespace[name] = tables.restored_value(namespace[name], parcel["like"])
        for source in parcel.get("run", ()):
            exec(compile(source, f"<setup of {name}>", "exec"), namespace)
    except MemoryError:
        raise ReceiveVariableError(name, "it does not fit into the sandbox's memory limit") from None
    except Exception as error:
        raise ReceiveVariableError(name, f"{type(error).__name__}: {error}") from None
    finally:
        for used in (descriptor, index):
            if used >= 0:
                close(used)


def _opened_value(parcel: dict[str, Any], descriptor: int, zstr: Maker | None, toolkit: Any) -> Any:
    kind = parcel["kind"]
    if kind == "value":
        return values.decode(parcel["v"], values.Record)
    if kind == "text":
        return _mapped_text(parcel, descriptor, zstr)
    view = _mapped_bytes(descriptor, parcel["size"])
    if kind == "json":
        return values.decode(own.loads(bytes(view)), values.Record)
    if kind == "numbers":
        numbers = view.cast(parcel["format"], parcel["shape"])
        if "numpy" in sys.modules:
            return numbers
        return numbers.tolist()
    if kind == "bytes":
        return bytes(view)
    if kind == "corpus":
        return toolkit.CorpusTexts(view, parcel["index"])
    raise ValueError(f"unknown kind {kind!r}")


def _mapped_bytes(descriptor: int, size: int) -> memoryview:
    if not size:
        return memoryview(b"")
    return memoryview(mmap(descriptor, size, MAP_PRIVATE, PROT_READ))  # MAP_SHARED would need Linux 6.7


def _mapped_text(parcel: dict[str, Any], descriptor: int, zstr: Maker | None) -> str:
    width, chars = parcel["width"], parcel["chars"]
    if zstr is not None:
        text = zstr(descriptor, chars, width, parcel["ascii"])
        if text is not None:
            return text
    with _mapped_bytes(descriptor, parcel["size"]) as whole:
        body = whole[: chars * width]
        try:
            return str(body, WIDE[width], "surrogatepass" if width > 1 else "strict")
        finally:
            body.release()
