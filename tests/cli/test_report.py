"""Rendering, redaction, run files and the live line."""

from __future__ import annotations

import datetime
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from rlm_dspy.redact import MASK, Redactor, is_secret_name
from rlm_dspy.report import json_output, live, render
from rlm_dspy.run import Event, Run, Usage

KEY = "gsk_canary_0123456789"


class Point(pydantic.BaseModel):
    x: int
    y: int


# --- rendering -----------------------------------------------------------------------------------------------------


def test_a_single_output_is_printed_bare() -> None:
    assert render.outputs_text({"answer": "It is 20."}) == "It is 20."
    assert render.outputs_text({"items": ["a", "b"]}) == "a\nb"
    assert render.outputs_text({"count": 0}) == "0"
    assert render.outputs_text({"flag": False}) == "false"
    assert render.outputs_text({"items": []}) == "(none)"


def test_several_outputs_are_named_and_lists_have_one_item_a_line() -> None:
    text = render.outputs_text(
        {"answer": "two\nlines", "items": ["a", {"k": 1}], "when": datetime.date(2020, 1, 2), "at": Point(x=1, y=2)}
    )
    assert text == (
        'answer:\n  two\n  lines\nitems:\n  - a\n  - {"k": 1}\nwhen: 2020-01-02\nat:\n  {\n    "x": 1,\n    "y": 2\n  }'
    )


@given(st.text())
def test_nothing_printable_can_steer_a_terminal(text: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", render.printable_text(text))


@given(st.text(), st.sampled_from([None, 2]))
def test_json_is_the_same_after_printing(text: str, indent: int | None) -> None:
    said = render.printable_text(json_output.redacted_json({text: [text]}, Redactor({}), indent=indent))
    whole = text.encode("utf-8", "replace").decode()
    assert json.loads(said) == {whole: [whole]}


def test_printing_keeps_ordinary_text_and_shows_escapes() -> None:
    assert render.printable_text("naïve\ttab\r\nline") == "naïve\ttab\nline"
    assert render.printable_text("\x1b[31mred\r") == "\\x1b[31mred\\r"


def test_quotes_stay_on_one_line_and_are_shortened() -> None:
    row = {"quote": "one\n   two", "path": "a.py", "line": 3, "weak": False}
    assert render.evidence_line(row) == 'a.py:3  "one two"'
    assert render.evidence_line({**row, "weak": True}).endswith("(weak: does not show the answer)")
    assert len(render.quoted_line("x" * 1000)) == render.QUOTE_LIMIT + 2


@given(st.recursive(st.none() | st.floats() | st.binary() | st.text() | st.dates(), lambda inner: st.lists(inner)))
def test_every_value_becomes_strict_json(value: object) -> None:
    text = json_output.redacted_json({"value": render.jsonable(value)}, Redactor({}))
    text.encode()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_an_unknown_cost_is_never_shown_as_nothing() -> None:
    assert render.cost_text(None) == "cost unknown"
    assert render.cost_text(0.0) == "$0.0000"
    assert render.cost_text(1234.5) == "$1,234.50"


# --- redaction -----------------------------------------------------------------------------------------------------


def test_values_of_secret_variables_are_masked_everywhere() -> None:
    redactor = Redactor({"GROQ_API_KEY": KEY + "\n", "MY_TOKEN": "tok", "PATH": "/usr/bin:/bin", "HF_TOKEN": KEY + "2"})
    assert redactor.text(f"key {KEY}, longer {KEY}2") == f"key {MASK}, longer {MASK}"
    assert redactor.value({KEY: [KEY, 1, {"a": (KEY,)}]}) == {MASK: [MASK, 1, {"a": [MASK]}]}
    assert redactor.text("tok /usr/bin:/bin") == "tok /usr/bin:/bin"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("OPENAI_API_KEY", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("HF_TOKEN", True),
        ("DB_PASSWORD", True),
        ("groq_api_key", True),
        ("MAX_TOKENS", False),
        ("RLM_DSPY_MAX_TOKENS", False),
        ("KEYBOARD", False),
    ],
)
def test_a_name_tells_a_secret(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


# --- run files -----------------------------------------------------------------------------------------------------


def run_of(**facts: object) -> Run:
    return Run(id="r1", status="submitted", model="m", **facts)


def test_a_run_is_saved_whole_without_secrets_and_read_back(tmp_path: Path) -> None:
    run = run_of(outputs={"answer": f"the key is {KEY}"}, probe="é \ud800")
    path = json_output.save_run(run, tmp_path / "deep" / "run.json", Redactor({"X_API_KEY": KEY}))
    text = path.read_text(encoding="utf-8")
    assert KEY not in text
    assert Run.model_validate_json(text).outputs == {"answer": f"the key is {MASK}"}
    assert [item.name for item in path.parent.iterdir()] == ["run.json"]


def test_saving_follows_a_link_and_never_replaces_a_device(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    (tmp_path / "real.json").write_text("old")
    json_output.save_run(run_of(), tmp_path / "link.json", Redactor({}))
    assert (tmp_path / "link.json").is_symlink()
    assert "r1" in (tmp_path / "real.json").read_text()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    json_output.save_run(run_of(), pipe, Redactor({}))
    assert b"r1" in os.read(reader, 65536)
    os.close(reader)


def test_the_summary_has_the_documented_form() -> None:
    evidence = (
        {"quote": "q", "source": "a.py", "line": 3, "match": "exact"},
        {"quote": "made up", "source": "a.py", "line": None, "match": None},
    )
    usage = Usage(calls=2, prompt_tokens=10, completion_tokens=5, cost=None)
    summary = json_output.answer_summary(
        run_of(evidence=evidence, usage=usage, seconds=1.23456), {"answer": "A"}, mode="rlm"
    )
    assert summary["answer"] == "A"
    nowhere = {"line": None, "place": None, "match": None}
    assert summary["evidence"] == [
        {"quote": "q", "path": "a.py", "line": 3, "place": None, "match": "exact", "weak": False, "verified": True},
        {"quote": "made up", "path": "a.py", **nowhere, "weak": False, "verified": False},
    ]
    assert summary["usage"] == {
        "calls": 2,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost": None,
        "retries": 0,
        "waited_seconds": 0.0,
        "cached_tokens": 0,
        "estimated_calls": 0,
        "replayed_calls": 0,
        "cached_calls": 0,
    }
    assert (summary["status"], summary["steps"], summary["seconds"], summary["run_id"]) == ("submitted", 0, 1.235, "r1")


def test_the_answer_of_other_outputs_is_the_only_one_or_all_of_them() -> None:
    assert json_output.answer_summary(run_of(), {"count": 0}, mode="rlm")["answer"] == 0
    assert json_output.answer_summary(run_of(), {"a": 1, "b": [2]}, mode="rlm")["answer"] == {"a": 1, "b": [2]}
    assert json_output.answer_summary(run_of(), {"answer": 1, "b": 2}, mode="rlm")["outputs"] == {"answer": 1, "b": 2}


def test_a_place_is_told_as_far_as_it_is_known() -> None:
    assert render.evidence_location({"path": "a.py", "line": 3}) == "a.py:3"
    assert render.evidence_location({"path": "a.pdf", "line": 3, "place": "page 2"}) == "a.pdf:page 2"
    assert render.evidence_location({"path": "a.py", "line": None}) == "a.py"
    assert render.evidence_location({"path": None, "line": 3}) == "line 3"
    assert render.evidence_location({"path": None, "line": None}) == "somewhere in the text"


# --- the live line -------------------------------------------------------------------------------------------------

EVENT = Event(kind="code", step=3, max_steps=20, sub_calls=4, usage=Usage(prompt_tokens=1200, cost=0.0012))


def test_the_status_line_tells_steps_calls_tokens_cost_and_time() -> None:
    assert live.status_line(EVENT, 8.2) == "running code · step 3/20 · 4 sub-calls · 1,200 tokens · $0.0012 · 8 s"
    assert live.status_line(None, 0.4) == "loading · 0 s"


def test_a_terminal_sees_the_line_and_a_pipe_sees_nothing() -> None:
    terminal, pipe = io.StringIO(), io.StringIO()
    for stream, force in ((terminal, True), (pipe, False)):
        console = Console(file=stream, force_terminal=force, width=100, _environ={"TERM": "xterm"})
        with live.StatusLine(console) as line:
            line(EVENT)
    assert "step 3/20" in terminal.getvalue()
    assert pipe.getvalue() == ""


def finished(**facts: Any) -> Event:
    used = Usage(prompt_tokens=1_100, completion_tokens=100)
    given = {"text": "one\ntwo\n", "reasoning": "Look for the word first. Then count.", "seconds": 2.14, **facts}
    return Event(kind="output", step=3, max_steps=20, step_usage=used, **given)


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({}, " 3  Look for the word first · 2 lines · 2.1 s · 1,200 tokens"),
        ({"text": ""}, " 3  Look for the word first · no output · 2.1 s · 1,200 tokens"),
        ({"text": "a.md:3: x\nb/c.md:40: y\n"}, " 3  Look for the word first · 2 hits · 2.1 s · 1,200 tokens"),
        ({"text": "FINAL: {'answer': 3}"}, " 3  Look for the word first · answered · 2.1 s · 1,200 tokens"),
        (
            {"error": "Traceback (most recent call last):\nValueError: no such file"},
            " 3  Look for the word first · ValueError: no such file · 2.1 s · 1,200 tokens",
        ),
        ({"reasoning": ""}, " 3  one · 2 lines · 2.1 s · 1,200 tokens"),
    ],
)
def test_a_finished_step_is_one_line(facts: dict[str, Any], line: str) -> None:
    assert live.step_line(finished(**facts), 80) == line


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("words", ["x" * 500, "漢字" * 300, "short", "a\nb\nc " * 99])
def test_a_line_of_a_step_fits_the_terminal(width: int, words: str) -> None:
    shown = live.step_line(finished(reasoning=words), max(width, 70))
    assert cell_len(shown) <= max(width, 70)
    assert "\n" not in shown


def test_a_terminal_sees_each_step_when_it_ends_and_no_step_of_a_child() -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with live.StatusLine(console, clean=lambda text: text.replace("word", "****")) as line:
        line(finished())
        line(finished(reasoning="The child looks elsewhere for it.").model_copy(update={"depth": 1}))
    assert " 3  Look for the **** first · 2 lines" in terminal.getvalue()
    assert "child" not in terminal.getvalue()


def test_a_childs_steps_do_not_replace_those_of_the_run() -> None:
    line = live.StatusLine(Console(file=io.StringIO()))
    line(EVENT)
    line(Event(kind="step", step=1, max_steps=9, depth=1, sub_calls=6, usage=Usage(prompt_tokens=5000)))
    assert line._event.step == 3
    assert line._event.sub_calls == 6
    assert line._event.usage.prompt_tokens == 5000


def test_a_wait_counts_down_on_the_line_and_then_makes_room() -> None:
    now = [0.0]
    line = live.StatusLine(Console(file=io.StringIO()), clock=lambda: now[0])
    line(EVENT)
    line(Event(kind="wait", step=3, max_steps=20, text="Groq", seconds=12.0))
    assert line.line().startswith("waiting 12 s for Groq · step 3/20")
    now[0] = 7.0
    assert line.line().startswith("waiting 5 s for Groq")
    now[0] = 13.0
    assert line.line().startswith("running code")
