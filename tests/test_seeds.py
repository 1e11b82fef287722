"""The user's seed documents: every row is accounted for in tests/seeds.md, and their own small examples hold."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.cli.logs import JsonFormatter
from rlm_dspy.lms import rate_limits
from rlm_dspy.redact import MASK, Redactor
from rlm_dspy.rlm.replies import parse_reply
from rlm_dspy.sandbox.toolkit import bind
from rlm_dspy.testing import action, fields, scripted

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "tests" / "seeds.md").read_text(encoding="utf-8")
ROWS_PER_DOCUMENT = {"000": 31, "001": 37, "002": 19, "003": 19, "004": 49}
IDS = [f"{document}-{number}" for document, last in ROWS_PER_DOCUMENT.items() for number in range(1, last + 1)]
ROWS = re.findall(r"^\| (\d{3}-\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
# Rows that name how to work, or code of another product, and nothing that this one could do.
DECLINABLE = {"001-37", "002-4", "002-16", "002-17", "002-19"}


@cache
def names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


# --- the page --------------------------------------------------------------------------------------------------------


def test_every_row_of_the_documents_is_there_once() -> None:
    assert Counter(row[0] for row in ROWS) == Counter(IDS)


def test_each_row_says_what_is_missing_and_only_rules_of_work_are_declined() -> None:
    for number, _, status, where in ROWS:
        assert status in {"done", "adapted", "partly", "declined"}, number
        assert (status == "partly") == ("not yet: " in where), number
        assert status != "declined" or number in DECLINABLE
        assert len(where) > 8, number


def test_what_is_done_or_adapted_says_where_and_that_exists() -> None:
    for number, _, status, where in ROWS:
        places = re.findall(r"`([\w./-]+?(?:\.(?:py|md|toml|json)|/|/run))(?:::(\w+))?`", where)
        assert places or status == "declined" or "pyproject" in where or "marker" in where, number
        for place, name in places:
            assert (ROOT / place).exists(), f"{number}: {place}"
            assert not name or name in names(ROOT / place), f"{number}: {place} has no {name}"


def test_the_conflicts_between_the_documents_are_settled() -> None:
    settled = PAGE.split("## Where the documents disagree")[1]
    for question in ("default depth", "too deep", "at a limit", "length of a context", "cut output", "overlap", "keys"):
        assert question in settled


# --- 000 -------------------------------------------------------------------------------------------------------------


def tools(context: Any) -> dict[str, Any]:
    namespace = {"context": context}
    bind(namespace, "context")
    return namespace


def test_fixed_size_chunks_join_to_the_text() -> None:
    text = "This is a sample context for testing" * 100
    repl = tools(text)
    ranges = repl["chunk"]("chars", 1000)
    assert [end - start for start, end in ranges] == [1000, 1000, 1000, 600]
    assert "".join(text[start:end] for start, end in ranges) == repl["select"](ranges) == text


def test_paragraph_chunks_have_neither_defect_of_the_document() -> None:
    text = "\n\n".join(["short", "a" * 90, "word " * 60, "end"])
    repl = tools(text)
    parts = [repl["select"]([one]) for one in repl["chunk"]("paragraphs", 100)]
    assert parts[0].startswith("short")  # not with the separator, nor is it empty
    assert all(0 < len(part) <= 100 for part in parts)  # a long paragraph is cut
    assert "".join(parts) == text


# --- 001 and 004: the sandbox ----------------------------------------------------------------------------------------


def test_execute_simple_code() -> None:
    with rlm_dspy.Sandbox() as sandbox:
        seen = sandbox.run("x = 1 + 1\nprint(x)")
    assert (seen.stdout, seen.exception) == ("2\n", None)


def test_capture_exception() -> None:
    with rlm_dspy.Sandbox() as sandbox:
        assert "ZeroDivisionError" in (sandbox.run("1 / 0").exception or "")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.system('rm -rf /')", "os"),
        ("__import__('os').system('ls')", "os"),
        ("open('/etc/passwd').read()", "not allowed"),
        ("open('/etc/passwd', 'r')", "not allowed"),
        ("import os", "os"),
    ],
)
def test_the_documents_malicious_code_is_harmless(code: str, says: str) -> None:
    with rlm_dspy.Sandbox() as sandbox:
        seen = sandbox.run(code)
        assert seen.exception
        assert says in seen.exception.lower()
        assert sandbox.run("print('alive')").stdout == "alive\n"


def test_timeout_infinite_loop() -> None:
    with rlm_dspy.Sandbox(timeout=1.0) as sandbox:
        assert sandbox.run("while True: pass").timed_out is True


def test_truncates_huge_output() -> None:
    with rlm_dspy.Sandbox(max_output_chars=100) as sandbox:
        seen = sandbox.run("print('x' * 10000)")
    assert len(seen.stdout) <= 100
    assert seen.truncated is True


def test_the_content_is_a_variable_and_p() -> None:
    with rlm_dspy.Sandbox(main="context") as sandbox:
        seen = sandbox.run("print(P == context, peek(0, 5))", {"context": "Hello World!"})
    assert seen.stdout == "True Hello\n"


# --- 003 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [1, 2, 3, 4, 10])
def test_backoff_doubles_with_jitter_and_ends_at_a_cap(attempt: int) -> None:
    longest = min(0.5 * 2**attempt, 20.0)
    waits = [rate_limits.backoff_delay(attempt, None) for _ in range(50)]
    assert all(longest / 2 <= wait <= longest for wait in waits)
    assert len(set(waits)) > 1
    assert 3.0 <= rate_limits.backoff_delay(attempt, 3.0) <= 3.3  # what the server asks for goes first


def test_secrets_are_masked_by_name() -> None:
    data = {"api_key": "sk-1234567890", "name": "test"}
    assert Redactor({}).named(data) == {"api_key": MASK, "name": "test"}
    nested = {"rows": [{"GROQ_API_KEY": "x", "max_tokens": 9, "password": ""}]}
    assert Redactor({}).named(nested) == {"rows": [{"GROQ_API_KEY": MASK, "max_tokens": 9, "password": ""}]}


def test_a_secret_that_is_logged_by_name_is_masked() -> None:
    record = logging.makeLogRecord({"name": "rlm_dspy", "msg": "asking", "api_key": "sk-1234567890"})
    assert json.loads(JsonFormatter(Redactor({})).format(record))["api_key"] == MASK


def test_a_chunks_result_may_carry_a_confidence() -> None:
    call = "r = predict(\"part -> relevant_info: str, confidence: Literal['high', 'low']\", part=P)"
    lm, _ = scripted(action(f"{call}\nSUBMIT(r.confidence)"), fields(relevant_info="sky", confidence="high"))
    with dspy.context(lm=lm):
        assert rlm_dspy.RLM("context, question -> answer")(context="the sky", question="q").answer == "high"


# --- 004 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "cells"),
    [
        ("Here's the code:\n```python\nx = 1\n```\nDone", ("x = 1",)),
        ("After analysis...\nFINAL: The answer is 42", ("SUBMIT(answer='The answer is 42')",)),
        ("FINAL_VAR: result", ("SUBMIT(answer=result)",)),
    ],
)
def test_replies_are_read_as_the_document_says(reply: str, cells: tuple[str, ...]) -> None:
    assert tuple(parse_reply(reply, "answer").cells) == cells


def test_the_limit_of_steps_returns_an_answer() -> None:
    lm, _ = scripted(*[action(f"print({step})") for step in range(5)], fields(answer="so far"))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> answer", max_iters=5)(context="c", question="q")
    assert (len(result.run.steps), result.run.stopped_by, result.answer) == (5, "max_iters", "so far")


def test_an_asynchronous_tool_as_mcp_servers_have_them() -> None:
    async def lookup(name: str) -> str:
        """Look a name up."""
        return f"{name} is here"

    lm, _ = scripted(action("SUBMIT(lookup(name='Ulm'))"))
    rlm = rlm_dspy.RLM("context, question -> answer", tools=[dspy.Tool(lookup)], max_iters=1)
    with dspy.context(lm=lm, allow_tool_async_sync_conversion=True):
        assert rlm(context="c", question="q").answer == "Ulm is here"
