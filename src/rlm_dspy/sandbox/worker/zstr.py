"""A real ``str`` whose characters are in the shared mapping: a text of any size without a copy.

Holds: there is a maker only if its strings pass a self-test on the running interpreter; otherwise texts are
copied. Does not hold: it depends on CPython's layout of compact strings, hence the test.

A string's header is written into a private page that ends where the read-only characters begin. The object is
never freed: its reference count starts far too high, and the mapping lives as long as the process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections.abc import Callable
from typing import Any

MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x02, 0x10, 0x20
REFERENCES, LENGTH, HASH, POINTERS = 0, 16, 24, 40
FOREVER = 1 << 40
MIN_CHARS = 8

Maker = Callable[[int, int, int, bool], "str | None"]

# By (width, ascii): a string from which the header is copied, and the encoding of its characters.
_TEMPLATES = {
    (1, True): ("a string", "ascii"),
    (1, False): ("a strïng", "latin-1"),
    (2, False): ("a 中文 one", "utf-16-le"),
    (4, False): ("a \U0001f600 one", "utf-32-le"),
}


def string_maker() -> Maker | None:
    """Return ``make(descriptor, chars, width, ascii)``, or None if strings have another layout."""
    if sys.platform != "linux" or sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        return None
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    if sys.version_info >= (3, 12):
        counted = ctypes.c_ssize_t.from_address(id(None) + REFERENCES).value
    else:
        counted = FOREVER

    def make(descriptor: int, chars: int, width: int, ascii: bool) -> str | None:
        if chars < MIN_CHARS:
            return None
        return _build_string(libc, descriptor, chars, width, ascii, counted)

    if _is_sound(make):
        return make
    return None


def _build_string(libc: Any, descriptor: int, chars: int, width: int, ascii: bool, counted: int) -> str | None:
    known, codec = _TEMPLATES[width, ascii]
    template = known.encode(codec).decode(codec)  # a new string, which is not interned
    header = sys.getsizeof(template) - (len(template) + 1) * width
    page = mmap.PAGESIZE
    size = -(-(chars + 1) * width // page) * page
    none = ctypes.c_void_p(-1).value
    base = libc.mmap(None, page + size, 0, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)  # does not count against any limit
    if base is None or base == none:
        return None
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    if libc.mmap(base, page, writable, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != base:
        return None
    data = libc.mmap(base + page, size, mmap.PROT_READ, MAP_PRIVATE | MAP_FIXED, descriptor, 0)
    if data != base + page:
        return None
    at = base + page - header
    ctypes.memmove(at, id(template), header)
    for offset, value in ((REFERENCES, counted), (LENGTH, chars), (HASH, -1)):
        ctypes.c_ssize_t.from_address(at + offset).value = value
    for offset in range(POINTERS, header, 8):  # no cached UTF-8
        ctypes.c_ssize_t.from_address(at + offset).value = 0
    text: str = ctypes.cast(at, ctypes.py_object).value
    return text


def _is_sound(make: Maker) -> bool:
    """Make one string of each kind and compare its observable behaviour."""
    for (width, ascii), (piece, codec) in _TEMPLATES.items():
        real = (piece + " ") * 700
        descriptor = os.memfd_create("self-test")
        try:
            os.write(descriptor, real.encode(codec) + bytes(width))
            forged = make(descriptor, len(real), width, ascii)
        finally:
            os.close(descriptor)
        if forged is None or not _is_same_text(forged, real):
            return False
    return True


def _is_same_text(forged: str, real: str) -> bool:
    return (
        forged == real
        and hash(forged) == hash(real)
        and sys.getsizeof(forged) == sys.getsizeof(real)
        and forged[5:99] == real[5:99]
        and forged.find(real[-20:]) == real.find(real[-20:])
        and forged.encode("utf-8") == real.encode("utf-8")
        and forged.upper() == real.upper()
        and forged + "x" == real + "x"
        and re.findall(".n", forged) == re.findall(".n", real)
        and forged.isascii() == real.isascii()
    )
