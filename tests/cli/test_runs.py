"""``runs`` and ``trace``: the saved runs, and how they are shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy.cli import model_choice, trace
from rlm_dspy.cli import runs as runs_command
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.report import render, run_store, tree
from rlm_dspy.report.run_log import RunLog
from rlm_dspy.report.run_store import RunStore
from rlm_dspy.report.viewer.page import html_page
from rlm_dspy.run import Run, Span, Step, SubCall, Usage
from rlm_dspy.testing import action, scripted
from warm import warm_python

USED = Usage(calls=1, prompt_tokens=90, completion_tokens=10, cost=0.01)
CHILD = Run(
    id="c" * 12,
    status="extracted",
    stopped_by="max_iters",
    model="small",
    depth=1,
    inputs={"instruction": "count"},
    outputs={"output": "3"},
    steps=(Step(index=1, code="print(3)", output="3", usage=USED),),
    usage=USED,
)
RUN = Run(
    id="a" * 12,
    status="submitted",
    model="large",
    inputs={"context": "Corpus(2 files, 9 characters)", "question": "How many?"},
    outputs={"answer": "three", "evidence": []},
    steps=(
        Step(
            index=1,
            reasoning="Split it.",
            code="\n".join(f"line_{number}" for number in range(40)),
            output="x" * 500,
            usage=USED,
            sub_calls=(
                SubCall(kind="plain", prompt="count these", output="three", model="small", usage=USED),
                SubCall(kind="plain", prompt="and these", error="LMRateLimitError: later", model="small"),
                SubCall(kind="recursive", prompt="count", model="small", usage=USED, run=CHILD),
            ),
        ),
        Step(index=2, code="1 / 0", output="ZeroDivisionError", error="ZeroDivisionError", timed_out=True),
    ),
    usage=USED + USED,
    usage_by_model={"large": USED, "small": USED},
    sub_calls=3,
    evidence=({"quote": "one two three", "source": "a.md", "line": 2, "match": "exact"},),
    warnings=("mind the gap",),
)


@pytest.fixture
def home_runs(home: Path) -> Path:
    return Path(os.environ["XDG_CACHE_HOME"]) / "rlm-dspy" / "runs"


def test_the_tree_nests_sub_calls_under_their_step_and_children_under_theirs() -> None:
    shown = list(tree.tree_lines(RUN))
    assert shown[0].startswith(f"run {'a' * 12} · submitted · large · 2 steps · 3 sub-calls · 200 tokens, $0.0200")
    words = ("plain sub", "recursive", "step 2")
    at = {word: next(n for n, line in enumerate(shown) if word in line) for word in words}
    assert at["plain sub"] < at["recursive"] < at["step 2"]
    assert any(line.startswith("│  │  run cccccccccccc · extracted by max_iters") for line in shown)
    assert any(line.startswith("│  │  ├─ step 1") for line in shown)
    text = "\n".join(shown)
    for part in (
        "asked: count these", "answered: three", "failed: LMRateLimitError", "timed out · failed", "answer: three",
        'evidence: a.md:2  "one two three"', "warning: mind the gap", "used by small: 1 call, 100 tokens, $0.0100",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("started", [float("inf"), float("nan"), 1e300, -1e20])
def test_a_span_without_a_usable_time_is_shown(started: float) -> None:
    spans = (Span(id=1, kind="run", started=0.0), Span(id=2, kind="lm", name="large", started=started, parent=1))
    lines = list(tree.tree_lines(RUN.model_copy(update={"stopped_by": "killed", "spans": spans})))
    assert "├─ call of large · not ended" in lines


def test_long_blocks_are_cut_unless_all_is_wanted() -> None:
    cut = "\n".join(tree.tree_lines(RUN))
    assert "line_20" not in cut
    assert "28 lines; --full shows them" in cut
    assert "x" * 500 not in cut
    whole = "\n".join(tree.tree_lines(RUN, whole=True))
    assert "line_20" in whole
    assert "x" * 500 in whole


def test_the_page_has_the_whole_tree_without_scripts_too() -> None:
    hostile = RUN.model_copy(update={"outputs": {"answer": "<script>alert(1)</script>\x1b[31m"}})
    shown = html_page([hostile], Redactor({})).partition("<noscript>")[2].partition("</noscript>")[0]
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "\x1b" not in shown
    assert shown.count("<details") == shown.count("</details>") == 6
    for part in ("line_20", "x" * 500, "count these", "LMRateLimitError: later", "evidence, a.md:2", "mind the gap"):
        assert part in shown, part


def test_each_ask_is_listed_and_can_be_shown(
    run: Callable, write: Callable, home_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("notes.md", "One and one is two.\n")
    lm, _ = scripted(action("print(llm_query('sum'))"), "2", action("SUBMIT(answer='two', evidence=[])"))
    monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))
    assert "There are no runs" in run("runs").err
    asked = json.loads(run("ask", "What is one and one?", ".", "--mode", "rlm", "--json").out)
    listed = run("runs").out.splitlines()
    assert listed[0].split() == ["id", "when", "ended", "steps", "tokens", "cost", "model", "question"]
    assert listed[1].startswith(asked["run_id"])
    assert '"What is one and one?"' in listed[1]
    rows = json.loads(run("runs", "--json").out)["runs"]
    assert [(row["id"], row["sub_calls"]) for row in rows] == [(asked["run_id"], 1)]
    for name in ((), (asked["run_id"],), (asked["run_id"][:5],), (rows[0]["path"],)):
        shown = run("trace", *name)
        assert shown.code == 0
        assert "plain sub-call" in shown.out
    assert Run.model_validate_json(run("trace", "--json").out).id == asked["run_id"]
    assert run("trace", "--html", "-").out.startswith("<!doctype html>")
    assert run("trace", "--html", "-", "--json").code == 2
    assert run("trace", "--full").out.count("SUBMIT(answer='two'") == 1


@pytest.fixture
def stored(home_runs: Path) -> Path:
    """Two runs in the folder of runs; returns the file of the newer one."""
    RunStore(home_runs).put(RUN.model_copy(update={"id": "b" * 12}), Redactor({}))
    spans = (Span(id=1, kind="run", started=1.0, seconds=2.0, run=RUN.id),)
    path = RunStore(home_runs).put(RUN.model_copy(update={"spans": spans}), Redactor({}))
    os.utime(home_runs / f"{'b' * 12}.json", (1, 1))
    return path


def test_a_page_and_a_trace_are_written_whole_for_the_user_alone(run: Callable, stored: Path) -> None:
    result = run("trace", "--html", "page.html")
    assert (result.code, result.out, result.err) == (0, "", "Written to page.html.\n")
    assert Path("page.html").stat().st_mode & 0o777 == 0o600
    assert Path("page.html").read_text() == run("trace", RUN.id, "--html", "-").out
    assert run("trace", "--chrome", "trace.json").code == 0
    assert json.loads(Path("trace.json").read_text()) == json.loads(run("trace", "--chrome", "-").out)
    assert sorted(os.listdir()) == ["page.html", "trace.json"]


def test_two_runs_are_on_one_page(run: Callable, stored: Path) -> None:
    page = run("trace", "last", "b", "--html", "-").out
    assert f"<title>run {RUN.id} and run {'b' * 12}</title>" in page
    refused = run("trace", "last", "b")
    assert refused.code == 2
    assert "side by side only on a page; add --html FILE or --open" in refused.err


def test_a_secret_of_the_environment_is_in_no_page(
    run: Callable, home_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunStore(home_runs).put(RUN.model_copy(update={"outputs": {"answer": "sk-0123456789"}}), Redactor({}))
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    assert "sk-0123" not in run("trace", "--html", "-").out


def test_the_record_of_a_run_is_never_replaced_by_a_page(run: Callable, stored: Path) -> None:
    before = stored.read_bytes()
    (mine := Path("mine.json")).write_bytes(before)
    Path("link.html").symlink_to(mine)
    other = stored.with_name(f"{'b' * 12}.json")
    for name, target in (
        ("last", stored),
        ("last", other),
        ("mine.json", mine),
        ("mine.json", "link.html"),
        ("last", mine),
    ):
        for flag in ("--html", "--chrome"):
            result = run("trace", name, flag, str(target))
            assert (result.code, result.err.count("\n")) == (1, 1)
            assert "is the record of a run, which would be lost" in result.err
    assert stored.read_bytes() == mine.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--html", "no/such/x.html"), 2, "--html no/such/x.html cannot be written"),
        (("--chrome", "."), 2, "--chrome . cannot be written"),
        (("--html", "x.html", "--open"), 2, "--html and --open are mutually exclusive"),
        (("b", "--chrome", "x.json"), 1, "has no times of its parts"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    run: Callable, stored: Path, flags: tuple[str, ...], code: int, told: str
) -> None:
    result = run("trace", *flags)
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert told in result.err
    assert os.listdir() == []


def test_a_record_too_deep_to_read_is_one_line(run: Callable, write: Callable) -> None:
    record = '{"id": "x", "status": "submitted"}'
    for _ in range(2_000):
        call = f'{{"kind": "recursive", "prompt": "p", "run": {record}}}'
        record = f'{{"id": "x", "status": "submitted", "steps": [{{"index": 1, "sub_calls": [{call}]}}]}}'
    write("deep.json", record)
    result = run("trace", "deep.json", "--html", "-")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "deep.json is not a run of this version" in result.err


@pytest.mark.parametrize("works", [True, False])
def test_a_page_is_opened_or_its_place_is_said(
    run: Callable, stored: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(trace.webbrowser, "open", lambda url: asked.append(url) or works)
    monkeypatch.setattr(trace, "MAX_PAGES", 1)
    assert run("trace", "b", "--open").code == 0
    result = run("trace", "--open")
    path = Path(result.out.strip())
    assert result.code == 0
    assert asked[-1] == path.as_uri()
    assert path.read_text().startswith("<!doctype html>")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert os.listdir(path.parent) == [path.name]  # the oldest make room
    assert ("No browser could be opened here" in result.err) is not works


@pytest.mark.parametrize("form", [("--open",), ("--html", "page.html"), ("--chrome", "trace.json")])
def test_what_is_made_of_an_unfinished_run_says_so(
    run: Callable, home_runs: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    monkeypatch.setattr(trace.webbrowser, "open", lambda url: True)
    log = RunLog(home_runs, Redactor())
    started = Span(id=1, kind="run", started=1.0, run="d" * 12)
    log.started(started, RUN.model_copy(update={"id": "d" * 12, "stopped_by": "unfinished", "steps": ()}))
    said = f"The run {'d' * 12} is unfinished: it is running. This shows what its record holds so far.\n"
    assert said in run("trace", *form).err
    log._files[1].close()  # as when its process is killed
    assert said.replace("is running", "was killed") in run("trace", *form).err


def test_a_shelf_that_cannot_be_written_costs_nobody_the_answer(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("notes.md", "The gate opens at 6 hours.\n")
    monkeypatch.setenv("RLM_DSPY_HOME", str(write("a-file", "x").absolute()))
    result = run("ask", "When does the gate open?", "notes.md")
    assert result.code == 0
    assert "6" in result.out
    assert "could not be saved" in run("ask", "When does the gate open?", "notes.md", "-v").err


@pytest.mark.parametrize("name", ["nothing", "missing.json", "x" * 300, "x" * 300 + ".json"])
def test_a_run_that_is_not_there_is_one_line(run: Callable, name: str) -> None:
    result = run("trace", name)
    assert (result.code, result.out) == (1, "")
    assert name in result.err
    assert result.err.count("\n") == 1


def test_what_is_no_run_is_told_and_passed_by(run: Callable, home_runs: Path) -> None:
    home_runs.mkdir(parents=True)
    (home_runs / "0123456789ab.json").write_text("{}")
    result = run("trace", "0123456789ab")
    assert result.code == 1
    assert "is not a run of this" in result.err
    assert "There are no runs" in run("runs").err


def test_a_damaged_mark_is_told_and_its_run_listed(run: Callable, home_runs: Path) -> None:
    (home_runs / "marks").mkdir(parents=True)
    (home_runs / "0123456789ab.json").write_text(Run(id="0123456789ab", status="submitted").model_dump_json())
    (home_runs / "marks" / "0123456789ab.json").write_text("{")
    result = run("runs", "--json")
    assert result.code == 0
    assert [row["mark"] for row in json.loads(result.out)["runs"]] == [None]
    assert "mark the run again" in result.err


def test_a_pipe_is_no_run(run: Callable, home: Path) -> None:
    os.mkfifo(home / "pipe.json")
    result = run("trace", str(home / "pipe.json"))
    assert (result.code, result.out) == (1, "")
    assert "pipe.json is not a file" in result.err


def test_a_run_that_went_away_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "0123456789ab.json").symlink_to(tmp_path / "gone")
    kept = RunStore(tmp_path)
    kept.put(RUN, Redactor({}))
    assert [item.run for item in kept.runs()] == [RUN]


def test_the_oldest_make_room_and_other_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_store, "MAX_RUNS", 3)
    kept = RunStore(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    facts: dict[str, Any] = {"status": "submitted"}
    for number in range(5):
        path = kept.put(Run(id=f"{number:012x}", **facts), Redactor({}))
        os.utime(path, (number, number))
    assert [item.run.id[-1] for item in kept.runs()] == ["4", "3", "2"]
    assert (tmp_path / "mine.json").exists()
    with pytest.raises(RLMError, match="3 runs begin with '0000'"):
        kept.find("0000")


def test_a_damaged_run_is_named(run: Callable, write: Callable) -> None:
    write("a.txt", "the timeout is 30 s\n")
    assert run("ask", "what is the timeout?", "a.txt").code == 0
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "rlm-dspy" / "runs"
    (folder / "0123456789ab.json").write_text('{"x')
    result = run("runs")
    assert result.code == 0
    assert "timeout" in result.out
    assert "0123456789ab.json is not a readable run" in result.err


def test_a_home_that_cannot_be_written_is_said_once(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.txt", "the timeout is 30 s\n")
    write("file", "")
    monkeypatch.setenv("RLM_DSPY_HOME", "file/home")
    result = run("ask", "what is the timeout?", "a.txt")
    assert (result.code, result.err.count("the run could not be saved")) == (0, 1)
    assert "30 s" in result.out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_a_full_disk_is_no_defect_and_the_answer_is_kept(home: Path, write: Callable, flags: list[str]) -> None:
    write("a.txt", "the timeout is 30 s\n")
    command = [sys.executable, "-m", "rlm_dspy", "ask", "what is the timeout?", "a.txt", *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "cannot be written: No space left on device" in done.stderr
    assert "defect" not in done.stderr
    show = [*warm_python(), "-m", "rlm_dspy", "trace", "last", "--json"]
    kept = subprocess.run(show, capture_output=True, timeout=120, check=True)
    assert b"30 s" in kept.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_notes_that_cannot_be_written_cost_no_answer(home: Path, write: Callable) -> None:
    write("a.txt", "the timeout is 30 s\n")
    command = [sys.executable, "-m", "rlm_dspy", "ask", "what is the timeout?", "a.txt"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert "30 s" in done.stdout


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_answers_of_a_batch_that_the_disk_has_no_room_for_are_printed(
    home: Path, write: Callable, flags: list[str]
) -> None:
    write("a.txt", "the timeout is 30 s\n")
    write("q.jsonl", "".join(f'"what is the timeout? {number}"\n' for number in range(20)))
    batch = [sys.executable, "-m", "rlm_dspy", "batch", "q.jsonl", "a.txt", "--out", "out.jsonl", *flags]
    small = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *batch]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # Python itself writes its bytecode in part
    done = subprocess.run(small, capture_output=True, text=True, timeout=120, check=False, env=env)
    saved = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    printed = json.loads(done.stdout)["unsaved"] if flags else [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert "out.jsonl cannot be written: File too large" in done.stderr
    assert "defect" not in done.stderr
    assert saved
    assert printed
    assert all("30 s" in row["answer"] for row in [*saved, *printed])
    resumed = subprocess.run([*batch, "--resume"], capture_output=True, text=True, timeout=120, check=True)
    assert f"{len(saved)}" in resumed.stdout + resumed.stderr
    assert len(Path("out.jsonl").read_text().splitlines()) == 20


def test_runs_can_be_searched(run: Callable, home: Path) -> None:
    for name, text in (("a.txt", "the port is 8080\n"), ("b.txt", "the limit is 7\n")):
        (home / name).write_text(text)
        run("ask", f"what does {name} say?", name, "-q")
    (row,) = json.loads(run("runs", "-s", "A.TXT", "--json").out)["runs"]
    assert row["question"] == "what does a.txt say?"
    assert json.loads(run("runs", "-s", "says nothing of it", "--json").out)["runs"] == []
    assert "No run has 'zebra'." in run("runs", "--search", "zebra").err


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_list_of_runs_fits_a_terminal(width: int) -> None:
    head = ["id", "when", "ended", "steps", "tokens", "cost", "model", "question"]
    row = ["a" * 12, "11-27 11:20", "submitted", "12", "123,456", "$0.0012", "groq/openai/gpt-oss-20b", "why? " * 40]
    shown = render.table_lines(runs_command._fitted_rows([head, row], width))
    assert max(map(len, shown)) <= width
    assert ("model" in shown[0]) == (width > 100)


def test_a_run_that_is_not_there_says_which_are_not_kept(run: Callable) -> None:
    result = run("trace", "0123456789ab")
    assert result.code == 1
    assert "there is no run '0123456789ab'" in result.err
    assert "those of a batch are not saved" in result.err
