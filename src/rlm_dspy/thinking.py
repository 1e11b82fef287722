"""Separates what a model says from what it thinks: a draft in its thinking must never run or become an answer.

Servers that do not split the two leave thinking in the reply, between tags that differ by model family; a chat
template that opens the thinking itself leaves only the closing tag. Tags inside Python code are text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_NAMES = (
    r"(?:seed:|ant(?:ml)?:|ant_?)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|analysis|scratch_?pad"
    r"|(?:inner_|internal_)?monologue)"
)
_TAG = re.compile(
    rf"(?P<open>(?:<|&lt;)[ \t]*{_NAMES}(?:[ \t][^<>&\n]{{0,200}})?(?:>|&gt;)|\[(?:THINK|THINKING|REASONING)\]|◁think▷"
    r"|<\|(?:begin_of_thought|START_THINKING|think(?:ing)?)\|>|<\|channel>[ \t]*thought\b"
    r"|<details[ \t][^<>\n]{0,100}\breasoning\b[^<>\n]{0,100}>|^Here is my thought process:)"
    rf"|(?P<close>(?:<|&lt;)[ \t]*/[ \t]*{_NAMES}[ \t]*(?:>|&gt;)|\[/(?:THINK|THINKING|REASONING)\]|◁/think▷"
    r"|<\|(?:end_of_thought|END_THINKING|/think(?:ing)?)\|>|<channel\|>|</details>|^Here is my response:"
    r"|\[BEGIN FINAL RESPONSE\])",
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
_BARE_ANALYSIS = re.compile(r"analysis(?=[A-Z])|analysis.*assistantfinal", re.DOTALL)
_BARE_FINAL = "assistantfinal"  # what is left of harmony where a server drops the special tokens


@dataclass(frozen=True)
class SplitReply:
    """A reply without its thinking.

    ``thought`` is true when there was any, ``unfinished`` when the reply ended inside it.
    """

    visible: str
    thought: bool = False
    unfinished: bool = False


def split_thinking(
    text: str, find_code: Callable[[str], list[tuple[int, int]]], fields: frozenset[str] = frozenset()
) -> SplitReply:
    """Split a model's reply into what it says and what it thinks.

    Args:
        text: the reply as it came.
        find_code: returns the character ranges that hold Python code, in which tags are text.
        fields: names whose tags hold an answer's fields.
    """
    if _CHANNEL not in text and not text.startswith("analysis") and not _TAG.search(text) and not _EMPTY.search(text):
        return SplitReply(text)
    text = _EMPTY.sub("", text)
    code = find_code(text)
    if any(not _inside(match.start(), code) for match in re.finditer(re.escape(_CHANNEL), text)):
        return _split_channels(text)
    if _BARE_ANALYSIS.match(text):
        _, final, answer = text.rpartition(_BARE_FINAL)
        return SplitReply(answer if final else "", thought=True, unfinished=not final)
    return _split_tags(text, code, fields)


def _split_tags(text: str, code: list[tuple[int, int]], fields: frozenset[str]) -> SplitReply:
    visible: list[str] = []
    start = 0
    opened = thought = False
    for tag in _TAG.finditer(text):
        if tag[0].strip("<>/ \t").lower() in fields or _inside(tag.start(), code) or _is_quoted(text, tag):
            continue
        thought = True
        if tag["open"]:
            if not opened:
                visible.append(text[start : tag.start()])
            opened = True
            continue
        if not opened and tag[0].lower() == "</details>":
            continue  # of which there are others
        if not opened:
            visible.clear()  # nothing opened it: the chat template did, so all before it was thought
        opened = False
        start = tag.end()
    if not opened:
        visible.append(text[start:])
    return SplitReply("".join(visible), thought=thought, unfinished=opened)


def _split_channels(text: str) -> SplitReply:
    """Keep harmony's final messages and those that call a tool; a message to the user before them is prose."""
    spoken: list[str] = []
    prose: list[str] = []
    unfinished = False
    for message in _MESSAGE.finditer(text):
        channel = message["head"].strip().lower()
        unfinished = False
        if spoken and channel.startswith("final"):
            break  # a second answer belongs to a turn that the model imagined
        if channel.startswith("final") or "to=" in channel:
            spoken.append(message["text"])
        elif channel.startswith("analysis"):
            unfinished = not message["end"]
        else:
            prose.append(message["text"])
    return SplitReply("\n".join(spoken or prose), thought=True, unfinished=unfinished and not spoken)


def _inside(offset: int, ranges: list[tuple[int, int]]) -> bool:
    return any(start <= offset < end for start, end in ranges)


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    """Return whether a tag is only spoken of, as in `<think>` or "</think>"."""
    return tag.start() > 0 and text[tag.start() - 1] in "`'\"" and text[tag.end() : tag.end() + 1] in ("`", "'", '"')
