"""The cell values of a workbook as displayed: dates, percentages, numbers."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import IO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from .parts import BROKEN, Package, all_named, child_of, local_name, refuse_entities, relation_of, value_of
from .pieces import LOWERED, MOST_CHARS, RAISED, STRUCK, CutError, Notes, Piece, RefusedError, marked, whole_number
from .slides import chart_lines, paragraphs_of

_MOST_ROWS, _MOST_COLUMNS = 1_048_576, 16_384  # of a sheet, Excel's limits
_DATES = {14: "y-m-d", 15: "y-m-d", 16: "m-d", 17: "y-m", 18: "h:m", 19: "h:m:s", 20: "h:m", 21: "h:m:s",
          22: "y-m-d h:m", 45: "m:s", 46: "[h]:m:s", 47: "m:s"}  # fmt: skip  # built-in formats
_DATES |= dict.fromkeys([*range(27, 32), *range(34, 37), *range(50, 59)], "y-m-d") | {32: "h:m", 33: "h:m:s"}
_ALIGNED = {"superscript": RAISED, "subscript": LOWERED}
_ESCAPED = re.compile("_x([0-9a-fA-F]{4})_")
_MARGIN = re.compile("}(?:odd|even|first)(Header|Footer)$")
_MARGIN_CODE = re.compile(r'&(?:"[^"]*"|K[0-9A-F]{6}|[0-9]+|[A-Z])')  # a part, a font or a field of a header
_PERCENT = frozenset({9, 10})
_WRITTEN = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?![hms]+\])[^\]]*\]', re.I)  # literal parts of a format
_FIRST_DATE = 7_305  # days: from 1920 on, a number shown as a time of day is a date with its time, not a duration
_LATEST_DAY = 2_958_466  # days: the end of the year 9999


@dataclass(frozen=True)
class Format:
    """A number format; ``date`` has the letters of its parts, ``zeros`` the digits to pad to."""

    date: str = ""
    percent: bool = False
    zeros: int = 0
    struck: bool = False


def formats_of(root: Element) -> list[Format]:
    """Return the formats of a workbook's styles by the index that cells use."""
    codes = {value_of(one, "numFmtId"): value_of(one, "formatCode") for one in all_named(root, "numFmt")}
    styles = child_of(root, "cellXfs")
    if styles is None:
        return []
    fonts = [_is_struck(font) for font in child_of(root, "fonts") or ()]
    formats = []
    for one in styles:
        font = value_of(one, "fontId")
        struck = font.isdecimal() and int(font) < len(fonts) and fonts[int(font)]
        formats.append(replace(_number_format(value_of(one, "numFmtId"), codes), struck=struck))
    return formats


def _is_struck(font: Element | None) -> bool:
    """Return whether a font, or the properties of a run, strike the text through."""
    strike = child_of(font, "strike")
    return strike is not None and value_of(strike, default="1") in ("1", "true")


def _number_format(number: str, codes: dict[str, str]) -> Format:
    if number not in codes:
        known = whole_number(number)
        return Format(_DATES.get(known, ""), known in _PERCENT)
    code = _WRITTEN.sub("", codes[number].partition(";")[0])
    if "general" in code.lower():
        return Format()
    zeros = len(code) if code and not code.strip("0") and len(code) > 1 else 0
    return Format(code.lower() if re.search("[ymdhs]", code, re.I) else "", "%" in code, zeros)


def number_text(text: str, form: Format, *, since_1904: bool = False) -> str:
    """Return a stored number as displayed, with all its digits."""
    try:
        number = float(text)
    except ValueError:
        return text
    if form.date and abs(number) < _LATEST_DAY:
        with contextlib.suppress(OverflowError):  # a day after the year 9999 is shown as its number
            return _date_text(number, form.date, since_1904=since_1904)
    if form.percent:
        return f"{_digits_text(round(number * 100, 10))}%"
    plain = text if text.lstrip("-").isdecimal() else _digits_text(number)
    if form.zeros and plain.isdecimal():
        return plain.zfill(form.zeros)
    return plain


def _digits_text(number: float) -> str:
    if number.is_integer() and abs(number) < 1e16:
        return str(int(number))
    return repr(number)


def _date_text(number: float, code: str, *, since_1904: bool) -> str:
    """Return a date as ISO 8601, a time of day, or a duration."""
    seconds = round(number * 86_400)
    has_day = re.search("[yd]", code) is not None or ("h" not in code and "s" not in code)
    if "[" in code or (not has_day and (number < 0 or 1 <= number < _FIRST_DATE)):
        sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if number < 0:
        return _digits_text(number)
    start = datetime(1904, 1, 1)
    if not since_1904:
        start = datetime(1899, 12, 30 if number >= 60 else 31)
    when = start + timedelta(seconds=seconds)
    if not has_day and number < 1:
        return when.strftime("%H:%M:%S")
    has_time = "h" in code or "s" in code or seconds % 86_400
    if has_time:
        return when.isoformat(sep=" ")
    return when.date().isoformat()


def rich_text(element: Element) -> str:
    """Return a rich text without its phonetic reading."""
    parts = []
    for one in element:
        if local_name(one) == "t":
            parts.append(one.text or "")
        elif local_name(one) == "r":
            properties = child_of(one, "rPr")
            text = "".join(inner.text or "" for inner in one if local_name(inner) == "t")
            text = marked(text, _ALIGNED.get(value_of(child_of(properties, "vertAlign")), ""))
            parts.append(marked(text, STRUCK if _is_struck(properties) else ""))
    return unescaped_text("".join(parts))


def unescaped_text(text: str) -> str:
    """Return a text of a workbook with the characters that it writes as ``_x000D_``."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def position_of(reference: str) -> tuple[int, int]:
    """Return the row and column of a cell such as "C12", counted from one; 0 for a missing part."""
    letters = reference.rstrip("0123456789")
    row = reference[len(letters) :]
    return whole_number(row), _column_number(letters)


@functools.lru_cache(_MOST_COLUMNS)
def _column_number(letters: str) -> int:
    column = 0
    for letter in letters[:5]:
        if "A" <= letter <= "Z":
            column = column * 26 + ord(letter) - 64
    return column


MOST_CELLS = 20_000_000  # of a workbook
_BEGINNING = 1 << 16

Comments = dict[int, dict[int, str]]  # by row and column


def sheet_pieces(data: bytes, notes: Notes) -> Iterator[Piece]:
    """Yield each sheet, marking hidden ones, and the text of its pictures and charts."""
    package = Package(data, notes)
    book = _Book(package)
    if local_name(book.root) != "workbook":
        raise RefusedError("broken or binary (.xlsb): save it as .xlsx")
    for element in all_named(book.root, "sheet"):
        target = package.inner_target(book.main, relation_of(element))
        if target is None:
            continue
        name = " ".join(value_of(element, "name").split())
        if value_of(element, "state").lower() in ("hidden", "veryhidden"):
            hidden = " (hidden)"
        else:
            hidden = ""
        yield f"=== {name}{hidden} ===", f"sheet {name}", False
        rows = book.rows(target)
        if rows:
            yield "\n".join(rows), f"sheet {name} row", True
        drawn = [*book.margins, *book.drawing_texts(target)]
        if drawn:
            yield "\n".join(drawn), f"sheet {name}, drawings", False
        if book.full:
            raise CutError(f"cut after row {len(rows):,} of sheet {name}: {book.full}")
    package.note_unread_parts()
    if book.formulas:
        if book.formulas == 1:
            count = "a formula has"
        else:
            count = f"{book.formulas:,} formulas have"
        notes.append(f"{count} no stored value: read as =formula, because only a spreadsheet program can calculate it")


class _Book:
    """A workbook: the data its sheets share, and what was found in them."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self.main = package.main_part("xl/workbook.xml")
        self.root = package.root(self.main)
        self.relations = package.relations(self.main)
        self.formulas = 0  # without a value
        self.margins: list[str] = []  # the headers and footers of the sheet that was read last
        self.full = ""  # why reading stopped, or ""
        self._cells = self._chars = 0
        self._shared: dict[str, str] = {}  # formulas of a sheet shared by several cells
        self._since_1904 = value_of(child_of(self.root, "workbookPr"), "date1904") in ("1", "true")
        shared = package.tree(self._part_name("sharedStrings"))
        self._texts = [rich_text(one) for one in shared if local_name(one) == "si"]
        self._formats = formats_of(package.tree(self._part_name("styles")))

    def rows(self, part: str) -> list[str]:
        """Return the rows of a sheet, up to the last non-empty one."""
        comments = self._cell_comments(part)
        self._shared.clear()
        self.margins.clear()
        rows: list[str] = []
        try:
            with self._package.open(part) as file:
                refuse_entities(file.read(_BEGINNING), whole=False)
            with self._package.open(part) as file:
                for number, cells in _sheet_rows(file, self.margins):
                    self._add_row(rows, number, cells, comments)
                    if self.full:
                        break
        except KeyError:
            return rows
        except BROKEN:
            self._package.note_broken_part(part)
        for number in sorted(row for row in comments if row > len(rows)):
            self._add_row(rows, number, [], comments)
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def _add_row(self, rows: list[str], number: int, cells: list[Element], comments: Comments) -> None:
        """Add a row of cells, preceded by any empty rows; rows may come out of order."""
        number = number or len(rows) + 1
        if number > _MOST_ROWS:
            return
        values: dict[int, str] = {}
        column = 0
        for cell in cells:
            column = position_of(cell.get("r", ""))[1] or column + 1
            text = " ".join(self._cell_text(cell).split())
            if self._format_of(cell).struck:
                text = marked(text, STRUCK)
            if text and column <= _MOST_COLUMNS:
                values[column] = text
        for column, text in comments.get(number, {}).items():
            values[column] = f"{values.get(column, '')} [comment: {text}]".strip()
        self._cells += len(cells)
        if values:
            line = "\t".join(values.get(one, "") for one in range(1, max(values) + 1))
        else:
            line = ""
        self._chars += len(line) + max(0, number - len(rows))
        if self._chars > MOST_CHARS:
            self.full = f"it has more than {MOST_CHARS:,} characters"
        elif self._cells > MOST_CELLS:
            self.full = f"it has more than {MOST_CELLS:,} cells"
        elif number <= len(rows) and line and rows[number - 1]:
            self._package.note("rows of a sheet that have the number of an earlier one are left out")
        elif number <= len(rows):
            rows[number - 1] = rows[number - 1] or line
        else:
            rows += [""] * (number - len(rows) - 1)
            rows.append(line)

    def _cell_text(self, cell: Element) -> str:
        """Return the displayed value of a cell, or its formula if there is no stored value."""
        kind = cell.get("t", "n")
        text = ""
        formula: Element | None = None
        has_value = False
        for one in cell:
            name = local_name(one)
            if name == "v":
                text, has_value = one.text or "", True
            elif name == "f":
                formula = one
                if one.text and one.get("t") == "shared":
                    self._shared[one.get("si", "")] = f"={one.text}"
            elif name == "is":
                return rich_text(one)
        if kind == "s":
            if text.isdecimal() and int(text) < len(self._texts):
                return self._texts[int(text)]
            return ""
        if not text:
            is_empty_text = has_value and kind == "str"  # the formula was calculated as an empty text
            if formula is not None and not is_empty_text:
                return self._formula_text(formula)
            return ""
        return self._typed_text(kind, text, cell)

    def _typed_text(self, kind: str, text: str, cell: Element) -> str:
        """Return a stored value as displayed."""
        if kind == "b":
            return "TRUE" if text == "1" else "FALSE"
        if kind == "n":
            return number_text(text, self._format_of(cell), since_1904=self._since_1904)
        if kind == "d":
            return text.replace("T00:00:00", "")
        return unescaped_text(text)

    def _format_of(self, cell: Element) -> Format:
        style = cell.get("s", "")
        if style.isdecimal() and int(style) < len(self._formats):
            return self._formats[int(style)]
        return Format()

    def _formula_text(self, formula: Element) -> str:
        self.formulas += 1
        shared = self._shared.get(formula.get("si", ""), "the cells beside it")
        if formula.text:
            return f"={formula.text}"
        return f"=(filled on from {shared})"

    def _cell_comments(self, part: str) -> Comments:
        """Return the comments on a sheet's cells, and the texts of threaded ones."""
        comments: Comments = {}
        related = [one for one in self._package.relations(part).values() if not one.outside]
        threads = [one for one in related if one.kind == "threadedComment"]
        for relation in threads or [one for one in related if one.kind == "comments"]:
            for one in all_named(self._package.tree(relation.target), "comment", "threadedComment"):
                body = child_of(one, "text")
                text = " ".join(((rich_text(body) or body.text or "") if body is not None else "").split())
                row, column = position_of(value_of(one, "ref"))
                if text and row and 0 < column <= _MOST_COLUMNS:
                    inside = comments.setdefault(row, {})
                    if column in inside:
                        inside[column] = f"{inside[column]} / {text}"
                    else:
                        inside[column] = text
        return comments

    def drawing_texts(self, part: str) -> Iterator[str]:
        """Yield the texts of a sheet's text boxes, pictures and charts."""
        for relation in self._package.relations(part).values():
            if relation.kind != "drawing" or relation.outside:
                continue
            for one in all_named(self._package.tree(relation.target), "txBody", "cNvPr"):
                described = " ".join(value_of(one, "descr").split())
                if described:
                    yield f"[image: {described}]"
                yield from (text for text in paragraphs_of(one) if text.strip())
            for inner in self._package.relations(relation.target).values():
                if inner.kind == "chart" and not inner.outside:
                    yield from chart_lines(self._package, inner.target)

    def _part_name(self, kind: str) -> str:
        return next((one.target for one in self.relations.values() if one.kind == kind), f"xl/{kind}.xml")


def _sheet_rows(file: IO[bytes], margins: list[str]) -> Iterator[tuple[int, list[Element]]]:
    """Yield the number (0: the next one) and the cells of each row; rows already read are freed.

    Headers and footers, which follow the rows, are added to ``margins``.
    """
    for _, element in ElementTree.iterparse(file):
        if element.tag.endswith("}row"):
            number = element.get("r", "")
            yield whole_number(number), list(element)
            element.clear()
        elif margin := _MARGIN.search(element.tag):
            text = " ".join(_MARGIN_CODE.sub(" ", element.text or "").split())
            line = f"[{margin[1].lower()}] {text}"
            if text and line not in margins:
                margins.append(line)
