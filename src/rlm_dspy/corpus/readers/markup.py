"""Pages, notebooks and e-mail as plain text."""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

from rlm_dspy.corpus.decoding import decode
from rlm_dspy.corpus.documents import Mark
from rlm_dspy.corpus.readers import converter
from rlm_dspy.corpus.readers.shapes import Converted, Left, Member, UnreadableError

_LONGEST = 30_000_000  # bytes of HTML that are parsed; more is read as it is
_OUTPUT = 100_000  # characters of one output of a notebook's cell

_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)", re.I)
_PROBE = b'<meta charset="\\u0041 +AGE- ~1 .xn--4ca.">'  # no encoding that a page can declare in ASCII changes it
_ENDINGS = {"text/html": ".html", "message/rfc822": ".eml"}


def read_html(data: bytes, name: str) -> Converted:
    """Return the visible text of a page; scripts and styles are left out, headings become Markdown's."""
    text, note = _decoded(data)
    if len(data) > _LONGEST:
        return Converted(text, note="too long to be parsed, so its markup is kept")
    made = _seen(text)
    return replace(made, note="; ".join(filter(None, (note, made.note))))


def _seen(page: str) -> Converted:
    """Have a page parsed where one that was made to take forever does no harm."""
    return converter.shared().convert("html", page.encode("utf-8", "replace"))


def _decoded(data: bytes) -> tuple[str, str]:
    declared = _CHARSET.search(data[:2048])
    if declared and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        # Where what it says of itself is wrong, it is guessed as with any other file.
        with contextlib.suppress(LookupError, UnicodeError):
            encoding = declared[1].decode("ascii")
            if _PROBE.decode(encoding).encode("ascii") == _PROBE:
                return data.decode(encoding), ""
    return decode(data)


def read_notebook(data: bytes, name: str) -> Converted:
    """Return the cells of a Jupyter notebook with the text of their outputs, each marked with its number."""
    try:
        notebook = json.loads(data)
        cells, language = notebook["cells"], _language(notebook.get("metadata"))
        parts: list[str] = []
        marks: list[Mark] = []
        line = 1
        for number, cell in enumerate(cells, 1):
            source = _joined(cell.get("source", ""))
            body = source if cell.get("cell_type") != "code" else f"```{language}\n{source}\n```\n{_outputs(cell)}"
            body = body.encode("utf-8", "replace").decode().rstrip("\n") + "\n\n"
            marks.append((line, f"cell {number}", False))
            line += body.count("\n")
            parts.append(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"a broken notebook: {error}") from None
    return Converted("".join(parts), tuple(marks))


def _language(metadata: Any) -> str:
    """The language of a notebook's code, as its metadata name it, or else Python."""
    named = metadata if isinstance(metadata, dict) else {}
    for part, key in (("language_info", "name"), ("kernelspec", "language")):
        language = named[part].get(key) if isinstance(named.get(part), dict) else None
        if isinstance(language, str) and re.fullmatch(r"[\w+#.-]{1,30}", language):
            return language.lower()
    return "python"


def _outputs(cell: dict[str, Any]) -> str:
    shown = []
    for output in cell.get("outputs", ()):
        text = output.get("text") or (output.get("data") or {}).get("text/plain") or output.get("traceback") or ""
        shown.append(_joined(text)[:_OUTPUT])
    return "".join(f"Output:\n{text}\n" for text in shown if text.strip())


def _joined(text: Any) -> str:
    plain = "".join(text) if isinstance(text, list) else str(text)
    return re.sub(r"\x1b\[[0-9;]*m", "", plain)


def read_email(data: bytes, name: str) -> Iterator[Converted | Member | Left]:
    """Yield the headers and body of a message, then its attachments as files."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    lines = [f"{key}: {_header(message, key)}" for key in ("From", "To", "Cc", "Date", "Subject") if message[key]]
    try:
        body = message.get_body(preferencelist=("plain", "html"))
        text = str(body.get_content()) if body is not None else ""
    except (LookupError, ValueError, AttributeError) as error:
        raise UnreadableError(f"a broken message: {error}") from None
    unread = None
    if body is not None and body.get_content_subtype() == "html":
        try:
            text = _seen(text).text
        except UnreadableError as error:
            text, unread = "", Left("body.html", str(error))
    yield Converted("\n".join(lines) + "\n\n" + text.encode("utf-8", "replace").decode())
    if unread is not None:
        yield unread
    for number, part in enumerate(_beside(message, body), 1):
        yield _member(part, number)


def _beside(part: Any, body: Any, other: bool = False) -> Iterator[Any]:
    """Yield the parts of a message but its body and ``other`` forms of the body's text."""
    kind = part.get_content_type()
    if part is body or (other and kind in ("text/plain", "text/html") and not part.get_filename()):
        return
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        other = other or (kind == "multipart/alternative" and any(inner is body for inner in part.walk()))
        for inner in part.get_payload():
            yield from _beside(inner, body, other)
    else:
        yield part


def _member(part: Any, number: int) -> Member:
    kind = part.get_content_type()
    if part.is_multipart():
        data = b"\n".join(inner.as_bytes(policy=email.policy.compat32) for inner in part.get_payload())
    else:
        data = part.get_payload(decode=True) or b""
    ending = _ENDINGS.get(kind, "")
    name = part.get_filename() or ("message" if kind == "message/rfc822" else f"attachment-{number}")
    return Member(name if name.lower().endswith(ending) else name + ending, data)


def _header(message: EmailMessage, key: str) -> str:
    return " ".join(str(message[key]).split())
