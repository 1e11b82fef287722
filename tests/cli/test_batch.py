"""``batch`` end to end: a file of questions in, a file of answers out, despite failures in between."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from rich.console import Console

from rlm_dspy.batch import Progress
from rlm_dspy.cli import model_choice
from rlm_dspy.report.live import Bar
from rlm_dspy.testing import fields, scripted, texts
from warm import warm_python

ARGS = ("batch", "q.jsonl", "texts", "--out", "a.jsonl")


@pytest.fixture
def files(write: Callable, home: Path) -> Path:
    write("texts/gates.md", "The gate of Ulm opens at 6 hours.\nThe gate of Bonn opens at 7 hours.\n")
    lines = ['{"question": "When does the gate of Ulm open?", "id": "u"}', '"When does the gate of Bonn open?"', ""]
    write("q.jsonl", "\n".join(lines))
    return home


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def choose(*replies: Any) -> Any:
        lm, script = scripted(*replies)
        monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))
        return script

    return choose


def rows(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "a.jsonl").read_text().splitlines()]


def test_each_answer_is_a_row_with_its_evidence(spawn: Callable, files: Path) -> None:
    result = spawn(*ARGS, "--json")
    assert result.code == 0, result.err
    first, second = rows(files)
    assert (first["id"], second["id"]) == ("u", None)
    assert "6" in first["answer"]
    assert {"path": "texts/gates.md", "line": 2, "verified": True}.items() <= second["evidence"][0].items()
    report = json.loads(result.out)
    assert (report["questions"], report["answered"], report["success_rate"]) == (2, 2, 1.0)
    assert "offline" in result.err


def test_rows_that_found_nothing_are_counted(run: Callable, files: Path, speak: Callable) -> None:
    speak(fields(answer="6", evidence="[]"), fields(answer="not in the corpus", evidence="[]"))
    result = run(*ARGS, "--mode", "direct", "--json")
    report = json.loads(result.out)
    assert (report["answered"], report["not_found"]) == (2, 1)


def test_a_second_batch_needs_resume_and_asks_nothing_again(run: Callable, files: Path, speak: Callable) -> None:
    script = speak(fields(answer="x", evidence="[]"))
    assert run(*ARGS).code == 0
    refused = run(*ARGS)
    assert (refused.code, refused.out) == (2, "")
    assert "--resume" in refused.err
    resumed = run(*ARGS, "--resume")
    assert resumed.code == 0
    assert "2 reused" in resumed.err
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "paths", [("texts",), ("texts", "q.jsonl"), ("texts/*",), ("texts/gates.md", "texts/a [1].jsonl")]
)
def test_answers_below_the_paths_are_not_read(
    paths: tuple[str, ...], run: Callable, files: Path, speak: Callable
) -> None:
    script = speak(fields(answer="zebra", evidence="[]"))
    out = files / "texts" / "a [1].jsonl"
    if len(paths) > 1:
        out.touch()
    args = ("batch", "q.jsonl", *paths, "--out", str(out))
    assert run(*args).code == 0
    out.with_name(out.name + ".bak").write_text("zebra")
    for _ in range(2):
        resumed = run(*args, "--resume")
        assert "2 reused" in resumed.err, resumed.err
    assert len(script.requests) == 2
    assert "zebra" not in "".join(texts(script.requests[1]))


def test_questions_below_the_paths_are_not_read(run: Callable, files: Path, speak: Callable) -> None:
    script = speak(fields(answer="x", evidence="[]"))
    assert run("batch", "q.jsonl", ".", "--out", "a.jsonl").code == 0
    assert '"id": "u"' not in "".join(texts(script.requests[0]))


def test_failures_are_told_row_by_row_with_the_rate(run: Callable, files: Path, speak: Callable) -> None:
    def reply(message: str) -> str:
        return "I would rather not." if "Ulm" in message.split("[[ ## question ## ]]")[1] else fields(
            answer="7", evidence="[]"
        )  # fmt: skip

    speak(reply)
    result = run(*ARGS, "--mode", "direct")
    assert result.code == 1
    assert 'failed: "u"' in result.err
    assert "1 of 2 questions answered · 50.0%" in result.err
    assert [row["ok"] for row in rows(files)] == [False, True]
    assert rows(files)[0]["error"]["type"] == "ActionError"


def test_without_credentials_the_first_question_tells(run: Callable, files: Path, speak: Callable) -> None:
    speak(dspy.LMAuthError(message="bad key"))
    result = run(*ARGS, "--mode", "direct", "--concurrency", "1")
    assert result.code == 4
    assert "stopped by the error above; fix it, then repeat" in result.err


def test_max_cost_ends_a_batch_with_exit_3(run: Callable, files: Path, speak: Callable) -> None:
    speak(fields(answer="x", evidence="[]"))
    result = run(*ARGS, "--concurrency", "1", "--max-cost", "0.0015", "--mode", "direct")
    assert result.code == 3
    assert [row["ok"] for row in rows(files)] == [True, False]
    assert "max_cost" in result.err


def test_typed_fields_and_quiet(run: Callable, files: Path, speak: Callable) -> None:
    speak(fields(answer="x", hour="6", evidence="[]"))
    result = run(*ARGS, "--fields", "answer: str, hour: int", "-q", "--mode", "direct")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert rows(files)[0]["outputs"] == {"answer": "x", "hour": 6}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "q.jsonl:1 is not JSON"),
        ('"fine"\n{"query": "x"}', "q.jsonl:2 is not a question"),
        ("3", "q.jsonl:1 is not a question"),
        ('"\\ud800"', "q.jsonl:1 is not a question"),
        ('{"question": "  "}', "q.jsonl:1: the question is empty"),
        ("\n\n", "contains no questions"),
    ],
)
def test_a_questions_file_that_cannot_be_is_one_line(
    run: Callable, files: Path, write: Callable, text: str, says: str
) -> None:
    write("q.jsonl", text)
    result = run(*ARGS)
    assert (result.code, result.out) == (6, "")
    assert says in result.err
    assert result.err.count("\n") == 1
    assert not (files / "a.jsonl").exists()


def test_questions_that_are_not_there_or_not_text(run: Callable, files: Path) -> None:
    assert "cannot be read" in run("batch", "none.jsonl", "texts", "--out", "a.jsonl").err
    (files / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in run(*ARGS).err
    assert run("batch", "q.jsonl", "--out", "a.jsonl").code == 2
    assert run(*ARGS, "--max-cost", "0").code == 2
    assert run(*ARGS, "-q", "-v").code == 2


def test_questions_come_from_stdin_too(run: Callable, files: Path) -> None:
    result = run("batch", "-", "texts", "--out", "a.jsonl", stdin=b'"When does the gate of Ulm open?"\n')
    assert result.code == 0
    assert "6" in rows(files)[0]["answer"]


SLOW = """
import json, sys, time
from rlm_dspy.testing import fields, scripted
from rlm_dspy.cli import model_choice
from rlm_dspy.cli.commands import main

def reply(message):
    time.sleep(0.15)
    with open("asked", "a") as log:
        log.write(message.split("[[ ## question ## ]]")[1].split()[0] + "\\n")
    return fields(answer="x", evidence="[]")

lm, script = scripted(reply)
model_choice.choose = lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None)
sys.argv[1:] = ["batch", "q.jsonl", "texts", "--out", "a.jsonl", "--mode", "direct", *sys.argv[1:]]
sys.exit(main())
"""


def slow(*args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return subprocess.Popen(
        [*warm_python(), "-c", SLOW, *args], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for_rows(home: Path, count: int, process: subprocess.Popen[str]) -> None:
    while not (home / "a.jsonl").exists() or (home / "a.jsonl").read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stderr and process.stderr.read()


def test_a_killed_batch_resumes_and_pays_nothing_twice(files: Path, write: Callable) -> None:
    names = [f"q{number}" for number in range(12)]
    write("q.jsonl", "\n".join(json.dumps(name) for name in names))
    with slow("--concurrency", "2") as process:
        wait_for_rows(files, 3, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {row["question"] for row in rows(files)}
    paid = (files / "asked").read_text().split()
    (files / "asked").unlink()
    with slow("--concurrency", "2", "--resume") as process:
        assert process.stderr is not None
        assert process.wait(60) == 0, process.stderr.read()
    again = (files / "asked").read_text().split()
    assert len(kept) >= 3
    assert not kept & set(again)
    assert len(paid) + len(again) <= 12 + 2  # those in flight when it died
    assert [row["question"] for row in rows(files)] == names


def test_ctrl_c_finishes_what_is_in_flight_and_keeps_it(files: Path, write: Callable) -> None:
    write("q.jsonl", "\n".join(json.dumps(f"q{number}") for number in range(40)))
    with slow("--concurrency", "2") as process:
        wait_for_rows(files, 2, process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert "stopped by Ctrl-C; repeat the command with --resume" in said
    assert "Finishing the questions in flight" in said
    assert "Traceback" not in said
    answered = [row for row in rows(files) if row["ok"]]
    assert 2 <= len(answered) < 40
    assert len((files / "asked").read_text().split()) == len(answered)


def test_the_bar_shows_rate_time_left_and_cost_on_a_terminal_only() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    with Bar(terminal) as bar:
        bar(Progress(4, 1, 0, 1, 0.0))
        bar(Progress(4, 2, 1, 1, 0.25))
        bar._progress.refresh()
        bar.note("a remark")
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "2 answered, 1 failed" in shown
    assert "3/4" in shown
    assert "/min" in shown
    assert "ETA" in shown
    assert "$0.2500" in shown
    piped = Console(file=io.StringIO(), width=120)
    with Bar(piped) as bar:
        bar(Progress(4, 1, 0, 0, None))
    assert piped.file.getvalue() == ""  # type: ignore[attr-defined]
