"""The patterns of ``.gitignore`` as git reads them, for a walk that goes from the top down.

``pathspec`` answers for whole file paths at once: asked about a folder on the way down, it lets ``*`` win over a
later ``!src/``, so that the usual "ignore all but" files hide everything. Here each folder and file is asked about
by itself, as git does it, and the last pattern that matches decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ANY = re.compile(r".*", re.DOTALL)
_CLASSES = {
    "alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "upper": "A-Z", "lower": "a-z", "space": r"\s",
    "xdigit": "0-9a-fA-F", "punct": r"!-\/:-@\[-`{-~", "blank": r" \t", "word": r"\w",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One pattern; ``parts`` match the path's parts one by one, None standing for any number of them."""

    parts: tuple[re.Pattern[str] | None, ...]
    negated: bool
    folders_only: bool
    anywhere: bool

    def matches(self, names: Sequence[str], is_folder: bool) -> bool:
        """Tell whether the pattern matches a path, given in parts, below the folder of its file."""
        if self.folders_only and not is_folder:
            return False
        return _fits(self.parts, names[-1:] if self.anywhere else names)


def parse(lines: Iterable[str]) -> tuple[Rule, ...]:
    """Read the lines of a file, leaving out what git would not understand either."""
    return tuple(rule for line in lines if (rule := _rule(line)) is not None)


def verdict(rules: Sequence[Rule], names: Sequence[str], is_folder: bool) -> bool | None:
    """Return True for ignored, False for re-included, None where no rule speaks."""
    return next((not rule.negated for rule in reversed(rules) if rule.matches(names, is_folder)), None)


def _rule(line: str) -> Rule | None:
    line = re.sub(r"(?<!\\) +$", "", line.removesuffix("\r"))
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    pattern = line[negated:].replace("\\/", "/")
    folders_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    anywhere = "/" not in pattern
    texts = pattern.removeprefix("/").split("/")
    try:
        parts = [None if re.fullmatch(r"\*\*+", text) and not anywhere else _part(text) for text in texts]
    except (ValueError, re.error):
        return None
    if parts[-1] is None:
        parts.insert(-1, _ANY)  # "folder/**" is what lies inside, not the folder
    return Rule(tuple(parts), negated, folders_only, anywhere) if pattern else None


def _fits(parts: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    """Match parts with names; after a mismatch the last "**" takes one name more."""
    at = place = mark = 0
    last = -1
    while place < len(names):
        part = parts[at] if at < len(parts) else _ANY
        if at < len(parts) and part is None:
            last, mark, at = at, place, at + 1
        elif at < len(parts) and part is not None and part.fullmatch(names[place]):
            at, place = at + 1, place + 1
        elif last >= 0:
            mark += 1
            at, place = last + 1, mark
        else:
            return False
    return all(part is None for part in parts[at:])


def _part(text: str) -> re.Pattern[str]:
    """Compile one part of a path; each star but the last is atomic, so that no pattern takes long."""
    chunks, place = [""], 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == "*":
            chunks.append("")
        elif char == "?":
            chunks[-1] += "."
        elif char == "[":
            one, place = _bracket(text, place)
            chunks[-1] += one
        elif char == "\\":
            if place == len(text):
                raise ValueError("a backslash at the end escapes nothing")
            chunks[-1] += re.escape(text[place])
            place += 1
        else:
            chunks[-1] += re.escape(char)
    middle = "".join(f"(?>.*?{chunk})" for chunk in chunks[1:-1])
    return re.compile(chunks[0] + middle + (".*" + chunks[-1] if len(chunks) > 1 else ""), re.DOTALL)


def _bracket(text: str, place: int) -> tuple[str, int]:
    """Translate a set of characters that begins after its bracket; return it and where the text goes on."""
    negated = text[place : place + 1] in ("!", "^")
    place += negated
    items, first = [], place
    while place < len(text) and (text[place] != "]" or place == first):
        named = re.compile(r"\[:(\w+):\]").match(text, place)
        if named:
            items.append(_CLASSES.get(named[1], ""))
            place = named.end()
            continue
        low, place = _literal(text, place)
        high = low
        if text[place : place + 1] == "-" and text[place + 1 : place + 2] not in ("", "]"):
            high, place = _literal(text, place + 1)
        items.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else re.escape(low))
    if place >= len(text):
        raise ValueError("a set of characters is not closed")
    inside = "".join(items)
    if not inside:
        return ("." if negated else "(?!)"), place + 1
    return f"[{'^' if negated else ''}{inside}]", place + 1


def _literal(text: str, place: int) -> tuple[str, int]:
    place += text[place] == "\\" and place + 1 < len(text)
    return text[place], place + 1
