"""Finding a pattern in many files: places as characters and lines, what was found where, and what was cut."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .corpus import Corpus
from .patterns import fast, slow

LINE = 400  # characters of one line that a match shows

_COUNTED = 20_000  # matches that are counted after enough are shown
_SCANNED = 256_000_000  # bytes that are searched for counting alone
_PIECE = 1 << 20


class Matches(list[dict[str, Any]]):
    """The matches of a grep; ``counts`` tells how many each file has, ``complete`` whether all were counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.complete = True

    @property
    def total(self) -> int:
        """All matches that were counted, shown or not."""
        return sum(self.counts.values())

    @property
    def cut(self) -> str:
        """What is not among the matches, in words, or nothing."""
        if self.total <= len(self):
            return "" if self.complete else f"{len(self):,} matches shown; raise max_matches to see if there are more"
        least = "" if self.complete else "at least "
        told = f"{len(self):,} of {least}{self.total:,} matches shown"
        named = sorted(((name, count) for name, count in self.counts.items() if name), key=lambda one: -one[1])
        if named:
            rest = f", {len(named) - 8:,} more files" if len(named) > 8 else ""
            told += f"; by file: {', '.join(f'{name} {count:,}' for name, count in named[:8])}{rest}"
        return f"{told}; raise max_matches or narrow by source="

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n[{self.cut}]" if self.cut else super().__repr__()


def find(expression: "re.Pattern[str]", data: Any, names: Iterable[Any], limit: float, around: int) -> Matches:
    """Search the named files (None: the single text that ``data`` is) and show at most ``limit`` matches."""
    found = Matches()
    left = _SCANNED
    for name in names:
        full = len(found) >= limit
        view, ascii_only = _bytes(data, name)
        regex = fast(expression, ascii_only)
        if full and (regex is None or left < len(view) or found.total >= len(found) + _COUNTED):
            found.complete = False
            break
        left -= len(view) if full else 0
        if regex is None:
            _search_text(slow(expression), data, name, found, limit, around)
        else:
            _search_bytes(regex, view, ascii_only, data, name, found, limit, around)
    return found


def _bytes(data: Any, name: Any) -> tuple[Any, bool]:
    """The UTF-8 bytes of a file, and whether all of them are ASCII."""
    if isinstance(data, Corpus):
        view = data.raw(name)
        return view, len(view) == data.info(name).size
    body = read(data, name)
    return memoryview(body.encode("utf-8", "surrogatepass")), body.isascii()


def _search_text(
    expression: "re.Pattern[str]", data: Any, name: Any, found: Matches, limit: float, around: int
) -> None:
    body = read(data, name)
    place, line = 0, 1
    for match in expression.finditer(body):
        start, end = match.span()
        line += body.count("\n", place, start)
        place = start
        found.counts[name or ""] = found.counts.get(name or "", 0) + 1
        found.append(entry(data, name, line, show(body, start, end, around), start, end))
        if len(found) >= limit:
            found.complete = False
            return


def _search_bytes(
    regex: Any, view: Any, ascii_only: bool, data: Any, name: Any, found: Matches, limit: float, around: int
) -> None:
    place, chars, line, many, last = 0, 0, 1, 0, (-1, -1)
    for match in regex.finditer(view):
        start, end = match.span()
        if (start, end) == last or (start < len(view) and view[start] & 0xC0 == 0x80):
            continue  # RE2 finds an empty match twice, and some inside a character
        last = start, end
        many += 1
        if len(found) < limit:
            line += _newlines(view, place, start)
            chars += start - place if ascii_only else _length(view, place, start)
            place = start
            stop = chars + (end - start if ascii_only else _length(view, start, end))
            shown = _shown(view, start, end, around)
            found.append(entry(data, name, line, shown, chars, stop))
        elif many > len(found) + _COUNTED:
            found.complete = False
            break
    if many:
        found.counts[name or ""] = many


def _newlines(view: Any, start: int, end: int) -> int:
    return sum(bytes(view[at : min(at + _PIECE, end)]).count(b"\n") for at in range(start, end, _PIECE))


def _length(view: Any, start: int, end: int) -> int:
    return len(str(view[start:end], "utf-8", "surrogatepass"))


def _shown(view: Any, start: int, end: int, around: int) -> str:
    """Show a match from no more bytes around it than are needed."""
    end = min(end, start + 4 * LINE)
    while end < len(view) and view[end] & 0xC0 == 0x80:
        end -= 1
    reach = 4 * LINE * (2 * around + 2)
    low, high = max(0, start - reach), min(len(view), end + reach)
    while low > 0 and view[low] & 0xC0 == 0x80:
        low -= 1
    while high < len(view) and view[high] & 0xC0 == 0x80:
        high += 1
    before = str(view[low:start], "utf-8", "surrogatepass")
    inside = str(view[start:end], "utf-8", "surrogatepass")
    after = str(view[end:high], "utf-8", "surrogatepass")
    return show(before + inside + after, len(before), len(before) + len(inside), around)


# Reading and showing


def read(data: Any, name: Any) -> str:
    """Return the text of a file; None names the single text that ``data`` is."""
    body = data if name is None else data[name]
    return body if isinstance(body, str) else str(body)


def entry(data: Any, name: Any, line: int, shown: str, start: int, end: int) -> dict[str, Any]:
    """Return a match as a dict; of a converted file it also has the page, row or cell."""
    found: dict[str, Any] = {} if name is None else {"source": name}
    found |= {"line": line, "text": shown, "start": start, "end": end, "range": (start, end)}
    place = data.place(name, line) if isinstance(data, Corpus) else None
    return found if place is None else {**found, "place": place}


def show(body: str, start: int, end: int, around: int) -> str:
    """Return the line or lines of a match, cut around it if they are long, with whole lines before and after."""
    end = min(end, start + LINE)
    spare = (LINE - (end - start)) // 2
    low, high = body.rfind("\n", 0, start) + 1 if around else 0, len(body)
    left = body.rfind("\n", max(0, start - spare), start)
    left = left + 1 if left >= 0 else max(0, start - spare)
    right = body.find("\n", end, end + spare)
    right = right if right >= 0 else min(high, end + spare)
    shown = body[left:right].removesuffix("\r")
    if left > 0 and body[left - 1] != "\n":
        shown = "…" + shown
    if right < high and body[right] != "\n":
        shown += "…"
    if not around:
        return shown
    before, after = _lines_before(body, low, around), _lines_after(body, body.find("\n", end), around)
    return "\n".join([*before, shown, *after])


def _lines_before(body: str, place: int, many: int) -> Iterator[str]:
    lines: list[str] = []
    while place > 0 and len(lines) < many:
        start = body.rfind("\n", 0, place - 1) + 1
        lines.append(_short(body, start, place - 1))
        place = start
    return reversed(lines)


def _lines_after(body: str, place: int, many: int) -> Iterator[str]:
    while 0 <= place < len(body) - 1 and many:
        stop = body.find("\n", place + 1)
        yield _short(body, place + 1, stop if stop >= 0 else len(body))
        place, many = stop, many - 1


def _short(body: str, start: int, stop: int) -> str:
    return body[start : min(stop, start + LINE)].removesuffix("\r") + ("…" if stop - start > LINE else "")
