"""Recognise the Python that models write, and repair its framing, never its text."""

from __future__ import annotations

import ast
import html
import json
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any

import json_repair

from rlm_dspy.rlm.tool_calls import FUNCTIONS, call_before, call_of_json, python_of

CACHED_CHARS = 20_000  # longest code, in characters, whose syntax tree is cached
MAX_SPOKEN = 4_000  # longest call, in characters, found among words
PLACEHOLDERS = frozenset({"", "...", "…", "answer", "your answer"})
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?: |$)")
# Characters that word processors and input methods write for those of code.
_TYPED = str.maketrans("“”„‘’‚（）［］｛｝，：；＝", '"' * 3 + "'" * 3 + "()[]{},:;=")
_MAGIC = re.compile(r"^[ \t]*[%!]\w.*\n?", re.MULTILINE)  # a line of a notebook, such as %pip install
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff")) | {0xA0: " ", 0x202F: " ", 0x3000: " "}
# Statements and expressions without a visible effect.
_QUIET = (
    *(ast.Name, ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare),
    *(ast.AnnAssign, ast.Attribute, ast.Subscript),
)


def is_python(code: str) -> bool:
    """Return whether ``code`` parses as a cell; top-level ``await`` is allowed."""
    return _parse_python(code) is not None


def looks_like_code(code: str) -> bool:
    """Return whether running the text has an effect: plain words and numbers also parse as Python."""
    tree = _parse_python(code)
    return tree is not None and not all(map(_is_quiet, tree.body))


def _is_quiet(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else statement
    if isinstance(value, ast.List) and value.elts:  # some models write their tool calls as a list
        return not all(isinstance(item, ast.Call) and ast.unparse(item.func) in FUNCTIONS for item in value.elts)
    return isinstance(value, _QUIET)


def repair_code(text: str) -> str | None:
    """Return the Python in ``text``, or None if it is not Python in any framing.

    Surrounding blank lines are dropped, common indentation is removed outside string literals, and a
    ``from __future__`` import moves to the top. Code that needs no repair is returned byte for byte.
    """
    for code in _possible_framings(text.strip("\n").rstrip()):
        tree = _parse_python(code)
        if tree is not None:
            return _with_future_first(code, tree)
    return None


def unquoted_code(code: str) -> str:
    """Return the code inside a cell that is only a string literal, else the cell."""
    value = string_value(code)
    if value != code and looks_like_code(value):
        return value.strip("\n")
    return code


def string_value(text: str) -> str:
    """Return the value of a text that is one string literal, else the text."""
    stripped = text.strip()
    if not stripped.endswith(("'", '"')):
        return text
    try:
        value = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    if isinstance(value, str):
        return value
    return text


def submits_always(code: str) -> bool:
    """Return whether a cell calls SUBMIT unconditionally."""
    return next(_submit_calls(code), None) is not None


def submits_literals(code: str) -> bool:
    """Return whether a cell calls SUBMIT unconditionally with an answer written out, not found by code."""
    return any(all(map(_is_literal, _arguments_of(call))) for call in _submit_calls(code))


def _submit_calls(code: str) -> Iterator[ast.Call]:
    tree = _parse_python(code) if "SUBMIT" in code else None
    for node in tree.body if tree else ():
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "SUBMIT":
            yield call


def _arguments_of(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, MemoryError, RecursionError, SyntaxError):
        return False
    return True


def has_literals(code: str) -> bool:
    """Return whether code holds a literal: a text, a number, True, None."""
    tree = _parse_python(code)
    return tree is not None and any(isinstance(node, ast.Constant) for node in ast.walk(tree))


def _possible_framings(text: str) -> Iterator[str]:
    """Yield the text itself, then the text without the framings that models put around code."""
    yield text
    first, newline, rest = text.partition("\n")
    yield first.lstrip(" \t") + newline + rest
    yield from _dedented_code(text)
    margin = re.match(r"[ \t]*", rest.lstrip("\n"))
    if margin and margin[0]:
        yield from _dedented_code(margin[0] + text)  # the first line lost the others' indentation
    if _PROMPT.match(text):  # what follows a line without a prompt follows an imagined output
        yield "\n".join(_PROMPT.sub("", line) for line in takewhile(_PROMPT.match, text.split("\n")))
    if text[:1] == text[-1:] == "`" and "\n" not in text:
        yield text.strip("`")
    if "\\n" in text and "\n" not in text:
        yield text.replace("\\n", "\n").replace('\\"', '"')  # escaped twice
    for cleaned in (text.translate(_INVISIBLE), html.unescape(text), text.translate(_TYPED), _MAGIC.sub("", text)):
        if cleaned != text:
            yield cleaned


def _dedented_code(text: str) -> Iterator[str]:
    """Yield indented code without its indentation; lines inside string literals keep theirs."""
    margin = re.match(r"[ \t]*", text)
    tree = _parse_python(f"if 1:\n{text}") if margin and margin[0] else None
    if margin is None or tree is None:
        return
    literal: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno and node.end_lineno > node.lineno:
            literal.update(range(node.lineno, node.end_lineno))
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if index + 1 not in literal:  # the tree has one extra line, and a literal's first line is code
            lines[index] = line.removeprefix(margin[0])
    yield "\n".join(lines)


def _with_future_first(code: str, tree: ast.Module) -> str:
    """Move the ``from __future__`` imports of the code to the top, where Python requires them."""
    if "__future__" not in code:
        return code
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if not imports or _is_compilable(code):
        return code
    lines = code.encode().split(b"\n")
    for node in sorted(imports, key=lambda item: (item.lineno, item.col_offset), reverse=True):
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        after = lines[end_line - 1][end_column:]
        lines[node.lineno - 1 : end_line] = [lines[node.lineno - 1][: node.col_offset] + b"pass" + after]
    names = sorted({alias.name for node in imports for alias in node.names})
    return f"from __future__ import {', '.join(names)}\n" + b"\n".join(lines).decode()


def _parse_python(code: str) -> ast.Module | None:
    if len(code) <= CACHED_CHARS:
        return _parse_short(code)
    return _parse_any(code)


def _parse_any(code: str) -> ast.Module | None:
    try:
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: ast.Module = compile(code, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


# CPython 3.11 counts the depth of trees for all threads together: one of two that make trees may get a SystemError.
_parsing = threading.Lock()
_parse_short = lru_cache(maxsize=256)(_parse_any)  # one reply is parsed in several ways; trees are never modified


def _is_compilable(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def spoken_submit(text: str) -> str | None:
    """Return the SUBMIT call that ends a text in words, if it is the only one and passes values, not names."""
    start = text.find("SUBMIT(")
    call = text[start:].rstrip(" \t\n`*.!")
    if start < 0 or len(call) > MAX_SPOKEN:
        return None
    try:
        parsed = ast.parse(call, mode="eval").body
        if not isinstance(parsed, ast.Call):
            return None
        values = [ast.literal_eval(value) for value in _arguments_of(parsed)]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    has_placeholder = any(isinstance(value, str) and value in PLACEHOLDERS for value in values)
    if not values or has_placeholder:
        return None
    return call


CODE_KEYS = ("code", "python", "python_code", "script", "cell", "source")
SURE_KEYS = ("code", "python_code")  # the others may also name data, such as the source of an answer
CALL_KEYS = ("arguments", "parameters", "args", "input", "tool_input", "action_input", "function", "tool_calls")
REASONING_KEYS = ("reasoning", "thought", "thoughts", "explanation")
MAX_STARTS = 64  # places in a reply where JSON may begin
MAX_REPAIRED = 20_000  # longest broken JSON, in characters, that is repaired: quadratic time, seconds at this size

_START = re.compile(r"(?:^|(?<=[\s>\]]))[{\[]")


@dataclass(frozen=True)
class JsonReply:
    """The content of JSON in a reply: pieces of code in order, the reasoning, and whether it had to be repaired."""

    codes: tuple[str, ...] = ()
    reasoning: str = ""
    is_repaired: bool = False


def read_json(text: str) -> JsonReply | None:
    """Parse a text that is JSON as a whole, else return None."""
    text = text.strip().removeprefix("[TOOL_CALLS]").strip()
    if not text.startswith(("{", "[")):
        return None
    value, repaired = _load_json(text)
    if not isinstance(value, (dict, list)):
        return None
    return JsonReply(tuple(_code_pieces(value)), _reasoning_text(value), repaired)


def find_json(text: str) -> JsonReply | None:
    """Return the code in all JSON of a text, or None if there is none."""
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
        if name := call_before(text, start.start()):
            value = {"name": name, "arguments": value}
        if pieces := _code_pieces(value):
            if not codes:
                first = start.start()
            codes += pieces
    if codes:
        return JsonReply(tuple(codes), text[:first].strip(), repaired)
    return None


def _load_json(text: str) -> tuple[Any, bool]:
    """Return the value of a JSON text or a Python dict literal, and whether it had to be repaired."""
    try:
        return json.loads(text, strict=False), False
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return None, False
    except RecursionError:
        return None, False
    if not text.startswith("{"):
        return None, False
    try:
        return ast.literal_eval(text), False
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return _load_broken(text), True


def _load_broken(text: str) -> Any:
    """Return the value of JSON with a mistake, such as an unescaped quotation mark, if it begins like an answer."""
    keys = "|".join((*CODE_KEYS, *CALL_KEYS, *REASONING_KEYS, "name"))
    if len(text) > MAX_REPAIRED or not re.match(rf"[\[{{\s]*[\"'](?:{keys})[\"']\s*:", text):
        return None
    try:
        return json_repair.loads(text)
    except (ValueError, RecursionError):
        return None


def _code_pieces(value: Any, depth: int = 0) -> list[str]:
    """Return the pieces of code in an answer or in tool calls, in order."""
    if depth > 5:
        return []
    if isinstance(value, list):
        pieces: list[str] = []
        for item in value:
            if isinstance(item, (dict, list)):
                pieces += _code_pieces(item, depth + 1)
        return pieces
    if not isinstance(value, dict):
        return []
    value = {str(key).lower(): item for key, item in value.items()}
    for key in CODE_KEYS:
        code = value.get(key)
        if isinstance(code, list) and code and all(isinstance(line, str) for line in code):
            code = "\n".join(code)
        if isinstance(code, str) and code.strip() and (key in SURE_KEYS or looks_like_code(code)):
            return [code]
    if (call := call_of_json(value)) and (cell := _cell_of_call(*call)):
        return [cell]
    for key in CALL_KEYS:
        if pieces := _codes_of_call(value.get(key), depth, plain=key.endswith("_input")):
            return pieces
    return []


def _codes_of_call(arguments: Any, depth: int, *, plain: bool) -> list[str]:
    """Return the code in a call's arguments, which may be an object, JSON in a string, or the code itself."""
    if isinstance(arguments, (dict, list)):
        nested = _code_pieces(arguments, depth + 1)
        inner = arguments.get("input") if isinstance(arguments, dict) else None
        return nested or ([inner] if isinstance(inner, str) and inner.strip() else [])
    if not isinstance(arguments, str) or not arguments.strip():
        return []
    if arguments.strip().startswith(("{", "[")):
        return _codes_of_call(_load_json(arguments.strip())[0], depth + 1, plain=False)
    if plain or looks_like_code(arguments):
        return [arguments]
    return []


def _cell_of_call(name: str, arguments: Any) -> str | None:
    """Return the cell of a call of a function of the REPL, None if its arguments cannot be read."""
    if isinstance(arguments, str):
        if not arguments.lstrip().startswith("{"):
            return None
        arguments = _load_json(arguments)[0]
    return python_of(name, arguments)


def _reasoning_text(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    return next((value[key] for key in REASONING_KEYS if isinstance(value.get(key), str)), "")
