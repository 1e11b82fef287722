"""What a model wrote, turned into cells to run.

Real replies are odd: no fence, two blocks, a fence in a fence or inside a string literal, a fence glued to an
adapter's marker, a label of another REPL, a final answer as plain text. Python is tried before any fence is
stripped, and a closing fence counts only where the block before it is Python.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

MANY = 64  # blocks of a reply, and places where one may end, that are looked at: a hostile reply has many more
LABELS = frozenset({"", "python", "py", "python3", "py3", "repl", "tool_code"})
# A block under one of these is data or another language, never a cell.
FOREIGN = frozenset({"json", "yaml", "toml", "xml", "html", "text", "txt", "markdown", "md", "bash", "sh", "console"})

_OPEN = re.compile(r"^[ \t]*`{3,}[ \t]*([A-Za-z_][\w+-]*)?(.*)$")
# Neither may start inside a run of blanks, nor look for its end at every line: replies are long, and hostile.
_MARKER = re.compile(r"(?<![ \t])[ \t]*\[\[ ## completed ## \]\]\s*$", re.MULTILINE)
_FINAL = re.compile(r"^[ \t>*]*FINAL(?P<var>_VAR)?\**[ \t]*(?P<opens>[:(])", re.MULTILINE)
_CLOSES = re.compile(r"\)(?=[ \t]*$)", re.MULTILINE)


@dataclass(frozen=True)
class Action:
    """The cells of one reply, in order; without any, ``problem`` tells the model what was missing."""

    cells: tuple[str, ...] = ()
    problem: str | None = None


def is_python(code: str) -> bool:
    """Tell whether ``code`` compiles as a cell, top-level ``await`` included."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def read_code(text: str, first_output: str) -> Action:
    """Read the ``code`` field of a reply: Python first, then fenced blocks, then a final answer in words."""
    code = _clean(text)
    if not code:
        return Action(problem="The reply has no code.")
    if is_python(code):
        return _with_finals(code, first_output)
    if blocks := _blocks(code):
        return Action(cells=blocks)
    if final := _final_cell(code, first_output):
        return Action(cells=(final,))
    if "```" in code:
        return Action(problem="The code block is not Python: write Python in a ```python block.")
    # Broken Python is run all the same: the model learns most from the interpreter's own SyntaxError.
    return Action(cells=(code,))


def read_reply(text: str, first_output: str) -> Action:
    """Read a whole reply that no adapter could parse: blocks first, then a final answer in words, then bare Python."""
    code = _clean(text)
    if "```" in code and (blocks := _blocks(code)):
        return Action(cells=blocks)
    if final := _final_cell(code, first_output):
        return Action(cells=(final,))
    if code and is_python(code) and re.search(r"[=(]", code):
        return Action(cells=(code,))
    return Action(problem="The reply has no code that can be run.")


def _clean(text: str) -> str:
    """Drop an adapter's end marker and common indentation."""
    text = _MARKER.sub("", text.replace("\r\n", "\n")).strip("\n")
    return textwrap.dedent(text).strip()


def _with_finals(code: str, first_output: str) -> Action:
    """Turn a bare ``FINAL_VAR: name`` among valid Python (it parses as an annotation) into the SUBMIT it means."""
    finals = [
        node
        for node in ast.parse("" if "FINAL" not in code else _parseable(code)).body
        if isinstance(node, ast.AnnAssign)
        and node.value is None
        and isinstance(node.target, ast.Name)
        and node.target.id in {"FINAL", "FINAL_VAR"}
    ]
    if not finals:
        return Action(cells=(code,))
    lines = code.splitlines()
    before = "\n".join(lines[: finals[0].lineno - 1]).strip()
    final = _final_cell("\n".join(lines[finals[0].lineno - 1 :]), first_output)
    return Action(cells=tuple(cell for cell in (before, final) if cell))


def _parseable(code: str) -> str:
    """Return ``code`` if plain ``ast.parse`` takes it (no top-level await), else nothing."""
    try:
        ast.parse(code)
    except SyntaxError:
        return ""
    return code


def _final_cell(text: str, first_output: str) -> str | None:
    """Return the SUBMIT cell that a ``FINAL: …``, ``FINAL_VAR: …`` or ``FINAL(…)`` in words means."""
    last = max((match.start() for match in _CLOSES.finditer(text)), default=-1)
    match = next((m for m in _FINAL.finditer(text) if m["opens"] == ":" or m.end() <= last), None)
    if not match:
        return None
    value = text[match.end() :].lstrip(" \t*") if match["opens"] == ":" else text[match.end() : last]
    value = value.strip().strip("`").strip()
    if not value:
        return None
    if match["var"]:
        name = value.splitlines()[0].strip().strip("\"'`*.")
        return f"SUBMIT({first_output}={name})" if name.isidentifier() else None
    return f"SUBMIT({first_output}={value!r})"


def _blocks(text: str) -> tuple[str, ...]:
    """Return the runnable fenced blocks of ``text``; blocks under an unknown label only if there are no others."""
    known: list[str] = []
    unknown: list[str] = []
    for label, code in islice(_fenced(text), MANY):
        if not code:
            continue
        if label in LABELS:
            known.append(code)
        elif label not in FOREIGN and is_python(code):
            unknown.append(code)
    return tuple(known or unknown)


def _fenced(text: str) -> Iterator[tuple[str, str]]:
    """Yield (label, code) for each fenced block, nested openings merged and stray fences skipped."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opened = _OPEN.match(lines[at])
        if not opened:
            at += 1
            continue
        label, rest = (opened[1] or "").lower(), opened[2]
        at += 1
        if not rest.strip():
            # ```python inside ``` (or doubled): the innermost label is the one that was meant.
            while at < len(lines) and (inner := _OPEN.match(lines[at])) and not inner[2].strip() and inner[1]:
                label = inner[1].lower()
                at += 1
        elif label:
            lines[at - 1] = rest.strip()
            at -= 1
        code, at = _close(lines, at)
        yield label, code


def _close(lines: list[str], start: int) -> tuple[str, int]:
    """Return the block that starts at line ``start`` and the line after it.

    The first closing fence before which it is Python counts: one on a line of its own if there is any, else one that
    is glued to code, or the opening of the next block. Without any, the block is broken and ends at the first fence.
    """
    candidates = list(islice(_endings(lines, start), MANY))
    for code, at, _ in sorted(candidates, key=lambda item: not item[2]):
        if is_python(code) and (code or at == start + 1):
            return code, at
    return candidates[0][:2] if candidates else (_block(lines[start:]), len(lines))


def _endings(lines: list[str], start: int) -> Iterator[tuple[str, int, bool]]:
    """Yield each place where the block may end: its code, the next line, and whether the fence stands alone."""
    for at in range(start, len(lines)):
        head, fence, tail = lines[at].partition("```")
        if not fence:
            continue
        if head.strip():
            if not tail.strip("` \t"):
                yield _block([*lines[start:at], head]), at + 1, False
        elif tail.strip("` \t"):
            yield _block(lines[start:at]), at, False
        else:
            yield _block(lines[start:at]), at + 1, True


def _block(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines)).strip("\n").rstrip()
