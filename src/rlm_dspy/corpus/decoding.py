"""Bytes of unknown origin to text that has no lone surrogates, or the reason why they are no text."""

from __future__ import annotations

import codecs
import re

try:
    from charset_normalizer import from_bytes
except ImportError:  # it comes with requests; without it a legacy file is read as Western
    from_bytes = None  # type: ignore[assignment]

_SNIFFED = 8192
_GUESSED = 65_536

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_MAGIC = (
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\x7fELF", "a program"),
)

_MARKED = tuple(bom for bom, _ in _BOMS)
_FOREIGN = tuple(magic for magic, _ in _MAGIC)

_LEGACY = ("cp1252", "cp932", "gb18030", "big5", "euc_kr", "euc_jp", "cp1251", "koi8_r", "cp1253")
_HIGH = bytes(range(0x80, 0x100))
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\r\f\x08\x1b"))


def why_binary(head: bytes) -> str | None:
    """Say why a file that begins with these bytes is no text, or None."""
    if head.startswith(_MARKED):
        return None
    if head.startswith(_FOREIGN):
        return next(what for magic, what in _MAGIC if head.startswith(magic))
    head = head[:_SNIFFED]
    # NUL is in nearly every binary format and in no text that is not UTF-16 or UTF-32.
    if b"\0" in head or len(head) - len(head.translate(None, _CONTROLS)) > len(head) // 10:
        return "binary"
    return None


def decode(data: bytes) -> tuple[str, str]:
    """Return the text and a note that is empty unless something had to be guessed or replaced."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _replace(data[len(bom) :], encoding)
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        pass
    if _mostly_utf8(data[:_GUESSED]):
        return _replace(data, "utf-8")
    encoding = _guess(data[:_GUESSED])
    text, note = _replace(data, encoding)
    return text, note or f"read as {encoding}"


def wide(head: bytes) -> tuple[bytes, bytes]:
    """Return the BOM of a text of UTF-16 or UTF-32 (else nothing), and how it ends its lines."""
    for bom, encoding in _BOMS[1:]:
        if head.startswith(bom):
            return bom, "\n".encode(encoding)
    return b"", b"\n"


def _replace(data: bytes, encoding: str) -> tuple[str, str]:
    try:
        return data.decode(encoding), ""
    except UnicodeDecodeError:
        return data.decode(encoding, "replace"), f"read as {encoding}, invalid bytes replaced"


def _mostly_utf8(sample: bytes) -> bool:
    """Tell whether a damaged text is still UTF-8: more of its sequences are whole than broken."""
    text = sample.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return len(re.findall(r"[^\x00-\x7f\ufffd]", text)) > broken


def _guess(sample: bytes) -> str:
    high = len(sample) - len(sample.translate(None, _HIGH))
    # Western text has few letters beyond ASCII, too few to guess from; other scripts have hardly any within.
    if from_bytes is None or high * 4 < len(sample):
        return "cp1252"
    found = from_bytes(sample, cp_isolation=list(_LEGACY)).best()
    return found.encoding if found is not None else "cp1252"
