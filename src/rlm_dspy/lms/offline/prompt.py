"""Parse the prompts that DSPy's adapters and the RLM write, as any model must."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from dspy.lm15 import Request

_FIELD = re.compile(r"^\s*(?:\d+\.|-) `(\w+)` \((.+?)\)(?=[:.]?(?:\s|$))[:.]?[ \t]*(.*)$", re.M)
_VARIABLE = re.compile(
    r"^`(?P<name>\w+)`(?: \([^\n]*\))?: (?P<about>[^\n]*), (?P<state>whole|begins and ends|its files[^\n]*):\n"
    r"(?P<text>(?:(?:\|[^\n]*|\[… [^\n]*)(?:\n|\Z))*)",
    re.M,
)

_REMINDER = re.compile(r"\n\nRespond with (?:the corresponding output fields|a JSON object)(?:(?!\n\n).)*\Z", re.S)


@dataclass(frozen=True)
class Field:
    """An output field: name, type as the prompt writes it, description."""

    name: str
    type: str
    desc: str = ""


_RLM = "Functions in the REPL"  # in the system text of a run in plain turns
ACTION = (Field("reasoning", "str"), Field("code", "str"))


@dataclass(frozen=True)
class Variable:
    """A REPL variable as shown by the probe."""

    name: str
    about: str
    text: str
    whole: bool

    @property
    def main(self) -> bool:
        """Whether it is the main context."""
        return "main context" in self.about


@dataclass(frozen=True)
class Prompt:
    """A parsed request: the adapter's format, its fields, and the turns."""

    format: str  # "chat", "json" or "plain"
    system: str
    outputs: tuple[Field, ...]
    inputs: dict[str, str]
    turns: tuple[tuple[str, str], ...]

    @property
    def plays_rlm(self) -> bool:
        """Whether the prompt asks for the next code of a run."""
        names = {field.name for field in self.outputs}
        return "code" in names and "observation" in self.inputs and "SUBMIT(" in self.system


@dataclass(frozen=True)
class Play:
    """A run as shown in its prompts: variables, outputs to submit, and each observation after a reply."""

    variables: tuple[Variable, ...]
    outputs: tuple[Field, ...]
    observations: tuple[str, ...]


def read(request: Request) -> Prompt:
    """Parse a request."""
    system = request.system or ""
    if not isinstance(system, str):
        system = "".join(getattr(part, "text", "") for part in system)
    turns = tuple((message.role, message.text or "") for message in request.messages)
    last = next((text for role, text in reversed(turns) if role == "user"), "")
    head, found, rest = system.partition("Your output fields are:")
    if not found and _RLM in system:
        return Prompt("chat", system, ACTION, {"observation": last}, turns)
    if not found:
        return Prompt("plain", system, (), {"prompt": last}, turns)
    listed = rest.partition("All interactions will be structured")[0]
    names = [match[1] for match in _FIELD.finditer(head)]
    kind = "json" if "Outputs will be a JSON object" in rest else "chat"
    return Prompt(kind, system, parse_fields(listed), field_sections(last, names), turns)


def parse_fields(text: str) -> tuple[Field, ...]:
    """Parse a list of fields with types and descriptions."""
    return tuple(Field(match[1], match[2], match[3].strip()) for match in _FIELD.finditer(text))


def field_sections(text: str, names: list[str]) -> dict[str, str]:
    """Split a user message at the markers of the known input fields."""
    text = _REMINDER.sub("", text)
    marker = re.compile(r"^\[\[ ## (" + "|".join(map(re.escape, names)) + r") ## \]\]\n?", re.M)
    marks = list(marker.finditer(text)) if names else []
    ends = [match.start() for match in marks[1:]] + [len(text)]
    return {match[1]: text[match.end() : end].strip("\n") for match, end in zip(marks, ends, strict=False)}


def read_run_state(prompt: Prompt) -> Play:
    """Parse the state of a run from its turns."""
    users = [text for role, text in prompt.turns if role == "user"]
    seen = [field_sections(text, ["observation"]).get("observation", text) for text in users]
    # Each turn of a conversation begins with the inputs that changed; only the last one is to be answered.
    turns = [place for place, text in enumerate(seen) if text.startswith(("[step 1/", "[turn "))] or [0]
    start = turns[-1]
    known: dict[str, Variable] = {}
    for place in turns if seen else ():
        known |= {one.name: one for one in variables(seen[place])}
    outputs = prompt.system.partition("Outputs, given once by SUBMIT(")[2]
    listed = outputs.partition("\n")[2].partition("Functions in the REPL")[0]
    return Play(tuple(known.values()), parse_fields(listed), tuple(seen[start + 1 :]))


def variables(probe: str) -> tuple[Variable, ...]:
    """Parse the variables shown by a probe."""
    return tuple(
        Variable(match["name"], match["about"], strip_bars(match["text"]), match["state"] == "whole")
        for match in _VARIABLE.finditer(probe)
    )


def strip_bars(text: str) -> str:
    """Return a quoted text without the bar before each line."""
    return "\n".join(line.removeprefix("|").removeprefix(" ") for line in text.rstrip("\n").split("\n"))


def split_files(text: str) -> dict[str, str]:
    """Split a text at its ``=== path (N lines) ===`` headers; without any, it is one text named ""."""
    headers = list(re.finditer(r"^=== (.+?)(?: \([\d,]+ lines?\))? ===\n", text, re.M))
    if not headers:
        return {"": text}
    ends = [match.start() for match in headers[1:]] + [len(text)]
    return {match[1]: text[match.end() : end] for match, end in zip(headers, ends, strict=False)}


def json_lines(text: str) -> list[dict[str, Any]]:
    """Parse the lines of a text that are JSON objects; skip all others, and truncated ones."""
    rows = []
    for line in text.splitlines():
        if line.startswith('{"') and line.endswith("}"):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
    return rows
