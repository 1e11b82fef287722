"""The values of a workbook's cells as a person reads them: dates, percentages, numbers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from xml.etree.ElementTree import Element

from .parts import all_named, child_of, local, value_of

_DATES = {14: "y-m-d", 15: "y-m-d", 16: "m-d", 17: "y-m", 18: "h:m", 19: "h:m:s", 20: "h:m", 21: "h:m:s",
          22: "y-m-d h:m", 45: "m:s", 46: "[h]:m:s", 47: "m:s"}  # fmt: skip  # formats that a file need not spell out
_DATES |= dict.fromkeys([*range(27, 32), *range(34, 37), *range(50, 59)], "y-m-d") | {32: "h:m", 33: "h:m:s"}
_PERCENT = frozenset({9, 10})
_WRITTEN = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?![hms]+\])[^\]]*\]', re.I)  # what a format shows as it stands
_MOST_COLUMNS = 16_384
_LATEST = 2_958_466  # days: the end of the year 9999


@dataclass(frozen=True)
class Format:
    """How a number is shown; ``date`` has the letters of its parts, ``zeros`` the digits it is filled up to."""

    date: str = ""
    percent: bool = False
    zeros: int = 0


def formats_of(root: Element) -> list[Format]:
    """Return the formats of a workbook's styles in the order in which cells name them."""
    codes = {value_of(one, "numFmtId"): value_of(one, "formatCode") for one in all_named(root, "numFmt")}
    styles = child_of(root, "cellXfs")
    return [_format(value_of(one, "numFmtId"), codes) for one in styles] if styles is not None else []


def _format(number: str, codes: dict[str, str]) -> Format:
    if number not in codes:
        known = int(number) if number.isdecimal() else 0
        return Format(_DATES.get(known, ""), known in _PERCENT)
    code = _WRITTEN.sub("", codes[number].partition(";")[0])
    if "general" in code.lower():
        return Format()
    zeros = len(code) if code and not code.strip("0") and len(code) > 1 else 0
    return Format(code.lower() if re.search("[ymdhs]", code, re.I) else "", "%" in code, zeros)


def number_text(text: str, form: Format, *, since_1904: bool = False) -> str:
    """Return a stored number as it is shown, with all its digits."""
    try:
        number = float(text)
    except ValueError:
        return text
    if form.date and abs(number) < _LATEST:
        return _date(number, form.date, since_1904=since_1904)
    if form.percent:
        return f"{_digits(round(number * 100, 10))}%"
    plain = text if text.lstrip("-").isdecimal() else _digits(number)
    return plain.zfill(form.zeros) if form.zeros and plain.isdecimal() else plain


def _digits(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e16 else repr(number)


def _date(number: float, code: str, *, since_1904: bool) -> str:
    """Return a day as ISO 8601, a time of day, or how long something took."""
    seconds = round(number * 86_400)
    has_day = re.search("[yd]", code) is not None or ("h" not in code and "s" not in code)
    if "[" in code or (not has_day and (number < 0 or number >= 1)):
        sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if number < 0:
        return _digits(number)
    start = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 30 if number >= 60 else 31)
    when = start + timedelta(seconds=seconds)
    if not has_day:
        return when.strftime("%H:%M:%S")
    has_time = "h" in code or "s" in code or seconds % 86_400
    return when.isoformat(sep=" ") if has_time else when.date().isoformat()


def texts_of(root: Element) -> Iterator[str]:
    """Yield the texts that a workbook's cells share."""
    return (rich_text(one) for one in root if local(one) == "si")


def rich_text(element: Element) -> str:
    """Return a text in several fonts, without how it is read aloud."""
    parts = []
    for one in element:
        if local(one) == "t":
            parts.append(one.text or "")
        elif local(one) == "r":
            parts += [inner.text or "" for inner in one if local(inner) == "t"]
    return "".join(parts)


def position_of(reference: str) -> tuple[int, int]:
    """Return the row and column of a cell such as "C12", counted from one; 0 for what it does not say."""
    letters = reference.rstrip("0123456789")
    row = reference[len(letters) :]
    return int(row) if 0 < len(row) < 9 else 0, _column(letters)


@functools.lru_cache(_MOST_COLUMNS)
def _column(letters: str) -> int:
    column = 0
    for letter in letters[:5]:
        column = column * 26 + ord(letter) - 64 if "A" <= letter <= "Z" else column
    return column
