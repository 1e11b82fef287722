"""Read real-world tables: any delimiter, lines before the header, duplicate column names, rows of any length."""

import collections
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

TABLES = frozenset({"csv", "tsv"})
WORKBOOKS = frozenset({"xlsx", "ods", "sqlite", "parquet", "arrow"})
DELIMITERS = (",", ";", "\t", "|")
_SNIFFED = 40  # records used to detect the delimiter
_SNIFFED_CHARS = 200_000
_NUMBER = re.compile(r"[-+]?[\d.,]+%?")
_COMMENT = re.compile(r"(?:\A| )\[comment: (.*)\]\Z")  # at the end of a cell of a converted workbook
_DATA = re.compile(r"(?=.*\d)[-+\d.,:/ T%]+")  # a number, a date or a time
_DECIMAL_COMMA = re.compile(r"[-+]?[\d.]*\d,\d+")
_ESCAPED_QUOTE = re.compile(r'(?<!\\)\\"')
_Sheet = tuple[str, list[list[str]], bool]  # its name, its cells, and whether it is a table whose first row has names
_YEAR = re.compile(r"(?:19|20)\d\d")
_SHEET = re.compile(r"=== (.+) ===")  # the start of a sheet in a converted workbook


class _Form(NamedTuple):
    """How the cells of a text are written: spaces before quotes, quotes escaped by backslashes."""

    delimiter: str
    quote: str = '"'
    spaced: bool = False
    escaped: bool = False

    def reader(self, text: str, **options: Any) -> Iterator[list[str]]:
        """Return the records of a text."""
        if self.escaped:
            text = _ESCAPED_QUOTE.sub('""', text)
        options |= {"delimiter": self.delimiter, "quotechar": self.quote, "skipinitialspace": self.spaced}
        return csv.reader(io.StringIO(text, newline=""), **options)


def table_rows(text: str, kind: str) -> list[dict[str, str]]:
    """Return the records of a delimited text as dicts with the header's names as keys; all values are strings.

    Duplicate names get a number ("amount", "amount_2"), extra cells and columns without a header names such as
    "column_4", missing cells are "".
    """
    text = text.removeprefix("\ufeff")
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    form, text = _form_of(text, kind)
    records = _without_preamble(_split_records(text, form))
    return _as_dicts(_from_header([row for row in records if any(row)]))


def sheet_rows(text: str, marks: Sequence[Sequence[Any]] = ()) -> list[dict[str, str]]:
    """Return the records of a converted workbook; with several sheets, each record names its sheet.

    ``marks`` say where the rows of each sheet begin and end, so that charts and cells that look like a sheet's name are
    not taken for rows. The comments on the cells of a column get a column of their own.
    """
    if marks:
        sheets = _marked_sheets(text.split("\n"), marks)
    else:
        sheets = _titled_sheets(text.split("\n"))
    rows = []
    for name, cells, is_table in sheets:
        named = cells if is_table else _from_header(_with_comments_apart(cells))
        for record in _as_dicts(named):
            rows.append({"sheet": name, **record} if len(sheets) > 1 else record)
    return rows


def _marked_sheets(lines: list[str], marks: Sequence[Sequence[Any]]) -> list[_Sheet]:
    """Return the sheets or tables of a workbook; in a table, the header precedes the counted rows."""
    sheets = []
    for (first, what, counted), (end, *_) in itertools.pairwise([*marks, (len(lines) + 1, "", False)]):
        if counted:
            is_table = not what.startswith("sheet ")
            begin = first - 2 if is_table else first - 1
            title = _SHEET.fullmatch(lines[begin - 1])
            rows = [line.split("\t") for line in lines[begin : end - 1] if line.strip("\t")]
            sheets.append((title[1] if title else what, rows, is_table))
    return sheets


def _titled_sheets(lines: list[str]) -> list[_Sheet]:
    """Return the sheets of a workbook by the lines that look like the title of one."""
    sheets: list[_Sheet] = []
    for line in lines:
        if match := _SHEET.fullmatch(line):
            sheets.append((match[1], [], False))
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


def _form_of(text: str, kind: str) -> tuple[_Form, str]:
    """Return how a text is written, and the text without the line that declares its delimiter."""
    first, _, rest = text.partition("\n")
    if match := re.fullmatch(r'"?sep=(.)"?', first.strip("\r"), re.IGNORECASE):
        return _written_form(rest[:_SNIFFED_CHARS], match[1])[0], rest
    head = text[:_SNIFFED_CHARS]
    usual = "\t" if kind == "tsv" else ","
    best, most = _Form(usual), (0.0, 0)
    for delimiter in sorted(DELIMITERS, key=lambda candidate: candidate != usual):
        form, (share, width, _) = _written_form(head, delimiter)
        splits_numbers = best.delimiter == "," and share == 1 and _has_decimal_commas(head, form)
        if width > 1 and ((share, width) > most or splits_numbers):
            best, most = form, (share, width)
    return best, text


def _written_form(head: str, delimiter: str) -> tuple[_Form, tuple[float, int, int]]:
    """Return the form in which the records of a text are the most even, and how even they are."""
    best = _Form(delimiter)
    most = _evenness(head, best)
    between = re.escape(delimiter)
    if re.search(f'{between} {{1,100}}"', head):
        spaced = best._replace(spaced=True)
        if (evenness := _evenness(head, spaced)) >= most:
            best, most = spaced, evenness
    if re.search(rf'(?m)(?:^|{between} ?)"(?:[^"\n\\]|\\.)*\\"', head):
        escaped = best._replace(escaped=True)
        if (evenness := _evenness(head, escaped)) >= most:
            best, most = escaped, evenness
    if re.search(rf"(?m)(?:^|{between})'[^'\n]{{0,200}}{between}[^'\n]{{0,200}}'(?={between}|\r?$)", head):
        quoted = best._replace(quote="'")
        if (evenness := _evenness(head, quoted))[0] > most[0]:
            best, most = quoted, evenness
    return best, most


def _evenness(head: str, form: _Form) -> tuple[float, int, int]:
    """Return the share of the first records that have the usual number of cells, that number, and how many they are."""
    widths = [len(row) for row in _first_records(head, form)]
    usual = collections.Counter(width for width in widths if width > 1).most_common(1)
    if not usual:
        return 0.0, 0, 0
    width, often = usual[0]
    return round(often / len(widths), 2), width, len(widths)


def _has_decimal_commas(head: str, form: _Form) -> bool:
    """Return whether cells are numbers with a decimal comma; the comma is then not a delimiter."""
    return any(_DECIMAL_COMMA.fullmatch(cell.strip()) for row in _first_records(head, form) for cell in row)


def _first_records(head: str, form: _Form) -> list[list[str]]:
    try:
        return list(itertools.islice(filter(any, form.reader(head)), _SNIFFED))
    except csv.Error:
        return []


def _split_records(text: str, form: _Form) -> list[list[str]]:
    """Return the cells of each record; in a text with tabs, quotes that do not pair are part of their cells."""
    if form.delimiter == "\t":
        try:
            return list(form.reader(text, strict=True))
        except csv.Error:
            return list(form.reader(text, quoting=csv.QUOTE_NONE))
    return list(form.reader(text))


def _without_preamble(records: list[list[str]]) -> list[list[str]]:
    """Return the records without lines of another shape that a blank line separates from the table."""
    blank = next((at for at, row in enumerate(records[:_SNIFFED]) if not any(row)), 0)
    above = {len(row) for row in records[:blank]}
    table = list(itertools.takewhile(any, records[blank + 1 :]))
    widths = {len(row) for row in table}
    is_table = len(table) > 1 and len(widths) == 1 and min(widths) > 1
    is_other = above != widths and (blank == 1 or len(above) > 1)
    if blank and is_table and is_other:
        return records[blank + 1 :]
    return records


def _from_header(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows from the header on, which is blank if there is none.

    It has no name for a column of row numbers in front of the others.
    """
    rows = rows[_header_at(rows) :]
    if rows and not _is_header(rows[0]):
        return [[""] * len(rows[0]), *rows]
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


def _is_header(row: list[str]) -> bool:
    """Return whether a row may have the names of columns: not all of its cells are numbers or dates, unless years."""
    cells = [cell.strip() for cell in row]
    if not all(map(_DATA.fullmatch, cells)):
        return True
    return len(cells) > 1 and all(map(_YEAR.fullmatch, cells)) and cells == sorted(set(cells))


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


def _column_names(header: list[str], count: int) -> list[str]:
    names: list[str] = []
    for number in range(1, count + 1):
        title = header[number - 1].strip() if number <= len(header) else ""
        title = title or f"column_{number}"
        name = title
        suffix = 2
        while name in names:
            name = f"{title}_{suffix}"
            suffix += 1
        names.append(name)
    return names
