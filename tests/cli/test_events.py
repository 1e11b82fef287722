"""``--events``: the events of a question and its answer as lines of JSON, described by a schema."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy import lms, telemetry
from rlm_dspy.run import Event
from rlm_dspy.testing import action, scripted
from servers.otlp import OtlpServer

ALWAYS = {"version", "event", "step", "max_steps", "depth", "sub_calls", "usage"}


def lines_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def asked(run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (home / "a.txt").write_text("the code is 4711\n" * 50)

    def ask(*replies: Any) -> Any:
        lm, _ = scripted(*replies)
        monkeypatch.setattr(lms, "lm", lambda *args, **options: lm)
        return run("ask", "What is the code?", "a.txt", "--events", "--mode", "rlm")

    return ask


def test_each_event_is_a_line_and_the_last_is_the_answer(asked: Callable) -> None:
    code = "print(llm_query('which?'))\n1/0"
    result = asked(action(code, "Ask first."), "4711", action("SUBMIT(answer='4711', evidence=[])"))
    lines = lines_of(result.out)
    assert [line["event"] for line in lines] == [
        *("probe", "step", "code", "sub_call", "output"),
        *("step", "code", "output", "final", "answer"),
    ]
    assert all(line["version"] == 1 for line in lines)
    assert all(line.keys() >= ALWAYS for line in lines[:-1])
    called, failed = lines[2], lines[4]
    assert (called["text"], called["reasoning"]) == (code, "Ask first.")
    assert "ZeroDivisionError" in failed["error"]
    assert failed["step_usage"]["calls"] == 2
    assert lines[-1]["answer"] == "4711"
    assert lines[-1]["run_id"]
    assert result.code == 0


def test_a_question_that_fails_ends_with_an_error_line(asked: Callable) -> None:
    result = asked("no code at all")
    last = lines_of(result.out)[-1]
    assert last["event"] == "error"
    assert last["exit_code"] == result.code == 1
    assert last["type"] == "ActionError"


def test_json_and_events_exclude_each_other(run: Callable, home: Path) -> None:
    result = run("ask", "why?", "a.txt", "--json", "--events")
    assert result.code == 2
    assert "--json and --events are mutually exclusive." in result.err


def test_the_page_describes_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    for name in {*Event.model_fields, *ALWAYS} - {"kind"}:
        assert f"`{name}`" in page
    for kind in ("probe", "step", "code", "output", "sub_call", "wait", "text", "final", "answer", "error"):
        assert f"`{kind}`" in page


def test_runs_go_to_a_collector_if_asked(run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "a.txt").write_text("the code is 4711\n")
    with OtlpServer() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds until spans are sent
        try:
            assert run("ask", "What is the code?", "a.txt", "--otel").code == 0
        finally:
            telemetry.stop_tracing()
        names: list[str] = []
        deadline = time.monotonic() + 60
        while "invoke_agent RLM" not in names and time.monotonic() < deadline:
            time.sleep(0.02)
            names = [span.name for span in server.spans]
    assert names[0] == "invoke_agent RLM"
    assert "chat offline/extractive" in names


def test_without_the_package_otel_says_what_to_install(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "a.txt").write_text("the code is 4711\n")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    result = run("ask", "What is the code?", "a.txt", "--otel")
    assert result.code == 2
    assert "OpenTelemetry is not installed" in result.err
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in result.err
