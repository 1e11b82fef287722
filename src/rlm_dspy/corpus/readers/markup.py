"""HTML, notebooks and e-mail as plain text, by the standard library."""

from __future__ import annotations

import email
import email.policy
import json
import re
from collections.abc import Iterator
from email.message import EmailMessage
from html.parser import HTMLParser
from typing import Any

from rlm_dspy.corpus.decoding import decode
from rlm_dspy.corpus.documents import Mark
from rlm_dspy.corpus.readers.shapes import Converted, Member, UnreadableError

_LONGEST = 30_000_000  # bytes of HTML that are parsed; more is read as it is
_OUTPUT = 100_000  # characters of one output of a notebook's cell

_UNSHOWN = frozenset({"script", "style", "template", "noscript", "svg", "head", "iframe", "object"})
_BLOCKS = frozenset(
    """address article aside blockquote body br caption dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6
    header hr html legend li main nav ol option p pre section table tbody tfoot thead tr ul title""".split()  # noqa: SIM905
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]+)", re.I)


def read_html(data: bytes, name: str) -> Converted:
    """Return the visible text of a page; scripts and styles are left out, headings become Markdown's."""
    text, note = _page(data)
    if len(data) > _LONGEST:
        return Converted(text, note="too long to be parsed, so its markup is kept")
    parser = _Text()
    parser.feed(text)
    parser.close()
    return Converted(parser.result(), note=note)


def _page(data: bytes) -> tuple[str, str]:
    declared = _CHARSET.search(data[:2048])
    if declared and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode(declared[1].decode("ascii")), ""
        except (LookupError, UnicodeDecodeError):
            pass  # what it says of itself is wrong, so it is guessed as with any other file
    return decode(data)


class _Text(HTMLParser):
    """Collects what a reader of the page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden: list[str] = []
        self._title = False
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._title = tag == "title" and "svg" not in self._hidden
        if tag in _UNSHOWN:
            self._hidden.append(tag)
        elif tag in ("td", "th"):
            self._parts.append(" \t")
        elif tag in _BLOCKS:
            self._verbatim += tag == "pre"
            level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else 0
            self._parts.append("\n" + ("#" * level + " " if level else "- " if tag == "li" else ""))

    def handle_endtag(self, tag: str) -> None:
        self._title = False
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag in _BLOCKS:
            self._verbatim -= tag == "pre" and self._verbatim > 0
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._title:
            self._parts.append(f"\n{data.strip()}\n")
        elif not self._hidden:
            self._parts.append(data if self._verbatim else re.sub(r"\s+", " ", data))

    def result(self) -> str:
        lines = (line.strip(" ") for line in "".join(self._parts).split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


def read_notebook(data: bytes, name: str) -> Converted:
    """Return the cells of a Jupyter notebook with the text of their outputs, each marked with its number."""
    try:
        cells = json.loads(data)["cells"]
        language = "python"
        parts: list[str] = []
        marks: list[Mark] = []
        line = 1
        for number, cell in enumerate(cells, 1):
            source = _joined(cell.get("source", ""))
            body = source if cell.get("cell_type") != "code" else f"```{language}\n{source}\n```\n{_outputs(cell)}"
            body = body.rstrip("\n") + "\n\n"
            marks.append((line, f"cell {number}", False))
            line += body.count("\n")
            parts.append(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"a broken notebook: {error}") from None
    return Converted("".join(parts), tuple(marks))


def _outputs(cell: dict[str, Any]) -> str:
    shown = []
    for output in cell.get("outputs", ()):
        text = output.get("text") or (output.get("data") or {}).get("text/plain") or output.get("traceback") or ""
        shown.append(_joined(text)[:_OUTPUT])
    return "".join(f"Output:\n{text}\n" for text in shown if text.strip())


def _joined(text: Any) -> str:
    plain = "".join(text) if isinstance(text, list) else str(text)
    return re.sub(r"\x1b\[[0-9;]*m", "", plain)


def read_email(data: bytes, name: str) -> Iterator[Converted | Member]:
    """Yield the headers and body of a message, then its attachments as files."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    lines = [f"{key}: {_header(message, key)}" for key in ("From", "To", "Cc", "Date", "Subject") if message[key]]
    try:
        body = message.get_body(preferencelist=("plain", "html"))
        text = str(body.get_content()) if body is not None else ""
        html = body is not None and body.get_content_subtype() == "html"
    except (LookupError, ValueError, AttributeError) as error:
        raise UnreadableError(f"a broken message: {error}") from None
    if html:
        text = read_html(text.encode("utf-8", "replace"), name).text
    yield Converted("\n".join(lines) + "\n\n" + text)
    for number, part in enumerate(message.iter_attachments(), 1):
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            yield Member(part.get_filename() or f"attachment-{number}", payload)


def _header(message: EmailMessage, key: str) -> str:
    return " ".join(str(message[key]).split())
