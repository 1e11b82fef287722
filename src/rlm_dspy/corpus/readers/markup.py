"""HTML pages and notebooks as plain text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from rlm_dspy.corpus.corpus import LineMark
from rlm_dspy.corpus.decoding import decode, decode_declared, joined_notes, page_charset
from rlm_dspy.corpus.readers import converter
from rlm_dspy.corpus.readers.office.pieces import MOST_CHARS, NO_TEXT
from rlm_dspy.corpus.readers.reader import Converted, UnreadableError

_MAX_HTML_BYTES = 30_000_000  # bytes of HTML that are parsed; larger pages are read unparsed


def read_html(data: bytes, name: str, charset: str | None = None, encoding: str | None = None) -> Converted:
    """Return the visible text of a page, without scripts and styles, with Markdown headings.

    ``charset`` is the one declared for the page, ``encoding`` the one the user named.
    """
    text, note = decode_declared(data, [charset, page_charset(data)], encoding)
    if len(data) > _MAX_HTML_BYTES:
        return Converted(text, note="too long to be parsed, so its markup is kept")
    converted = _convert_page(text)
    return replace(converted, note=joined_notes(note, converted.note))


def _convert_page(page: str) -> Converted:
    """Parse a page in the child process, where a hostile page can only time out."""
    return converter.shared().convert("html", page.encode("utf-8", "replace"))


def read_notebook(data: bytes, name: str) -> Converted:
    """Return the cells of a Jupyter notebook of format 3 or 4 with their outputs, each marked with its number."""
    try:
        notebook = json.loads(decode(data)[0])
        sheets = notebook.get("worksheets") or [notebook]
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        language = _code_language(notebook.get("metadata"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"a broken notebook: {error}") from None
    return _joined_cells(cells, language)


def _joined_cells(cells: list[Any], language: str) -> Converted:
    """Return the text of a notebook's cells up to the limit on a document, and what was not read of them."""
    parts: list[str] = []
    marks: list[LineMark] = []
    odd: list[str] = []
    notes: list[str] = []
    line, size = 1, 0
    for number, cell in enumerate(cells, 1):
        lost: list[str] = []
        try:
            body = _cell_markdown(cell, language, lost)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            odd.append(str(number))
            continue
        body = body.encode("utf-8", "replace").decode().rstrip("\n") + "\n\n"
        marks.append((line, f"cell {number}", False))
        line += body.count("\n")
        size += len(body)
        parts.append(body)
        notes += [f"an output of cell {number} is not read: {why}" for why in lost[:1]]
        if size > MOST_CHARS:
            notes.append(f"cut after cell {number}: it has more than {MOST_CHARS:,} characters")
            break
    if odd:
        notes.append(f"of {len(cells):,} cells these are invalid: {', '.join(odd[:20])}")
    return Converted("".join(parts), tuple(marks), "; ".join(notes))


def _cell_markdown(cell: dict[str, Any], language: str, lost: list[str]) -> str:
    """Return a cell as Markdown: code between fences, with its outputs; add to ``lost`` why one is not read."""
    source = _plain_text(cell.get("source", cell.get("input", "")))
    if cell.get("cell_type") == "heading":
        return f"{'#' * int(cell.get('level') or 1)} {source}"
    if cell.get("cell_type") != "code":
        return source
    return f"```{language}\n{source}\n```\n{_rendered_outputs(cell, lost)}"


def _code_language(metadata: Any) -> str:
    """Return the language of a notebook's code from its metadata, Python by default."""
    named = metadata if isinstance(metadata, dict) else {}
    for part, key in (("language_info", "name"), ("kernelspec", "language")):
        section = named.get(part)
        language = section.get(key) if isinstance(section, dict) else None
        if isinstance(language, str) and re.fullmatch(r"[\w+#.-]{1,30}", language):
            return language.lower()
    return "python"


def _rendered_outputs(cell: dict[str, Any], lost: list[str]) -> str:
    shown = [_output_text(output, lost) for output in cell.get("outputs") or ()]
    return "".join(f"Output:\n{text}\n" for text in shown if text.strip())


def _output_text(output: dict[str, Any], lost: list[str]) -> str:
    """Return an output as text, in its most readable form; add to ``lost`` why a page in it is not read."""
    if output.get("output_type") in ("error", "pyerr"):
        traceback = output.get("traceback") or ()
        named = f"{output.get('ename') or 'Error'}: {output.get('evalue') or ''}"
        shown = "\n".join(map(_plain_text, traceback))
        if named in shown:
            return shown
        return f"{shown}\n{named}".lstrip("\n")
    forms = {**output, **(output.get("data") or {})}  # format 3 stores the forms at the top level
    for plain in ("text", "text/plain"):
        if _plain_text(forms.get(plain) or "").strip() and not _is_placeholder(_plain_text(forms[plain])):
            return _plain_text(forms[plain])
    for markdown in ("text/markdown", "markdown", "text/latex", "latex"):
        if forms.get(markdown):
            return _plain_text(forms[markdown])
    if page := forms.get("text/html") or forms.get("html"):
        try:
            return _convert_page(_plain_text(page)).text
        except UnreadableError as error:
            if str(error) == NO_TEXT:  # graphics
                return ""
            lost.append(str(error))
            return ""
    if data := forms.get("application/json", forms.get("json")):
        return json.dumps(data, ensure_ascii=False)
    return _plain_text(forms.get("text/plain") or forms.get("text") or "")


def _is_placeholder(text: str) -> bool:
    """Return whether a text is only the repr of an object with another form, such as <IPython...HTML object>."""
    return re.fullmatch(r"\s*<[\w.]+ object(?: at 0x[0-9a-f]+)?>\s*", text) is not None


def _plain_text(text: Any) -> str:
    plain = "".join(text) if isinstance(text, list) else str(text)
    return re.sub(r"\x1b\[[0-9;]*m", "", plain)
