"""A run on disk while it goes on: what is left of one that was killed, and what others see of one that is not done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.conftest import Result
from rlm_dspy.errors import RLMError
from rlm_dspy.report.run_log import read_log
from rlm_dspy.report.run_store import load_run
from warm import warm_python

PROGRAM = """
import sys, time
from rlm_dspy.testing import action, scripted
from rlm_dspy.cli import model_choice
from rlm_dspy.cli.commands import main

def hang(message):
    print("hanging", file=sys.stderr, flush=True)
    time.sleep(120)

lm, script = scripted(action("print(context[:30], 'sk-secret-000000')", "Look at it."), action("print(2)"), hang)
model_choice.choose = lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def hanging(home: Path) -> Iterator[subprocess.Popen[str]]:
    """An ``ask`` whose third step waits for its model."""
    (home / "a.txt").write_text("the code is 4711\n" * 20_000)
    command = [*warm_python(), "-c", PROGRAM, "ask", "What is the code?", "a.txt", "--mode", "rlm"]
    environ = {**os.environ, "MY_API_KEY": "sk-secret-000000", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr is not None
        assert any("hanging" in line for line in process.stderr)
        yield process
        process.kill()


def run_logs(home: Path) -> list[Path]:
    return list(home.parent.rglob("runs/*.jsonl"))


def test_a_killed_run_is_there_to_its_last_event(
    hanging: subprocess.Popen[str], home: Path, spawn: Callable[..., Result]
) -> None:
    hanging.send_signal(signal.SIGKILL)
    hanging.wait(timeout=20)
    (row,) = json.loads(spawn("runs", "--json").out)["runs"]
    assert (row["status"], row["stopped_by"], row["steps"]) == ("stopped", "killed", 2)
    assert row["question"] == "What is the code?"
    run = json.loads(spawn("trace", "last", "--json").out)
    assert [step["code"] for step in run["steps"]][1] == "print(2)"
    assert run["usage"]["calls"] == 2
    assert [span["kind"] for span in run["spans"] if span["seconds"] is None] == ["run", "step", "lm"]
    shown = spawn("trace")
    assert "Look at it." in shown.out
    assert " · killed · " in shown.out
    (path,) = run_logs(home)
    assert "sk-secret" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_run_that_goes_on_is_shown_as_far_as_it_is(
    hanging: subprocess.Popen[str], home: Path, spawn: Callable[..., Result]
) -> None:
    (row,) = json.loads(spawn("runs", "--json").out)["runs"]
    assert (row["stopped_by"], row["steps"]) == ("running", 2)


def test_half_a_last_line_is_ignored(hanging: subprocess.Popen[str], home: Path) -> None:
    hanging.kill()
    hanging.wait(timeout=20)
    (path,) = run_logs(home)
    whole = path.read_bytes()
    for cut in range(len(whole) - 1, whole.index(b"\n") + 1, -97):
        path.write_bytes(whole[:cut])
        assert read_log(path).inputs["question"] == "What is the code?"
    path.write_bytes(whole[:100])
    with pytest.raises(RLMError, match="holds no run yet"):
        read_log(path)


def test_a_finished_run_is_one_json_file(home: Path, run: Callable[..., Result]) -> None:
    (home / "a.txt").write_text("the code is 4711\n")
    assert run("ask", "What is the code?", "a.txt", "-q").code == 0
    assert run_logs(home) == []
    (saved,) = home.parent.rglob("runs/*.json")
    assert {span["kind"] for span in json.loads(saved.read_text())["spans"]} >= {"run", "lm"}


@pytest.mark.parametrize(
    "line", ["[]", "{}", "null", '{"run": 1}', '{"run": {"id": "x"}}', "not json", '{"started": {}}']
)
def test_a_file_that_is_no_log_is_refused_in_one_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(RLMError) as caught:
        load_run(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_a_newer_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"format": 99, "id": "x", "status": "submitted", "stars": 3}))
    with pytest.raises(RLMError, match="it has format 99, this version reads up to 3; update"):
        load_run(path)


def test_a_record_without_spans_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"id": "x", "status": "submitted", "steps": [{"index": 1, "code": "print(1)"}]}))
    assert load_run(path).run.steps[0].code == "print(1)"
