"""Pages, PDF, Word, PowerPoint and Excel to text: a program of its own, started by ``converter``.

Its libraries parse hostile input, partly in C, so they run in a process that may die, hang or be killed without
harm. It stands alone (``python -I office.py``), reads requests from stdin and writes answers to stdout: a line of
JSON with ``kind`` and ``size`` and that many bytes; a line of JSON with ``text``, ``marks``, ``note`` and ``late``, or
``error``.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import Any

MEMORY = 3 << 30
MOST_PAGES = 3_000
MOST_CHARS = 50_000_000
MOST_UNPACKED = 400_000_000
SECONDS = 45.0

_FED = 1 << 20  # characters of a page between two looks at the clock

Piece = tuple[str, str, bool]  # a text, what it is ("page 3"), and whether its lines are counted


class RefusedError(Exception):
    """The document cannot be read; the message says why."""


class CutError(Exception):
    """The document goes on, and the rest is not read; the message says so."""


def html(data: bytes, until: float) -> Iterator[Piece]:
    """Yield what is seen of a page, given as UTF-8; headings become Markdown's."""
    page, text = _Page(), data.decode("utf-8", "replace")
    for at in range(0, len(text), _FED):
        page.feed(text[at : at + _FED])
        if time.monotonic() > until:
            break
    page.close()
    yield page.result(), "", False


def pdf(data: bytes, until: float) -> Iterator[Piece]:
    """Yield the text of each page."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise RefusedError("an encrypted PDF" if locked else "a broken PDF") from None
    pages = len(document)
    for number in range(min(pages, MOST_PAGES)):
        try:
            page = document[number]
            words = page.get_textpage()
            text = words.get_text_bounded()
            words.close()
            page.close()
        except pypdfium2.PdfiumError:
            text = ""
        yield text.replace("\r\n", "\n").replace("\r", "\n"), f"page {number + 1}", False
    if pages > MOST_PAGES:
        raise CutError(f"only the first {MOST_PAGES:,} of {pages:,} pages were read")


def docx(data: bytes, until: float) -> Iterator[Piece]:
    """Yield the paragraphs and rows of tables of a Word document; headings become Markdown's."""
    import docx as word

    for item in word.Document(io.BytesIO(data)).iter_inner_content():
        if hasattr(item, "rows"):
            yield from (("\t".join(map(_cell, row.cells)), "", False) for row in item.rows)
            continue
        style = (item.style.name or "") if item.style is not None else ""
        level = style.removeprefix("Heading ") if style.startswith("Heading ") else ""
        head = "#" * int(level) + " " if level.isdigit() else "# " if style == "Title" else ""
        yield head + item.text, "", False


def _cell(cell: Any) -> str:
    """The text of a cell and of the tables in it, in one line."""
    parts: list[str] = []
    for item in cell.iter_inner_content():
        parts += [_cell(inner) for row in item.rows for inner in row.cells] if hasattr(item, "rows") else [item.text]
    return " ".join(" ".join(parts).split("\n")).strip(" ")


def pptx(data: bytes, until: float) -> Iterator[Piece]:
    """Yield the text of each slide, with its notes."""
    import pptx as slides

    for number, slide in enumerate(slides.Presentation(io.BytesIO(data)).slides, 1):
        lines = list(_shown(slide.shapes))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            lines.append("Notes: " + slide.notes_slide.notes_text_frame.text)
        yield "\n".join(lines), f"slide {number}", False


def _shown(shapes: Iterable[Any]) -> Iterator[str]:
    for shape in shapes:
        if shape.has_text_frame:
            yield shape.text_frame.text.replace("\v", "\n")
        if getattr(shape, "has_table", False):
            yield from ("\t".join(cell.text for cell in row.cells) for row in shape.table.rows)
        yield from _shown(getattr(shape, "shapes", ()))


def xlsx(data: bytes, until: float) -> Iterator[Piece]:
    """Yield each sheet as tab-separated rows, so that a line's number is a row's."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    for sheet in book.worksheets:
        yield f"=== {sheet.title} ===", "", False
        sheet.reset_dimensions()  # the file may say that it is smaller than it is
        rows: list[str] = []
        size = 0
        for row in sheet.iter_rows(values_only=True):
            cells = ["" if cell is None else " ".join(str(cell).split()) for cell in row]
            rows.append("\t".join(cells).rstrip("\t"))
            size += len(rows[-1]) + 1
            if size > MOST_CHARS or time.monotonic() > until:
                break
        while rows and not rows[-1]:
            rows.pop()
        yield "\n".join(rows), f"sheet {sheet.title} row", True


READERS: dict[str, Callable[[bytes, float], Iterator[Piece]]] = {
    "html": html, "pdf": pdf, "docx": docx, "pptx": pptx, "xlsx": xlsx,
}  # fmt: skip


def convert(kind: str, data: bytes) -> dict[str, Any]:
    """Join the pieces of a document and note where each begins."""
    if kind in ("docx", "pptx", "xlsx"):
        _check_archive(data)
    parts: list[str] = []
    marks: list[tuple[int, str, bool]] = []
    line, size, note, late, until = 1, 0, "", False, time.monotonic() + SECONDS
    try:
        for text, what, counted in READERS[kind](data, until):
            if what:
                marks.append((line, what, counted))
            text = text.replace("\x00", "").rstrip("\n") + "\n"
            parts.append(text)
            line += text.count("\n")
            size += len(text)
            late = time.monotonic() > until
            if size > MOST_CHARS or late:
                note = f"cut after {what or 'its first part'}: it {'took too' if late else 'is too'} long"
                break
    except CutError as cut:
        note = str(cut)
    text = "".join(parts)
    if not text.strip():
        raise RefusedError("no text in it" + ("" if kind == "html" else ": perhaps scanned pages"))
    return {"text": text.encode("utf-8", "replace").decode(), "marks": marks, "note": note, "late": late}


def _check_archive(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > MOST_UNPACKED or size > max(50_000_000, 250 * len(data)):
        raise RefusedError("it unpacks to far more than its size, as a zip bomb does")


def answer(kind: str, data: bytes) -> dict[str, Any]:
    """Convert a document, or say why not; whatever these libraries raise is a reason."""
    try:
        return convert(kind, data)
    except RefusedError as error:
        return {"error": str(error)}
    except ImportError as error:
        return {"missing": str(error.name)}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except BaseException as error:  # the edge of this process: nothing may leave it but an answer
        if isinstance(error, KeyboardInterrupt):
            raise
        return {"error": f"broken: {type(error).__name__}: {str(error)[:200]}"}


def main() -> None:
    """Answer requests until stdin ends."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["size"])
        body = json.dumps(answer(request["kind"], data)).encode()
        answers.write(b"%d\n" % len(body) + body)
        answers.flush()


# What is seen of a page

_UNSHOWN = frozenset({"script", "style", "template", "noscript", "svg", "head", "iframe", "object"})
_BLOCKS = frozenset(
    """address article aside blockquote body br caption dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6
    header hr html legend li main nav ol option p pre section table tbody tfoot thead tr ul title""".split()  # noqa: SIM905
)
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())  # noqa: SIM905
_IN_HEAD = frozenset({"base", "link", "meta", "title", "style", "script", "noscript", "template"})
_ENDS = {tag: {"p"} for tag in _BLOCKS - {"br", "caption", "legend", "option", "title"}} | {  # what a tag ends
    "li": {"p", "li"}, "dt": {"p", "dt", "dd"}, "dd": {"p", "dt", "dd"}, "option": {"option"},
    "td": {"p", "td", "th"}, "th": {"p", "td", "th"}, "tr": {"p", "td", "th", "tr"},
    "tbody": {"p", "td", "th", "tr", "tbody", "thead"}, "tfoot": {"p", "td", "th", "tr", "tbody", "thead"},
}  # fmt: skip


class _Page(HTMLParser):
    """Collects what a reader of a page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._open: list[str] = []
        self._count: Counter[str] = Counter()  # of what is open, by its tag
        self._hidden = 0  # how many elements were open when a hidden one had begun, or 0
        self._title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._make_room(tag)
        self._title = tag == "title" and not self._count.get("svg")
        if tag not in _VOID:
            self._open.append(tag)
            self._count[tag] += 1
            if not self._hidden and (tag in _UNSHOWN or _is_hidden(tag, attrs)):
                self._hidden = len(self._open)
        if self._hidden:
            return
        if tag in ("td", "th"):
            self._parts.append(" \t")
        elif tag in _BLOCKS:
            level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else 0
            self._parts.append("\n" + ("#" * level + " " if level else "- " if tag == "li" else ""))

    def handle_endtag(self, tag: str) -> None:
        self._title = False
        if self._count.get(tag):
            self._end(tag)
        if tag in _BLOCKS and not self._hidden:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._title:
            self._parts.append(f"\n{data.strip()}\n")
            return
        if self._hidden and self._open[-1] == "head" and data.strip():
            self._end("head")
        if not self._hidden:
            self._parts.append(data if self._count.get("pre") else re.sub(r"\s+", " ", data))

    def result(self) -> str:
        lines = (line.strip(" ") for line in "".join(self._parts).split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"

    def _make_room(self, tag: str) -> None:
        """End what a tag ends without saying so."""
        if self._count.get("title") and self._open[-1] == "title":
            self._end("title")
        if self._count.get("head") and (tag == "body" or (self._open[-1] == "head" and tag not in _IN_HEAD)):
            self._end("head")
        while self._open and self._open[-1] in _ENDS.get(tag, ()):
            self._end(self._open[-1])

    def _end(self, tag: str) -> None:
        """End the last element of this tag and all in it."""
        ended = ""
        while ended != tag:
            ended = self._open.pop()
            self._count[ended] -= 1
        if len(self._open) < self._hidden:
            self._hidden = 0


def _is_hidden(tag: str, attrs: list[tuple[str, str | None]]) -> bool:
    if tag in ("html", "body"):  # which scripts show when they are done
        return False
    style = "".join(value or "" for name, value in attrs if name == "style")
    return any(name == "hidden" for name, _ in attrs) or re.search(r"display\s*:\s*none", style, re.I) is not None


if __name__ == "__main__":
    main()
