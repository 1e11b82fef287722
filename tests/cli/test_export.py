"""``runs mark`` and ``runs export``: saved runs as training data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rlm_dspy
from cli.conftest import Result
from rlm_dspy.cli import model_choice
from rlm_dspy.errors import CorpusError
from rlm_dspy.report.run_store import MAX_RUNS, RunStore
from rlm_dspy.run import Run
from rlm_dspy.testing import action, scripted

SECRET = "sk-secret-000000"
FILLER = "Nothing is to be found in this line.\n"


@pytest.fixture
def asked(
    run: Callable[..., Result], write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Ask a question of a file that a scripted model answers in two steps; return the id of its run."""
    monkeypatch.setenv("MY_API_KEY", SECRET)
    write("notes.md", FILLER * 2_000)

    def ask(question: str, answer: str, *options: str) -> str:
        first = action(f"print(len(context), {SECRET!r})", "Look at it.")
        lm, _ = scripted(first, action(f"SUBMIT(answer={answer!r}, evidence=[])", "Done."))
        monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))
        told = run("ask", question, "notes.md", "--json", *(options or ("--mode", "rlm")))
        assert told.code == 0, told.err
        return str(json.loads(told.out)["run_id"])

    return ask


def rows_of(result: Result) -> list[dict[str, Any]]:
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def test_sft_is_the_whole_conversation(run: Callable[..., Result], asked: Callable[..., str]) -> None:
    name = asked("What is it?", "one")
    result = run("runs", "export", "--format", "sft")
    (row,) = rows_of(result)
    assert row["run"] == name
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert all(set(message) == {"role", "content"} and message["content"] for message in row["messages"])
    assert row["messages"][-1]["content"] == action("SUBMIT(answer='one', evidence=[])", "Done.")
    assert "print(len(context)" in row["messages"][2]["content"]
    assert len(row["context"]["sha256"]) == 64
    assert row["context"]["chars"] == len(FILLER * 2_000)
    assert SECRET not in result.out
    assert result.out.count(FILLER.strip()) < 100  # what the model saw, not the file


def test_the_sft_file_is_in_the_form_of_trl(
    run: Callable[..., Result], asked: Callable[..., str], tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "load_dataset"):
        pytest.skip("datasets is the folder of this repository, not the package")
    asked("What is it?", "one")
    out = tmp_path / "sft.jsonl"
    run("runs", "export", "--format", "sft", "--out", str(out))
    loaded = datasets.load_dataset("json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["messages"][-1]["role"] == "assistant"


def test_rl_is_a_row_a_step_with_the_reward(
    run: Callable[..., Result], asked: Callable[..., str], write: Callable[[str, str], Path]
) -> None:
    asked("What is it?", "one")
    asked("And what is that?", "two")
    write(
        "answers.jsonl",
        '{"question": "What is it?", "answer": "One."}\n{"question": "And what is that?", "answer": 3}\n',
    )
    rows = rows_of(run("runs", "export", "--format", "rl", "--answers", "answers.jsonl"))
    assert [(row["step"], row["is_last"], row["reward"]) for row in rows] == [
        (1, False, 1.0),
        (2, True, 1.0),
        (1, False, 0.0),
        (2, True, 0.0),
    ]
    assert rows[0]["prompt"][-1]["role"] == "user"
    assert [message["role"] for message in rows[0]["completion"]] == ["assistant"]
    assert "Look at it." in rows[0]["completion"][0]["content"]


def test_a_run_without_answer_or_mark_has_no_reward(run: Callable[..., Result], asked: Callable[..., str]) -> None:
    asked("What is it?", "one")
    result = run("runs", "export", "--format", "rl")
    assert result.out == ""
    assert "1 run skipped: no expected answer and no mark to score it by." in result.err


def test_marks_score_and_filter(run: Callable[..., Result], asked: Callable[..., str]) -> None:
    right, wrong = asked("What is it?", "one"), asked("And that?", "two")
    assert run("runs", "mark", right[:6], "right", "--note", f"seen {SECRET}").out == f"{right} is marked right\n"
    run("runs", "mark", "last", "wrong")
    rewards = {row["run"]: row["reward"] for row in rows_of(run("runs", "export", "--format", "rl"))}
    assert rewards == {right: 1.0, wrong: 0.0}
    for option in (("--marked", "right"), ("--min-score", "0.5")):
        assert [row["run"] for row in rows_of(run("runs", "export", "--format", "sft", *option))] == [right]
    assert rows_of(run("runs", "export", "--format", "sft", "-m", "other/model")) == []
    assert rows_of(run("runs", "export", "--format", "sft", "--status", "extracted")) == []
    marks = {row["id"]: row["mark"] for row in json.loads(run("runs", "--json").out)["runs"]}
    assert marks == {right: "right", wrong: "wrong"}


def test_dspy_rows_load_as_a_dataset(
    run: Callable[..., Result], asked: Callable[..., str], tmp_path: Path, write: Callable[[str, str], Path]
) -> None:
    name = asked("What is it?" + " Really?" * 200, "one")
    out = tmp_path / "rows.jsonl"
    assert run("runs", "export", "--format", "dspy", "--out", str(out)).code == 0
    (example,) = rlm_dspy.data.load(out)
    assert (example.id, example.answer) == (name, "one")
    assert example.question.endswith("Really?")  # in full, not as the record shows it
    assert example.context.chars == len(FILLER * 2_000)
    write("notes.md", "something else\n")
    with pytest.raises(CorpusError, match="the files have changed since the answer was given"):
        rlm_dspy.data.load(out)


def test_from_runs_takes_what_a_person_marked_right(
    run: Callable[..., Result], asked: Callable[..., str], home: Path
) -> None:
    with pytest.raises(CorpusError, match=r"no run in .* is marked right"):
        rlm_dspy.data.from_runs()
    right = asked("What is it?", "one")
    asked("And that?", "two")
    run("runs", "mark", right, "right")
    (example,) = rlm_dspy.data.from_runs()
    assert (example.id, example.answer, sorted(example.inputs())) == (right, "one", ["context", "question"])


def test_what_cannot_be_exported_is_counted_with_its_reason(
    run: Callable[..., Result], asked: Callable[..., str], home: Path
) -> None:
    name = asked("What is it?", "one")
    (path,) = home.parent.rglob(f"runs/{name}.json")
    saved = json.loads(path.read_text())
    for number, change in enumerate(({"content": "short"}, {"content": "none"}, {"steps": [], "spans": []})):
        other = {**saved, **change, "id": f"{number:012x}"}
        (path.parent / f"{number:012x}.json").write_text(json.dumps(other))
    result = run("runs", "export", "--format", "sft")
    assert len(rows_of(result)) == 1
    assert "1 run skipped: its record keeps no whole texts (content='short')." in result.err
    assert "1 run skipped: its record keeps no whole texts (content='none')." in result.err
    assert "1 run skipped: it was answered in one call, whose prompt holds the files." in result.err


def test_a_marked_run_outlives_the_newer_ones(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    redactor = rlm_dspy.cli.terminal.Terminal().redactor
    for number in range(MAX_RUNS + 3):
        store.put(Run(id=f"{number:012x}", status="submitted"), redactor)
        if number == 0:
            store.put_mark(f"{number:012x}", "right", "", redactor)
    kept = {stored.run.id for stored in store.runs()}
    assert f"{0:012x}" in kept
    assert f"{1:012x}" not in kept


def test_an_answer_that_a_person_marked_wrong_is_no_example(
    run: Callable[..., Result], asked: Callable[..., str], tmp_path: Path
) -> None:
    right, wrong = asked("What is it?", "one"), asked("And that?", "two")
    run("runs", "mark", wrong, "wrong")
    for form in ("dspy", "sft"):
        result = run("runs", "export", "--format", form)
        assert [row["run"] for row in rows_of(result)] == [right]
        assert "1 run skipped: a person marked it wrong, and --marked wrong was not given." in result.err
    assert [row["run"] for row in rows_of(run("runs", "export", "--format", "sft", "--marked", "wrong"))] == [wrong]


def test_one_question_about_several_contexts_has_the_answer_of_each(
    run: Callable[..., Result], asked: Callable[..., str], tmp_path: Path
) -> None:
    asked("How many?", "81")
    (row,) = rows_of(run("runs", "export", "--format", "dspy"))
    answers = tmp_path / "answers.jsonl"
    other = {"question": "How many?", "answer": "67", "context": {"files": ["other.md"], "sha256": "0" * 64}}
    own = {"question": "How many?", "answer": "81", "context": row["context"]}
    answers.write_text("\n".join(map(json.dumps, (own, other))))
    result = run("runs", "export", "--format", "rl", "--answers", str(answers))
    assert {row["score"] for row in rows_of(result)} == {1.0}
    answers.write_text("\n".join(json.dumps({**one, "context": "a text"}) for one in (own, other)))
    result = run("runs", "export", "--format", "rl", "--answers", str(answers))
    assert "1 run skipped: its question has several answers, which differ by files" in result.err


def test_a_run_over_addresses_or_with_options_that_a_dataset_lacks(
    run: Callable[..., Result], asked: Callable[..., str]
) -> None:
    asked("How many?", "81", "--mode", "rlm", "--encoding", "cp1252")
    result = run("runs", "export", "--format", "dspy")
    assert "1 run skipped: it read its files with --encoding, which a dataset does not have." in result.err
