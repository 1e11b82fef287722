"""Answers, evidence and figures as plain text for people."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from rlm_dspy.counting import counted_noun
from rlm_dspy.run import Usage

QUOTE_LIMIT = 300

# Everything that can move a terminal's cursor or recolour it: C0 but tab and newline, DEL, C1, bidirectional marks.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable_text(text: str) -> str:
    """Return the text with control characters escaped, so that no file can control the terminal."""
    return CONTROL.sub(lambda match: repr(match.group())[1:-1], text.replace("\r\n", "\n"))


def jsonable(value: Any) -> Any:
    """Convert a value to plain JSON types; other types become their ``str``."""
    try:
        return _name_nonfinite_floats(to_jsonable_python(value, fallback=str))
    except ValueError:
        # Bytes that are not UTF-8, for example: a readable form is better than a failure at the very end.
        return repr(value)


def _name_nonfinite_floats(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _name_nonfinite_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_name_nonfinite_floats(item) for item in value]
    return value


def outputs_text(values: Mapping[str, Any]) -> str:
    """Render typed outputs: a single one without its name, several as ``name: value``, lists one item per line."""
    if len(values) == 1:
        return "\n".join(_value_lines(next(iter(values.values())), bullet=""))
    blocks: list[str] = []
    for name, value in values.items():
        lines = _value_lines(value, bullet="- ")
        if len(lines) == 1 and not isinstance(value, (list, tuple, set, frozenset)):
            blocks.append(f"{name}: {lines[0]}")
        else:
            blocks.append("\n".join([f"{name}:", *(f"  {line}" for line in lines)]))
    return "\n".join(blocks)


def _value_lines(value: Any, bullet: str) -> list[str]:
    if isinstance(value, str):
        return value.splitlines() or [""]
    plain = jsonable(value)
    if isinstance(plain, list):
        return [bullet + _inline_text(item) for item in plain] or ["(none)"]
    if isinstance(plain, dict):
        return json.dumps(plain, ensure_ascii=False, indent=2).splitlines()
    return [_inline_text(plain)]


def _inline_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def quoted_line(quote: str, limit: int = QUOTE_LIMIT) -> str:
    """Return a quote on one line in double quotes, shortened to ``limit`` characters."""
    flat = " ".join(quote.split())
    if len(flat) <= limit:
        return f'"{flat}"'
    return f'"{flat[: limit - 1].rstrip()}…"'


def evidence_location(row: Mapping[str, Any]) -> str:
    """Return ``path:line`` of an evidence row, or as much of it as is known."""
    line, path = row["line"], row["path"]
    if place := row.get("place"):
        if path:
            return f"{path}:{place}"
        return str(place)
    if path is None:
        return f"line {line}" if line is not None else "somewhere in the text"
    return path if line is None else f"{path}:{line}"


def evidence_line(row: Mapping[str, Any]) -> str:
    """Return one line of evidence: its place, its text, and whether it is weak."""
    mark = "  (weak: does not show the answer)" if row["weak"] else ""
    return f"{evidence_location(row)}  {quoted_line(row['quote'])}{mark}"


def cost_text(cost: float | None) -> str:
    """Return a cost in dollars; an unknown cost is shown as unknown, never as 0."""
    if cost is None:
        return "cost unknown"
    if cost < 1:
        return f"${cost:.4f}"
    return f"${cost:,.2f}"


def usage_text(usage: Usage) -> str:
    """Return the tokens and the cost of calls."""
    return f"{counted_noun(usage.total_tokens, 'token')}, {cost_text(usage.cost)}"


def table_lines(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Return rows as aligned lines; the columns numbered in ``right`` are right-aligned."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            width = widths[column]
            cells.append(cell.rjust(width) if column in right else cell.ljust(width))
        lines.append("  ".join(cells).rstrip())
    return lines
