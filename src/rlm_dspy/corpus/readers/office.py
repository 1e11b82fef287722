"""PDF, Word, PowerPoint and Excel to text: a program of its own, started by ``converter``.

These libraries parse hostile input, partly in C, so they run in a process that may die, hang or be killed without
harm. It stands alone (``python -I office.py``), reads requests from stdin and writes answers to stdout: a line of
JSON with ``kind`` and ``size`` and that many bytes; a line of JSON with ``text``, ``marks`` and ``note``, or ``error``.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

MEMORY = 3 << 30
MOST_PAGES = 3_000
MOST_CHARS = 50_000_000
MOST_UNPACKED = 400_000_000
SECONDS = 45.0

Piece = tuple[str, str, bool]  # a text, what it is ("page 3"), and whether its lines are counted


class RefusedError(Exception):
    """The document cannot be read; the message says why."""


class CutError(Exception):
    """The document goes on, and the rest is not read; the message says so."""


def pdf(data: bytes) -> Iterator[Piece]:
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


def docx(data: bytes) -> Iterator[Piece]:
    """Yield the paragraphs and tables of a Word document as one text; headings become Markdown's."""
    import docx as word

    document = word.Document(io.BytesIO(data))
    for item in document.iter_inner_content():
        if hasattr(item, "rows"):
            rows = (row.cells for row in item.rows)
            yield "\n".join("\t".join(cell.text.replace("\n", " ") for cell in cells) for cells in rows), "", False
            continue
        style = (item.style.name or "") if item.style is not None else ""
        level = style.removeprefix("Heading ") if style.startswith("Heading ") else ""
        head = "#" * int(level) + " " if level.isdigit() else "# " if style == "Title" else ""
        yield head + item.text, "", False


def pptx(data: bytes) -> Iterator[Piece]:
    """Yield the text of each slide, with its notes."""
    import pptx as slides

    for number, slide in enumerate(slides.Presentation(io.BytesIO(data)).slides, 1):
        lines = []
        for shape in slide.shapes:
            if shape.has_text_frame:
                lines.append(shape.text_frame.text.replace("\v", "\n"))
            if getattr(shape, "has_table", False):
                lines += ["\t".join(cell.text for cell in row.cells) for row in shape.table.rows]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            lines.append("Notes: " + slide.notes_slide.notes_text_frame.text)
        yield "\n".join(lines), f"slide {number}", False


def xlsx(data: bytes) -> Iterator[Piece]:
    """Yield each sheet as tab-separated rows, so that a line's number is a row's."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    for sheet in book.worksheets:
        yield f"=== {sheet.title} ===", "", False
        rows: list[str] = []
        size = 0
        for row in sheet.iter_rows(values_only=True):
            cells = ["" if cell is None else " ".join(str(cell).split()) for cell in row]
            rows.append("\t".join(cells).rstrip("\t"))
            size += len(rows[-1]) + 1
            if size > MOST_CHARS:
                break
        while rows and not rows[-1]:
            rows.pop()
        yield "\n".join(rows), f"sheet {sheet.title} row", True


READERS: dict[str, Callable[[bytes], Iterator[Piece]]] = {"pdf": pdf, "docx": docx, "pptx": pptx, "xlsx": xlsx}


def convert(kind: str, data: bytes) -> dict[str, Any]:
    """Join the pieces of a document and note where each begins."""
    if kind != "pdf":
        _check_archive(data)
    parts: list[str] = []
    marks: list[tuple[int, str, bool]] = []
    line, size, note, started = 1, 0, "", time.monotonic()
    try:
        for text, what, counted in READERS[kind](data):
            if what:
                marks.append((line, what, counted))
            text = text.replace("\x00", "").rstrip("\n") + "\n"
            parts.append(text)
            line += text.count("\n")
            size += len(text)
            if size > MOST_CHARS or time.monotonic() - started > SECONDS:
                note = f"cut after {what or 'its first part'}: it is too long"
                break
    except CutError as cut:
        note = str(cut)
    text = "".join(parts)
    if not text.strip():
        raise RefusedError("no text in it: perhaps scanned pages")
    return {"text": text.encode("utf-8", "replace").decode(), "marks": marks, "note": note}


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


if __name__ == "__main__":
    main()
