"""The visible text of HTML, extracted in linear time for any input."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html import unescape

from .pieces import LOWERED, LOWERED_END, RAISED, RAISED_END, STRUCK, STRUCK_END, Notes, Piece

_UNSHOWN = frozenset({"script", "style", "template", "noscript", "svg", "head", "iframe", "object", "annotation"})
_DRAWN = frozenset({"text", "title", "desc"})  # elements of a drawing (svg) whose text is read
_UNDRAWN = frozenset({"defs", "symbol", "style", "script"})
_BLOCKS = frozenset(
    """address article aside blockquote body br caption center dd details dialog div dl dt fieldset figcaption figure
    footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol option p pre section select summary table
    tbody tfoot thead tr ul title""".split()  # noqa: SIM905
)
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())  # noqa: SIM905
_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"})  # hold no elements
_IN_HEAD = frozenset({"base", "link", "meta", "title", "style", "script", "noscript", "template"})
_IN_A_PARAGRAPH = frozenset({"br", "caption", "legend", "option", "select", "title"})
_ENDS = {tag: {"p"} for tag in _BLOCKS - _IN_A_PARAGRAPH} | {  # elements that a tag implicitly ends
    "li": {"p", "li"}, "dt": {"p", "dt", "dd"}, "dd": {"p", "dt", "dd"}, "option": {"option"}, "a": {"a"},
    "td": {"p", "td", "th"}, "th": {"p", "td", "th"}, "tr": {"p", "td", "th", "tr"},
    "tbody": {"p", "td", "th", "tr", "tbody", "thead"}, "tfoot": {"p", "td", "th", "tr", "tbody", "thead"},
}  # fmt: skip
_TABLE_TAGS = frozenset({"caption", "table", "tbody", "tfoot", "thead", "tr"})
_VALUELESS = frozenset({"hidden", "password", "file", "image"})  # inputs whose value is not shown

_NAME = re.compile(r"[a-zA-Z][^\s/>]*")
_ATTRIBUTE = re.compile(r"""[\s/]*([^\s/>][^\s/>=]*)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>]*))?""")
_SINGLE = re.compile(r"<([a-zA-Z][^<>]*)/>")
_SPACES = re.compile(r"[\s/]*")

_FRAME = re.compile(r"<iframe\s[^<>]{0,2000}?\bsrcdoc\s*=", re.IGNORECASE)

_KEPT = "\x1f"  # placeholder for significant spaces until the others are collapsed
_BREAK = "\x1e"  # the end of a line in a cell, a space if its row is one line
_NEXT_CELL = " \t"
_MAX_ROW_CHARS = 5_000  # characters of a row on one line; a longer one lays out a page
_MAX_REPEATED_CHARS = 200  # characters of a cell that are repeated in the rows it spans
_MOST_SPANNING = 1_000  # rows and cells repeated in all tables, so that the text stays about as long as the page

_MARKS = {"sup": RAISED, "sub": LOWERED} | dict.fromkeys(("del", "s", "strike"), STRUCK)
_MARK_ENDS = {"sup": RAISED_END, "sub": LOWERED_END}
# What stands before the parts of a formula, between them and after them.
_FORMULAS = {
    "mfrac": ("(", ")/(", ")"), "msqrt": ("sqrt(", ")"), "mroot": ("root(", ", ", ")"), "msup": ("", "^", ""),
    "msub": ("", "_", ""), "msubsup": ("", "_", "^", ""), "munder": ("", "_", ""), "munderover": ("", "_", "^", ""),
}  # fmt: skip
_SYMBOLS = frozenset({"mi", "mn", "mo", "mtext"})  # parts of a formula that need no parentheses

_DECLARATION_CHARS = 2_000  # characters searched for an XHTML declaration

Attributes = dict[str, str]


def page_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the visible text of a page in UTF-8, with Markdown headings."""
    page = data.decode("utf-8", "replace")
    if page.lstrip().startswith("<?xml") or "http://www.w3.org/1999/xhtml" in page[:_DECLARATION_CHARS]:
        page = closed_xhtml(page)
    yield seen_text(page), "", False
    if _FRAME.search(page):
        notes.append("not read: a page inside it (iframe srcdoc)")


def closed_xhtml(page: str) -> str:
    """Return XHTML with its empty elements written as in HTML."""

    def closed(match: re.Match[str]) -> str:
        name = match[1].split(None, 1)[0]
        if name.lower() in _VOID:
            return match[0]
        return f"<{match[1]}></{name}>"

    return _SINGLE.sub(closed, page)


def seen_text(page: str, *, outside_only: bool = False) -> str:
    """Return the visible text of a page with link targets: all, or only external ones."""
    seen = _Page(outside_only=outside_only)
    _Scanner(page, seen).scan()
    return seen.result()


class _Scanner:
    """Separates tags from text in linear time; an unterminated construct ends the page."""

    def __init__(self, page: str, seen: _Page) -> None:
        self._text = page
        self._seen = seen
        self._at = 0

    def scan(self) -> None:
        """Pass on the page's tags and texts, in order."""
        text = self._text
        while self._at < len(text):
            start = text.find("<", self._at)
            if start < 0:
                self._emit_text(len(text))
                return
            if start > self._at:
                self._emit_text(start)
            if text.startswith("<!--", start):
                self._skip_past(start + 2 if text.startswith(("<!-->", "<!--->"), start) else start + 4, "-->")
            elif text.startswith(("<!", "<?"), start):
                self._skip_past(start, ">")
            elif name := _NAME.match(text, start + 1):
                self._scan_start_tag(name[0].lower(), name.end())
            elif text.startswith("</", start) and (name := _NAME.match(text, start + 2)):
                self._skip_past(name.end(), ">")
                self._seen.end(name[0].lower())
            else:
                self._seen.text("<")
                self._at = start + 1

    def _emit_text(self, end: int) -> None:
        self._seen.text(unescape(self._text[self._at : end]))
        self._at = end

    def _skip_past(self, start: int, ending: str) -> None:
        end = self._text.find(ending, start)
        self._at = len(self._text) if end < 0 else end + len(ending)

    def _scan_start_tag(self, tag: str, at: int) -> None:
        """Pass on a tag with its attributes, and the content of raw text elements."""
        attributes: Attributes = {}
        text = self._text
        while match := _ATTRIBUTE.match(text, at):
            at, value = match.end(), match[2] or ""
            if value[:1] in ('"', "'") and value[-1:] == value[:1] and len(value) > 1:
                value = value[1:-1]
            attributes.setdefault(match[1].lower(), unescape(value))
        at = _SPACES.match(text, at).end()  # type: ignore[union-attr]  # it also matches nothing
        self._at = at + 1
        if at >= len(text):
            return  # the page ends inside a tag
        self._seen.start(tag, attributes)
        if tag in _RAW:
            ending = re.compile(f"</{tag}(?=[\\s/>])", re.I).search(text, self._at)
            end = ending.start() if ending else len(text)
            inner = text[self._at : end]
            self._seen.text(unescape(inner) if tag in ("textarea", "title") else inner)
            self._at = end
            if not ending:
                self._seen.end(tag)


class _Table:
    """The cell positions of a table; a cell that spans rows is repeated in each, so that every row is complete."""

    def __init__(self) -> None:
        self.column = 0
        self.opened: tuple[int, int, int, int] | None = None  # first column, rows, columns and begin of a cell's text
        self.spanning: dict[int, tuple[int, str]] = {}  # by column: rows left, and text
        self.row = 0  # the part in which the row begins
        self.is_layout = False  # whether a cell of the row holds another table

    def begin(self, parts: list[str], rows: int, columns: int) -> None:
        """Handle the start of a cell, after those that span into its row."""
        self.close(parts)
        self.fill(parts)
        parts.append(_NEXT_CELL)
        self.opened = (self.column, rows, columns, len(parts))
        self.column += columns

    def close(self, parts: list[str]) -> None:
        """Handle the end of the open cell: write the empty cells for the further columns that it spans."""
        if self.opened is None:
            return
        (first, rows, columns, start), self.opened = self.opened, None
        if rows > 1:
            text = " ".join("".join(parts[start:]).replace(_BREAK, " ").split())[:_MAX_REPEATED_CHARS]
            for column in range(first, first + columns):
                self.spanning[column] = (rows - 1, text if column == first else "")
        parts += [_NEXT_CELL] * (columns - 1)

    def fill(self, parts: list[str]) -> None:
        """Write the cells from rows above that span into the next columns of this row."""
        while self.column in self.spanning:
            rows, text = self.spanning.pop(self.column)
            parts.append(f"{_NEXT_CELL}{text}")
            if rows > 1:
                self.spanning[self.column] = (rows - 1, text)
            self.column += 1

    def end_row(self, parts: list[str]) -> None:
        """Handle the end of a row, which is one line unless its cells are long or hold a table."""
        self.close(parts)
        if self.column:
            self.fill(parts)
        if self.column > 1 and not self.is_layout:
            _join_lines(parts, self.row)
        self.column, self.row, self.is_layout = 0, len(parts), False


def _join_lines(parts: list[str], start: int) -> None:
    """Replace the breaks from a part on by spaces, unless the text is too long to be the row of a table."""
    if _BREAK not in parts[start:] or sum(map(len, parts[start:])) > _MAX_ROW_CHARS:
        return
    last = "\t"
    for at in range(start, len(parts)):
        if parts[at] == _BREAK:
            parts[at] = " "
        if last == " " or (last == "\t" and parts[at] != _NEXT_CELL):
            parts[at] = parts[at].lstrip(" ")
        last = parts[at][-1:] or last


class _Page:
    """Collects the visible text of a page."""

    def __init__(self, *, outside_only: bool) -> None:
        self._outside_only = outside_only
        self._parts: list[str] = []
        self._open: list[str] = []
        self._count: Counter[str] = Counter()  # open elements by tag
        self._hidden = 0  # number of open elements when a hidden one began, or 0
        self._drawing = False  # whether what hides is a drawing, which has texts
        self._title = False
        self._tables: list[_Table] = []
        self._spans = _MOST_SPANNING
        self._struck = 0  # number of open elements when a struck-through one began, or 0
        self._formulas: dict[int, tuple[str, int]] = {}  # by number of open elements: a formula, and its parts so far
        self._closing: dict[int, str] = {}  # what is written when the element at this depth ends
        self._link: tuple[str, int] = ("", 0)  # target of the open link, and the number of parts at its start

    def start(self, tag: str, attributes: Attributes) -> None:
        """Handle the start of an element."""
        self._end_implied_elements(tag)
        self._title = tag == "title" and not self._count.get("svg")
        if tag not in _VOID:
            self._open.append(tag)
            self._count[tag] += 1
            if not self._hidden and (tag in _UNSHOWN or _is_hidden(tag, attributes)):
                self._hidden = len(self._open)
                self._drawing = tag == "svg" and not _is_hidden(tag, attributes)
        if self._hidden or (tag in _VOID and _is_hidden(tag, attributes) and tag != "br"):
            return
        if tag not in _VOID:
            self._mark_start(tag, attributes)
        if tag in ("td", "th"):
            self._begin_cell(attributes)
        elif tag in _BLOCKS:
            self._follow_table(tag)
            self._parts.append(self._line_end(tag))
            if re.fullmatch("h[1-6]", tag):
                self._parts.append("#" * int(tag[1]) + " ")
            elif tag == "li":
                self._parts.append("- ")
        self._write_attributes(tag, attributes)

    def _mark_start(self, tag: str, attributes: Attributes) -> None:
        """Mark the start of raised, lowered and struck-through text, and of a formula and its parts."""
        depth = len(self._open)
        if not self._struck and (_MARKS.get(tag) == STRUCK or "line-through" in attributes.get("style", "")):
            self._struck = depth
            self._parts.append(STRUCK)
            self._closing[depth] = STRUCK_END
        if tag in _MARK_ENDS:
            self._parts.append(_MARKS[tag])
            self._closing[depth] = _MARK_ENDS[tag] + self._closing.get(depth, "")
        if depth - 1 in self._formulas:
            formula, number = self._formulas[depth - 1]
            self._formulas[depth - 1] = (formula, number + 1)
            between = _FORMULAS[formula][1:-1]
            if 0 < number <= len(between):
                needs_brackets = between[number - 1] in ("^", "_") and tag not in _SYMBOLS
                self._parts.append(between[number - 1] + ("(" if needs_brackets else ""))
                self._closing[depth] = ")" if needs_brackets else ""
        if tag in _FORMULAS:
            self._parts.append(_FORMULAS[tag][0])
            self._formulas[depth] = (tag, 0)
            self._closing[depth] = _FORMULAS[tag][-1] + self._closing.get(depth, "")

    def _begin_cell(self, attributes: Attributes) -> None:
        rows, columns = _span(attributes, "rowspan"), _span(attributes, "colspan")
        if rows * columns > self._spans:
            rows, columns = max(1, min(rows, self._spans)), 1
        if rows * columns > 1:
            self._spans -= rows * columns
        if self._tables:
            self._tables[-1].begin(self._parts, rows, columns)
        else:
            self._parts.append(_NEXT_CELL)

    def _line_end(self, tag: str) -> str:
        """Return what begins or ends a block: in a cell, a break that its row may turn into a space."""
        if tag not in _TABLE_TAGS and self._tables and self._tables[-1].opened is not None:
            return _BREAK
        return "\n"

    def _follow_table(self, tag: str) -> None:
        if tag == "table":
            if self._tables:
                self._tables[-1].is_layout = True
            self._tables.append(_Table())
        elif tag == "tr" and self._tables:
            self._tables[-1].end_row(self._parts)

    def _write_attributes(self, tag: str, attributes: Attributes) -> None:
        """Write what attributes show: pictures, form values and link targets."""
        if tag == "a":
            self._close_link()
            self._link = (_link_address(attributes.get("href", "")), len(self._parts))
        elif tag == "img" and (alternative := " ".join(attributes.get("alt", "").split())):
            self._parts.append(f"[image: {alternative}]")
        elif tag == "input":
            self._append_text(_input_text(attributes))
        elif tag == "option":
            self._parts.append("[x] " if "selected" in attributes else "[ ] ")
        elif tag == "textarea":
            self._append_text(" ")

    def end(self, tag: str) -> None:
        """Handle the end of an element."""
        self._title = False
        if self._count.get(tag):
            self._end_element(tag)
        if tag in _BLOCKS and not self._hidden:
            if tag in ("tr", "table") and self._tables:
                self._tables[-1].end_row(self._parts)
            if tag == "table" and self._tables:
                self._tables.pop()
            self._parts.append(self._line_end(tag))

    def text(self, text: str) -> None:
        """Handle a text."""
        if self._title:
            self._parts.append(f"\n{text.strip()}\n")
            return
        if self._hidden and self._open[-1] == "head" and text.strip():
            self._end_element("head")
        if self._is_drawn():
            self._append_text(re.sub(r"\s+", " ", f" {text} "))
        if not self._hidden:
            if len(self._open) in self._formulas and not text.strip():
                text = ""
            if self._count.get("pre"):
                text = text.replace(" ", _KEPT)
            elif not self._count.get("textarea"):
                text = re.sub(r"\s+", " ", text)
            self._append_text(text)

    def _is_drawn(self) -> bool:
        """Return whether the open elements are a text of a drawing that is displayed."""
        if not (self._hidden and self._drawing):
            return False
        return any(map(self._count.get, _DRAWN)) and not any(map(self._count.get, _UNDRAWN))

    def _append_text(self, text: str) -> None:
        """Append a text, separated by one space from the text before it."""
        spaced = bool(self._parts) and self._parts[-1].endswith(" ") and text.startswith(" ")
        self._parts.append(text[1:] if spaced else text)

    def result(self) -> str:
        """Return the text of the page."""
        while self._closing:
            self._parts.append(self._closing.popitem()[1])
        self._close_link()
        lines = (line.strip(" ").rstrip(" \t") for line in "".join(self._parts).replace(_BREAK, "\n").split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).replace(_KEPT, " ").strip("\n") + "\n"

    def _end_implied_elements(self, tag: str) -> None:
        """End the elements that a tag implicitly ends."""
        if self._count.get("title") and self._open[-1] == "title":
            self._end_element("title")
        if self._count.get("head") and (tag == "body" or (self._open[-1] == "head" and tag not in _IN_HEAD)):
            self._end_element("head")
        while self._open and self._open[-1] in _ENDS.get(tag, ()):
            self._end_element(self._open[-1])

    def _end_element(self, tag: str) -> None:
        """End the last element of this tag and everything in it."""
        ended = ""
        while ended != tag:
            if self._closing:
                self._close_marks(len(self._open))
            ended = self._open.pop()
            self._count[ended] -= 1
            if ended == "a":
                self._close_link()
        if len(self._open) < self._hidden:
            self._hidden = 0

    def _close_marks(self, depth: int) -> None:
        """Write what ends with the element at a depth."""
        if depth in self._closing:
            self._parts.append(self._closing.pop(depth))
        self._formulas.pop(depth, None)
        if depth == self._struck:
            self._struck = 0

    def _close_link(self) -> None:
        """Write a link's target after its text, unless the text already shows it."""
        (address, start), self._link = self._link, ("", 0)
        if not address or (self._outside_only and not re.match(r"[a-z]+:", address, re.I)):
            return
        linked = "".join(self._parts[start:])
        shown = linked.rstrip()
        if shown.strip() and address.removeprefix("mailto:").removeprefix("tel:").rstrip("/") not in shown:
            self._parts[start:] = [shown, f" ({address})", linked[len(shown) :]]


def _is_hidden(tag: str, attributes: Attributes) -> bool:
    if tag in ("html", "body"):  # scripts unhide these when they finish
        return False
    return "hidden" in attributes or re.search(r"display\s*:\s*none", attributes.get("style", ""), re.I) is not None


def _span(attributes: Attributes, name: str) -> int:
    """Return how many rows or columns a cell spans."""
    span = attributes.get(name, "1")
    if span.isdecimal() and len(span) < 6:
        return max(1, int(span))
    return 1


def _link_address(target: str) -> str:
    """Return a link's target, or "" for anchors in the page and for targets only a browser can follow."""
    address = "".join(target.split())
    if address.startswith("#") or re.match(r"(javascript|data|blob|about):", address, re.I):
        return ""
    return address


def _input_text(attributes: Attributes) -> str:
    """Return the displayed value of a form input."""
    kind, value = attributes.get("type", "text").lower(), attributes.get("value", "")
    if kind in ("checkbox", "radio"):
        if "checked" in attributes:
            return " [x] "
        return " [ ] "
    if kind == "image":
        value, kind = attributes.get("alt", ""), "button"
    if value.strip() and kind not in _VALUELESS:
        return f" {' '.join(value.split())} "
    return ""
