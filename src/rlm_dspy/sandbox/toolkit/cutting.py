"""Cut texts into ranges by size or by structure, and make outlines from their parts."""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .corpus_handle import CorpusTexts, count_lines, counted_noun
from .matching import read
from .scopes import has_methods, methods

Range = tuple[int, int]

_LISTED = 200  # files listed in an outline
_PARTS = 12  # headings or definitions listed per file of many
_ALONE = 400  # headings or definitions listed of a single file

# Compiled on first use.
_HEADING = r"^(?P<marks>#{1,6})[ \t]+(?P<title>\S.*)$"
_FENCE = r"^ {0,3}(```|~~~)"
_DEFINITION = r"""^(?:@\w.*\n)*(?P<line>
        (?:export\s+|default\s+|pub(?:\([a-z]+\))?\s+|public\s+|private\s+|protected\s+|internal\s+|static\s+|final\s+
           |abstract\s+|async\s+|unsafe\s+|inline\s+|extern\s+)*
        (?:def|class|function|func|fn|interface|struct|enum|trait|impl|module|object|sub|namespace|record|union)
        \b[ \t(<]*[\w.$:<]+.*)$"""


def cut_lines(body: str, size: int, shared: int) -> list[Range]:
    """Cut into ranges of ``size`` lines that overlap by ``shared``."""
    step = size - shared
    starts, ends, line, place = [], [], 0, 0
    while place < len(body):
        if line % step == 0:
            starts.append(place)
        if line >= size and (line - size) % step == 0:
            ends.append(place)
        place = body.find("\n", place) + 1 or len(body)
        line += 1
    return list(zip(starts, [*ends, len(body)], strict=False))


def cut_chars(body: str, size: int, shared: int) -> list[Range]:
    """Cut into ranges of ``size`` characters that overlap by ``shared``."""
    # a chunk starting here or later would add nothing new
    if body:
        last = max(1, len(body) - shared)
    else:
        last = 0
    return [(start, min(start + size, len(body))) for start in range(0, last, size - shared)]


def cut_paragraphs(body: str, size: int, shared: int) -> list[Range]:
    """Pack whole paragraphs with the blank lines after them; split those longer than a chunk."""
    length, start, ranges = size - shared, 0, []
    while start < len(body):
        stop = _paragraph_stop(body, start, start + length)
        ranges.append((max(0, start - shared), stop))
        start = stop
    return ranges


def _paragraph_stop(body: str, start: int, most: int) -> int:
    if most >= len(body):
        return len(body)
    blank = body.rfind("\n\n", start, most)
    if blank >= 0:
        stop = blank + 2
        while stop < most and body[stop] == "\n":
            stop += 1
        return stop
    half = start + (most - start) // 2
    places = (body.rfind(mark, half, most) + len(mark) for mark in ("\n", ". ", " "))
    return next((place for place in places if place > half), most)


def cut_headings(body: str, size: int, shared: int) -> list[Range]:
    """Cut before each Markdown heading, whatever the size."""
    return _ranges_between([start for start, _ in headings(body)], len(body))


def cut_definitions(body: str, size: int, shared: int) -> list[Range]:
    """Cut before each top-level definition of a program, whatever the size."""
    return _ranges_between([start for start, _ in definitions(body)], len(body))


def _ranges_between(starts: Sequence[int], stop: int) -> list[Range]:
    edges = sorted({0, stop, *starts})
    return list(itertools.pairwise(edges))


CUTTERS: dict[str, Callable[[str, int, int], list[Range]]] = {
    "lines": cut_lines,
    "chars": cut_chars,
    "paragraphs": cut_paragraphs,
    "headings": cut_headings,
    "definitions": cut_definitions,
}


def cut_by(function: Callable[[str], Iterable[Any]], body: str) -> list[Range]:
    """Cut by a function that returns ranges, or the offsets where parts begin.

    Raises:
        ValueError: It returned something else.
    """
    parts = list(function(body))
    if all(isinstance(part, int) and 0 <= part <= len(body) for part in parts):
        return _ranges_between(parts, len(body))
    ranges = [tuple(part) for part in parts if isinstance(part, (tuple, list)) and len(part) == 2]
    right = [(a, b) for a, b in ranges if isinstance(a, int) and isinstance(b, int) and 0 <= a <= b <= len(body)]
    if len(right) < len(parts):
        raise ValueError("a chunk function takes the text and returns (start, end) pairs in it, or offsets to cut at")
    return right


def headings(body: str) -> list[tuple[int, str]]:
    """Return (offset, heading as written) of the Markdown headings outside code blocks."""
    found = [(match.start(), match[0].strip()) for match in re.finditer(_HEADING, body, re.M)]
    if not found:
        return []
    fences = [match.start() for match in re.finditer(_FENCE, body, re.M)]
    blocks = list(zip(fences[::2], [*fences[1::2], len(body)], strict=False))
    for low, high in blocks:
        found = [(start, title) for start, title in found if not low < start < high]
    return found


def definitions(body: str) -> list[tuple[int, str]]:
    """Return (offset, first line) of a program's top-level definitions, for common languages."""
    return [(match.start(), match["line"].strip()) for match in re.finditer(_DEFINITION, body, re.M | re.X)]


def outline_text(data: Any, names: Sequence[Any]) -> str:
    """Return the tree of files with sizes, headings and top-level definitions, shortened to fit a screen."""
    most = _ALONE if len(names) == 1 else _PARTS
    lines: list[str] = []
    folder = ""
    for name in names[:_LISTED]:
        if name is not None:
            above, _, last = str(name).rpartition("/")
            if above != folder:
                lines.append(f"{above or '.'}/")
                folder = above
            lines.append(f"{'  ' if above else ''}{last}: {_size_text(data, name)}")
        parts = _outline_parts(str(name or ""), read(data, name))
        shown = parts
        if len(parts) > most:
            shown = [part for part in parts if part[1][0] != " "][:most]
        lines += [f"    {line:,}: {title[:120]}" for line, title in shown]
        if len(parts) > len(shown):
            lines.append(f"    … {len(parts) - len(shown):,} more; outline(source={str(name)!r}) shows them")
    if len(names) > _LISTED:
        lines.append(f"… {counted_noun(len(names) - _LISTED, 'more file')}; narrow by source=")
    return "\n".join(lines) or "(no files)"


def _size_text(data: Any, name: Any) -> str:
    body = data.info(name) if isinstance(data, CorpusTexts) else None
    if body:
        lines, chars = body.lines, body.size
    else:
        text = read(data, name)
        lines, chars = count_lines(text), len(text)
    return f"{counted_noun(lines, 'line')}, {counted_noun(chars, 'character')}"


def _with_methods(body: str, definitions: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Insert the methods of each class after it, indented."""
    both: list[tuple[int, str]] = []
    stops = [*(start for start, _ in definitions), len(body)][1:]
    for (start, title), stop in zip(definitions, stops, strict=False):
        both.append((start, title))
        if has_methods(title):
            first = body.find("\n", body.find(title, start)) + 1 or stop
            both += [(offset, f"  {line}") for offset, line in methods(body, first, stop)]
    return both


def _outline_parts(name: str, body: str) -> list[tuple[int, str]]:
    """Return the headings of a text, else the definitions and methods of a program, each with its line."""
    program = name.lower().endswith((".py", ".pyi", ".sh", ".rb", ".pl", ".r", ".yaml", ".yml", ".toml"))
    found = [] if program else headings(body)
    found = found or _with_methods(body, definitions(body))
    line, place, parts = 1, 0, []
    for start, title in found:
        line += body.count("\n", place, start)
        place = start
        parts.append((line, title))
    return parts
