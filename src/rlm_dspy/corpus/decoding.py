"""Bytes of unknown origin to text that has no lone surrogates, or the reason why they are no text."""

from __future__ import annotations

import codecs
import re
import unicodedata

from rlm_dspy.corpus.guessing import guess

_SNIFFED = 8192

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
_TAR = slice(257, 262)  # where a tar archive says that it is one

_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\r\f\x08\x1b"))
_LEAST_WIDE = 6  # bytes of a text in UTF-16 that can be known without a mark
_NUL_RUNS = 16  # in a log that was cut while it was written, and one more for every so many bytes
_NUL_EVERY = 4096
_ESCAPED = re.compile(rb"\x1b\$[@B]")  # begins Japanese in ISO-2022-JP
# What a text says of its own encoding: XML, Python and editors in the first lines, a style sheet at its begin.
_DECLARED = re.compile(
    rb"\A\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*[\"']([\w.:-]{1,40})[\"']"
    rb"|\A@charset \"([\w.:-]{1,40})\";"
    rb"|\A(?:[^\n]{0,200}\n)?[ \t\f]*(?:#|//|%|;|<!--)[^\n]{0,100}?\b(?:file)?(?:en)?coding[:=][ \t]*([\w.:-]{1,40})"
)
# Names that only browsers and mail programs know.
_SPOKEN = {
    "iso-8859-8-i": "iso8859-8", "windows-31j": "cp932", "x-sjis": "cp932", "x-gbk": "gbk", "x-mac-roman": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic", "ks_c_5601-1987": "cp949", "unicode-1-1-utf-8": "utf-8", "x-x-big5": "big5",
}  # fmt: skip
# What is written under the name of a smaller encoding, as browsers take it (encoding.spec.whatwg.org).
_LARGER = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "tis-620": "cp874", "iso8859-11": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "cp950",
}  # fmt: skip
_PROBE = b'<meta charset="\\u0041 +AGE- ~1 .xn--4ca.">'  # no encoding that is declared in ASCII changes it


def why_binary(head: bytes) -> str | None:
    """Say why a file that begins with these bytes is no text, or None."""
    if head.startswith(_MARKED):
        return None
    if head.startswith(_FOREIGN):
        return next(what for magic, what in _MAGIC if head.startswith(magic))
    if head[_TAR] == b"ustar":
        return "a tar archive"
    sample = head[:_SNIFFED]
    if b"\0" in sample:
        if wide_encoding(sample) or _is_cut_log(head):
            return None
        return "binary"
    if len(sample) - len(sample.translate(None, _CONTROLS)) > len(sample) // 10:
        return "binary"
    return None


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Return the text and a note that is empty unless something had to be guessed, replaced or left out.

    Args:
        data: the whole file.
        encoding: what the user says that it is in; a mark at its begin says more.
    """
    for bom, marked in _BOMS:
        if data.startswith(bom):
            return _replace(data[len(bom) :], marked)
    if encoding is not None:
        return _replace(data, "utf-8" if _is_utf8(data, encoding) else encoding)
    if b"\0" in data:
        if found := wide_encoding(data[:_SNIFFED]):
            return _replace(data, found)[0], f"read as {found}"
        bare = data.replace(b"\0", b"")
        text, note = decode(bare)
        return text, "; ".join(filter(None, (note, f"{len(data) - len(bare):,} NUL bytes left out")))
    return _decode_plain(data)


def _decode_plain(data: bytes) -> tuple[str, str]:
    """Return the text of bytes without NULs and without a mark."""
    try:
        if _ESCAPED.search(data):
            return data.decode("iso2022_jp"), "read as iso2022_jp"
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        pass
    if (declared := declared_encoding(data)) and not _is_broken(data, declared):
        return data.decode(declared), ""
    if _mostly_utf8(data):
        return _replace(data, "utf-8")
    guessed = guess(data)
    text, note = _replace(data, guessed)
    return text, note or f"read as {guessed}"


def known_encoding(name: str) -> str | None:
    """Return Python's name of an encoding that a text may be in, or None if there is none of this name."""
    try:
        found = codecs.lookup(_SPOKEN.get(name.strip().lower(), name.strip())).name
        is_wide = found.startswith(("utf-16", "utf-32"))
        return found if is_wide or _PROBE.decode(found).encode("ascii") == _PROBE else None
    except (LookupError, ValueError):
        return None


def declared_encoding(data: bytes) -> str | None:
    """Return the encoding that a text names in its first lines, if it can be one."""
    found = _DECLARED.search(data[:1024])
    name = next(filter(None, found.groups()), b"") if found else b""
    known = as_written(known_encoding(name.decode("ascii"))) if name else None
    return None if known is None or known.startswith(("utf-16", "utf-32")) else known


def as_written(declared: str | None) -> str | None:
    """Return what a text is really in that names its encoding: the larger one that programs write under that name."""
    return _LARGER.get(declared, declared) if declared else None


def wide_encoding(head: bytes) -> str | None:
    """Return the UTF-16 that a text without a mark is in, told by its zeros, or None."""
    even = head[: len(head) // 2 * 2]
    if len(even) < _LEAST_WIDE or b"\0" not in even or (len(head) < _SNIFFED and len(head) != len(even)):
        return None
    units = len(even) // 2
    low, high = even[1::2].count(0) / units, even[0::2].count(0) / units  # zeros behind, and before
    encoding = "utf-16-le" if low >= high else "utf-16-be"
    try:
        text = even.decode(encoding)
    except UnicodeDecodeError:
        return None
    if max(low, high) > 0.3 and min(low, high) < 0.02:
        return encoding if _is_text(text, 0.95) else None
    return encoding if "\n" in text and _is_text(text, 0.98) and _is_one_script(text) else None


def wide(head: bytes) -> tuple[bytes, bytes]:
    """Return the BOM of a text of UTF-16 or UTF-32 (else nothing), and how it ends its lines."""
    for bom, encoding in _BOMS[1:]:
        if head.startswith(bom):
            return bom, "\n".encode(encoding)
    return b"", b"\n"


def _is_text(text: str, share: float) -> bool:
    """Tell whether so many of the characters are letters, digits, marks, punctuation or blanks."""
    good = sum(char in "\t\r\n" or unicodedata.category(char)[0] in "LMNPSZ" for char in text)
    return good >= share * len(text)


def _is_one_script(text: str) -> bool:
    """Tell whether most letters are of one block of 256, or of the frequent ones of East Asia."""
    letters = [ord(char) for char in text if char.isalpha()]
    blocks = [letter >> 8 for letter in letters]
    most = max((blocks.count(block) for block in set(blocks)), default=0)
    asian = len(re.findall("[\u3041-\u30ff\u4e00-\u9fff\uac00-\ud7a3]", text))
    blanks = sum(char in " \n、。，.,:" for char in text)
    return bool(letters) and (most > 0.8 * len(letters) or (asian > 0.9 * len(letters) and blanks * 50 > len(text)))


def _is_cut_log(data: bytes) -> bool:
    """Tell whether bytes are a text but for a few runs of zeros, as where a log was cut while it was written."""
    bare = data.replace(b"\0", b"")
    if not bare:
        return len(data) > _SNIFFED  # more may follow
    if b"\n" not in bare or len(re.findall(rb"\0+", data)) > _NUL_RUNS + len(bare) // _NUL_EVERY:
        return False
    controls = len(bare) - len(bare.translate(None, _CONTROLS))
    return controls * 1_000 <= len(bare)


def _is_utf8(data: bytes, encoding: str) -> bool:
    """Tell whether a text is UTF-8 though another encoding was named, which is for those that are not."""
    return not encoding.startswith(("utf-16", "utf-32")) and not data.isascii() and not _is_broken(data, "utf-8")


def _is_broken(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return True
    return False


def _replace(data: bytes, encoding: str) -> tuple[str, str]:
    try:
        text, note = data.decode(encoding), ""
    except UnicodeError:
        text, note = data.decode(encoding, "replace"), f"read as {encoding}, invalid bytes replaced"
    return text.encode("utf-8", "replace").decode(), note


def _mostly_utf8(data: bytes) -> bool:
    """Tell whether a damaged text is still UTF-8: more of its sequences are whole than broken."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return len(re.findall(r"[^\x00-\x7f\ufffd]", text)) > broken
