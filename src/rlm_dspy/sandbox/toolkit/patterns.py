"""Regular expressions with Python's semantics, run by google-re2 over bytes where both agree.

RE2 takes linear time for any pattern. It has no look-around and no back-references, and its classes are ASCII;
patterns with another meaning in RE2 are left to ``re``, under the cell's time limit.
"""

import functools
import re
from typing import Any

from .corpus_handle import quoted

try:
    import re2
except ImportError:  # an extra; without it, re runs all patterns
    re2 = None

_KNOWN_FLAGS = re.M | re.I | re.S | re.U

_LATE_FLAGS = re.compile(r"\(\?[aimsx]+\)")

# Syntax with which a leading ".*" may match from inside a line, or across its end.
_ACROSS_LINES = re.compile(r"^\.\*[?+{]|\||\(\?|\[\^|\n|\\[\dnsWDxuUN]")

# Python's character classes in RE2 syntax: for ASCII text, and for any text.
_ASCII = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t-\r\x1c-\x1f "}
_UNICODE = {"d": r"\p{Nd}", "w": r"\p{L}\p{N}_", "s": r"\t-\r\x1c-\x1f \x{85}\p{Z}"}


def compiled_pattern(pattern: Any, flags: int = 0) -> "re.Pattern[str]":
    """Compile a pattern with ^ and $ matching at lines, or raise a clear error; a compiled one keeps its flags."""
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        if flags:
            return re.compile(pattern.pattern, pattern.flags | flags)
        return pattern
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"pattern must be a non-empty string or a compiled regular expression, not {quoted(pattern)}")
    text = str.__str__(pattern)
    try:
        return _with_flags_first(text, re.M | flags)
    except (re.error, OverflowError, RecursionError) as error:
        message = f"bad regular expression {quoted(pattern)}: {str(error)[:100]}"
        raise ValueError(f"{message}; use re.escape() for plain text") from None


def _with_flags_first(text: str, flags: int) -> "re.Pattern[str]":
    """Compile a pattern, accepting ``(?i)`` in any position as models write it."""
    try:
        return re.compile(text, flags)
    except re.error as error:
        late = _LATE_FLAGS.search(text)
        if late is None or "global flags" not in str(error):
            raise
        return re.compile(late[0] + text.replace(late[0], ""), flags)


def re_pattern(expression: "re.Pattern[str]") -> "re.Pattern[str]":
    """Return the expression for ``re``, with a leading ".*" anchored at line starts, where alone it can match."""
    text = expression.pattern
    anchored = text.startswith(".*") and expression.flags & re.M and not _ACROSS_LINES.search(text)
    if anchored:
        return re.compile("^" + text, expression.flags)
    return expression


def re2_pattern(expression: "re.Pattern[str]", ascii_only: bool) -> Any:
    """Return an RE2 expression that finds the same in UTF-8 bytes, or None if RE2 cannot."""
    if re2 is None:
        return None
    return _translated_pattern(expression.pattern, expression.flags, ascii_only)


@functools.lru_cache(maxsize=64)
def _translated_pattern(pattern: str, flags: int, ascii_only: bool) -> Any:
    if flags & ~_KNOWN_FLAGS or (not flags & re.M and "$" in pattern) or _prefers_nothing(pattern, flags):
        return None
    translated = _rewritten_pattern(pattern, _ASCII if ascii_only else _UNICODE)
    if translated is None:
        return None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 64 << 20
    letters = "".join(letter for letter, flag in (("i", re.I), ("m", re.M), ("s", re.S)) if flags & flag)
    try:
        return re2.compile(f"(?{letters}){translated}" if letters else translated, options)
    except (re2.error, UnicodeEncodeError):
        return None


def _prefers_nothing(pattern: str, flags: int) -> bool:
    """Return whether an empty match may hide a longer one at the same offset, which ``re`` finds next."""
    if not re.search(r"\||[?*}]\?", pattern):
        return False
    return any(match.start() == match.end() for match in re.compile(pattern, flags).finditer("ab c\n"))


def _rewritten_pattern(pattern: str, classes: dict[str, str]) -> str | None:
    """Expand \\d, \\w and \\s; return None for syntax that RE2 would silently read differently."""
    out: list[str] = []
    place, inside = 0, False
    while place < len(pattern):
        char, after = pattern[place], pattern[place + 1 : place + 2]
        if char == "\\":
            piece = _rewritten_escape(after, inside, classes)
            if piece is None:
                return None
            out.append(piece)
            place += 2
            continue
        if inside and char == "]" and out[-1] not in ("[", "[^"):
            inside = False
        elif inside and char == "[":
            char = "\\["  # RE2 would read [[:alpha:]] as a class
        elif not inside and char == "[":
            inside = True
            if after == "^":
                char, place = "[^", place + 1
        elif not inside and char == "{" and after == ",":
            return None  # {,3} is plain text to RE2
        out.append(char)
        place += 1
    return "".join(out)


def _rewritten_escape(letter: str, inside: bool, classes: dict[str, str]) -> str | None:
    if letter in classes:
        if inside:
            return classes[letter]
        return f"[{classes[letter]}]"
    if letter.lower() in classes:
        if inside:
            return None
        return f"[^{classes[letter.lower()]}]"
    if letter in "bB" and (inside or classes is _UNICODE):
        return None  # RE2's word boundaries are ASCII only
    return "\\" + letter
