"""Words that a line's end divides: joined, or left with the hyphen that is their own."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What pdfium writes for a hyphen at a line's end, a soft hyphen, and a plain one before a line's end.
_DIVIDER = re.compile("([\x02\ufffe\u00ad])[ \t]*(?:\r?\n|\r)?|[-‐][ \t]*(?:\r?\n|\r)")
_LEFT = re.compile(r"[\w'’‐-]*\Z")
_RIGHT = re.compile(r"[\w'’‐-]{0,60}")
_LONGEST = 60  # letters of a word that are looked at
_TOKEN = re.compile(r"[\w\0‐-]+")
_SOFT = "\u00ad"

# How English writes words of which the document shows no other: what is not named here is joined.
_OWN_HYPHEN = frozenset("self well ill non third e twenty thirty forty fifty sixty".split())  # noqa: SIM905
_ENDINGS = frozenset({"ed", "er", "ing", "ington", "ish", "less", "ly", "ness", "sense"})
_PREFIXES = frozenset("de dis im in inter mis out over pre re sub super un under up".split())  # noqa: SIM905
_SECOND = frozenset(
    """aware based called cost defined dependent driven free friendly known level like made oriented owned party related
    risk scale sized specific term""".split()  # noqa: SIM905
)
_HALVES = frozenset({"real", "full", "part", "long", "short", "first", "high", "low", "front", "back", "large"})
_WHOLES = frozenset({"time", "end", "hand", "class", "quality", "speed", "range", "frequency"})
_BETWEEN = frozenset("a and as at by in it of on or the to up".split())  # noqa: SIM905  state-of-the-art


class Words:
    """The words of a document, which tell how one of them is written where it is divided."""

    def __init__(self, pages: Iterable[str]) -> None:
        self._known: set[str] = set()
        texts = list(pages)
        if any(_DIVIDER.search(text) for text in texts):
            for text in texts:
                tokens = {token.lower() for token in _TOKEN.findall(_DIVIDER.sub("\0", text)) if "\0" not in token}
                self._known.update(token.replace("‐", "-") for token in tokens)

    def mended(self, text: str) -> str:
        """Return a text without divided words."""
        return _DIVIDER.sub(self._joint, text)

    def _joint(self, match: re.Match[str]) -> str:
        """Return what stands between the halves of a word: a hyphen or nothing."""
        text, start = match.string, match.start()
        left = _LEFT.search(text[max(0, start - _LONGEST) : start])
        right = _RIGHT.match(text, match.end())
        if left and right and left[0] and right[0]:
            return "-" if self._is_hyphenated(left[0], right[0]) else ""
        return "" if match[1] == _SOFT else match[0].replace("\x02", "-").replace("\ufffe", "-")

    def _is_hyphenated(self, left: str, right: str) -> bool:
        before, after = re.split("[-‐]", left)[-1], re.split("[-‐]", right)[0]
        if not before.isalpha() or not after[:1].isalpha() or f"{left}-{right}".lower() in self._known:
            return True
        if before.isupper() == after.isupper() and (before + after).lower() in self._known:
            return False
        if before[-1:].isupper() or after[:1].isupper():
            return True
        first, last = before.lower(), after.lower()
        if first in _OWN_HYPHEN:
            return last not in _ENDINGS
        if (before != left and first in _BETWEEN) or (after != right and last in _BETWEEN):
            return True
        return (last in _SECOND and first not in _PREFIXES) or (first in _HALVES and last in _WHOLES)
