"""Unread or partly read files are reported to the user, to scripts and to the model; places can be opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

POLISH = "Zażółć gęślą jaźń, łódź płynie.\nThe access code of the gate is 48213.\n".encode("cp1250")
LOCKED = b"%PDF-1.4\nbroken"


def test_a_guess_in_a_named_file_is_told_everywhere(run: Callable, home: Path) -> None:
    (home / "a.txt").write_bytes(POLISH)
    result = run("ask", "What is the access code of the gate?", "a.txt", "--json", "--mode", "rlm")
    told = json.loads(result.out)
    assert "48213" in told["answer"]
    assert "warning: a.txt: read as cp1250" in result.err
    assert told["unread"] == ["a.txt: read as cp1250"]


def test_a_guess_in_a_folder_is_counted(run: Callable, home: Path) -> None:
    (home / "in").mkdir()
    (home / "in/a.txt").write_bytes(POLISH)
    err = run("ask", "What is the access code of the gate?", "in").err
    assert "1 file read in part or with a guessed encoding" in err
    assert "cp1250" not in err


def test_a_named_file_that_was_skipped_is_told(run: Callable, home: Path) -> None:
    (home / "a.txt").write_text("The access code of the gate is 48213.\n")
    (home / "b.pdf").write_bytes(LOCKED)
    err = run("ask", "What is the access code of the gate?", "a.txt", "b.pdf").err
    assert "warning: b.pdf: not read: a broken PDF" in err


def test_where_nothing_is_found_the_files_that_could_hold_it_are_named(run: Callable, home: Path) -> None:
    (home / "in").mkdir()
    (home / "in/a.txt").write_text("Nothing of note.\n")
    (home / "in/b.pdf").write_bytes(LOCKED)
    result = run("ask", "Who won the zeppelin regatta?", "in")
    assert result.code == 7
    assert "it could be in 1 file not read (1 .pdf), such as in/b.pdf: not read: a broken PDF" in result.err


def test_the_model_is_told_what_it_does_not_see(run: Callable, home: Path) -> None:
    (home / "a.txt").write_text("The access code of the gate is 48213.\n")
    (home / "b.pdf").write_bytes(LOCKED)
    run("ask", "What is the access code of the gate?", ".", "--mode", "rlm", "--trace", "run.json")
    probe = json.loads((home / "run.json").read_text())["probe"]
    assert "Not as it is: b.pdf: not read: a broken PDF" in probe


def test_places_can_be_opened_from_the_current_folder(run: Callable, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/a.txt").write_text("The access code of the gate is 48213.\n")
    question = "What is the access code of the gate?"
    for given in (str(folder), str(folder / "sub/a.txt"), "../elsewhere"):
        assert "../elsewhere/sub/a.txt:1" in run("ask", question, given).out
    row = json.loads(run("ask", question, str(folder), "--json").out)["evidence"][0]
    assert row["path"] == "../elsewhere/sub/a.txt"
    assert row["absolute_path"] == str(folder / "sub/a.txt")
    assert "../elsewhere/sub/a.txt" in run("ls", str(folder)).out
