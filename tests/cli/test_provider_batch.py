"""``batch`` and ``eval`` with ``--provider-batch``: the plan, the price, kill -9, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy.testing import action, fields
from servers.batches import BatchServer
from warm import warm_python

ARGS = ("batch", "q.jsonl", "texts", "--out", "a.jsonl", "-m", "openai/gpt-4o-mini", "--provider-batch")
QUESTIONS = [f"When does gate {number} open?" for number in range(6)]


def answer(body: Any) -> str:
    return fields(answer="at six", evidence="[]")


@pytest.fixture
def files(write: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write("texts/gates.md", "".join(f"Gate {number} opens at six.\n" for number in range(6)))
    write("q.jsonl", "".join(f"{json.dumps(question)}\n" for question in QUESTIONS))
    monkeypatch.setenv("OPENAI_API_KEY", "right-key")
    return home


def use(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")


def start(*args: str) -> subprocess.Popen[str]:
    command = [*warm_python(), "-m", "rlm_dspy", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_polls(server: BatchServer, process: subprocess.Popen[str], polls: int = 2) -> None:
    """Wait until the newest batch was asked about so often without ending."""
    while not server.batches or list(server.batches.values())[-1].polls < polls:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def rows(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "a.jsonl").read_text().splitlines()]


def test_all_questions_are_one_batch_at_half_the_price(
    run: Callable, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchServer(reply=answer, polls=2) as server:
        use(server, monkeypatch)
        result = run(*ARGS, "--json")
        assert result.code == 0, result.err
        assert (len(server.batches), len(server.paid), server.ordinary) == (1, 6, [])
    assert [row["answer"] for row in rows(files)] == ["at six"] * 6
    usage = rows(files)[0]["usage"]
    half = (usage["prompt_tokens"] * 1.5e-7 + usage["completion_tokens"] * 6e-7) / 2
    assert usage["cost"] == pytest.approx(half)
    assert json.loads(result.out)["cost"] == pytest.approx(sum(row["usage"]["cost"] for row in rows(files)))
    lines = result.err.splitlines()
    plan = next(line for line in lines if line.startswith("plan: about 6 calls. In one batch: $"))
    assert "As ordinary calls: $" in plan
    assert "batch batch_0: completed, 6 of 6" in result.err
    assert lines.index(plan) < next(number for number, line in enumerate(lines) if "batch_0" in line)
    assert not (files / "a.jsonl.waves").exists()  # everything in it is in the answers


def test_a_row_that_fails_is_typed_and_asked_again(run: Callable, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(body: Any, before: int) -> str:
        return "400" if "gate 3" in body["messages"][-1]["content"] and not before else "ok"

    with BatchServer(reply=answer, outcome=outcome) as server:
        use(server, monkeypatch)
        result = run(*ARGS, "--json")
        assert result.code == 1
        assert json.loads(result.out)["success_rate"] == pytest.approx(5 / 6, abs=1e-4)
        (failed,) = [row for row in rows(files) if not row["ok"]]
        assert failed["error"]["type"] == "LMError"
        assert failed["question"] == QUESTIONS[3]
        assert run(*ARGS, "--resume").code == 0
        assert len(server.paid) == 6


@pytest.mark.slow
def test_ctrl_c_leaves_the_batch_running_and_says_how_to_resume(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer(reply=answer, polls=-1) as server:
        use(server, monkeypatch)
        process = start(*ARGS)
        wait_for_polls(server, process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert "Left running: batch batch_0. To get its results, repeat the command with --resume." in told
        assert server.batches["batch_0"].status == "in_progress"
    assert {row["error"]["type"] for row in rows(files)} == {"BatchStoppedError"}


@pytest.mark.slow
def test_a_second_ctrl_c_cancels_the_batch(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer(reply=answer, polls=-1) as server:
        use(server, monkeypatch)
        process = start(*ARGS)
        wait_for_polls(server, process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert "Cancelled; what was answered until then is billed" in told
        assert server.batches["batch_0"].status == "cancelled"


def step(body: Any) -> str:
    """Play a run of two steps, of which the first asks three sub-calls."""
    text = body["messages"][-1]["content"]
    if text.startswith("part"):
        return "six"
    if "[step 1/" in text:
        return action("print(llm_query_batched(['part 1', 'part 2', 'part 3']))")
    return action("SUBMIT(answer='at six', evidence=[])")


def test_runs_with_sub_calls_move_in_lock_step(run: Callable, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BatchServer(reply=step) as server:
        use(server, monkeypatch)
        result = run(*ARGS, "--mode", "rlm", "--json")
        assert result.code == 0, result.err
        # A wave for the first steps, one for all sub-calls, one for the second steps.
        assert [len(batch.rows) for batch in server.batches.values()] == [6, 18, 6]
    assert "plan: about 48 calls. In 8 batches, one after another: $" in result.err
    assert rows(files)[0]["usage"]["calls"] == 5


@pytest.mark.slow
def test_runs_killed_in_the_middle_go_on_where_they_were(
    run: Callable, files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with BatchServer(reply=step) as server:
        server.held = {"batch_1"}  # that of the sub-calls
        use(server, monkeypatch)
        process = start(*ARGS, "--mode", "rlm")
        wait_for_polls(server, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        server.held.clear()
        ordinary = run(*ARGS[:-1], "--mode", "rlm", "--resume")
        assert ordinary.code == 2
        assert "add --provider-batch" in ordinary.err
        monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "another-cache"))
        result = run(*ARGS, "--mode", "rlm", "--resume")
        assert result.code == 0, result.err
        assert [len(batch.rows) for batch in server.batches.values()] == [6, 18, 6]
        assert (len(server.paid), server.ordinary) == (30, [])


def test_eval_asks_in_one_batch_and_keeps_its_rows(
    run: Callable, files: Path, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [{"question": question, "answer": "at six", "context": "Gates open at six."} for question in QUESTIONS]
    write("data.jsonl", "".join(f"{json.dumps(row)}\n" for row in data))
    args = (
        "eval",
        "data.jsonl",
        "-m",
        "openai/gpt-4o-mini",
        "--compare",
        "direct",
        "--json",
        "--journal",
        "rows.jsonl",
    )
    with BatchServer(reply=answer) as server:
        use(server, monkeypatch)
        result = run(*args, "--provider-batch")
        assert result.code == 0, result.err
        assert (len(server.batches), len(server.paid)) == (1, 6)
        assert "direct: plan: about 6 calls" in result.err
        assert {row["score"] for row in json.loads(result.out)["rows"]} == {1.0}
        run(*args)
        assert (len(server.paid), server.ordinary) == (6, [])


def test_a_deadline_without_batches_is_refused(run: Callable, files: Path) -> None:
    result = run(*ARGS[:-1], "--deadline", "60")
    assert result.code == 2
    assert "--deadline belongs to --provider-batch" in result.err


def test_the_offline_engine_has_no_batches(run: Callable, files: Path) -> None:
    result = run("batch", "q.jsonl", "texts", "--out", "a.jsonl", "--provider-batch")
    assert result.code == 2
    assert "cannot be asked in provider batches" in result.err


def test_a_limit_of_seconds_does_not_go_with_batches(
    run: Callable, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchServer() as server:
        use(server, monkeypatch)
        result = run(*ARGS, "--max-seconds", "5")
    assert result.code == 2
    assert "set a deadline instead" in result.err
