"""``chat``: questions about one corpus, with one sandbox and the earlier answers, over pipes and in a terminal."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy import lms
from rlm_dspy.cli import model_choice
from rlm_dspy.cli.chat import newest_turns
from rlm_dspy.cli.line_editing import completions, line_editing
from rlm_dspy.testing import action, fields, scripted, texts
from schemas import check_output
from warm import warm_python


@pytest.fixture
def files(write: Callable) -> Path:
    write("notes/a.md", "The default port is 8080.\n")
    return write("more.md", "The retry limit is 7 attempts.\n").parent


def say(*lines: str) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Let a scripted model answer."""

    def script(*replies: Any) -> Any:
        lm, seen = scripted(*replies)
        monkeypatch.setattr(lms, "lm", lambda *args, **options: lm)
        return seen

    return script


def test_questions_are_answered_one_after_the_other(run: Callable, files: Path) -> None:
    talk = say("what is the default port?", "", "/add more.md", "what is the retry limit?", "/files", "/quit", "x")
    result = run("chat", "notes", stdin=talk)
    assert result.code == 0
    assert 'a.md:1  "The default port is 8080."' in result.out
    assert "1 file added: Corpus(2 files, 57 characters)" in result.out
    assert 'more.md:1  "The retry limit is 7 attempts."' in result.out
    assert "a.md  (1 line)\nmore.md  (1 line)" in result.out


def test_the_sandbox_and_the_answers_are_kept(run: Callable, files: Path, speak: Callable) -> None:
    seen = speak(
        action("found = grep('port')[0]['text']\nSUBMIT(answer='8080', evidence=[])"),
        action("print(found, history)\nprint(P is context)"),
        action("SUBMIT(answer='again', evidence=[])"),
    )
    result = run("chat", "notes", "--mode", "rlm", stdin=say("which port?", "and again?"))
    assert result.out.split("\n")[:2] == ["8080", "again"]
    shown = texts(seen.requests[-1])[-1]
    assert "The default port is 8080. [{'context': 'Corpus(1 file, 26 characters, sha256 " in shown
    assert "'question': 'which port?', 'answer': '8080', 'evidence': []}]" in shown
    assert "True" in shown
    first, second = texts(seen.requests[0]), texts(seen.requests[1])
    assert second[: len(first)] == first
    assert "| 8080" in second[2]


def test_a_question_finds_inputs_and_functions_as_if_it_were_the_first(
    run: Callable, files: Path, speak: Callable
) -> None:
    seen = speak(
        action("mine = 7\ncontext = P = 'poison'\ngrep = lambda *a, **k: ['fake']\nSUBMIT(answer='8080', evidence=[])"),
        action("print(mine, P is context, len(P), grep('port')[0]['source'])"),
        action("SUBMIT(answer='again', evidence=[])"),
    )
    run("chat", "notes", "--mode", "rlm", stdin=say("which port?", "and again?"))
    assert "7 True 1 a.md" in texts(seen.requests[-1])[-1]


def test_what_was_added_is_what_the_sandbox_sees(run: Callable, files: Path, speak: Callable) -> None:
    speak(
        action("SUBMIT(answer=str(len(P)), evidence=[])"),
        action("SUBMIT(answer=str([len(P), len(context), grep('retry')[0]['source']]), evidence=[])"),
    )
    result = run("chat", "notes", "--mode", "rlm", stdin=say("one?", "/add more.md", "two?"))
    assert "[2, 2, 'more.md']" in result.out


def test_costs_and_the_last_run_are_shown(run: Callable, files: Path) -> None:
    result = run("chat", "notes", stdin=say("/trace", "what is the default port?", "/cost", "/trace", "/help"))
    assert "no question has been asked yet" in result.err
    assert "call" in result.out
    assert "· submitted ·" in result.out
    assert "/add PATH…" in result.out


def test_each_answer_is_an_object_with_json(run: Callable, files: Path) -> None:
    result = run("chat", "notes", "--json", stdin=say("what is the default port?", "which port is the default?"))
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert len(rows) == 2
    assert rows[0]["evidence"][0]["path"] == "notes/a.md"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("/nope", "unknown command /nope"),
        ("/add nowhere", "no such file"),
        ("/add", "needs"),
        ("/add 'x", "No closing"),
    ],
)
def test_a_wrong_command_is_told_and_the_talk_goes_on(run: Callable, files: Path, line: str, why: str) -> None:
    result = run("chat", "notes", stdin=say(line, "what is the default port?"))
    assert why in result.err
    assert "8080" in result.out
    assert result.code == 0


def test_a_failed_question_ends_nothing(run: Callable, files: Path, speak: Callable) -> None:
    speak(action("raise SystemError"), action("1"), action("1"), action("SUBMIT(answer='8080', evidence=[])"))
    result = run("chat", "notes", "--mode", "rlm", "--max-iters", "1", stdin=say("first?", "second?", "third?"))
    assert result.code in (0, 1, 3)
    assert result.err


@pytest.mark.parametrize("args", [["chat"], ["chat", "-"], ["chat", "notes", "-q", "-v"]])
def test_wrong_usage_is_told_at_once(run: Callable, files: Path, args: list[str]) -> None:
    assert run(*args).code == 2


def test_chat_works_over_pipes(spawn: Callable, files: Path) -> None:
    result = spawn("chat", "notes", stdin=b"what is the default port?\n")
    assert result.code == 0
    assert "8080" in result.out


def test_a_direct_answer_sees_the_earlier_ones(run: Callable, files: Path, speak: Callable) -> None:
    seen = speak(fields(answer="8080", evidence='[{"quote": "The default port is 8080."}]'), fields(answer="again"))
    run("chat", "notes", "--mode", "direct", stdin=say("which port?", "and again?"))
    shown = texts(seen.requests[1])
    assert [text.partition(":")[0] for text in shown[1:]] == ["user", "assistant", "user"]
    assert "which port?" in shown[1]
    assert '"quote": "The default port is 8080."' in shown[2]
    assert "range" not in shown[2]


def test_only_the_newest_questions_are_passed_along() -> None:
    starts = [newest_turns([{"question": n} for n in range(many)]).messages[0]["question"] for many in range(1, 82)]
    assert sorted(set(starts)) == [0, 20, 40, 60]
    assert starts[39] == 0


def test_a_conversation_goes_on_where_it_ended(run: Callable, files: Path, speak: Callable) -> None:
    seen = speak(action("SUBMIT(answer='8080', evidence=[])"), action("SUBMIT(answer='again', evidence=[])"))
    assert run("chat", "notes", "--mode", "rlm", stdin=say("which port?")).code == 0
    result = run("chat", "-c", "--mode", "rlm", stdin=say("and again?"))
    assert "Going on with 1 earlier question; the last was: which port?" in result.err
    assert "| which port?" in texts(seen.requests[1])[1]
    assert "Corpus(1 file, 26 characters)" in result.err


def test_a_continued_conversation_keeps_the_model_that_was_named(
    run: Callable, files: Path, speak: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    speak(*[action("SUBMIT(answer='8080', evidence=[])")] * 3)
    chosen: list[str | None] = []
    choose = model_choice.choose
    monkeypatch.setattr(model_choice, "choose", lambda values: (chosen.append(values.model), choose(values))[1])
    for args in (("notes", "-m", "offline/extractive"), ("-c",), ("-c", "-m", "offline"), ("-c",)):
        assert run("chat", *args, "--mode", "rlm", stdin=say("which port?")).code == 0
    assert chosen == ["offline/extractive"] * 2 + ["offline"] * 2


def test_a_continued_conversation_keeps_what_chose_its_files_and_its_limits(
    run: Callable, files: Path, speak: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "private.md").write_text("The salary is 99999.\n")
    talk = ["chat", ".", "--exclude", "private.md", "--max-calls", "0", "--mode", "rlm"]
    speak(*[action("SUBMIT(answer='8080', evidence=[])")] * 4)
    used: list[int] = []
    choose = model_choice.choose
    monkeypatch.setattr(model_choice, "choose", lambda values: (used.append(values.max_calls), choose(values))[1])
    assert run(*talk, stdin=say("which port?")).code == 0
    again = run("chat", "-c", stdin=say("/files", "and again?"))
    assert "private.md" not in again.out
    assert "not the same" not in again.err
    assert used == [0, 0]
    assert "Options in use: --mode, --max-calls, --exclude." in again.err
    other = run("chat", "-c", "--exclude", "more.md", stdin=say("/files"))
    assert "private.md" in other.out
    assert "The files are not the same as in the earlier questions" in other.err


def test_two_chats_that_continue_one_conversation_lose_no_question(spawn: Callable, files: Path, home: Path) -> None:
    assert spawn("chat", "notes", "-m", "offline", stdin=say("what is the default port?")).code == 0
    (saved,) = home.parent.rglob("chats/*.json")
    command = [*warm_python(), "-m", "rlm_dspy", "chat", "-c", "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as chat:
        chat.stdin.write(say("what is the port?"))
        chat.stdin.flush()
        assert chat.stdout.readline()
        assert spawn("chat", "-c", stdin=say("what is the default?")).code == 0  # another chat, meanwhile
        _, notes = chat.communicate(say("what is the default port then?"))
    assert f"its questions are kept in {saved}" in " ".join(notes.decode().split())
    turns = [json.loads(path.read_text())["turns"] for path in home.parent.rglob("chats/*.json")]
    assert sorted([turn["question"] for turn in some][1:] for some in turns) == [
        ["what is the port?", "what is the default port then?"],
        ["what is the port?", "what is the default?"],
    ]


def test_a_question_without_an_answer_has_a_line_of_json(run: Callable, files: Path, speak: Callable) -> None:
    speak(ValueError("broken"), action("SUBMIT(answer='8080', evidence=[])"))
    result = run("chat", "notes", "--mode", "rlm", "--json", stdin=say("first?", "second?"))
    failed, answered = result.out.splitlines()
    assert check_output("chat-error", failed)["question"] == "first?"
    assert check_output("ask", answered)["question"] == "second?"


def test_without_an_earlier_conversation_there_is_nothing_to_go_on_with(run: Callable, home: Path) -> None:
    result = run("chat", "-c", stdin=say("why?"))
    assert result.code == 1
    assert "there is no conversation to continue yet; start one with `rlm-dspy chat PATH`" in result.err


@pytest.mark.parametrize("text", ["", "[]", '{"turns": 3}', "\xff"])
def test_a_damaged_conversation_is_refused_in_one_line(run: Callable, files: Path, text: str) -> None:
    assert run("chat", "notes", stdin=say("what is the default port?")).code == 0
    (saved,) = files.parent.rglob("chats/*.json")
    saved.write_text(text, encoding="latin-1")
    result = run("chat", "-c", stdin=say("why?"))
    assert result.code == 1
    assert "is not a conversation of this version" in result.err
    assert len(result.err.splitlines()) == 1


def test_a_conversation_is_saved_as_markdown(run: Callable, files: Path) -> None:
    (files / "other.md").write_text("mine")
    talk = say(
        "/save a.md",
        "/save",
        "what is the default port?",
        "/save talk.md",
        "/save talk.md",
        "/save other.md",
        "/save no/such/folder.md",
    )
    result = run("chat", "notes", stdin=talk)
    saved = (files / "talk.md").read_text()
    assert saved.startswith("## what is the default port?\n\n8080\n\n> ")
    assert '> notes/a.md:1  "The default port is 8080."' in saved
    assert result.out.count("1 question saved in talk.md") == 2
    assert "there is nothing to save yet" in result.err
    assert "/save needs a file" in result.err
    assert "other.md cannot be written: it exists already" in result.err
    assert (files / "other.md").read_text() == "mine"
    assert "no/such/folder.md cannot be written: No such file" in result.err


@pytest.mark.parametrize("typed", ['"with space.md"', "'with space.md'", "with space.md"])
def test_quotes_around_a_name_to_save_are_no_part_of_it(run: Callable, files: Path, typed: str) -> None:
    run("chat", "notes", stdin=say("what is the default port?", f"/save {typed}"))
    assert (files / "with space.md").is_file()


def test_the_events_of_a_conversation_are_lines_of_json(run: Callable, files: Path) -> None:
    result = run("chat", "notes", "--events", "--mode", "rlm", stdin=say("what is the default port?"))
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [line["event"] for line in lines][-2:] == ["final", "answer"]


@pytest.mark.parametrize(
    ("line", "word", "found"),
    [
        ("/", "/", ["/add ", "/files "]),
        ("/f", "/f", ["/files "]),
        ("/x", "/x", []),
        ("what /f", "/f", []),
        ("/add no", "no", ["notes/"]),
        ("/add notes/", "notes/", ["notes/a.md"]),
        ("/save mo", "mo", ["more.md"]),
        ("/add [", "[", []),
        ("", "", []),
    ],
)
def test_commands_and_paths_are_completed(files: Path, line: str, word: str, found: list[str]) -> None:
    assert completions(line, word, ("/add", "/files")) == found


def test_the_history_of_a_terminal_is_kept_for_its_user_alone(tmp_path: Path) -> None:
    readline = pytest.importorskip("readline")
    path = tmp_path / "home" / "history"
    with line_editing(path, ("/add",)):
        readline.add_history("what is the port?")
    assert path.stat().st_mode & 0o077 == 0
    with line_editing(path, ("/add",)):
        assert readline.get_history_item(1) == "what is the port?"


def test_without_a_model_each_question_of_a_conversation_is_answered_by_itself(run: Callable, files: Path) -> None:
    talk = say("what is the default port?", "/add more.md", "what is the retry limit?", "what is the default port?")
    result = run("chat", "notes", "--mode", "rlm", "-q", stdin=talk)
    answers = [line for line in result.out.splitlines() if line.startswith(("8080", "7", "The "))]
    assert ["8080" in line or "7 attempts" in line for line in answers] == [True] * 3
    assert "8080" in answers[0]
    assert "7" in answers[1]
    assert "8080" in answers[2]


@pytest.mark.parametrize("option", ["--json", "--events"])
def test_commands_print_nothing_between_lines_for_programs(run: Callable, files: Path, option: str) -> None:
    talk = say("/files", "/cost", "what is the default port?", "/add more.md", "/trace", "/help", "/save out.md")
    result = run("chat", "notes", option, stdin=talk)
    assert result.code == 0
    assert all(isinstance(json.loads(line), dict) for line in result.out.splitlines())
    assert "a.md  (1 line)" in result.err
    assert "1 file added" in result.err
