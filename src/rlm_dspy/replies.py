"""A model's reply, turned into the cells to run.

Real replies are odd: thinking around a draft, JSON instead of code, no fence, two blocks, a fence in a fence or inside
a string literal, a fence glued to an adapter's marker, a label of another REPL, an imagined output, a final answer as
plain text. Code is handed on byte for byte: Python is tried before any fence is stripped, and a closing fence counts
only where the block before it is Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from rlm_dspy.reply_json import JsonReply, find_json, read_json
from rlm_dspy.reply_python import is_python, looks_like_code, repair_code
from rlm_dspy.thinking import split_thinking

MAX_BLOCKS = 64  # blocks of a reply, and places where one may end: a hostile reply has many more
PYTHON_LABELS = frozenset({"python", "py", "python3", "py3", "ipython", "repl", "tool_code"})
# A block under one of these is data, an output or another language, never a cell.
OTHER_LABELS = frozenset(
    {"json", "yaml", "toml", "xml", "html", "css", "csv", "tsv", "sql", "text", "txt", "plaintext", "markdown", "md"}
    | {"bash", "sh", "shell", "console", "output", "stdout", "stderr", "result", "log", "diff", "javascript", "js"}
)

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<label>[A-Za-z_][\w+-]*)?(?P<rest>.*)$")
# Neither may start inside a run of blanks, nor look for its end at every line: replies are long, and hostile.
_END_MARKER = re.compile(r"(?<![ \t])[ \t]*\[\[ ?## ?completed ?## ?\]{1,2}\s*$", re.MULTILINE | re.IGNORECASE)
_MARKER = re.compile(r"^[ \t*]*\[\[ ?## ?(\w+) ?## ?\]{1,2}", re.MULTILINE)
_FINAL = re.compile(r"^[ \t>*]*FINAL(?P<var>_VAR)?\**[ \t]*(?P<opens>[:(])", re.MULTILINE)
_CLOSES = re.compile(r"\)(?=[ \t]*$)", re.MULTILINE)
_BARE_FINAL_VAR = re.compile(r"^(?:FINAL|FINAL_VAR):.*$", re.MULTILINE)
_CODE_ELEMENT = re.compile(
    r"<(?P<tag>code|python|tool_code|execute(?:_python)?|parameter=(?:code|python|script|input))>"
    r"(?P<code>.*?)</(?:code|python|tool_code|execute(?:_python)?|parameter)>",
    re.DOTALL | re.IGNORECASE,
)

NO_CODE = "The reply has no code that can be run."
THOUGHT_ONLY = "The reply held only thinking: write the code after it."
UNFINISHED = "The reply ended inside its thinking: think less, and write the code."
OTHER_JSON = "The reply is JSON without code: write Python in a ```python block."
NOT_PYTHON = "The code block is not Python: write Python in a ```python block."

CUTS = {
    "length": "The reply was cut off at the model's limit of output tokens: think less and write shorter code.",
    "content_filter": "The provider's content filter withheld the reply or the end of it: put it differently.",
}


@dataclass(frozen=True)
class ParsedReply:
    """The cells of one reply, in order.

    Without any, ``problem`` says what was missing. ``reasoning`` is what the reply says besides its code, ``ignored``
    counts the blocks after the code that have no label, which are outputs that the model imagined.
    """

    cells: tuple[str, ...] = ()
    problem: str | None = None
    reasoning: str = ""
    ignored: int = 0


def visible_text(reply: str, fields: frozenset[str] = frozenset()) -> str | None:
    """Return a reply without its thinking, None if it ended inside it; a tag named as one of ``fields`` is not one."""
    split = split_thinking(reply, _code_ranges, fields)
    return None if split.unfinished else split.visible


def explain_cut(finish: str) -> str | None:
    """Say why a reply may not be whole, by its server's reason for ending it; None if it ended by itself."""
    return CUTS.get(finish)


def parse_reply(reply: str, first_output: str) -> ParsedReply:
    """Read a whole reply: the code after its marker, JSON, fenced blocks, a final answer in words, or bare Python."""
    split = split_thinking(_unix_lines(reply), _code_ranges)
    if split.unfinished:
        return ParsedReply(problem=UNFINISHED)
    text = _strip_markers(split.visible)
    if not text.strip():
        return ParsedReply(problem=THOUGHT_ONLY if split.thought else "The reply is empty.")
    sections = _sections(split.visible)
    if sections.get("code", "").strip():
        parsed = parse_code(sections["code"], first_output)
        return ParsedReply(parsed.cells, parsed.problem, sections.get("reasoning", "").strip(), parsed.ignored)
    if from_json := _cells_of_json(text, first_output):
        return from_json
    if blocks := _parse_blocks(text):
        return blocks
    if final := _final_cell(text, first_output):
        return ParsedReply((final,))
    code = repair_code(text)
    if code and looks_like_code(code):
        return ParsedReply((code,))
    return ParsedReply(problem=NO_CODE, reasoning=text.strip())


def parse_code(text: str, first_output: str) -> ParsedReply:
    """Read the ``code`` field of a reply: Python first, then JSON, fenced blocks, a final answer in words."""
    split = split_thinking(_unix_lines(text), _code_ranges)
    if split.unfinished:
        return ParsedReply(problem=UNFINISHED)
    field = _strip_markers(split.visible)
    if not field.strip():
        return ParsedReply(problem=THOUGHT_ONLY if split.thought else "The reply has no code.")
    if from_json := _cells_of_json(field, first_output):
        return from_json
    if finals := _cells_with_final(field, first_output):
        return ParsedReply(finals)
    if code := repair_code(field):
        return ParsedReply((code,))
    if blocks := _parse_blocks(field):
        return blocks
    if final := _final_cell(field, first_output):
        return ParsedReply((final,))
    if "```" in field or "~~~" in field:
        return ParsedReply(problem=NOT_PYTHON)
    # Broken Python is run all the same: the model learns most from the interpreter's own SyntaxError.
    return ParsedReply((field.strip("\n").rstrip(),))


def _unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def _strip_markers(text: str) -> str:
    """Drop an adapter's end marker and blank lines around the rest."""
    return _END_MARKER.sub("", text).strip("\n")


def _sections(text: str) -> dict[str, str]:
    """Return the text under each of an adapter's markers; the first of a name that has any text counts."""
    sections: dict[str, str] = {}
    marks = list(islice(_MARKER.finditer(text), MAX_BLOCKS))
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        name = mark[1].lower()
        if not sections.get(name, "").strip():
            sections[name] = text[mark.end() : end].strip("\n")
    return sections


def _cells_of_json(text: str, first_output: str) -> ParsedReply | None:
    """Return the cells that JSON in the text holds; JSON that holds no code is a problem, and no JSON is None."""
    found = read_json(text)
    if found is None and not is_python(text):
        found = _json_in_blocks(text)
    if found is None:
        return None
    cells: list[str] = []
    for code in found.codes:
        cells += parse_code(code, first_output).cells
    return ParsedReply(tuple(cells), None if cells else OTHER_JSON, found.reasoning)


def _json_in_blocks(text: str) -> JsonReply | None:
    """Return the JSON with code that a block or the prose of a reply holds, unless a block is Python by itself."""
    blocks = list(islice(_fenced(text), MAX_BLOCKS))
    for block in blocks:
        found = read_json(block.code)
        if found and found.codes:
            return found
        if block.label not in OTHER_LABELS and looks_like_code(block.code):
            return None
    return find_json(text)


def _cells_with_final(code: str, first_output: str) -> tuple[str, ...]:
    """Split valid Python before a bare ``FINAL_VAR: name``, which parses as an annotation but means SUBMIT."""
    if "FINAL" not in code or not is_python(code):
        return ()
    for match in _BARE_FINAL_VAR.finditer(code):
        before = code[: match.start()]
        final = _final_cell(code[match.start() :], first_output)
        if final and (not before.strip() or is_python(before)):
            return tuple(cell for cell in (before.strip("\n").rstrip(), final) if cell)
    return ()


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


# --- fenced blocks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its label, its code, and where it lies in the text."""

    label: str
    code: str
    start: int
    end: int


def _parse_blocks(text: str) -> ParsedReply | None:
    """Return the runnable blocks of a text, None if there are none.

    Blocks labelled as Python are cells. Without any, the first unlabelled block is one, or those under a label that
    nobody knows, if they are Python. Unlabelled blocks after a cell are outputs that the model imagined.
    """
    blocks = [block for block in islice(_fenced(text), MAX_BLOCKS) if block.code]
    chosen = [block for block in blocks if block.label in PYTHON_LABELS]
    plain = [block for block in blocks if not block.label]
    if not chosen and plain:
        chosen = [next((block for block in plain if looks_like_code(block.code)), plain[0])]
    if not chosen:
        chosen = [block for block in blocks if block.label not in OTHER_LABELS and is_python(block.code)]
    if chosen:
        ignored = sum(block.start > chosen[0].start for block in plain)
        prose = text[: chosen[0].start].strip()
        return ParsedReply(tuple(block.code for block in chosen), reasoning=prose, ignored=ignored)
    elements = [match["code"].strip("\n") for match in islice(_CODE_ELEMENT.finditer(text), MAX_BLOCKS)]
    cells = tuple(filter(None, map(repair_code, elements)))
    return ParsedReply(cells) if cells else None


def _fenced(text: str) -> Iterator[Block]:
    """Yield each fenced block, nested openings merged and stray fences skipped."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    at = 0
    while at < len(lines):
        opened = _FENCE.match(lines[at])
        if not opened:
            at += 1
            continue
        first, fence = at, opened["fence"][:3]
        label, rest = (opened["label"] or "").lower(), opened["rest"]
        at += 1
        if not rest.strip():
            # ```python inside ``` (or doubled): the innermost label is the one that was meant.
            while at < len(lines) and (inner := _FENCE.match(lines[at])) and not inner["rest"].strip():
                if not inner["label"]:
                    break
                label = inner["label"].lower()
                at += 1
        elif label and not rest.strip().startswith(("{", "title=", "#")):
            lines[at - 1] = rest.strip()
            at -= 1
        code, at = _find_close(lines, at, fence)
        yield Block(label, code, starts[first], starts[at] if at < len(starts) else len(text))


def _find_close(lines: list[str], start: int, fence: str) -> tuple[str, int]:
    """Return the block that starts at line ``start`` and the line after it.

    The first closing fence before which it is Python counts: one on a line of its own if there is any, else one that
    is glued to code, or the opening of the next block. Without any, the block is broken and ends at the first fence.
    """
    candidates = list(islice(_possible_ends(lines, start, fence), MAX_BLOCKS))
    for text, at, _ in sorted(candidates, key=lambda item: not item[2]):
        code = repair_code(text)
        if code is not None and (code or at == start + 1):
            return code, at
    if candidates:
        text, at, _ = candidates[0]
        return text.strip("\n").rstrip(), at
    rest = "\n".join(lines[start:])
    return repair_code(rest) or rest.strip("\n").rstrip(), len(lines)


def _possible_ends(lines: list[str], start: int, fence: str) -> Iterator[tuple[str, int, bool]]:
    """Yield each place where the block may end: its code, the next line, and whether the fence stands alone."""
    for at in range(start, len(lines)):
        head, found, tail = lines[at].partition(fence)
        if not found:
            continue
        if head.strip():
            if not tail.strip(fence + " \t"):
                yield "\n".join([*lines[start:at], head]), at + 1, False
        elif tail.strip(fence + " \t"):
            yield "\n".join(lines[start:at]), at, False
        else:
            yield "\n".join(lines[start:at]), at + 1, True


def _code_ranges(text: str) -> list[tuple[int, int]]:
    """Return the character ranges of a reply that are Python: all of it, an adapter's section, or a fenced block."""
    if is_python(text):
        return [(0, len(text))]
    ranges: list[tuple[int, int]] = []
    marks = list(islice(_MARKER.finditer(text), MAX_BLOCKS))
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        section = text[mark.end() : end]
        if is_python(section.strip("\n")) and looks_like_code(section):
            ranges.append((mark.end(), end))
    for block in islice(_fenced(text), MAX_BLOCKS):
        if is_python(block.code):
            ranges.append((block.start, block.end))
    return ranges
