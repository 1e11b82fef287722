"""A home that cannot be entered or is unknown: commands work, keep nothing there, and say so once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_dspy.cli.container import check_container
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.safe_files import entry_error, read_rows

TOO_LONG = "x" * 300  # the system refuses such a name, whoever asks; a folder without permission lets root in
REASON = f"{TOO_LONG} cannot be entered: File name too long"


@pytest.fixture
def blocked(write: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home below a folder that cannot be entered, and a file to ask about."""
    place = tmp_path / TOO_LONG
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(place / "home"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    write("a.md", "The captain is Ada.\n")
    return place


@pytest.mark.parametrize(
    "args",
    [
        ("ask", "Who is the captain?", "a.md"),
        ("ask", "Who is the captain?", "a.md", "--mode", "rlm", "--index"),
        ("chat", "a.md"),
        ("batch", "questions.jsonl", "a.md", "--out", "answers.jsonl"),
    ],
)
def test_questions_are_answered_without_a_home(args: tuple[str, ...], blocked: Path, write: Callable, run: Callable):
    write("questions.jsonl", '"Who is the captain?"\n')
    result = run(*args, stdin=b"Who is the captain?\nWho is captain?\n")
    assert result.code == 0, result.err
    answers = Path("answers.jsonl")
    assert "The captain is Ada." in (answers.read_text() if answers.exists() else result.out)
    assert result.err.count("cannot be entered") == 1
    assert REASON in result.err
    assert "Set HOME, or XDG_CONFIG_HOME and RLM_DSPY_HOME." in result.err
    assert "saved in" not in result.err
    assert "log of the run" not in result.err


def test_a_home_for_runs_alone_is_told_once(
    write: Callable, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path / TOO_LONG / "runs-only"))
    write("a.md", "The captain is Ada.\n")
    result = run("ask", "Who is the captain?", "a.md", "--mode", "rlm")
    assert result.code == 0
    assert result.err.count("the run could not be saved in") == 1
    assert "log of the run" not in result.err
    told = run("doctor").out
    assert f"{REASON}, so no runs are saved" in told
    assert "→ Set RLM_DSPY_HOME to a folder of yours." in told


def test_doctor_has_a_line_for_it(blocked: Path, run: Callable) -> None:
    result = run("doctor", "--container")
    assert "bug" not in result.err
    assert f"{REASON}, so no settings or keys are read there, and no runs are saved" in result.out
    assert "→ Set HOME, or XDG_CONFIG_HOME and RLM_DSPY_HOME." in result.out


def test_other_commands_end_without_a_crash(blocked: Path, run: Callable) -> None:
    assert run("config").code == 0
    assert run("ls", "a.md").code == 0
    kept = run("keys", "list")
    assert (kept.code, kept.out) == (0, "")
    assert REASON in kept.err
    assert "No keys are kept" not in kept.err
    for args in (("runs",), ("trace", "last"), ("runs", "mark", "last", "right"), ("chat", "-c")):
        result = run(*args)
        assert result.code == 1
        assert "File name too long" in result.err
        assert "bug" not in result.err
    kept = run("keys", "set", "groq", stdin=b"gsk_0815\n")
    assert (kept.code, kept.out) == (2, "")
    assert "keys.toml cannot be written: File name too long" in kept.err


def test_outputs_that_cannot_be_reached_are_usage_errors(blocked: Path, run: Callable) -> None:
    for args in (("ask", "who?", "a.md", "--trace"), ("make-questions", "a.md", "--out")):
        result = run(*args, str(blocked / "out.json"))
        assert result.code == 2
        assert "cannot be written" in result.err
        assert "bug" not in result.err


def test_which_folder_cannot_be_entered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert entry_error(tmp_path) is None
    assert entry_error(tmp_path / "not" / "there") is None
    assert entry_error(tmp_path / "file" / "a" / "b") == f"{tmp_path}/file cannot be entered: Not a directory"
    with pytest.raises(ConfigurationError, match="cannot be read: File name too long"):
        read_rows(tmp_path / TOO_LONG / "rows.jsonl", bytes.decode)
    assert read_rows(tmp_path / "file" / "rows.jsonl", bytes.decode) == []
    assert list(check_container(tmp_path / TOO_LONG))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a home")
def test_a_user_whom_the_system_does_not_know_has_a_home() -> None:
    program = (
        "import os; from rlm_dspy.safe_files import cache_folder; from rlm_dspy.cli.home_files import user_toml; "
        "os.setuid(54_321); os.environ.clear(); print(cache_folder(), user_toml())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "/.cache/rlm-dspy /.config/rlm-dspy/config.toml\n"


def test_a_file_named_as_the_home_of_an_unknown_user_is_a_file(write: Callable, run: Callable) -> None:
    write("~notes-of-ada", "The captain is Ada.\n")
    for args in (("ls",), ("ask", "Who is the captain?")):
        result = run(*args, "~notes-of-ada")
        assert result.code == 0, result.err
