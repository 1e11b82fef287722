"""The text of PDF files, with words divided at line ends joined or left hyphenated; truncated files are repaired."""

from __future__ import annotations

import ctypes
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .pieces import MOST_CHARS, CutError, Notes, Piece, RefusedError, counted_noun, joined_with_and

# pdfium's character for a hyphen at a line end, a soft hyphen, and a plain hyphen before a line end.
_DIVIDER = re.compile("([\x02\ufffe\u00ad])[ \t]*(?:\r?\n|\r)?|[-‐][ \t]*(?:\r?\n|\r)")
_LEFT = re.compile(r"[\w'’‐-]*\Z")
_RIGHT = re.compile(r"[\w'’‐-]{0,60}")
_MAX_WORD_LETTERS = 60  # letters of a word that are examined
PAGE_DPI = 150  # dots per inch of a page drawn as an image
MAX_PAGE_PIXELS = 2_000  # pixels of its longer side
_TOKEN = re.compile(r"[\w\0‐-]+")
_SOFT = "\u00ad"

# English usage for words the document shows only divided; all others are joined.
_OWN_HYPHEN = frozenset("self well ill non third e twenty thirty forty fifty sixty".split())  # noqa: SIM905
_ENDINGS = frozenset({"ed", "er", "ing", "ington", "ish", "less", "ly", "ness", "sense"})
_PREFIXES = frozenset("de dis im in inter mis out over pre re sub super un under up".split())  # noqa: SIM905
_SECOND = frozenset(
    """aware based called cost defined dependent driven free friendly known level like made oriented owned party related
    risk scale sized specific term""".split()  # noqa: SIM905
)
_HALVES = frozenset({"real", "full", "part", "long", "short", "first", "high", "low", "front", "back", "large"})
_WHOLES = frozenset({"time", "end", "hand", "class", "quality", "speed", "range", "frequency"})
_BETWEEN = frozenset("a and as at by in it of on or the to up".split())  # noqa: SIM905  state-of-the-art


class Words:
    """The words of a document, which show how a divided word is spelled."""

    def __init__(self, pages: Iterable[str]) -> None:
        self._known: set[str] = set()
        texts = list(pages)
        if any(_DIVIDER.search(text) for text in texts):
            for text in texts:
                tokens = {token.lower() for token in _TOKEN.findall(_DIVIDER.sub("\0", text)) if "\0" not in token}
                self._known.update(token.replace("‐", "-") for token in tokens)

    def undivided_text(self, text: str) -> str:
        """Return a text with divided words joined."""
        return _DIVIDER.sub(self._joining_text, text)

    def _joining_text(self, match: re.Match[str]) -> str:
        """Return what joins the halves of a word: a hyphen or nothing."""
        text, start = match.string, match.start()
        left = _LEFT.search(text[max(0, start - _MAX_WORD_LETTERS) : start])
        right = _RIGHT.match(text, match.end())
        if left and right and left[0] and right[0]:
            if self._is_hyphenated(left[0], right[0]):
                return "-"
            return ""
        if match[1] == _SOFT:
            return ""
        return match[0].replace("\x02", "-").replace("\ufffe", "-")

    def _is_hyphenated(self, left: str, right: str) -> bool:
        before, after = re.split("[-‐]", left)[-1], re.split("[-‐]", right)[0]
        if not before.isalpha() or not after[:1].isalpha() or f"{left}-{right}".lower() in self._known:
            return True
        if before.isupper() == after.isupper() and (before + after).lower() in self._known:
            return False
        if before[-1:].isupper() or after[:1].isupper():
            return True
        first, last = before.lower(), after.lower()
        if first in _OWN_HYPHEN:
            return last not in _ENDINGS
        if (before != left and first in _BETWEEN) or (after != right and last in _BETWEEN):
            return True
        return (last in _SECOND and first not in _PREFIXES) or (first in _HALVES and last in _WHOLES)


_TAIL_BYTES = 2_048  # bytes in which a complete PDF has its end marker
_MOST_ANNOTATIONS = 10_000  # of a page
_WIDGET, _LINK, _POPUP, _STRIKEOUT = 20, 2, 16, 12
_UNSEEN = 2 | 32  # annotation flags: hidden, no view
_LAYER_OFF = re.compile(rb"/OFF\s*\[\s*\d")
_BUTTON, _CHECKBOX, _RADIO, _COMBO, _LIST, _TEXT = 1, 2, 3, 4, 5, 6
_PASSWORD = 1 << 13
_MOST_CHOICES = 1_000
_OBJECT = re.compile(rb"(?:^|[\r\n\s])(\d{1,8})\s+0\s+obj\b")
_PAGE = re.compile(rb"/Type\s*/Page\b(?!s)")
_FIELD = re.compile(rb"/Subtype\s*/Widget\b")
_MOST_PAGES = 100_000


def page_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the text of each page."""
    pages = _read_pages(data, notes)
    words = Words(pages)
    for number, page in enumerate(pages, 1):
        yield words.undivided_text(page), f"page {number}", False
    empty = [str(number) for number, page in enumerate(pages, 1) if not page.strip()]
    if empty and len(empty) < len(pages):
        if len(empty) == 1:
            notes.append(f"page {empty[0]} has no text: a scan?")
        else:
            notes.append(f"pages {joined_with_and(empty)} have no text: scans?")
    if sum(map(len, pages)) > MOST_CHARS:
        raise CutError(f"cut after page {len(pages)}: it has more than {MOST_CHARS:,} characters")


def _read_pages(data: bytes, notes: Notes) -> list[str]:
    """Return the raw text of each page, up to the limit of characters per document."""
    import pypdfium2.raw as pdfium

    document = _open_document(data, notes)
    document.init_forms()
    if attached := pdfium.FPDFDoc_GetAttachmentCount(document.raw):
        notes.append(f"not read: {counted_noun(attached, 'attached file')}")
    if _LAYER_OFF.search(data):
        notes.append("it has layers that are switched off: their text is read too")
    pages: list[str] = []
    size = 0
    for number in range(len(document)):
        pages.append(_page_text(document, number))
        size += len(pages[-1])
        if size > MOST_CHARS:
            break
    return pages


def _open_document(data: bytes, notes: Notes) -> Any:
    import pypdfium2

    cut = b"%%EOF" not in data[-_TAIL_BYTES:]
    document = None
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise RefusedError("an encrypted PDF") from None
    if document is None or not len(document):
        try:
            document = pypdfium2.PdfDocument(repaired_pdf(data))
        except (pypdfium2.PdfiumError, ValueError):
            raise RefusedError("a broken PDF") from None
        cut = True
    if cut:
        notes.append(f"the file is broken or cut off: only {counted_noun(len(document), 'page')} could be recovered")
    return document


def repaired_pdf(data: bytes) -> bytes:
    """Return a PDF of the pages whose objects are intact.

    Raises:
        ValueError: There are no such pages.
    """
    end = data.rfind(b"endobj") + len(b"endobj")
    starts = [(int(one[1]), one.end()) for one in _OBJECT.finditer(data, 0, end)]
    pages: list[int] = []
    fields: list[bytes] = []
    highest = 0
    for position, (number, start) in enumerate(starts):
        highest = max(highest, number)
        if position + 1 < len(starts):
            following = starts[position + 1][1]
        else:
            following = end
        stream = data.find(b"stream", start, following)
        if _PAGE.search(data, start, stream if stream >= 0 else following) and number not in pages[-1:]:
            pages.append(number)
        elif _FIELD.search(data, start, stream if stream >= 0 else following):
            fields.append(b"%d 0 R" % number)
    if not pages or not data.startswith(b"%PDF"):
        raise ValueError("no pages")
    kids = b" ".join(b"%d 0 R" % number for number in pages[:_MOST_PAGES])
    form = b"<</Fields[%s]>>" % b" ".join(fields[:_MOST_PAGES])
    roots = b"\n%d 0 obj\n<</Type/Catalog/Pages %d 0 R/AcroForm%s>>\nendobj\n" % (highest + 1, highest + 2, form)
    roots += b"%d 0 obj\n<</Type/Pages/MediaBox[0 0 612 792]/Count %d/Kids[%s]>>\nendobj\n" % (
        highest + 2, min(len(pages), _MOST_PAGES), kids,
    )  # fmt: skip
    return data[:end] + roots + b"trailer\n<</Root %d 0 R/Size %d>>\n%%%%EOF\n" % (highest + 1, highest + 3)


def page_image(data: bytes, number: int) -> bytes:
    """Return a page as a PNG, numbered from 1, at 150 dots per inch but at most 2,000 pixels high or wide.

    Raises:
        RefusedError: the document is broken or encrypted, or has no such page.
    """
    document = _open_document(data, [])
    if not 1 <= number <= len(document):
        raise RefusedError(f"it has {len(document):,} pages, not a page {number:,}")
    page = document[number - 1]
    scale = min(PAGE_DPI / 72, MAX_PAGE_PIXELS / max(*page.get_size(), 1))
    picture = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
    return png_bytes(bytes(picture.buffer), picture.width, picture.height, picture.stride, picture.n_channels)


def png_bytes(pixels: bytes, width: int, height: int, stride: int, channels: int) -> bytes:
    """Return rows of 8-bit grey, RGB or RGBA pixels as a PNG."""
    rows = b"".join(b"\0" + pixels[at : at + width * channels] for at in range(0, stride * height, stride))
    kind = {1: 0, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _page_text(document: Any, number: int) -> str:
    import pypdfium2

    try:
        page = document[number]
        words = page.get_textpage()
    except pypdfium2.PdfiumError:
        return ""
    text = words.get_text_bounded()
    beside = list(_annotation_texts(document, page, words))
    words.close()
    page.close()
    return "\n".join(filter(None, [text, *beside]))


def _annotation_texts(document: Any, page: Any, words: Any) -> Iterator[str]:
    """Yield the form values and comments of a page."""
    import pypdfium2.raw as pdfium

    for index in range(min(pdfium.FPDFPage_GetAnnotCount(page.raw), _MOST_ANNOTATIONS)):
        annotation = pdfium.FPDFPage_GetAnnot(page.raw, index)
        if not annotation:
            continue
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        if pdfium.FPDFAnnot_GetFlags(annotation) & _UNSEEN:
            text = ""
        elif kind == _WIDGET:
            if document.formenv:
                text = _field_text(document.formenv, annotation, words)
            else:
                text = ""
        elif kind in (_LINK, _POPUP):
            text = ""
        else:
            text = _remark_text(annotation, words, is_struck=kind == _STRIKEOUT)
        pdfium.FPDFPage_CloseAnnot(annotation)
        if text:
            yield text


def _remark_text(annotation: Any, words: Any, *, is_struck: bool) -> str:
    """Return the text that an annotation strikes through, and its comment."""
    import pypdfium2.raw as pdfium

    lines = []
    quad = pdfium.FS_QUADPOINTSF()
    for index in range(min(pdfium.FPDFAnnot_CountAttachmentPoints(annotation), _MOST_CHOICES) if is_struck else 0):
        if pdfium.FPDFAnnot_GetAttachmentPoints(annotation, index, quad):
            across, up = (quad.x1, quad.x2, quad.x3, quad.x4), (quad.y1, quad.y2, quad.y3, quad.y4)
            text = words.get_text_bounded(min(across), min(up), max(across), max(up))
            lines += [f"[struck] {' '.join(text.split())}"] if text.strip() else []
    comment = _read_string(lambda *into: pdfium.FPDFAnnot_GetStringValue(annotation, b"Contents", *into))
    lines += [f"[comment] {' '.join(comment.split())}"] if comment.strip() else []
    return "\n".join(lines)


def _field_text(form: Any, annotation: Any, words: Any) -> str:
    """Return a field as "label: value", or an empty string if it has no value."""
    import pypdfium2.raw as pdfium

    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    flags = pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation)
    if kind == _BUTTON or (kind == _TEXT and flags & _PASSWORD):
        return ""
    value = _read_string(lambda *into: pdfium.FPDFAnnot_GetFormFieldValue(form, annotation, *into))
    checked = kind in (_CHECKBOX, _RADIO) and pdfium.FPDFAnnot_IsChecked(form, annotation)
    if kind == _RADIO:
        value = _read_string(lambda *into: pdfium.FPDFAnnot_GetFormFieldExportValue(form, annotation, *into)) or "[x]"
    elif kind in (_COMBO, _LIST):
        value = ", ".join(_chosen_labels(form, annotation)) or value
    elif kind == _CHECKBOX:
        value = "[x]" if checked else "[ ]"
    if not value.strip() or (kind == _RADIO and not checked):
        return ""
    label = _read_string(lambda *into: pdfium.FPDFAnnot_GetFormFieldAlternateName(form, annotation, *into))
    label = label or _left_of(annotation, words)
    label = label or _read_string(lambda *into: pdfium.FPDFAnnot_GetFormFieldName(form, annotation, *into))
    return f"{' '.join(label.split()).rstrip(':')}: {' '.join(value.split())}"


def _chosen_labels(form: Any, annotation: Any) -> Iterator[str]:
    """Yield the selected options of a list as displayed, which may differ from the stored values."""
    import pypdfium2.raw as pdfium

    for index in range(min(pdfium.FPDFAnnot_GetOptionCount(form, annotation), _MOST_CHOICES)):
        if pdfium.FPDFAnnot_IsOptionSelected(form, annotation, index):
            yield _read_string(lambda *into, at=index: pdfium.FPDFAnnot_GetOptionLabel(form, annotation, at, *into))


def _left_of(annotation: Any, words: Any) -> str:
    """Return the text to the left of a field on the same line."""
    import pypdfium2.raw as pdfium

    box = pdfium.FS_RECTF()
    if not pdfium.FPDFAnnot_GetRect(annotation, box):
        return ""
    text = words.get_text_bounded(0, min(box.bottom, box.top), min(box.left, box.right), max(box.bottom, box.top))
    return " ".join(text.split())[-80:]


def _read_string(ask: Callable[..., int]) -> str:
    """Return a string from pdfium, which first reports its length and then writes UTF-16 into a buffer."""
    import pypdfium2.raw as pdfium

    size = ask(None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    ask(ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return buffer.raw[: size - 2].decode("utf-16-le", "replace").rstrip("\0")
