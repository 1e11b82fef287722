"""Read real-world tables: any delimiter, lines before the header, duplicate column names, rows of any length."""

import collections
import csv
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

TABLES = frozenset({"csv", "tsv"})
WORKBOOKS = frozenset({"xlsx", "ods", "sqlite", "parquet", "arrow"})
DELIMITERS = (",", ";", "\t", "|")
_SNIFFED = 40  # records used to detect the delimiter
_SNIFFED_CHARS = 200_000
_NUMBER = re.compile(r"[-+]?[\d.,]+%?")
_COMMENT = re.compile(r"(?:\A| )\[comment: (.*)\]\Z")  # at the end of a cell of a converted workbook
_SHEET = re.compile(r"=== (.+) ===")  # the start of a sheet in a converted workbook


def table_rows(text: str, kind: str) -> list[dict[str, str]]:
    """Return the records of a delimited text as dicts with the header's names as keys; all values are strings.

    Duplicate names get a number ("amount", "amount_2"), extra cells get names such as "column_4", missing ones are "".
    """
    text = text.removeprefix("\ufeff")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    delimiter, text = _delimiter_of(text, kind)
    return _as_dicts(_from_header([row for row in _split_records(text, delimiter) if any(row)]))


def sheet_rows(text: str, marks: Sequence[Sequence[Any]] = ()) -> list[dict[str, str]]:
    """Return the records of a converted workbook; with several sheets, each record names its sheet.

    ``marks`` say where the rows of each sheet begin and end, so that charts and cells that look like a sheet's name are
    no rows. The comments on the cells of a column are in a column of their own.
    """
    if marks:
        sheets = _marked_sheets(text.split("\n"), marks)
    else:
        sheets = _titled_sheets(text.split("\n"))
    rows = []
    for name, lines in sheets:
        for record in _as_dicts(_from_header(_with_comments_apart(lines))):
            rows.append({"sheet": name, **record} if len(sheets) > 1 else record)
    return rows


def _marked_sheets(lines: list[str], marks: Sequence[Sequence[Any]]) -> list[tuple[str, list[list[str]]]]:
    """Return the name and the cells of each sheet or table; in a table, the header precedes the counted rows."""
    sheets = []
    for (first, what, counted), (end, *_) in itertools.pairwise([*marks, (len(lines) + 1, "", False)]):
        if counted:
            begin = first - 1 if what.startswith("sheet ") else first - 2
            title = _SHEET.fullmatch(lines[begin - 1])
            rows = [line.split("\t") for line in lines[begin : end - 1] if line.strip("\t")]
            sheets.append((title[1] if title else what, rows))
    return sheets


def _titled_sheets(lines: list[str]) -> list[tuple[str, list[list[str]]]]:
    """Return the name and the cells of each sheet by the lines that look like the title of one."""
    sheets: list[tuple[str, list[list[str]]]] = []
    for line in lines:
        if match := _SHEET.fullmatch(line):
            sheets.append((match[1], []))
        elif sheets and line.strip("\t"):
            sheets[-1][1].append(line.split("\t"))
    return sheets


def _with_comments_apart(rows: list[list[str]]) -> list[list[str]]:
    """Return rows whose comments are in columns of their own, after all others; those on the header are left out."""
    comments: dict[int, dict[int, str]] = {}  # by column and row
    for at, row in enumerate(rows):
        for column, cell in enumerate(row):
            if match := _COMMENT.search(cell):
                row[column] = cell[: match.start()]
                comments.setdefault(column, {})[at] = match[1]
    header = _header_at(rows)
    width = max(map(len, rows), default=0)
    for column, texts in sorted(comments.items()):
        if set(texts) == {header}:
            continue
        for at, row in enumerate(rows):
            row += [""] * (width - len(row)) + [texts.get(at, "")]
        rows[header][-1] = f"{rows[header][column]} [comment]".strip()
        width += 1
    return rows


def _delimiter_of(text: str, kind: str) -> tuple[str, str]:
    """Return the delimiter, and the text without the line that declares it."""
    first, _, rest = text.partition("\n")
    if match := re.fullmatch(r'"?sep=(.)"?', first.strip("\r"), re.IGNORECASE):
        return match[1], rest
    head = text[:_SNIFFED_CHARS]
    usual = "\t" if kind == "tsv" else ","
    best, most = usual, (0.0, 0)
    for delimiter in sorted(DELIMITERS, key=lambda candidate: candidate != usual):
        widths = _record_widths(head, delimiter)
        usual_widths = collections.Counter(width for width in widths if width > 1).most_common(1)
        if not usual_widths:
            continue
        width, often = usual_widths[0]
        evenness = (round(often / len(widths), 2), width)
        if evenness > most:
            best, most = delimiter, evenness
    return best, text


def _record_widths(head: str, delimiter: str) -> list[int]:
    """Return the number of cells in each of the first records."""
    widths: list[int] = []
    try:
        for row in csv.reader(io.StringIO(head, newline=""), delimiter=delimiter):
            if any(row):
                widths.append(len(row))
            if len(widths) >= _SNIFFED:
                break
    except csv.Error:
        return []
    return widths


def _split_records(text: str, delimiter: str) -> list[list[str]]:
    """Return the cells of each record; in a text with tabs, quotes that do not pair are part of their cells."""
    if delimiter == "\t":
        try:
            return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
        except csv.Error:
            return list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def _from_header(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows from the header on, which has no name for a column of row numbers in front of the others."""
    rows = rows[_header_at(rows) :]
    names, records = rows[:1], rows[1:]
    numbers = [str(number) for number in range(1, len(records) + 1)]
    is_numbered = bool(records) and [row[0] for row in records] == numbers
    if is_numbered and all(len(row) == len(names[0]) + 1 and row[-1] for row in records):
        return [["", *names[0]], *records]
    return rows


def _header_at(rows: list[list[str]]) -> int:
    """Return the index of the header: the first row as wide as most, after any titles."""
    widths = collections.Counter(len(row) for row in rows[1 : _SNIFFED + 1]).most_common(1)
    usual = widths[0][0] if widths else 1
    if usual < 2:
        return 0
    for at, row in enumerate(rows[:_SNIFFED]):
        is_title = len(row) > 2 and bool(row[0]) and not any(row[1:])
        if len(row) >= usual and not is_title:
            if at and _is_header_of(rows[at - 1], row):
                return at - 1
            return at
    return 0


def _is_header_of(row: list[str], wider: list[str]) -> bool:
    """Return whether a row has the names of the columns of a wider row, which is data with one cell more."""
    if len(row) < 2 or len(row) != len(wider) - 1:
        return False
    is_data = any(not cell.strip() or _NUMBER.fullmatch(cell.strip()) for cell in wider)
    return is_data and all(cell.strip() and not _NUMBER.fullmatch(cell.strip()) for cell in row)


def _as_dicts(rows: list[list[str]]) -> list[dict[str, str]]:
    if not rows:
        return []
    names = _column_names(rows[0], max(map(len, rows)))
    records = []
    for row in rows[1:]:
        width = max(len(row), len(rows[0]))
        cells = row + [""] * (width - len(row))
        records.append(dict(zip(names, cells)))  # noqa: B905 - there are names for the longest row
    return records


def _column_names(header: list[str], many: int) -> list[str]:
    names: list[str] = []
    for number in range(1, many + 1):
        name = header[number - 1].strip() if number <= len(header) else ""
        name = name or f"column_{number}"
        wanted, again = name, 2
        while name in names:
            name, again = f"{wanted}_{again}", again + 1
        names.append(name)
    return names
