"""The visible text of OpenDocument texts, spreadsheets, presentations and drawings (LibreOffice)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from xml.etree.ElementTree import Element

from .parts import Package, all_named, child_of, local_name, value_of
from .pieces import LOWERED, MOST_CHARS, RAISED, STRUCK, CutError, Notes, Piece, RefusedError, marked, whole_number

MOST_CELLS = 20_000_000  # of a spreadsheet
_MOST_ROWS, _MOST_COLUMNS = 1_048_576, 16_384  # of a sheet, LibreOffice's limits
_MOST_SPACES = 1_000

Looks = dict[str, list[str]]  # the marks of raised, lowered and struck-through text, by the name of a style
_OBJECT = re.compile(r"object [0-9]+/content\.xml|object [0-9]+")
_IN_CELLS = frozenset({"p", "h", "list", "table", "annotation"})  # the rest of a sheet's cell is drawn on it
_UNSEEN = frozenset(
    """tracked-changes forms sequence-decls variable-decls user-field-decls creator date date-string creator-initials
    note-citation table-column table-columns bookmark change-start change-end hidden-text hidden-paragraph
    toc-mark alphabetical-index-mark table-of-content-source title desc""".split()  # noqa: SIM905
)


def text_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield the headers, the blocks of a text, and the footers."""
    package = Package(data, notes)
    body = _body_element(package, "text")
    looks = _looks_of(package)
    for line in _margin_lines(package, "header", looks):
        yield line, "", False
    for line in _Story(looks).blocks(body):
        yield line, "", False
    for line in _margin_lines(package, "footer", looks):
        yield line, "", False


def slide_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield each slide with its notes, marking hidden ones."""
    package = Package(data, notes)
    hidden, looks = _styles_with(package, "visibility", "hidden"), _looks_of(package)
    pages = (one for one in _body_element(package, "presentation") if local_name(one) == "page")
    for number, page in enumerate(pages, 1):
        if value_of(page, "style-name") in hidden:
            lines = ["[hidden slide]"]
        else:
            lines = []
        story = _Story(looks)
        for part in page:
            if local_name(part) == "notes":
                said = " ".join(filter(None, (line.strip() for line in _Story(looks).blocks(part))))
                lines += [f"Notes: {said}"] if said else []
            else:
                lines += story.blocks([part])
        yield "\n".join(lines), f"slide {number}", False


def drawing_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield each page of a drawing."""
    package = Package(data, notes)
    pages = (one for one in _body_element(package, "drawing") if local_name(one) == "page")
    looks = _looks_of(package)
    for number, page in enumerate(pages, 1):
        yield "\n".join(_Story(looks).blocks(page)), f"page {number}", False


def sheet_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield each sheet as tab-separated rows, so that line numbers are row numbers."""
    package = Package(data, notes)
    hidden, looks = _styles_with(package, "display", "false"), _looks_of(package)
    limit = _Limit()
    for table in (one for one in _body_element(package, "spreadsheet") if local_name(one) == "table"):
        name = " ".join(value_of(table, "name").split())
        mark = " (hidden)" if value_of(table, "style-name") in hidden else ""
        yield f"=== {name}{mark} ===", f"sheet {name}", False
        drawn: list[str] = []
        rows = _sheet_rows(table, limit, looks, drawn)
        if rows:
            yield "\n".join(rows), f"sheet {name} row", True
        drawn += _Story(looks).blocks([one for one in table if local_name(one) == "shapes"])
        lines = [line for line in drawn if line.strip()]
        if lines:
            yield "\n".join(lines), f"sheet {name}, drawings", False
        if limit.reached():
            raise CutError(f"cut after row {len(rows):,} of sheet {name}: {limit.reached()}")


def _body_element(package: Package, kind: str) -> Element:
    content = package.root("content.xml")
    _note_unread_objects(package)
    if package.read("META-INF/manifest.xml").find(b"encryption-data") >= 0:
        raise RefusedError("encrypted")
    body = child_of(content, "body", kind)
    if body is None:
        raise RefusedError(f"broken: there is no {kind} in it")
    return body


def _margin_lines(package: Package, kind: str, looks: Looks) -> Iterator[str]:
    """Yield the headers or footers of all pages, each text once."""
    seen: set[str] = set()
    for margin in all_named(package.tree("styles.xml"), kind, f"{kind}-left", f"{kind}-first"):
        for line in _Story(looks).blocks(margin):
            if line.strip() and line not in seen:
                seen.add(line)
                yield f"[{kind}] {line}"


def _styles_with(package: Package, name: str, value: str) -> set[str]:
    """Return the names of the styles with this property value."""
    names = set()
    for style in all_named(package.tree("content.xml"), "style"):
        if any(value_of(inner, name) == value for inner in style):
            names.add(value_of(style, "name"))
    return names


def _is_hidden(section: Element) -> bool:
    """Return whether a section is not displayed."""
    return value_of(section, "display") == "none" or value_of(section, "is-hidden") == "true"


def _note_unread_objects(package: Package) -> None:
    """Note the pictures and the embedded objects of a document."""
    counts = {"picture": 0, "embedded object": 0}
    for name in package.names():
        if name.startswith("pictures/") and not name.endswith("/"):
            counts["picture"] += 1
        elif _OBJECT.fullmatch(name):
            counts["embedded object"] += 1
    package.note_unread({kind: count for kind, count in counts.items() if count})


def _looks_of(package: Package) -> Looks:
    """Return the marks of the styles that raise, lower or strike through a text."""
    looks: Looks = {}
    for part in ("styles.xml", "content.xml"):
        for style in all_named(package.tree(part), "style"):
            properties = child_of(style, "text-properties")
            position = (value_of(properties, "text-position").split() or ["0%"])[0]
            line = value_of(properties, "text-line-through-style") or value_of(properties, "text-line-through-type")
            marks = []
            if position.startswith(("sub", "-")):
                marks.append(LOWERED)
            elif position.strip("0%"):
                marks.append(RAISED)
            if line not in ("", "none"):
                marks.append(STRUCK)
            looks[value_of(style, "name")] = marks
    return looks


class _Story:
    """Walks a text; boxes, notes and comments follow the block they are anchored to."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._beside: list[str] = []
        self._notes = 0
        self._inside = 0  # number of enclosing tables and boxes
        self._writers: dict[str, Callable[[Element], str]] = {
            "tab": lambda one: "\t",
            "line-break": lambda one: "\n",
            "s": self._repeated_spaces,
            "a": self._link_text,
            "span": lambda one: self.with_marks(one, self.inline(one)),
            "note": self._note_mark,
            "annotation": self._collect_comment,
            "frame": self._frame_text,
            "ruby": self._ruby_text,
            "text-box": self._collect_box,
            "custom-shape": self._collect_box,
            "rect": self._collect_box,
        }

    def blocks(self, parent: Element | list[Element], before: str = "") -> Iterator[str]:
        """Yield the paragraphs, list items and rows in an element."""
        for child in parent:
            name = local_name(child)
            if name in ("p", "h"):
                if name == "h":
                    level = value_of(child, "outline-level", default="1")
                else:
                    level = "0"
                text = self.with_marks(child, self.inline(child))
                mark = "#" * min(whole_number(level, 1), 6)
                if text.strip():
                    text = (f"{mark} " if mark else before) + text
                yield text
                before = " " * len(before)
            elif name == "list-item":
                yield from self.blocks(child, "- ")
            elif name == "list":
                yield from self.blocks(child, before)
            elif name == "table-row":
                self._inside += 1
                yield "\t".join(
                    map(self.one_line, (one for one in child if local_name(one).endswith("table-cell")))
                ).rstrip()
                self._inside -= 1
            elif name in self._writers:
                text = self._writers[name](child)
                if text:
                    yield text
            elif name not in _UNSEEN and not _is_hidden(child):
                yield from self.blocks(child, before)
            if not self._inside:
                yield from self.take_lines_beside()

    def take_lines_beside(self) -> list[str]:
        """Return and clear the pending notes, comments and boxes."""
        waiting, self._beside = self._beside, []
        return waiting

    def one_line(self, element: Element | list[Element]) -> str:
        """Return the text in an element, such as a table cell, on one line."""
        return " ".join(" ".join(self.blocks(element)).split())

    def inline(self, parent: Element) -> str:
        """Return the text in an element, with runs of spaces collapsed."""
        parts = [_collapsed_spaces(parent.text)]
        for child in parent:
            name = local_name(child)
            if name in self._writers:
                parts.append(self._writers[name](child))
            elif name not in _UNSEEN:
                parts.append(self.inline(child))
            parts.append(_collapsed_spaces(child.tail))
        return "".join(parts)

    def with_marks(self, element: Element, text: str) -> str:
        """Return the text of an element with the marks of its style."""
        for mark in self._looks.get(value_of(element, "style-name"), ()):
            text = marked(text, mark)
        return text

    def _repeated_spaces(self, element: Element) -> str:
        count = value_of(element, "c", default="1")
        return " " * min(whole_number(count, 1), _MOST_SPACES)

    def _link_text(self, element: Element) -> str:
        text, address = self.inline(element), value_of(element, "href")
        plain = not address or address.startswith("#") or address.removeprefix("mailto:").rstrip("/") in text
        if plain or not text.strip():
            return text
        return f"{text} ({address})"

    def _note_mark(self, element: Element) -> str:
        kind = value_of(element, "note-class", default="footnote")
        self._notes += 1
        text = _Story(self._looks).one_line(element)
        self._beside.append(f"[{kind} {self._notes}] {text}")
        if kind == "footnote":
            return f"[{self._notes}]"
        return f"[{kind} {self._notes}]"

    def _collect_comment(self, element: Element) -> str:
        text = _Story(self._looks).one_line(element)
        self._beside += [f"[comment] {text}"] if text else []
        return ""

    def _frame_text(self, element: Element) -> str:
        described = (value_of(one) or one.text or "" for one in all_named(element, "desc", "title"))
        text = next((" ".join(one.split()) for one in described if one.strip()), "")
        self._collect_box(element)
        if text:
            return f"[image: {text}]"
        return ""

    def _collect_box(self, element: Element) -> str:
        self._inside += 1
        lines = [line for line in self.blocks(element) if line.strip()]
        self._inside -= 1
        self._beside += lines
        return ""

    def _ruby_text(self, element: Element) -> str:
        base, above = child_of(element, "ruby-base"), child_of(element, "ruby-text")
        reading = self.inline(above) if above is not None else ""
        return (self.inline(base) if base is not None else "") + (f"({reading})" if reading else "")


class _Limit:
    """The limits on all sheets of a workbook together."""

    def __init__(self) -> None:
        self.chars = self.cells = 0

    def reached(self) -> str:
        """Return why nothing more is read, or ""."""
        if self.chars > MOST_CHARS:
            return f"it has more than {MOST_CHARS:,} characters"
        if self.cells > MOST_CELLS:
            return f"it has more than {MOST_CELLS:,} cells"
        return ""


def _sheet_rows(table: Element, limit: _Limit, looks: Looks, drawn: list[str]) -> list[str]:
    """Return the rows of a sheet, up to the last non-empty one; add to ``drawn`` the texts that lie on its cells."""
    rows: list[str] = []
    empty = 0
    for row in all_named(table, "table-row"):
        line = _sheet_row(row, limit, looks, drawn)
        times = min(whole_number(value_of(row, "number-rows-repeated"), 1), _MOST_ROWS - len(rows) - empty)
        if not line:
            empty += max(0, times)
            continue
        limit.chars += empty
        rows += [""] * empty
        empty = 0
        for _ in range(times):
            limit.chars += len(line) + 1
            if limit.reached():
                return rows
            rows.append(line)
    return rows


def _sheet_row(row: Element, limit: _Limit, looks: Looks, drawn: list[str]) -> str:
    cells: list[str] = []
    empty = size = 0
    for cell in (one for one in row if local_name(one).endswith("table-cell")):
        if local_name(cell).startswith("covered"):
            text = ""
        else:
            text = _cell_value(cell, looks, drawn)
        times = min(whole_number(value_of(cell, "number-columns-repeated"), 1), _MOST_COLUMNS - len(cells) - empty)
        if not text:
            empty += max(0, times)
            continue
        limit.cells += max(0, times)
        size += times * len(text)
        if size + limit.chars > MOST_CHARS:
            limit.chars += size
            break
        cells += [""] * empty + [text] * times
        empty = 0
    return "\t".join(cells)


def _cell_value(cell: Element, looks: Looks, drawn: list[str]) -> str:
    """Return the displayed value of a cell: dates as ISO 8601, formulas without a stored value as written."""
    drawn += _Story(looks).blocks([one for one in cell if local_name(one) not in _IN_CELLS])
    text = _Story(looks).one_line(
        [one for one in cell if local_name(one) in _IN_CELLS and local_name(one) != "annotation"]
    )
    kind, formula = value_of(cell, "value-type"), value_of(cell, "formula")
    if kind == "date" and value_of(cell, "date-value"):
        text = value_of(cell, "date-value").replace("T00:00:00", "").replace("T", " ")
    elif not text:
        text = value_of(cell, "value") or (formula.partition(":")[2] if not kind else "")
    text = _Story(looks).with_marks(cell, text)
    comments = [_Story(looks).one_line(one) for one in cell if local_name(one) == "annotation"]
    comment = " / ".join(filter(None, comments))
    if comment:
        text = f"{text} [comment: {comment}]"
    return text.strip()


def _collapsed_spaces(text: str | None) -> str:
    """Collapse runs of white space into one space."""
    if not text:
        return ""
    if text.isspace():
        return " "
    before = " " if text[0].isspace() else ""
    after = " " if text[-1].isspace() else ""
    return before + " ".join(text.split()) + after
