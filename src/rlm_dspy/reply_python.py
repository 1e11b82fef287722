"""Python as models write it: recognised, and repaired where only its frame is wrong, never its text."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache

CACHED_CHARS = 20_000  # of code whose syntax tree is kept for a moment
MAX_SPOKEN = 4_000  # characters of a call among words
PLACEHOLDERS = frozenset({"", "...", "…", "answer", "your answer"})
_PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.)(?: |$)")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff")) | {0xA0: " ", 0x202F: " ", 0x3000: " "}
# What changes and shows nothing.
_QUIET = (
    *(ast.Name, ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare),
    *(ast.AnnAssign, ast.Attribute, ast.Subscript),
)


def is_python(code: str) -> bool:
    """Return whether ``code`` parses as a cell, top-level ``await`` included."""
    return _parse(code) is not None


def looks_like_code(code: str) -> bool:
    """Return whether text does something when it is run: words and numbers parse as Python too."""
    tree = _parse(code)
    return tree is not None and not all(map(_is_quiet, tree.body))


def _is_quiet(statement: ast.stmt) -> bool:
    return isinstance(statement.value if isinstance(statement, ast.Expr) else statement, _QUIET)


def repair_code(text: str) -> str | None:
    """Return the Python that ``text`` holds, None if it is not Python however it is framed.

    Blank lines around it go, an indentation of the whole is removed outside of string literals, and a
    ``from __future__`` import moves to the top. Code that needs none of this comes back byte for byte.
    """
    for code in _framings(text.strip("\n").rstrip()):
        tree = _parse(code)
        if tree is not None:
            return _with_future_first(code, tree)
    return None


def unquoted_code(code: str) -> str:
    """Return the code that a cell is a mere string of, else the cell."""
    value = string_value(code)
    return value.strip("\n") if value != code and looks_like_code(value) else code


def string_value(text: str) -> str:
    """Return the value of a text that is one string literal, else the text."""
    try:
        value = ast.literal_eval(text.strip()) if text.strip()[-1:] in "'\"" else text
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, str) else text


def submits_always(code: str) -> bool:
    """Return whether a cell calls SUBMIT whatever happens before."""
    tree = _parse(code) if "SUBMIT" in code else None
    for node in tree.body if tree else ():
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "SUBMIT":
            return True
    return False


def _framings(text: str) -> Iterator[str]:
    """Yield the text as it is, then with other frames that models put around code."""
    yield text
    first, newline, rest = text.partition("\n")
    yield first.lstrip(" \t") + newline + rest
    yield from _dedented(text)
    margin = re.match(r"[ \t]*", rest.lstrip("\n"))
    if margin and margin[0]:
        yield from _dedented(margin[0] + text)  # the first line lost the indentation that the others have
    if _PROMPT.match(text):
        lines = [line for line in text.split("\n") if _PROMPT.match(line)]
        yield "\n".join(_PROMPT.sub("", line) for line in lines)
    if text[:1] == text[-1:] == "`" and "\n" not in text:
        yield text.strip("`")
    if "\\n" in text and "\n" not in text:
        yield text.replace("\\n", "\n").replace('\\"', '"')  # escaped twice
    cleaned = text.translate(_INVISIBLE)
    if cleaned != text:
        yield cleaned


def _dedented(text: str) -> Iterator[str]:
    """Yield indented code without its indentation; lines inside a string literal keep theirs."""
    margin = re.match(r"[ \t]*", text)
    tree = _parse(f"if 1:\n{text}") if margin and margin[0] else None
    if margin is None or tree is None:
        return
    literal: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno and node.end_lineno > node.lineno:
            literal.update(range(node.lineno, node.end_lineno))
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if index + 1 not in literal:  # the tree has one line more, and a literal's first line is code
            lines[index] = line.removeprefix(margin[0])
    yield "\n".join(lines)


def _with_future_first(code: str, tree: ast.Module) -> str:
    """Return the code with its ``from __future__`` imports before everything else, where Python wants them."""
    if "__future__" not in code:
        return code
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if not imports or _compiles(code):
        return code
    lines = code.encode().split(b"\n")
    for node in sorted(imports, key=lambda item: (item.lineno, item.col_offset), reverse=True):
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        after = lines[end_line - 1][end_column:]
        lines[node.lineno - 1 : end_line] = [lines[node.lineno - 1][: node.col_offset] + b"pass" + after]
    names = sorted({alias.name for node in imports for alias in node.names})
    return f"from __future__ import {', '.join(names)}\n" + b"\n".join(lines).decode()


def _parse(code: str) -> ast.Module | None:
    return _parse_short(code) if len(code) <= CACHED_CHARS else _parse_any(code)


def _parse_any(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree: ast.Module = compile(code, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


_parse_short = lru_cache(maxsize=256)(_parse_any)  # one reply is looked at in several ways; trees are never changed


def _compiles(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def spoken_submit(text: str) -> str | None:
    """Return the SUBMIT call that ends a text in words, if it is the only one and gives values, not names."""
    start = text.find("SUBMIT(")
    call = text[start:].rstrip(" \t\n`*.!")
    if start < 0 or len(call) > MAX_SPOKEN:
        return None
    try:
        parsed = ast.parse(call, mode="eval").body
        if not isinstance(parsed, ast.Call):
            return None
        given = [*parsed.args, *(keyword.value for keyword in parsed.keywords)]
        values = [ast.literal_eval(value) for value in given]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    is_filled = bool(values) and not any(value in PLACEHOLDERS for value in values if isinstance(value, str))
    return call if is_filled else None
