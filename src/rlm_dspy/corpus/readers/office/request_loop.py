"""The program: reads requests from stdin and writes answers to stdout.

A request is a line of JSON with ``kind``, ``size`` and ``seconds``, followed by ``size`` bytes. An answer is the length
of a line of JSON and that line, with ``text``, ``marks`` and ``note``, or ``error``. Documents are limited by
characters, cells and bytes, so that every machine reads the same text; the limit on CPU time only ends hangs, by ending
this process.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sys
import time
from typing import Any

from . import epub, html_page, opendocument, pdf, rtf, sheets, slides, table_files, word
from .pieces import MOST_CHARS, NO_TEXT, CutError, Notes, Reading, RefusedError, written_marks

SCANNED = ": perhaps scanned pages, which an OCR reader or a model that sees can read"
MAX_MEMORY_BYTES = 3 << 30

READERS: dict[str, Reading] = {
    "html": html_page.page_pieces, "pdf": pdf.page_pieces, "docx": word.document_pieces,
    "pptx": slides.slide_pieces, "xlsx": sheets.sheet_pieces, "rtf": rtf.text_pieces, "epub": epub.chapter_pieces,
    "sqlite": table_files.sqlite_pieces, "parquet": table_files.parquet_pieces, "arrow": table_files.arrow_pieces,
    "odt": opendocument.text_pieces, "ods": opendocument.sheet_pieces, "odp": opendocument.slide_pieces,
    "odg": opendocument.drawing_pieces,
}  # fmt: skip

_CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ufeff]")


def convert_document(kind: str, data: bytes) -> dict[str, Any]:
    """Join the pieces of a document and record where each begins."""
    notes: Notes = []
    parts: list[str] = []
    marks: list[tuple[int, str, bool]] = []
    line, size, seen = 1, 0, ""
    try:
        for text, what, counted in READERS[kind](data, notes):
            if what:
                marks.append((line, what, counted))
            seen = what or seen
            text = _plain_text(text)
            parts.append(text)
            line += text.count("\n")
            size += len(text)
            if size > MOST_CHARS:
                raise CutError(f"cut after {seen or 'its first part'}: it has more than {MOST_CHARS:,} characters")
    except CutError as cut:
        notes.append(str(cut))
    text = "".join(parts)
    if not text.strip():
        raise RefusedError(NO_TEXT + (SCANNED if kind == "pdf" else ""))
    return {"text": text.encode("utf-8", "replace").decode(), "marks": marks, "note": "; ".join(notes)}


def _plain_text(text: str) -> str:
    """Return a text with its marks written, without control characters, with line feeds as line ends."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", written_marks(text)).rstrip("\n") + "\n"


def answer(kind: str, data: bytes, page: int | None = None) -> dict[str, Any]:
    """Convert a document, or draw a page of a PDF; any exception becomes the reason in the answer."""
    try:
        if page is not None:
            return {"text": base64.b64encode(pdf.page_image(data, page)).decode(), "marks": [], "note": ""}
        return convert_document(kind, data)
    except RefusedError as error:
        return {"error": str(error)}
    except ImportError as error:
        return {"missing": str(error.name)}
    except MemoryError:
        return {"error": f"it needs more than {MAX_MEMORY_BYTES >> 30} GB of memory: split it"}
    except RecursionError:
        return {"error": "its parts are nested too deeply"}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the process boundary: only answers may cross it
        return {"error": f"broken: {type(error).__name__}: {str(error)[:200]}"}


def main() -> None:
    """Answer requests until stdin ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    _limit_memory()
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["size"])
        _limit_time(request.get("seconds", 0))
        body = json.dumps(answer(request["kind"], data, request.get("page"))).encode()
        answers.write(b"%d\n" % len(body) + body)
        answers.flush()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    """Have the system end this process after this many more seconds of CPU time."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        if seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, hard))
