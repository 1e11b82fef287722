"""Tool calls that a model writes as text, because it was trained to call functions so, as Python.

A model that has no tools sometimes calls a function of the REPL in its family's own form. Each form is a name, a mark
and a JSON object of arguments; or elements with a name and a value for each argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SUBMIT = "SUBMIT"
FUNCTIONS = (SUBMIT, "grep", "search", "peek", "outline", "chunk", "select", "llm_query", "subcall", "predict")
NAME_KEYS = ("name", "tool", "tool_name", "action", "function")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "action_input", "tool_input")
MAX_MARK_CHARS = 120  # of a name and the mark after it

_NAME = rf"(?P<name>{'|'.join(FUNCTIONS)})"
# What stands between the name and its arguments, such as Mistral's [ARGS] and Kimi's <|tool_call_argument_begin|>.
_MARK = (
    r"(?::\d{1,4})?(?:\[CALL_ID\]\w{1,40})?(?:\[ARGS\]|>|(?:<\|[\w ]{1,40}\|>)|[ \t]*\n```json\n|[ \t]*\nAction Input:)"
)
_BEFORE_ARGUMENTS = re.compile(rf"(?:^|[\]>=.:｜|])[ \t]*{_NAME}{_MARK}\s*\Z", re.MULTILINE)
_ELEMENT = re.compile(
    rf"<(?P<tag>invoke|function|tool_call)(?: name=\"|=|>\s{{0,9}})(?:functions\.)?{_NAME}(?:\"?>|\s)"
)
_ARGUMENT = re.compile(
    r"<parameter(?: name=\"|=)(?P<name>[A-Za-z_]\w*)\"?>|<arg_key>(?P<key>[A-Za-z_]\w*)</arg_key>\s{0,9}<arg_value>"
)
_OWNER = re.compile(rf"(?m)^([ \t]*(?:print\()?)(?:default_api|functions)\.(?=(?:{'|'.join(FUNCTIONS)})\()")


def call_before(text: str, start: int) -> str | None:
    """Return the name of the function whose arguments begin at an offset of a text, None if there is none."""
    match = _BEFORE_ARGUMENTS.search(text[max(0, start - MAX_MARK_CHARS) : start])
    if match:
        return match["name"]
    return None


def call_of_json(value: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Return the name and the arguments of a tool call in JSON, whose keys are in lower case; None if it is not one."""
    for key in NAME_KEYS:
        name = str(value.get(key)).removeprefix("functions.").removeprefix("default_api.")
        if name in FUNCTIONS:
            return name, next((value[key] for key in ARGUMENT_KEYS if key in value), None)
    return None


def call_of_elements(text: str) -> str | None:
    """Return the Python of a call in elements, such as ``<invoke name="SUBMIT">``, None if there is none."""
    call = _ELEMENT.search(text)
    stop = text.find(f"</{call['tag']}>", call.end()) if call else -1
    if call is None or stop < 0:
        return None
    arguments: dict[str, str] = {}
    start = call.end()
    while argument := _ARGUMENT.search(text, start, stop):
        end = "</arg_value>" if argument["key"] else "</parameter>"
        start = text.find(end, argument.end(), stop)
        if start < 0:
            break
        arguments[argument["key"] or argument["name"]] = text[argument.end() : start].strip()
    if arguments:
        return python_of(call["name"], arguments)
    return None


def python_of(name: str, arguments: Any) -> str | None:
    """Return the cell that a call means: it submits, or prints the result; None if the arguments are not named."""
    if not isinstance(arguments, Mapping) or not all(str(key).isidentifier() for key in arguments):
        return None
    call = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
    if name == SUBMIT:
        return call
    return f"print({call})"


def without_owners(code: str) -> str:
    """Return code whose calls of the REPL's functions have no owner in front, such as ``default_api.SUBMIT(``."""
    return _OWNER.sub(r"\1", code)
