"""Parse replies, without their thinking: a draft in the thinking must never run or become an answer.

Servers that do not separate the two leave thinking in the reply, between tags that differ by model family; a chat
template that opens the thinking itself leaves only the closing tag. Tags inside Python code are ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from rlm_dspy.rlm.reply_code import (
    JsonReply,
    find_json,
    has_literals,
    is_python,
    looks_like_code,
    read_json,
    repair_code,
    spoken_submit,
    string_value,
    submits_always,
    submits_literals,
    unquoted_code,
)
from rlm_dspy.rlm.tool_calls import FUNCTIONS, call_of_elements, without_owners

_NAMES = (
    r"(?:(?:\w{1,20}[:_-])?(?:think(?:ing)?|thoughts?|reason(?:ing)?|monologue|chain[_-]of[_-]thoughts?|cot)"
    r"(?:[_-](?:process|steps?|block|trace))?|reflect(?:ion)?|analysis|planning|scratch_?pad)"
)
_TAG = re.compile(
    rf"(?P<open>(?:<|&lt;)[ \t]*{_NAMES}(?:[ \t][^<>&\n]{{0,200}})?(?:>|&gt;)|\[(?:THINK|THINKING|REASONING)\]|◁think▷"
    r"|<\|(?:begin_of_thought|START_THINKING|think(?:ing)?|inner_prefix)\|>|<\|channel>[ \t]*thought\b"
    r"|<unused94>thought\b"
    r"|<details[ \t][^<>\n]{0,100}\breasoning\b[^<>\n]{0,100}>|^Here is my thought process:"
    r"|<details>\s{0,9}<summary>[^<\n]{0,40}(?:thought|thinking|reasoning)[^<\n]{0,40}</summary>)"
    rf"|(?P<close>(?:<|&lt;)[ \t]*/[ \t]*{_NAMES}[ \t]*(?:>|&gt;)|\[/(?:THINK|THINKING|REASONING)\]|◁/think▷"
    r"|<\|(?:end_of_thought|END_THINKING|/think(?:ing)?|inner_suffix)\|>|<channel\|>|<unused95>|</details>"
    r"|^Here is my response:|^\.{3}done thinking\.[ \t]*$|\[BEGIN FINAL RESPONSE\])",
    re.IGNORECASE | re.MULTILINE,
)
_EMPTY = re.compile(rf"<[ \t]*{_NAMES}[ \t]*/[ \t]*>", re.IGNORECASE)

# OpenAI's harmony format: `<|start|>assistant<|channel|>NAME to=RECIPIENT<|message|>TEXT<|end|>`.
_CHANNEL = "<|channel|>"
_MESSAGE = re.compile(
    r"<\|channel\|>(?P<head>[^<\n]{0,200})(?:<\|constrain\|>[^<]{0,50})?(?:<\|message\|>|\n)"
    r"(?P<text>.*?)(?P<end><\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|(?=<\|channel\|>)|\Z)",
    re.DOTALL,
)
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?(?P<name>\w{1,20})")
_BARE_ANALYSIS = re.compile(r"analysis(?=[A-Z])|analysis.*assistantfinal", re.DOTALL)
_BARE_HARMONY_FINAL = "assistantfinal"  # the remains of harmony when a server drops the special tokens


@dataclass(frozen=True)
class SplitReply:
    """A reply without its thinking.

    ``thought`` is true if there was any thinking, ``unfinished`` if the reply ended inside it.
    """

    visible: str
    thought: bool = False
    unfinished: bool = False


def split_thinking(text: str) -> SplitReply:
    """Separate a model's visible reply from its thinking; tags inside code are ordinary text."""
    if _CHANNEL not in text and not text.startswith("analysis") and not _TAG.search(text) and not _EMPTY.search(text):
        return SplitReply(text)
    text = _EMPTY.sub("", text)
    code = _code_ranges(text)
    if any(not _is_in_ranges(match.start(), code) for match in re.finditer(re.escape(_CHANNEL), text)):
        return _split_channels(text)
    if _BARE_ANALYSIS.match(text):
        _, final, answer = text.rpartition(_BARE_HARMONY_FINAL)
        return SplitReply(answer if final else "", thought=True, unfinished=not final)
    return _split_tags(text, code)


def _split_tags(text: str, code: list[tuple[int, int]]) -> SplitReply:
    visible: list[str] = []
    start = 0
    opened = thought = False
    for tag in _TAG.finditer(text):
        if _is_in_ranges(tag.start(), code) or _is_quoted(text, tag):
            continue
        thought = True
        if tag["open"]:
            if not opened:
                visible.append(text[start : tag.start()])
            opened = True
            continue
        if not opened and tag[0].lower() == "</details>":
            continue  # it closes an ordinary element
        if not opened:
            visible.clear()  # the chat template opened it, so everything before it is thinking
        opened = False
        start = tag.end()
    if not opened:
        visible.append(text[start:])
    return SplitReply("".join(visible), thought=thought, unfinished=opened)


def _split_channels(text: str) -> SplitReply:
    """Keep harmony's final messages and tool calls; an earlier message to the user is prose."""
    spoken: list[str] = []
    prose: list[str] = []
    unfinished = False
    for message in _MESSAGE.finditer(text):
        channel = message["head"].strip().lower()
        unfinished = False
        if spoken and channel.startswith("final"):
            break  # a second answer belongs to an imagined turn
        function = _RECIPIENT.search(message["head"])
        if function and function["name"] in FUNCTIONS:
            spoken.append(f"{function['name']}[ARGS]{message['text']}")
        elif channel.startswith("final") or "to=" in channel:
            spoken.append(message["text"])
        elif channel.startswith("analysis"):
            unfinished = not message["end"]
        else:
            prose.append(message["text"])
    return SplitReply("\n".join(spoken or prose), thought=True, unfinished=unfinished and not spoken)


def _is_in_ranges(offset: int, ranges: list[tuple[int, int]]) -> bool:
    return any(start <= offset < end for start, end in ranges)


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    """Return whether a tag is only mentioned, as in `<think>` or "</think>"."""
    return tag.start() > 0 and text[tag.start() - 1] in "`'\"" and text[tag.end() : tag.end() + 1] in ("`", "'", '"')


MAX_BLOCKS = 64  # blocks parsed of a reply, and possible ends tried of a block: a hostile reply has many more
MAX_ENDS = 4  # markers tried after the code's own that may lie inside one of its literals
PYTHON_LABELS = frozenset({"python", "py", "python3", "py3", "ipython", "repl", "tool_code"})
# A block with one of these labels is data, output or another language, never a cell.
OTHER_LABELS = frozenset(
    {"json", "yaml", "toml", "xml", "html", "css", "csv", "tsv", "sql", "text", "txt", "plaintext", "markdown", "md"}
    | {"bash", "sh", "shell", "console", "output", "stdout", "stderr", "result", "log", "diff", "javascript", "js"}
    | {"think", "thinking", "thought", "thoughts", "reasoning", "analysis", "plan", "planning", "scratchpad"}
)

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<label>[A-Za-z_][\w+.:-]*)?(?P<rest>.*)$")
_GLUED_FENCE = re.compile(r"(?<=[^`\s])[ \t]*(?P<fence>```)[ \t]*(?P<label>python3?|py)(?P<rest>)[ \t]*$", re.I)
_TITLE = re.compile(r"[ \t]*\w+=[\"'][^\"']*[\"'][ \t]*$")  # after a label, as in ```python title="cell.py"
_FENCE_LINE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*$", re.MULTILINE)
# No pattern may start inside a run of blanks, or search for its end at every line: replies may be long and hostile.
_END_MARKER = re.compile(r"(?<![ \t])[ \t]*\[\[ ?## ?completed ?## ?\]{1,2}\s*\Z", re.IGNORECASE)
_MARKER = re.compile(
    r"(?:^[ \t*]*\[\[ ?## ?(?P<name>\w+) ?## ?\]{1,2}|\[\[ ?## ?(?P<inner>reasoning|code|completed) ?## ?\]{1,2})\**",
    re.MULTILINE | re.IGNORECASE,
)
_FINAL = re.compile(r"^[ \t>*]*(?:FINAL(?P<var>_VAR)?\**[ \t]*(?P<opens>[:(])|SUBMIT(?P<colon>:))", re.MULTILINE)
_CLOSES = re.compile(r"\)(?=[ \t]*$)", re.MULTILINE)
_BARE_FINAL = re.compile(r"^(?:FINAL|FINAL_VAR|SUBMIT):.*$", re.MULTILINE)
_CODE_TAG = re.compile(
    r"<(?P<tag>code|python|tool_code|execute(?:_python)?|arg_value"
    r"|(?P<parameter>parameter)(?:=| name=\"?)(?:code|python|script|input)\"?)>",
    re.IGNORECASE,
)
_PYTHON_TAG = "<|python_tag|>"
# Markers that end a model's turn or begin another one: whatever follows is imagined.
_TURN_END = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|end_of_text|endoftext|start_header_id|end|user|observation)\|>"
    r"|<(?:end_of_turn|start_of_turn)>|</s>|<\uff5cend\u2581of\u2581sentence\uff5c>|\[/?INST\]"
    r"|<(?:tool_response|tool_result|function_results?)>|<\|tool_response\|>"
)
_SPECIAL = re.compile(r"<\|(?:START|END)_(?:RESPONSE|TEXT|ACTION)\|>|<\|(?:begin|end)_of_solution\|>")
_INVISIBLE = re.compile(r"^[\u200b-\u200d\u2060\ufeff]+", re.MULTILINE)
# A line that begins text which only the REPL or a user could have written.
_IMAGINED = re.compile(
    r"^[ \t*#>]*(?:(?:the )?(?:user|human|observation|output|result|stdout|execution output|execution result|tool"
    r"|tool output)\b.{0,40}:|Out ?\[\d{1,4}\]:|<(?:output|observation|result|stdout)>)",
    re.MULTILINE | re.IGNORECASE,
)
_CALL = re.compile(r"\w\(")
_LIST_MARK = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•+]|In ?\[\d{1,4}\]:)[ \t]", re.MULTILINE)

NO_CODE = "The reply has no code that can be run."
THOUGHT_ONLY = "The reply held only thinking: write the code after it."
UNFINISHED = "The reply ended inside its thinking: think less, and write the code."
OTHER_JSON = "The reply is JSON without code: write Python in a ```python block."
NOT_PYTHON = "The code block is not Python: write Python in a ```python block."
IMAGINED_ANSWER = (
    "The answer stands in a plan, or after an output that you wrote yourself: no code of this reply has run. Write the "
    "code of the next step alone in a ```python block, or SUBMIT alone if earlier outputs show the answer."
)
TWO_SUBMITS = "The reply has several SUBMITs that differ: decide, and send one."
CUTS = {
    "length": "The reply was cut off at the model's limit of output tokens: think less and write shorter code.",
    "bad_sample": "The provider could not read the reply: write plain text with a ```python block, and call no tool.",
    "content_filter": "The provider's content filter withheld the reply or the end of it: put it differently.",
}


@dataclass(frozen=True)
class ParsedReply:
    """The cells of one reply, in order; if there are none, ``problem`` says what was missing.

    Attributes:
        reasoning: the text of the reply besides its code.
        held_back: cells after an imagined output; they never run.
        ignored: the number of unlabelled blocks after the code, which are imagined outputs.
        is_closed: whether the code has an end of its own, such as a closing fence, before the end of the reply.
        cut: why the reply was cut off inside a last block, which is not among the cells.
    """

    cells: tuple[str, ...] = ()
    problem: str | None = None
    reasoning: str = ""
    held_back: tuple[str, ...] = ()
    ignored: int = 0
    is_closed: bool = False
    cut: str | None = None


def visible_text(reply: str) -> str | None:
    """Return a reply without its thinking, None if it ended inside it."""
    split = split_thinking(reply)
    if split.unfinished:
        return None
    return split.visible


def without_first_thinking(reply: str, prompt: str) -> str | None:
    """Return an answer in words without the thinking before it, None if it ended inside it.

    Elements later in the answer, and those that the prompt names, are text.
    """
    if _CHANNEL in reply or _BARE_ANALYSIS.match(reply):
        return visible_text(reply)
    text = _EMPTY.sub("", reply)
    asked = {_letters_of(tag[0]) for tag in islice(_TAG.finditer(prompt), MAX_BLOCKS)}
    tags = [tag for tag in _TAG.finditer(text) if _letters_of(tag[0]) not in asked and not _is_quoted(text, tag)]
    if not tags or tags[0][0].lower() == "</details>" or (tags[0]["open"] and text[: tags[0].start()].strip()):
        return text
    end = next((tag for tag in tags if tag["close"]), None)
    if end is None:
        return None
    return text[end.end() :]


def visible_outputs(reply: str, starts: re.Pattern[str]) -> str | None:
    """Return a reply without the thinking before its outputs, None if it ended inside it; tags in an output are text.

    Args:
        reply: the raw reply.
        starts: finds where an output starts.
    """
    for start in islice(starts.finditer(reply), MAX_BLOCKS):
        split = split_thinking(reply[: start.start()])
        outputs = reply[start.start() :]
        if not split.unfinished and not _ends_thinking(outputs, start[0], starts):
            return split.visible + outputs
    return visible_text(reply)


def _ends_thinking(text: str, output: str, starts: re.Pattern[str]) -> bool:
    """Return whether a text ends thinking that the chat template opened, and then starts the same output again."""
    tag = _TAG.search(text)
    if tag is None or tag["open"]:
        return False
    later = islice(starts.finditer(text, tag.end()), MAX_BLOCKS)
    return any(_letters_of(start[0]) == _letters_of(output) for start in later)


def _letters_of(text: str) -> str:
    return re.sub(r"\W", "", text).lower()


def explain_cut(finish: str) -> str | None:
    """Explain from the server's finish reason why a reply may be incomplete; None if it ended normally."""
    return CUTS.get(finish)


def read_sections(reply: str) -> dict[str, str]:
    """Return the text under each of an adapter's markers, byte for byte; a marker inside Python code is text.

    If several sections share a name, the first one with code counts, else the first with any text.
    """
    ranges = _python_blocks(reply)
    marks = [mark for mark in islice(_MARKER.finditer(reply), MAX_BLOCKS) if not _is_in_ranges(mark.start(), ranges)]
    if any((mark["name"] or "").lower() == "code" for mark in marks):
        marks = [mark for mark in marks if mark["name"]]  # one in the middle of a line is only mentioned
    sections: dict[str, str] = {}
    for index, mark in enumerate(marks):
        name = (mark["name"] or mark["inner"]).lower()
        ends = [later.start() for later in marks[index + 1 :]] or [len(reply)]
        text = reply[mark.end() : ends[0]]
        if name == "code" and not is_python(text.strip("\n")):
            # A marker inside a string literal cuts the code where it is not valid Python yet.
            longer = (reply[mark.end() : end] for end in (*ends[1:MAX_ENDS], len(reply)))
            text = next((part for part in longer if is_python(_strip_markers(part))), text)
        text = text.strip("\n")
        if not sections.get(name, "").strip() or (looks_like_code(text) and not looks_like_code(sections[name])):
            sections[name] = text
    return sections


def read_plain(reply: str) -> tuple[str, str] | None:
    """Split a reply without markers into its text and its code; None unless it ends with its only ```python block.

    The code is the content of the block, byte for byte. What stands before it must be prose: no other code, and no
    output or turn that the model imagined.
    """
    text = _unix_lines(reply)
    blocks = _blocks_in(text)
    if len(blocks) != 1:
        return None
    block = blocks[0]
    before, after = text[: block.start].strip(), text[block.end :].strip()
    if block.label not in PYTHON_LABELS or not block.is_closed or after:
        return None
    if any(form.search(before) for form in (_TURN_END, _IMAGINED, _CODE_TAG)):
        return None
    return before, block.code


def parse_reply(reply: str, first_output: str) -> ParsedReply:
    """Parse a whole reply: code after its marker, JSON, fenced blocks, a final answer in words, or bare Python."""
    split = split_thinking(without_owners(_unix_lines(reply)))
    if split.unfinished:
        return ParsedReply(problem=UNFINISHED)
    spoken = _own_turn(split.visible)
    text = _strip_markers(spoken)
    if not text.strip():
        return ParsedReply(problem=THOUGHT_ONLY if split.thought else "The reply is empty.")
    sections = read_sections(spoken)
    if sections.get("code", "").strip():
        return replace(parse_code(sections["code"], first_output), reasoning=sections.get("reasoning", "").strip())
    before, tag, code = text.partition(_PYTHON_TAG)
    if tag and not before.strip():
        return parse_code(code, first_output)
    parsed = _parse_text(text, first_output)
    if parsed is None:
        return ParsedReply(problem=NO_CODE, reasoning=text.strip())
    return _without_guesses(parsed)


def parse_code(text: str, first_output: str) -> ParsedReply:
    """Parse the ``code`` field of a reply: Python first, then JSON, fenced blocks, a final answer in words."""
    split = split_thinking(without_owners(_unix_lines(text)))
    if split.unfinished:
        return ParsedReply(problem=UNFINISHED)
    field = _strip_markers(_own_turn(split.visible))
    if not field.strip():
        return ParsedReply(problem=THOUGHT_ONLY if split.thought else "The reply has no code.")
    fenced = field.lstrip().startswith(("```", "~~~"))
    code = None if fenced else repair_code(field)
    if code and not field.lstrip().startswith(("{", "[")) and not _BARE_FINAL.search(code):
        return ParsedReply((unquoted_code(code),))
    if parsed := _parse_text(field, first_output):
        return _without_guesses(parsed)
    if code:
        return ParsedReply((code,))
    if "```" in field or "~~~" in field:
        return ParsedReply(problem=NOT_PYTHON)
    # Broken Python is run anyway: the model learns most from the interpreter's own SyntaxError.
    return ParsedReply((field.strip("\n").rstrip(),))


def _parse_text(text: str, first_output: str) -> ParsedReply | None:
    """Parse a text that is not Python as a whole, in whatever form it holds its code."""
    if before_output := _cells_before_output(text, first_output):
        return before_output
    if from_json := _cells_of_json(text, first_output):
        return from_json
    if finals := _cells_with_final(text, first_output):
        return ParsedReply(finals)
    if blocks := _parse_blocks(text):
        return _with_last_words(blocks, text, first_output)
    if answer := _final_cell(text, first_output) or spoken_submit(text):
        return ParsedReply(problem=IMAGINED_ANSWER) if _is_imagined(text) else ParsedReply((answer,))
    code = repair_code(text)
    if code and looks_like_code(code) and re.search(r"\w\(|\w\s*=\s*\S|^\s*(?:import|from|for|if|def|with)\b", code):
        return ParsedReply((code,))
    return None


def _cells_before_output(text: str, first_output: str) -> ParsedReply | None:
    """Return code in another form that stands before an imagined output; a Python block after it is held back."""
    block = next((block for block in _blocks_in(text) if block.label in PYTHON_LABELS), None)
    if block is None:
        return None
    output = _IMAGINED.search(text, 0, block.start)
    if output is None:
        return None
    before = text[: output.start()]
    found = _cells_of_json(before, first_output) or _parse_elements(before)
    if found and found.cells:
        return replace(found, held_back=(block.code,))
    return None


def _is_imagined(text: str) -> bool:
    """Return whether an answer in words is the last point of a plan, or follows a call and an output in words."""
    output = _IMAGINED.search(text)
    if output and _CALL.search(text, 0, output.start()):
        return True
    last = max(text.rfind("SUBMIT"), text.rfind("FINAL"))
    points = list(islice(_LIST_MARK.finditer(text, 0, last), MAX_BLOCKS))
    return len(points) > 1 and "\n" not in text[points[-1].end() : last]


def _without_guesses(parsed: ParsedReply) -> ParsedReply:
    """Refuse a reply whose blocks submit different answers, and hold back an answer that no code has found.

    Of several answers, all but one are drafts. A literal answer after other code is a guess: the model had not seen
    what that code finds.
    """
    submits = {cell for cell in parsed.cells if submits_always(cell)}
    if len(submits) > 1:
        return replace(parsed, cells=(), problem=TWO_SUBMITS)
    for number, cell in enumerate(parsed.cells):
        if number and submits_literals(cell):
            return replace(parsed, cells=parsed.cells[:number], held_back=(*parsed.cells[number:], *parsed.held_back))
    return parsed


def _unix_lines(text: str) -> str:
    return _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _own_turn(text: str) -> str:
    """Return the text before the end of the model's turn: anything after it is an imagined conversation."""
    if _TURN_END.search(text) or _SPECIAL.search(text):
        ranges = _code_ranges(text)
    else:
        ranges = []
    text = _SPECIAL.sub(lambda token: token[0] if _is_in_ranges(token.start(), ranges) else "\n", text)
    for token in _TURN_END.finditer(text):
        if _is_in_ranges(token.start(), ranges):
            continue
        if text[: token.start()].strip():
            return text[: token.start()]
    return text


def _strip_markers(text: str) -> str:
    """Remove an adapter's end marker and the blank lines around the rest."""
    return _END_MARKER.sub("", text).strip("\n")


def _cells_of_json(text: str, first_output: str) -> ParsedReply | None:
    """Return the cells in the text's JSON; JSON without code is a problem. Without any JSON, return None."""
    value = read_json(text)
    if value is None and (text.lstrip().startswith("{") or not is_python(text)):
        value = _json_in_blocks(text)
    if value is None:
        return None
    cells: list[str] = []
    for code in value.codes:
        cells += parse_code(code, first_output).cells
    problem = None if cells else OTHER_JSON
    return ParsedReply(tuple(cells), problem, value.reasoning, is_closed=not value.is_repaired)


def _json_in_blocks(text: str) -> JsonReply | None:
    """Return the JSON with code in a block or the prose of a reply, unless a block is itself Python."""
    blocks = list(_blocks_in(text))
    values = [read_json(block.code) for block in blocks]
    for block, value in zip(blocks, values, strict=True):
        if value is None and block.label in PYTHON_LABELS and looks_like_code(block.code):
            return None
    for block, value in zip(blocks, values, strict=True):
        if value and value.codes:
            return value
        if block.label not in OTHER_LABELS and looks_like_code(block.code):
            return None
    return find_json(text)


def _cells_with_final(code: str, first_output: str) -> tuple[str, ...]:
    """Split valid Python before a bare ``FINAL_VAR: name``, which parses as an annotation but means SUBMIT."""
    if not is_python(code):
        return ()
    for match in _BARE_FINAL.finditer(code):
        before = code[: match.start()]
        final = _final_cell(code[match.start() :], first_output)
        if final and (not before.strip() or is_python(before)):
            return tuple(cell for cell in (before.strip("\n").rstrip(), final) if cell)
    return ()


def _final_cell(text: str, first_output: str) -> str | None:
    """Return the SUBMIT cell meant by a ``FINAL: …``, ``FINAL_VAR: …`` or ``FINAL(…)`` in words."""
    last = max((match.start() for match in _CLOSES.finditer(text)), default=-1)
    match = next((m for m in _FINAL.finditer(text) if m["opens"] != "(" or m.end() <= last), None)
    if not match:
        return None
    if match["opens"] == "(":
        value = text[match.end() : last]
    else:
        value = text[match.end() :].lstrip(" \t*")
    value = value.strip().strip("`").strip()
    if not value:
        return None
    if match["var"]:
        name = value.splitlines()[0].strip().strip("\"'`*.")
        if name.isidentifier():
            return f"SUBMIT({first_output}={name})"
        return None
    return f"SUBMIT({first_output}={string_value(value)!r})"


# --- fenced blocks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its label, its code, its position in the text, and whether a fence closes it."""

    label: str
    code: str
    start: int
    end: int
    is_closed: bool


def _parse_blocks(text: str) -> ParsedReply | None:
    """Return the runnable blocks of a text, or None.

    Blocks labelled as Python are cells. If there are none, the first unlabelled block is a cell, or blocks with an
    unknown label if they are Python. Unlabelled blocks after a cell are imagined outputs, and cells after an imagined
    output are held back.
    """
    blocks = [block for block in _blocks_in(text) if block.code]
    chosen = [block for block in blocks if block.label in PYTHON_LABELS]
    plain = [block for block in blocks if not block.label]
    if not chosen and plain:
        chosen = [next((block for block in plain if looks_like_code(block.code)), plain[0])]
        if _FENCE_LINE.search(text) and len(blocks) == 1 and (code := repair_code(text[: blocks[0].start])):
            return ParsedReply((code,), is_closed=True)  # only the closing fence is there
    if not chosen:
        chosen = [block for block in blocks if block.label not in OTHER_LABELS and is_python(block.code)]
    if not chosen:
        return _parse_elements(text)
    ignored = [block for block in blocks if block not in chosen and block.start > chosen[0].start]
    real = [chosen[0]]
    for block in chosen[1:]:
        between = text[real[-1].end : block.start]
        outputs = any(real[-1].end <= other.start < block.start for other in ignored)
        if outputs or _IMAGINED.search(between):
            break
        real.append(block)
    return ParsedReply(
        cells=tuple(block.code for block in real),
        reasoning=text[: chosen[0].start].strip(),
        held_back=tuple(block.code for block in chosen[len(real) :]),
        ignored=sum(not block.label for block in ignored),
        is_closed=real[-1].is_closed,
    )


def _with_last_words(parsed: ParsedReply, text: str, first_output: str) -> ParsedReply:
    """Add the ``FINAL_VAR(name)`` or ``SUBMIT(…)`` that stands alone after the last block, as a cell.

    One that holds its answer as a literal is held back, because the model wrote it before it saw an output.
    """
    blocks = _blocks_in(text)
    after = text[blocks[-1].end :].strip() if blocks else ""
    if after.startswith("FINAL"):
        last = _final_cell(after, first_output)
    else:
        last = after
    if not last or "\n" in after or not submits_always(last) or not parsed.is_closed:
        return parsed
    if has_literals(last):
        return replace(parsed, held_back=(*parsed.held_back, last))
    if parsed.held_back:
        return parsed
    return replace(parsed, cells=(*parsed.cells, last))


def _parse_elements(text: str) -> ParsedReply | None:
    """Return the cells of a text inside elements, such as ``<code>`` or a tool call's ``<parameter=code>``."""
    cells: list[str] = []
    for tag in islice(_CODE_TAG.finditer(text), MAX_BLOCKS):
        end = text.find(f"</{tag['parameter'] or tag['tag']}>", tag.end())
        code = repair_code(text[tag.end() : end]) if end >= 0 else None
        if code and looks_like_code(code):
            cells.append(code)
    if not cells and (call := call_of_elements(text)):
        cells.append(call)
    if cells:
        return ParsedReply(tuple(cells), is_closed=True)
    before, fence, _ = text.partition("\n```")
    code = repair_code(before) if fence else None
    if code and looks_like_code(code):
        return ParsedReply((code,), is_closed=True)
    return None


@lru_cache(maxsize=32)
def _blocks_in(text: str) -> tuple[Block, ...]:
    """Return the fenced blocks of a text; cached, because it is called several times in a row."""
    return tuple(islice(_fenced_blocks(text), MAX_BLOCKS))


def _fenced_blocks(text: str) -> Iterator[Block]:
    """Yield each fenced block, nested openings merged and stray fences skipped."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    at = 0
    while at < len(lines):
        opened = _FENCE.match(lines[at]) or _GLUED_FENCE.search(lines[at])
        if not opened or lines[at].lstrip().startswith("> "):
            at += 1
            continue
        start, fence = starts[at] + opened.start("fence"), opened["fence"][:3]
        label, rest = _normal_label(opened["label"]), opened["rest"]
        at += 1
        if not rest.strip():
            # ```python inside ``` (or doubled): the innermost label is the intended one.
            while at < len(lines) and (inner := _FENCE.match(lines[at])) and not inner["rest"].strip():
                if not inner["label"]:
                    break
                label = _normal_label(inner["label"])
                at += 1
        elif label and not _TITLE.match(rest) and looks_like_code(rest.strip().rstrip("`~")):
            lines[at - 1] = rest.strip()
            at -= 1
        code, at, is_closed = _find_close(lines, at, fence)
        yield Block(label, code, start, starts[at] if at < len(starts) else len(text), is_closed)


def _normal_label(label: str | None) -> str:
    """Return a block's label in lower case; ``python3.11`` and ``python:cell.py`` are Python."""
    label = (label or "").lower()
    if re.match(r"py(?:thon)?[\d.]*(?:[:.-]|$)", label):
        return "python"
    return label


def _find_close(lines: list[str], start: int, fence: str) -> tuple[str, int, bool]:
    """Return the block that starts at line ``start``, the line after it, and whether a fence closes it.

    The block ends at the first closing fence that leaves valid Python: preferably one on its own line, else one glued
    to code, or the opening of the next block. If there is none, the block is broken and ends at the first fence.
    """
    candidates = list(islice(_possible_ends(lines, start, fence), MAX_BLOCKS))
    for text, at, _ in sorted(candidates, key=lambda item: not item[2]):
        code = repair_code(text)
        if code is not None and (code or at == start + 1):
            return code, at, True
    if candidates:
        text, at, _ = candidates[0]
        return text.strip("\n").rstrip(), at, True
    rest = "\n".join(lines[start:])
    return repair_code(rest) or rest.strip("\n").rstrip(), len(lines), False


def _possible_ends(lines: list[str], start: int, fence: str) -> Iterator[tuple[str, int, bool]]:
    """Yield each possible end of the block: its code, the next line, and whether the fence is on its own line."""
    for at in range(start, len(lines)):
        head, mark, tail = lines[at].partition(fence)
        if not mark:
            continue
        if head.strip():
            if not tail.strip(fence + " \t"):
                yield "\n".join([*lines[start:at], head]), at + 1, False
        elif tail.strip(fence + " \t"):
            yield "\n".join(lines[start:at]), at, False
        else:
            yield "\n".join(lines[start:at]), at + 1, True


def _python_blocks(text: str) -> list[tuple[int, int]]:
    """Return the character ranges of the fenced Python blocks of a reply."""
    return [(block.start, block.end) for block in _blocks_in(text) if is_python(block.code)]


def _code_ranges(text: str) -> list[tuple[int, int]]:
    """Return the character ranges of Python in a reply: all of it, an adapter's section, or fenced blocks."""
    if is_python(text):
        return [(0, len(text))]
    ranges = _python_blocks(text)
    marks = [mark for mark in islice(_MARKER.finditer(text), MAX_BLOCKS) if not _is_in_ranges(mark.start(), ranges)]
    for index, mark in enumerate(marks):
        end = marks[index + 1].start() if index + 1 < len(marks) else len(text)
        section = text[mark.end() : end].strip("\n")
        if is_python(section) and looks_like_code(section):
            ranges.append((mark.end(), end))
    return ranges
