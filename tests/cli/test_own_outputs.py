"""What the command has written into a folder is not read when the folder is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_dspy.cli import home_files, own_outputs


@pytest.fixture(autouse=True)
def folder(write: Callable) -> None:
    write("a.md", "The port is 8080.\n")
    write("q.jsonl", '"what is the port?"\n')


def read_files(run: Callable, *paths: str) -> list[str]:
    return [row["path"] for row in json.loads(run("ls", *paths, "--json").out)["files"]]


def test_traces_answers_journals_and_copies_are_left_out(run: Callable, home: Path, write: Callable) -> None:
    assert run("ask", "what is the port?", ".", "--trace", "run.json").code == 0
    assert run("batch", "q.jsonl", ".", "--out", "answers.jsonl").code == 0
    write("answers.jsonl.waves", "{}")
    assert read_files(run, ".") == ["a.md", "q.jsonl"]
    told = run("ask", "what is the port?", ".").err
    assert "not read, because rlm-dspy wrote it: run.json, answers.jsonl, answers.jsonl.waves" in told
    assert "rlm-dspy wrote it" in run("ls", ".").err


def test_what_chat_trace_and_export_write_is_left_out(run: Callable, home: Path) -> None:
    run("chat", ".", stdin=b"what is the port?\n/save talk.md\n")
    run("ask", "--mode", "rlm", "what is the port?", "a.md")
    run("trace", "--html", "page.html")
    run("trace", "--chrome", "trace.json")
    run("runs", "export", "--format", "dspy", "--out", "rows.jsonl")
    for name in ("talk.md", "page.html", "trace.json", "rows.jsonl"):
        assert (home / name).exists(), name
    assert read_files(run, ".") == ["a.md", "q.jsonl"]


def test_what_questions_and_evaluations_write_is_left_out(run: Callable, home: Path, write: Callable) -> None:
    write("t.csv", "name,port\n" + "".join(f"n{number},{number}\n" for number in range(40)))
    run("make-questions", "t.csv", "-n", "2", "--out", "made.jsonl")
    run("eval", "made.jsonl", "--compare", "direct", "--html", "page.html", "--journal", "rows.jsonl")
    for name in ("made.jsonl", "page.html", "page-runs", "rows.jsonl"):
        assert (home / name).exists(), name
    assert read_files(run, ".") == ["a.md", "q.jsonl", "t.csv"]
    assert read_files(run, "page-runs")


def test_a_trace_that_is_written_again_is_not_read_either(run: Callable, home: Path) -> None:
    for _ in range(2):
        run("ask", "what is the port?", ".", "--trace", "run.json")
    assert "run.json" not in {row["source"] for row in json.loads((home / "run.json").read_text())["evidence"]}
    assert read_files(run, ".") == ["a.md", "q.jsonl"]


def test_a_file_that_is_named_is_read(run: Callable) -> None:
    run("ask", "what is the port?", ".", "--trace", "run.json")
    assert read_files(run, "run.json") == ["run.json"]
    assert "run.json" in read_files(run, ".", "run.json")
    assert "wrote it" not in run("ls", "run.json").err


def test_a_file_of_that_name_elsewhere_is_read(run: Callable, write: Callable) -> None:
    write("one/a.md", "text")
    write("two/run.json", '{"port": 1}')
    run("ask", "what is the port?", "a.md", "--trace", "one/run.json")
    assert read_files(run, "two") == ["two/run.json"]
    assert "two/run.json" in read_files(run, "one", "two")


@pytest.mark.parametrize(
    "args",
    [
        ("ask", "what?", ".", "--trace", "mine.json", "--dry-run"),
        ("ask", "what?", "gone", "--trace", "mine.json"),
        ("batch", "q.jsonl", ".", "--out", "mine.json"),
        ("batch", "q.jsonl", ".", "--out", "mine.json", "--resume"),
    ],
)
def test_a_file_that_was_not_written_is_read(run: Callable, write: Callable, args: tuple[str, ...]) -> None:
    write("mine.json", '{"port": 1}')
    run(*args)
    assert "mine.json" in read_files(run, ".")


def test_only_journals_and_copies_beside_an_output_are_left_out(run: Callable, write: Callable) -> None:
    run("ask", "what is the port?", "a.md", "--trace", "run")
    write("run.md", "text")
    write("run.bak2", "text")
    assert read_files(run, ".") == ["a.md", "q.jsonl", "run.md"]


@pytest.mark.parametrize("text", ["", "{}", '[3, "a\\u0000b", "/gone/run.json"]'])
def test_a_damaged_list_is_none(run: Callable, text: str) -> None:
    home = home_files.home_folder()
    home.mkdir(parents=True)
    (home / own_outputs.OUTPUTS).write_text(text)
    assert read_files(run, ".") == ["a.md", "q.jsonl"]


MINE = "My only copy. The captain is Ahab.\n"


@pytest.mark.parametrize(
    "command",
    [
        ("ask", "-q", "Who is the captain?", "notes.md", "--trace", "notes.md"),
        ("trace", "last", "--html", "notes.md"),
        ("trace", "last", "--chrome", "notes.md"),
        ("runs", "export", "--format", "sft", "--out", "notes.md"),
    ],
)
def test_a_file_of_the_user_is_never_replaced(run: Callable, home: Path, command: tuple[str, ...]) -> None:
    notes = home / "notes.md"
    notes.write_text(MINE)
    assert run("ask", "Who is the captain?", "notes.md").code == 0
    result = run(*command)
    assert result.code == 2
    assert "notes.md exists and was not written by rlm-dspy" in result.err
    assert notes.read_text() == MINE


def test_a_file_of_the_command_is_replaced_by_the_next(run: Callable, home: Path) -> None:
    (home / "notes.md").write_text(MINE)
    (home / "empty.json").touch()
    for name in ("run.json", "run.json", "empty.json"):
        assert run("ask", "Who is the captain?", "notes.md", "--trace", name).code == 0
        assert (home / name).read_text().startswith("{")


def test_a_batch_reads_all_but_its_own_answers(run: Callable, home: Path) -> None:
    (home / "q.jsonl").write_text('{"question": "Who is the captain?"}\n')
    for name in ("report.txt", "report-docs", "reports"):
        place = home / name if "." in name else home / name / "a.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text(MINE)
    for paths in (["report.txt"], ["report-docs"], ["reports", "report.txt"], ["."]):
        result = run("batch", "q.jsonl", *paths, "--out", "report")
        assert result.code == 0, result.err
        row = json.loads((home / "report").read_text())
        assert "Ahab" in row["answer"]
        assert set(row["unread"]) <= {"q.jsonl: excluded"}
        (home / "report").unlink()
