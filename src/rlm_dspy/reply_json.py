"""JSON in a model's reply: the code that it holds, whether as fields of an answer or as a tool call's arguments."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

import json_repair

from rlm_dspy.reply_python import looks_like_code

CODE_KEYS = ("code", "python", "python_code", "script", "cell", "source")
CALL_KEYS = ("arguments", "parameters", "args", "input", "tool_input", "action_input", "function", "tool_calls")
REASONING_KEYS = ("reasoning", "thought", "thoughts", "explanation")
MAX_STARTS = 64  # places in a reply where JSON may begin
MAX_REPAIRED = 20_000  # characters of broken JSON that are repaired: it takes quadratic time, seconds for these

_START = re.compile(r"(?:^|(?<=[\s>\]]))[{\[]")


@dataclass(frozen=True)
class JsonReply:
    """What JSON in a reply holds: pieces of code, in order, what it says besides, and whether it had to be repaired."""

    codes: tuple[str, ...] = ()
    reasoning: str = ""
    is_repaired: bool = False


def read_json(text: str) -> JsonReply | None:
    """Read a text that is JSON as a whole; None if it is not."""
    text = text.strip().removeprefix("[TOOL_CALLS]").strip()
    if not text.startswith(("{", "[")):
        return None
    value, repaired = _load(text)
    return JsonReply(tuple(_codes(value)), _reasoning(value), repaired) if isinstance(value, (dict, list)) else None


def find_json(text: str) -> JsonReply | None:
    """Read the code of each JSON in a text; None if there is none."""
    decoder = json.JSONDecoder(strict=False)
    codes: list[str] = []
    first = after = 0
    repaired = False
    for start in islice(_START.finditer(text), MAX_STARTS):
        if start.start() < after or repaired:
            continue
        try:
            value, after = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            value = _load_broken(text[start.start() :])
            repaired = value is not None
        if found := _codes(value):
            first = first if codes else start.start()
            codes += found
    return JsonReply(tuple(codes), text[:first].strip(), repaired) if codes else None


def _load(text: str) -> tuple[Any, bool]:
    """Return the value of a text that is JSON, or a dict as Python writes it, and whether it had to be repaired."""
    try:
        return json.loads(text, strict=False), False
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None, False
    except RecursionError:
        return None, False
    try:
        return (ast.literal_eval(text) if text.startswith("{") else None), False
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return _load_broken(text), True


def _load_broken(text: str) -> Any:
    """Return the value of JSON with a slip in it, such as an unescaped quotation mark, if it begins as an answer."""
    keys = "|".join((*CODE_KEYS, *CALL_KEYS, *REASONING_KEYS, "name"))
    if len(text) > MAX_REPAIRED or not re.match(rf"[\[{{\s]*[\"'](?:{keys})[\"']\s*:", text):
        return None
    try:
        return json_repair.loads(text)
    except (ValueError, RecursionError):
        return None


def _codes(value: Any, depth: int = 0) -> list[str]:
    """Return the pieces of code in an answer or in tool calls, in order."""
    if depth > 5:
        return []
    if isinstance(value, list):
        found: list[str] = []
        for item in value:
            if isinstance(item, (dict, list)):
                found += _codes(item, depth + 1)
        return found
    if not isinstance(value, dict):
        return []
    value = {str(key).lower(): item for key, item in value.items()}
    for key in CODE_KEYS:
        code = value.get(key)
        if isinstance(code, list) and code and all(isinstance(line, str) for line in code):
            code = "\n".join(code)
        if isinstance(code, str) and code.strip():
            return [code]
    if value.get("name") == "SUBMIT" and (call := _submit_call(value)):
        return [call]
    for key in CALL_KEYS:
        if found := _codes_of_call(value.get(key), depth, plain=key.endswith("input")):
            return found
    return []


def _codes_of_call(arguments: Any, depth: int, *, plain: bool) -> list[str]:
    """Return the code among a call's arguments, which come as an object, as JSON in a string, or as the code itself."""
    if isinstance(arguments, (dict, list)):
        nested = _codes(arguments, depth + 1)
        inner = arguments.get("input") if isinstance(arguments, dict) else None
        return nested or ([inner] if isinstance(inner, str) and inner.strip() else [])
    if not isinstance(arguments, str) or not arguments.strip():
        return []
    if arguments.strip().startswith(("{", "[")):
        return _codes_of_call(_load(arguments.strip())[0], depth + 1, plain=False)
    return [arguments] if plain or looks_like_code(arguments) else []


def _submit_call(value: dict[str, Any]) -> str | None:
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _load(arguments)[0]
    if not isinstance(arguments, dict) or not all(str(name).isidentifier() for name in arguments):
        return None
    return f"SUBMIT({', '.join(f'{name}={item!r}' for name, item in arguments.items())})"


def _reasoning(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    return next((value[key] for key in REASONING_KEYS if isinstance(value.get(key), str)), "")
