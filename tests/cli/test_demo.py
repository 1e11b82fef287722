"""``demo``: its questions, its commands, and the model of the user."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_dspy.cli.demo import QUESTIONS
from servers.offline import AnyModelServer

FACTS = ("Ada Quill", "3 March 1921", "every 7 seconds")


@pytest.fixture(autouse=True)
def temporary(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(home))


def commands_of(text: str) -> list[list[str]]:
    return [shlex.split(line.removeprefix("$ ")) for line in text.splitlines() if line.startswith("$ ")]


def test_the_offline_engine_answers_three_questions_with_quotes(run: Callable) -> None:
    result = run("demo")
    assert result.code == 0
    for fact in FACTS:
        assert fact in result.out
    assert 'handbook.md:5  "The keeper is Ada Quill."' in result.out
    assert "`rlm-dspy init` sets a model" in result.out
    assert [words[-2] for words in commands_of(result.out)] == list(QUESTIONS)


def test_each_command_can_be_typed(run: Callable) -> None:
    for words, fact in zip(commands_of(run("demo").out), FACTS, strict=True):
        again = run(*words[1:])
        assert again.code == 0
        assert fact in again.out


def test_the_question_that_it_suggests_has_an_answer(run: Callable) -> None:
    line = next(line for line in run("demo").out.splitlines() if line.startswith("Ask it more: "))
    again = run(*shlex.split(line.partition(": ")[2])[1:])
    assert again.code == 0
    assert "9:30" in again.out


def test_it_says_the_same_each_time(run: Callable) -> None:
    texts = [run("demo").out for _ in range(2)]
    folders = [text.splitlines()[0].rpartition(" ")[2] for text in texts]
    plain = [
        text.replace(folder, "F").replace(Path(folder).name, "F") for text, folder in zip(texts, folders, strict=True)
    ]
    assert plain[0] == plain[1]


def test_the_users_model_answers_the_last(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_DSPY_MODEL", "groq/openai/gpt-oss-20b")
    monkeypatch.setenv("GROQ_API_KEY", "key-of-the-test-000000")
    with AnyModelServer() as server:
        monkeypatch.setenv("GROQ_API_BASE", f"{server.url}/v1")
        result = run("demo")
    assert result.code == 0
    assert "And with your model (named by RLM_DSPY_MODEL)" in result.out
    assert len(commands_of(result.out)) == 4
    assert result.out.count("Ada Quill") >= 2
