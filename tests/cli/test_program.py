"""Sharing programs: ``program show|check|pack``, and ``ask --program`` with a folder, a file or the Hub."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Result
from rlm_dspy import RLM
from rlm_dspy.cli import model_choice
from rlm_dspy.cli.out_option import ask_signature
from rlm_dspy.testing import action, scripted
from rlm_dspy.tuning import contenders, program, program_folder
from schemas import check_output
from servers.hub import COMMIT, HubServer

TUNED = "Always look at the last line first."
ADDRESS = f"hf://user/repo@{COMMIT}"
REPORT: dict[str, Any] = {
    "optimizer": "gepa",
    "model": "openai/x",
    "prompt_model": "openai/y",
    "metric": "exact",
    "questions": {"train": 4, "val": 3, "test": 12},
    "before": {"score": 0.25, "interval": [0.1, 0.4], "status": {"failed": 0}, "questions": 12},
    "after": {"score": 0.75, "interval": [0.5, 0.9], "status": {"failed": 0}, "questions": 12},
    "gain": {"mean": 0.5, "interval": [0.2, 0.7], "questions": 12},
    "cost": 0.5,
    "calls": 321,
    "versions": "rlm-dspy 0.1.0, dspy 3.4.1",
    "ended": "finished",
}


def save_program(folder: Path, signature: Any = None) -> Path:
    rlm = RLM(signature or ask_signature("answer: str"))
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions(TUNED)
    path = program.save(rlm, folder / "program.json")
    card = program_folder.card_text(
        REPORT, task="Answer it.", signature="context, question -> answer", data_digest="ab"
    )
    (folder / "card.md").write_text(card)
    return path


@pytest.fixture
def folder(home: Path) -> Path:
    save_program(home / "mine")
    return home / "mine"


@pytest.fixture
def ask(run: Callable[..., Result], write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    write("notes.md", "One and one is two.\n")

    def start(place: str, *more: str) -> tuple[Result, Any]:
        lm, script = scripted(action("SUBMIT(answer='two', evidence=[])"))
        monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))
        return run("ask", "what?", "notes.md", "--program", place, *more), script

    return start


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer({"program.json": (folder / "program.json").read_bytes()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_folder_and_its_file_are_the_same_program(ask: Any, folder: Path) -> None:
    result, script = ask("mine")
    assert (result.code, result.out) == (0, "two\n"), result.err
    assert TUNED in str(script.requests[0].system)
    assert "is used for the first time. It tells the model:" in result.err
    assert TUNED in result.err
    result, script = ask("mine/program.json")
    assert TUNED in str(script.requests[0].system)
    assert TUNED not in result.err  # it has been shown


def test_what_is_shown_is_what_our_model_reads(ask: Any, home: Path) -> None:
    untuned = program.save(RLM(ask_signature("answer: str")), home / "plain.json")
    assert "Python REPL" in untuned.read_text(), "the file is for dspy.RLM too"
    result, script = ask("plain.json")
    shown = result.err.partition("It tells the model:\n")[2]
    first = shown.partition("\n")[2].partition("\n--- ")[0]
    assert first
    assert first in str(script.requests[0].system)


@pytest.mark.parametrize(
    ("signature", "advice"),
    [
        (ask_signature("total: int, items: list[str]"), "Ask for its outputs: --out 'total, items', with their types."),
        ("article -> summary", "Use it in Python: rlm = rlm_dspy.RLM('article -> summary'); rlm.load("),
    ],
)
def test_a_program_of_another_signature_is_one_line_with_both(
    ask: Any, home: Path, signature: Any, advice: str
) -> None:
    save_program(home / "other", signature)
    result, script = ask("other", "-q")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "but ask has 'context, question -> answer, evidence' here." in result.err
    assert advice in result.err
    assert script.requests == []


def test_quiet_does_not_count_as_shown(ask: Any, folder: Path) -> None:
    result, _ = ask("mine", "-q")
    assert TUNED not in result.err
    result, _ = ask("mine")
    assert TUNED in result.err


def test_a_program_of_the_hub_is_downloaded_once_and_without_a_token(ask: Any, hub: HubServer) -> None:
    result, script = ask(ADDRESS)
    assert (result.code, result.out) == (0, "two\n"), result.err
    assert TUNED in str(script.requests[0].system)
    assert TUNED in result.err
    assert [method for method, _, _ in hub.seen].count("GET") == 1
    assert {path for _, path, _ in hub.seen} == {f"/user/repo/resolve/{COMMIT}/program.json"}
    assert {token for _, _, token in hub.seen} == {None}
    before = len(hub.seen)
    result, _ = ask(ADDRESS)
    assert (result.code, len(hub.seen)) == (0, before)
    assert TUNED not in result.err


def test_the_users_token_is_sent_if_it_is_set(ask: Any, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_000000000000")
    assert ask(ADDRESS)[0].code == 0
    assert {token for _, _, token in hub.seen} == {"Bearer hf_000000000000"}


@pytest.mark.parametrize("place", ["hf://user/repo", "hf://user/repo@main", "hf://repo@" + COMMIT, ADDRESS[:-1]])
def test_only_a_pinned_commit_is_taken(ask: Any, hub: HubServer, place: str) -> None:
    result, script = ask(place)
    assert result.code == 2
    assert "hf://user/repo@COMMIT with the 40 digits" in result.err
    assert (script.requests, hub.seen) == ([], [])


def test_what_the_hub_does_not_have_is_told_in_one_line(ask: Any, hub: HubServer) -> None:
    hub.files.clear()
    result, script = ask(ADDRESS)
    assert result.code == 1
    assert "cannot be downloaded" in result.err
    assert result.err.count("\n") == 1
    assert script.requests == []


def test_a_large_program_is_not_downloaded(ask: Any, hub: HubServer) -> None:
    hub.files["program.json"] = b" " * 1_000_001
    result, _ = ask(ADDRESS)
    assert result.code == 2
    assert "has 1,000,001 bytes" in result.err
    assert [method for method, _, _ in hub.seen] == ["HEAD"]


def test_a_program_of_the_hub_that_holds_more_than_prompts_is_refused(ask: Any, hub: HubServer) -> None:
    state = json.loads(hub.files["program.json"])
    state["extract"]["lm"] = {"class": "os:system"}
    hub.files["program.json"] = json.dumps(state).encode()
    result, script = ask(ADDRESS)
    assert result.code == 2
    assert "extract.lm names a model" in result.err
    assert script.requests == []


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state["extract"].update(tool="x"), "extract.tool is not a part of a program"),
        (lambda state: state["extract"].update(lm={"model": "x"}), "extract.lm names a model"),
        (lambda state: state["extract"]["signature"].update(code="x"), "extract.signature.code is not a part"),
        (lambda state: state["metadata"].update(hook="x"), "metadata.hook is not a part of a program"),
        (lambda state: state.update(engine="x"), "engine is not an object"),
        (lambda state: state.pop("extract"), "lacks the predictor extract"),
    ],
)
def test_check_refuses_what_is_not_a_prompt(run: Callable[..., Result], folder: Path, change: Any, told: str) -> None:
    assert run("program", "check", "mine").out == "mine/program.json is fine\n"
    changed(folder / "program.json", change)
    result = run("program", "check", "mine")
    assert result.code == 2
    assert told in result.err
    assert result.out == ""


def test_check_refuses_pickles_and_large_files(run: Callable[..., Result], home: Path) -> None:
    (home / "p.pkl").write_bytes(pickle.dumps({"a": 1}))
    (home / "p.json").write_bytes(pickle.dumps({"a": 1}))
    (home / "large.json").write_text(json.dumps({"x": "y" * 1_000_000}))
    for name in ("p.pkl", "p.json"):
        assert "is a pickle, which runs code" in run("program", "check", name).err
    assert "has more than 1,000,000 bytes" in run("program", "check", "large.json").err


def test_check_refuses_another_signature(run: Callable[..., Result], folder: Path) -> None:
    assert run("program", "check", "mine", "--fields", "answer: str").code == 0
    result = run("program", "check", "mine", "--fields", "total: int")
    assert result.code == 2
    assert "was saved for another signature" in result.err


def test_check_refuses_answers_of_test_questions(run: Callable[..., Result], folder: Path, home: Path) -> None:
    rows = [{"question": "Which code opens the gate?", "answer": "xylophone-77", "context": "no"}]
    (home / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("program", "check", "mine", "--test", "test.jsonl").code == 0
    changed(
        folder / "program.json",
        lambda state: state["extract"]["signature"].update(instructions="The gate opens with xylophone-77."),
    )
    result = run("program", "check", "mine", "--test", "test.jsonl")
    assert result.code == 2
    assert "contains answers of the test set" in result.err


def test_show_prints_the_card_and_the_prompts(run: Callable[..., Result], folder: Path) -> None:
    shown = run("program", "show", "mine").out
    for told in ("| score before | 0.250", "| n | 12 test questions", "| licence | none given |", TUNED):
        assert told in shown
    facts = check_output("program", run("program", "show", "mine", "--json").out)
    assert facts["signature"] == "context, question -> answer, evidence"
    assert facts["instructions"]["generate_action"].startswith(TUNED)
    assert facts["typed"] is True


def test_pack_prints_the_upload_and_sends_nothing(run: Callable[..., Result], folder: Path) -> None:
    result = run("program", "pack", "mine", "--repo", "me/mine", "--licence", "mit")
    assert result.out == "hf upload me/mine mine . --include program.json --include card.md\n"
    assert "| licence | mit |" in (folder / "card.md").read_text()
    assert "no licence" not in result.err
    (folder / "card.md").unlink()
    assert "mine has no card.md" in run("program", "pack", "mine").err


def test_a_program_of_eval_is_one_of_ask(run: Callable[..., Result], home: Path) -> None:
    save_program(home / "other", contenders.signature())
    assert run("program", "check", "other").code == 0


def test_show_prints_the_demos_that_are_sent(run: Callable[..., Result], folder: Path) -> None:
    demo = {"observation": "seen", "reasoning": "", "code": "print('HIDDEN-DEMO')"}
    changed(folder / "program.json", lambda state: state["generate_action"].update(demos=[demo]))
    assert "code: print('HIDDEN-DEMO')" in run("program", "show", "mine").out
