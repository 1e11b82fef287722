"""EPUB books as text: chapters in reading order."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from urllib.parse import unquote

from .html_page import closed_xhtml, seen_text
from .parts import BROKEN, Package, all_named, value_of
from .pieces import Notes, Piece, RefusedError

_DECLARED = re.compile(rb"^\s*<\?xml[^>]{0,100}encoding=[\"']([\w-]{1,40})")


def chapter_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield each file of a book's spine except its table of contents."""
    package = Package(data, notes)
    roots = all_named(package.tree("META-INF/container.xml"), "rootfile")
    main = next((value_of(one, "full-path") for one in roots), "")
    book = package.root(main)
    items = {value_of(one, "id"): one for one in all_named(book, "item")}
    ciphers = all_named(package.tree("META-INF/encryption.xml"), "CipherReference")
    locked = {unquote(value_of(one, "URI")) for one in ciphers}
    number = 0
    for reference in all_named(book, "itemref"):
        item = items.get(value_of(reference, "idref"))
        if item is None or "nav" in value_of(item, "properties").split():
            continue
        if "html" not in value_of(item, "media-type", default="html"):
            continue
        part = posixpath.normpath(posixpath.join(posixpath.dirname(main), unquote(value_of(item, "href"))))
        if part in locked:
            raise RefusedError("a book with copy protection")
        text = seen_text(closed_xhtml(_decode_chapter(_read_part(package, part))), outside_only=True)
        if text.strip():
            number += 1
            yield text, f"chapter {number}", False


def _read_part(package: Package, part: str) -> bytes:
    try:
        return package.read(part)
    except BROKEN:
        package.note_broken_part(part)
        return b""


def _decode_chapter(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    declared = _DECLARED.match(data)
    try:
        return data.decode(declared[1].decode() if declared else "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")
