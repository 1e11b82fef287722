"""Arguments in another order or form than the help says: what is meant, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

QUESTION = "what is the port"


@pytest.fixture(autouse=True)
def folder(write: Callable) -> None:
    write("docs/ports.md", "The default port is 8080.\n")


def asked_question(run: Callable) -> str:
    return json.loads(run("runs", "--json").out)["runs"][0]["question"]


@pytest.mark.parametrize(
    ("args", "note"),
    [
        (["ask", QUESTION, "docs"], False),
        ([QUESTION, "docs"], False),
        ([QUESTION, "docs", "--mode", "direct"], False),
        (["ask", "docs", QUESTION], True),
        (["docs", QUESTION], True),
        (["ask", "what", "is", "the", "port", "docs"], True),
        (["ask", "docs", "what", "is", "the", "port"], True),
        (["what", "is", "the", "port", "docs"], True),
    ],
)
def test_the_question_is_understood_and_a_guess_is_said(run: Callable, args: list[str], note: bool) -> None:
    result = run(*args)
    assert (result.code, "8080" in result.out) == (0, True)
    assert (f"understood as: rlm-dspy ask '{QUESTION}' docs" in result.err) == note
    assert asked_question(run) == QUESTION


def test_one_word_before_a_path_is_asked_and_said(run: Callable) -> None:
    result = run("port", "docs")
    assert result.code == 0
    assert "understood as: rlm-dspy ask port docs" in result.err


@pytest.mark.parametrize("args", [["docs"], ["docs", "docs/ports.md"], ["docs", "--json"]], ids=" ".join)
def test_a_path_without_a_question_says_what_was_meant(run: Callable, args: list[str]) -> None:
    result = run(*args)
    assert result.code == 2
    paths = " ".join(word for word in args if not word.startswith("-"))
    assert f'Did you mean `rlm-dspy ask "…" {paths}`?' in result.err


@pytest.mark.parametrize(
    "args", [["-m", "offline", QUESTION, "docs"], ["--json", QUESTION, "docs"], ["--mode=direct", QUESTION, "docs"]]
)
def test_options_may_come_before_the_question(run: Callable, args: list[str]) -> None:
    result = run(*args)
    assert (result.code, "8080" in result.out) == (0, True), result.err
    assert asked_question(run) == QUESTION


@pytest.mark.parametrize(
    "args", [["ask", QUESTION, "docs", "--offline"], ["--offline", QUESTION, "docs"], ["chat", "docs", "--offline"]]
)
def test_the_offline_engine_is_no_option_but_a_model(run: Callable, args: list[str]) -> None:
    result = run(*args)
    assert (result.code, result.out) == (2, "")
    assert "No such option '--offline'. The offline engine is a model: -m offline. Try" in result.err
    assert "-m offline" not in run("ls", "docs", "--offline").err  # which asks no model


def test_options_before_a_command_say_where_they_belong(run: Callable) -> None:
    result = run("-m", "offline", "chat", "docs")
    assert result.code == 2
    assert "Options come after the command: rlm-dspy chat -m" in result.err
    assert run("--no-such-option", QUESTION, "docs").code == 2


def test_a_question_mark_is_enough(run: Callable) -> None:
    assert "understood" not in run("port?", "docs").err


@pytest.mark.parametrize(
    "args", [["aks", "what is it?", "docs"], ["ak"], ["aks", "docs"], ["aks", "what", "is", "docs"]], ids=" ".join
)
def test_a_mistyped_command_is_not_asked(run: Callable, args: list[str]) -> None:
    result = run(*args)
    assert result.code == 2
    assert "Did you mean 'ask'?" in result.err
    assert json.loads(run("runs", "--json").out)["runs"] == []


def test_a_word_that_is_nothing_says_how_to_ask(run: Callable) -> None:
    result = run("xyzzy")
    assert result.code == 2
    assert "No such command 'xyzzy'. Did you mean to ask? Write rlm-dspy ask 'xyzzy?' PATH." in result.err


@pytest.mark.parametrize("args", [["port", "gone", "docs"], ["what", "is", "gone.md", "docs"], ["port", "is", "gone"]])
def test_a_missing_path_is_no_word_of_the_question(run: Callable, args: list[str]) -> None:
    assert "understood" not in run("ask", *args).err


def test_a_file_with_blanks_in_its_name_is_a_path(run: Callable, write: Callable) -> None:
    write("my notes.md", "The port is 9090.\n")
    result = run("ask", "port", "my notes.md")
    assert "understood" not in result.err
    assert "9090" in result.out


def test_a_path_in_place_of_the_question_says_what_is_missing(run: Callable) -> None:
    result = run("ask", "docs/ports.md")
    assert result.code == 2
    assert "'docs/ports.md' is something to read: the question is missing." in result.err


def test_an_offline_answer_to_a_count_says_each_time_that_it_is_none(run: Callable) -> None:
    for _ in range(2):
        assert "The offline engine does not count" in run("how many ports are in the docs?", "docs").err
    assert "does not count" not in run(QUESTION, "docs").err


def test_quiet_is_told_all_the_same_that_an_answer_is_none(run: Callable) -> None:
    passages = run("how many ports are in the docs?", "docs", "-q")
    assert passages.code == 0
    assert passages.err.startswith("The offline engine does not count, add or compare")
    assert passages.err.count("\n") == 1
    missed = run("who painted the ceiling?", "docs", "-q")
    assert (missed.code, missed.err) == (7, "")  # which the code says


def test_a_question_about_an_address_is_no_path(spawn: Callable) -> None:
    text = b"The port of the page is on http://ports.example.\n"
    result = spawn("ask", "-m", "offline", "Which port is on http://ports.example?", stdin=text)
    assert (result.code, "ports.example" in result.out) == (0, True), result.err
