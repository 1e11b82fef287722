"""Notices that say the same every time are shown once a day, warnings every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_dspy.cli import notices
from servers import local
from servers.local import LocalServer

OFFLINE = "No language model: the offline engine"
SKIPPED = "1 file read, 1 skipped"
ASK = ("ask", "what is the port?", "docs")


@pytest.fixture(autouse=True)
def folder(write: Callable) -> None:
    write("docs/a.md", "The port is 8080.\n")
    write("docs/.hidden", "x")


def test_they_are_shown_once_a_day(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, verbose = run(*ASK), run(*ASK), run(*ASK, "-v")
    monkeypatch.setattr(notices, "_today", lambda: "2999-01-01")
    tomorrow = run(*ASK)
    for result, is_shown in ((first, True), (second, False), (verbose, True), (tomorrow, True)):
        assert (OFFLINE in result.err, SKIPPED in result.err) == (is_shown, is_shown)
    assert second.err == ""
    assert second.out == first.out


def test_another_folder_or_another_count_is_said(run: Callable, write: Callable) -> None:
    run(*ASK)
    write("docs/.more", "x")
    assert "1 file read, 2 skipped" in run(*ASK).err
    write("other/a.md", "The port is 8080.\n")
    assert OFFLINE in run("ask", "what is the port?", "other").err


def test_a_warning_is_shown_every_time(run: Callable, home: Path) -> None:
    (home / "docs/b.pdf").write_bytes(b"%PDF-1.4\nbroken")
    for _ in range(2):
        assert "warning: docs/b.pdf: not read: a broken PDF" in run(*ASK, "docs/b.pdf").err


def test_what_was_silenced_counts_as_not_shown(run: Callable) -> None:
    assert run(*ASK, "-q").err == ""
    assert OFFLINE in run(*ASK).err


def test_a_question_without_an_answer_says_each_time_who_did_not_find_it(run: Callable) -> None:
    for _ in range(2):
        result = run("ask", "Who painted the ceiling?", "docs")
        assert result.code == 7
        assert "The offline engine found no passage" in result.err


def test_a_server_that_could_have_answered_is_named_each_time(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLM_DSPY_MODEL")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with LocalServer(local.llama_cpp()) as server:
        monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
        results = [run(*ASK), run(*ASK)]
        monkeypatch.setenv("RLM_DSPY_MODEL", "offline")
        chosen = run(*ASK)
    for result in results:
        assert f"llama.cpp at {server.url}/v1 has openai/{local.NAME}: ask it with -m openai/{local.NAME}" in result.err
        assert "8080" in result.out
    assert "llama.cpp" not in chosen.err


@pytest.mark.parametrize("text", ["", "[]", '{"day": 3}', "\x00"])
def test_a_damaged_record_shows_them_again(run: Callable, tmp_path: Path, text: str) -> None:
    place = tmp_path / "cache" / "rlm-dspy"
    place.mkdir(parents=True)
    (place / notices.SHOWN_TODAY).write_text(text)
    assert OFFLINE in run(*ASK).err


def test_without_a_home_they_are_always_shown(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path / "file" / "home"))
    for _ in range(2):
        assert OFFLINE in run(*ASK).err
