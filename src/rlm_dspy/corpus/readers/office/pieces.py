"""The pieces a reader yields, and the errors for documents it refuses or cuts off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Piece = tuple[str, str, bool]  # a text, what it is ("page 3"), and whether its lines are counted
Notes = list[str]  # remarks on a document, shown beside its text
Reading = Callable[[bytes, Notes], Iterator[Piece]]

_PLURALS = {"address of a link": "addresses of links"}

NO_TEXT = "no text in it"  # why a document that only draws is refused
MOST_CHARS = 50_000_000  # of one document

# Control characters, which no document contains, around raised, lowered and struck-through text until it is complete.
RAISED, RAISED_END, LOWERED, LOWERED_END, STRUCK, STRUCK_END = "\1\2\3\4\5\6"
_ENDS = {RAISED: RAISED_END, LOWERED: LOWERED_END, STRUCK: STRUCK_END}
_SCRIPTS = (
    (RAISED, "^", re.compile("(?<=[0-9])\1([-+\u2212\u2013]?[0-9][^\1\2]*)\2")),
    (LOWERED, "_", re.compile("(?<=[0-9])\3([-+\u2212\u2013]?[0-9][^\3\4]*)\4")),
)
_STRUCK_TEXT = re.compile("\5([^\5\6]*)\6")


class RefusedError(Exception):
    """The document cannot be read; the message says why."""


class CutError(Exception):
    """The rest of the document is not read; the message says where it was cut and why."""


def joined_with_and(words: list[str]) -> str:
    """Return "3", "3 and 7" or "3, 7 and 9"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def counted_noun(number: int, noun: str) -> str:
    """Return "1 page" or "2,345 pages"; of "address of a link", the addresses are counted."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {_PLURALS.get(noun, f'{noun}s')}"


def whole_number(text: str, default: int = 0) -> int:
    """Return the number that a text of up to nine digits writes, else the default."""
    if text.isdecimal() and len(text) < 10:
        return int(text)
    return default


def marked(text: str, mark: str) -> str:
    """Return a raised, lowered or struck-through text between its control characters."""
    if mark and text.strip():
        return mark + text + _ENDS[mark]
    return text


def written_marks(text: str) -> str:
    """Return a text with its marks written out: ``10^6`` for digits raised after a digit, ``[struck: …]``."""
    for mark, sign, scripted in _SCRIPTS:
        text = scripted.sub(rf"{sign}\1", text.replace(_ENDS[mark] + mark, ""))
    return _STRUCK_TEXT.sub(_struck_text, text.replace(STRUCK_END + STRUCK, ""))


def _struck_text(match: re.Match[str]) -> str:
    text = match[1].strip()
    if not text:
        return match[1]
    before, _, after = match[1].partition(text)
    return f"{before}[struck: {text}]{after}"
