"""Hundreds of reply forms are parsed as intended or retried, and no draft ever runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError

from rlm_dspy.rlm import adapters
from rlm_dspy.rlm.loop import ModelReply, read_cells
from rlm_dspy.rlm.replies import ParsedReply

ROWS = [json.loads(line) for line in Path(__file__).with_name("reply_siblings.jsonl").read_text().splitlines()]
ACTION = dspy.Signature("observation -> reasoning, code")


def read(reply: str, finish: str) -> ParsedReply:
    """Read a reply as a run does: through the adapter where it finds both fields."""
    try:
        fields = adapters.action_adapter().parse(ACTION, reply)
    except AdapterParseError:
        return read_cells(ModelReply(text=reply, finish=finish), "answer")
    return read_cells(ModelReply(reasoning=fields["reasoning"], code=fields["code"], finish=finish), "answer")


def same(code: str, right: str, exact: bool) -> bool:
    if code.strip("\n") == right.strip("\n"):
        return True
    return not exact and tree(code) == tree(right) != ""


def tree(code: str) -> str:
    try:
        parsed = compile(code, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return ""
    # A `pass` may stand where an import that was moved up stood.
    parsed.body = [node for node in parsed.body if not isinstance(node, ast.Pass)] or parsed.body
    return ast.dump(parsed)


def fits(parsed: ParsedReply, right: dict[str, Any], exact: bool) -> bool:
    if "cells" not in right:
        return parsed.problem is not None and not parsed.cells
    cells = [*parsed.cells, *parsed.held_back]
    wanted = [*right["cells"], *right.get("held_back", [])]
    shorter = len(right["cells"]) if len(parsed.cells) == len(right["cells"]) else len(wanted)
    pairs = zip(cells[:shorter], wanted[:shorter], strict=True)
    return len(cells[:shorter]) == shorter and all(same(cell, code, exact) for cell, code in pairs)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_a_reply_is_read_as_it_was_meant(row: dict[str, Any]) -> None:
    parsed = read(row["reply"], row["finish"])
    assert any(fits(parsed, right, row.get("exact", False)) for right in row["right"]), parsed
    assert not any(word in cell for cell in parsed.cells for word in row.get("never", [])), parsed
