"""Find a pattern in many files: the offsets and lines of matches, counts per file, and limits.

Only the ranges of matches are stored. A hit's line, line number and text are computed on access from the text that
was searched, even if its variable has been rebound.
"""

import bisect
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from .corpus_handle import CorpusTexts
from .hits import Hit, Matches
from .patterns import re2_pattern, re_pattern
from .scopes import CODE, scope_of

LINE = 1000  # characters of a line kept in a hit
MOST = 1_000_000  # matches per grep: 32 MB of numbers when all are accessed

_COUNTED = 20_000  # matches counted after enough are found
_SCANNED = 256_000_000  # bytes searched only for counting
_PIECE = 1 << 20
_NEAR = 300  # bytes around a match within which most lines end
_SCOPED = 1_000_000  # largest program, in characters, for which printed hits name their class and function


class Places:
    """The matches in all files: their places, their counts per file, and whether they are complete."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.complete = True
        self.full = False  # whether the limit per grep was reached
        self._parts: list[Part] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        if self._stops:
            return self._stops[-1]
        return 0

    def add(self, part: "Part") -> None:
        """Add the places of one file."""
        if len(part.starts):
            self._stops.append(len(self) + len(part.starts))
            self._parts.append(part)

    def make_hit(self, number: int) -> Hit:
        """Make the hit with this number."""
        at = bisect.bisect_right(self._stops, number)
        part = self._parts[at]
        return part.make_hit(number - self._stops[at] + len(part.starts))


class Part:
    """The places found in one file, in characters; lines are counted from the last place asked for."""

    def __init__(self, data: Any, name: Any, expression: "re.Pattern[str] | None", around: int) -> None:
        self.data, self.name, self.expression, self.around = data, name, expression, around
        self.starts, self.ends = array("q"), array("q")
        self._body: str | None = None if isinstance(data, CorpusTexts) else read(data, name)
        self._lines = array("q")

    @property
    def body(self) -> str:
        """The text of the file."""
        if self._body is None:
            return read(self.data, self.name)
        return self._body

    def make_hit(self, at: int) -> Hit:
        """Make a hit from one of the places."""
        start, end, line = self._start_end_line(at)
        text, inside = self._line_and_offset(at)
        return Hit(text, hit_fields(self.data, self.name, line, start, end), self, inside)

    def matched(self, start: int) -> "re.Match[str] | None":
        """Match again at an offset, to get the groups."""
        if self.expression is None:
            return None
        return self.expression.match(self.body, start)

    def scope(self, start: int, *, printed: bool = False) -> str:
        """Return the class and function around an offset; with ``printed``, only for code and if cheap."""
        if printed and not (str(self.name or "").endswith(CODE) and self._char_count() <= _SCOPED):
            return ""
        return scope_of(self.body, start)

    def _char_count(self) -> int:
        if self._body is None:
            return int(self.data.info(self.name).size)
        return len(self._body)

    def _start_end_line(self, at: int) -> tuple[int, int, int]:
        for number in range(len(self._lines), at + 1):
            place = self.starts[number - 1] if number else 0
            line = self._lines[number - 1] if number else 1
            self._lines.append(line + self.body.count("\n", place, self.starts[number]))
        return self.starts[at], self.ends[at], self._lines[at]

    def _line_and_offset(self, at: int) -> tuple[str, int]:
        return matched_line(self.body, self.starts[at], self.ends[at], self.around)


class BytesPart(Part):
    """The places found in one file of a corpus, in bytes."""

    def __init__(
        self, data: Any, name: Any, expression: "re.Pattern[str]", around: int, view: Any, ascii_only: bool
    ) -> None:
        super().__init__(data, name, expression, around)
        self._view, self._ascii = view, ascii_only
        self._chars = array("q")

    def _start_end_line(self, at: int) -> tuple[int, int, int]:
        for number in range(len(self._lines), at + 1):
            place = self.starts[number - 1] if number else 0
            line = self._lines[number - 1] if number else 1
            chars = self._chars[number - 1] if number else 0
            start = self.starts[number]
            self._lines.append(line + _count_newlines(self._view, place, start))
            self._chars.append(chars + self._count_chars(place, start))
        first = self._chars[at]
        return first, first + self._count_chars(self.starts[at], self.ends[at]), self._lines[at]

    def _count_chars(self, start: int, end: int) -> int:
        if self._ascii:
            return end - start
        return _count_chars(self._view, start, end)

    def _line_and_offset(self, at: int) -> tuple[str, int]:
        return _line_and_offset(self._view, self.starts[at], self.ends[at], self.around, 1 if self._ascii else 4)


def find_matches(expression: "re.Pattern[str]", data: Any, names: Iterable[Any], limit: float, around: int) -> Matches:
    """Find a pattern in the named files (None: ``data`` is a single text), with at most ``limit`` matches."""
    places = Places()
    most = int(min(limit, MOST))
    left = _SCANNED
    for name in names:
        full = len(places) >= most
        view, ascii_only = _utf8_bytes(data, name)
        regex = re2_pattern(expression, ascii_only)
        counted = sum(places.counts.values()) - len(places)
        if full and (most == MOST or regex is None or left < len(view) or counted >= _COUNTED):
            places.complete = False
            break
        left -= len(view) if full else 0
        if regex is None:
            part = Part(data, name, expression, around)
            _search_text(re_pattern(expression), part, places, most)
        else:
            part = BytesPart(data, name, expression, around, view, ascii_only)
            _search_bytes(regex, view, part, places, most)
            if not isinstance(data, CorpusTexts):
                part = _as_characters(part, view, ascii_only)
        places.add(part)
    places.full = len(places) >= MOST and not places.complete
    return Matches(store=places, order=range(len(places)))


def _utf8_bytes(data: Any, name: Any) -> tuple[Any, bool]:
    """Return the UTF-8 bytes of a file, and whether all of them are ASCII."""
    if isinstance(data, CorpusTexts):
        view = data.raw(name)
        return view, len(view) == data.info(name).size
    body = read(data, name)
    return memoryview(body.encode("utf-8", "surrogatepass")), body.isascii()


def _search_text(regex: "re.Pattern[str]", part: Part, places: Places, most: int) -> None:
    left = most - len(places)
    for match in regex.finditer(part.body):
        part.starts.append(match.start())
        part.ends.append(match.end())
        if len(part.starts) >= left:
            places.complete = False
            break
    if part.starts:
        places.counts[part.name or ""] = len(part.starts)


def _search_bytes(regex: Any, view: Any, part: Part, places: Places, most: int) -> None:
    left = most - len(places)
    beyond = 1 if most == MOST else _COUNTED
    starts, ends = part.starts, part.ends
    many, empty = 0, -1
    for match in regex.finditer(view):
        start, end = match.span()
        if start == end:
            if start == empty or (start < len(view) and view[start] & 0xC0 == 0x80):
                continue  # RE2 finds empty matches twice, and some inside a character
            empty = start
        many += 1
        if many <= left:
            starts.append(start)
            ends.append(end)
        elif many >= left + beyond:
            places.complete = False
            break
    if many:
        places.counts[part.name or ""] = many


def _as_characters(part: Part, view: Any, ascii_only: bool) -> Part:
    """Return the places in characters for a text outside a corpus, whose bytes are not kept."""
    characters = Part(part.data, part.name, part.expression, part.around)
    if ascii_only:
        characters.starts, characters.ends = part.starts, part.ends
        return characters
    place = chars = 0
    for start, end in zip(part.starts, part.ends, strict=True):
        chars += _count_chars(view, place, start)
        place = start
        characters.starts.append(chars)
        characters.ends.append(chars + _count_chars(view, start, end))
    return characters


def _count_newlines(view: Any, start: int, end: int) -> int:
    if end - start <= _PIECE:
        return bytes(view[start:end]).count(b"\n")
    return sum(bytes(view[at : min(at + _PIECE, end)]).count(b"\n") for at in range(start, end, _PIECE))


def _count_chars(view: Any, start: int, end: int) -> int:
    return len(str(view[start:end], "utf-8", "surrogatepass"))


def _line_and_offset(view: Any, start: int, end: int, around: int, width: int) -> tuple[str, int]:
    """Show a match, decoding only as many bytes around it as needed."""
    if not around and end - start < _NEAR:  # most lines are short
        near, rest = bytes(view[max(0, start - _NEAR) : start]), bytes(view[start : end + _NEAR])
        first, last = near.rfind(b"\n"), rest.find(b"\n", end - start)
        if first >= 0 and last >= 0:
            head = str(near[first + 1 :], "utf-8", "surrogatepass")
            return (head + str(rest[:last], "utf-8", "surrogatepass")).removesuffix("\r"), len(head)
    end = min(end, start + width * LINE)
    while end < len(view) and view[end] & 0xC0 == 0x80:
        end -= 1
    reach = width * LINE * (2 * around + 1) + width
    low, high = max(0, start - reach), min(len(view), end + reach)
    while low > 0 and view[low] & 0xC0 == 0x80:
        low -= 1
    while high < len(view) and view[high] & 0xC0 == 0x80:
        high += 1
    before = str(view[low:start], "utf-8", "surrogatepass")
    inside = str(view[start:end], "utf-8", "surrogatepass")
    after = str(view[end:high], "utf-8", "surrogatepass")
    return matched_line(before + inside + after, len(before), len(before) + len(inside), around)


# Reading and showing


def read(data: Any, name: Any) -> str:
    """Return the text of a file; None means that ``data`` is a single text."""
    body = data if name is None else data[name]
    if isinstance(body, str):
        return body
    return str(body)


def hit_fields(data: Any, name: Any, line: int, start: int, end: int) -> dict[str, Any]:
    """Return the fields of a hit except its text; for a converted file also the page, row or cell."""
    known: dict[str, Any] = {} if name is None else {"source": name}
    known |= {"line": line, "start": start, "end": end, "range": (start, end)}
    place = data.place(name, line) if isinstance(data, CorpusTexts) else None
    if place is None:
        return known
    return {**known, "place": place}


def matched_line(body: str, start: int, end: int, around: int) -> tuple[str, int]:
    """Return the line of a match and the match's offset in it, optionally with lines before and after.

    A line of more than 1,000 characters is cut around the match.
    """
    inside = body[start : min(end, start + LINE)]
    head, tail = body[max(0, start - LINE) : start], body[start + len(inside) : start + len(inside) + LINE + 1]
    head = head[head.rfind("\n") + 1 :]
    tail = tail.partition("\n")[0]
    room = LINE - len(inside)
    if len(head) + len(tail) > room:
        kept = min(len(head), max(room // 2, room - len(tail)))
        head, tail = head[len(head) - kept :], tail[: room - kept]
    low, high = start - len(head), start + len(inside) + len(tail)
    before = "" if low == 0 or body[low - 1] == "\n" else "…"
    after = "" if high == len(body) or body[high] == "\n" else "…"
    shown = before + (head + inside + tail).removesuffix("\r") + after
    at = len(before) + len(head)
    if not around:
        return shown, at
    first, last = body.rfind("\n", 0, start) + 1, body.find("\n", max(start, end))
    above = "".join(f"{line}\n" for line in _lines_before(body, first, around))
    return "\n".join([above + shown, *_lines_after(body, last, around)]), len(above) + at


def _lines_before(body: str, place: int, many: int) -> Iterator[str]:
    lines: list[str] = []
    while place > 0 and len(lines) < many:
        start = body.rfind("\n", 0, place - 1) + 1
        lines.append(_short_line(body, start, place - 1))
        place = start
    return reversed(lines)


def _lines_after(body: str, place: int, many: int) -> Iterator[str]:
    while 0 <= place < len(body) - 1 and many:
        stop = body.find("\n", place + 1)
        yield _short_line(body, place + 1, stop if stop >= 0 else len(body))
        place, many = stop, many - 1


def _short_line(body: str, start: int, stop: int) -> str:
    return body[start : min(stop, start + LINE)].removesuffix("\r") + ("…" if stop - start > LINE else "")
