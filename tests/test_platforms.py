"""The package on a platform without the modules and calls of POSIX, simulated in a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from documents import word
from rlm_dspy import file_locks

SCRIPT = Path(__file__).with_name("as_windows.py")
PUBLIC_NAMES = """
import rlm_dspy, rlm_dspy.batch, rlm_dspy.testing
for name in rlm_dspy.__all__:
    getattr(rlm_dspy, name)
print("imported")
"""


def as_windows(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, or code after -c, without what Windows lacks."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=folder,
        env={**os.environ, "RLM_DSPY_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_every_public_name_is_imported(tmp_path: Path) -> None:
    done = as_windows(tmp_path, "-c", PUBLIC_NAMES)
    assert done.stdout == "imported\n", done.stderr


def test_the_help_is_shown(tmp_path: Path) -> None:
    done = as_windows(tmp_path, "--help")
    assert "Usage: rlm-dspy" in done.stdout, done.stderr


def test_doctor_names_the_alternatives(tmp_path: Path) -> None:
    done = as_windows(tmp_path, "doctor")
    line = next(line for line in done.stdout.splitlines() if "no native isolation is known for win32" in line)
    assert "WSL" in line
    assert "Docker" in line
    assert "dspy.PythonInterpreter (WASM" in line


def test_a_question_is_answered_without_a_sandbox_and_its_run_is_saved(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The harbour closes at nine.\n")
    done = as_windows(tmp_path, "ask", "-m", "offline", "--mode", "direct", "When does the harbour close?", "a.txt")
    assert "nine" in done.stdout, done.stderr
    assert "harbour" in as_windows(tmp_path, "runs").stdout


def test_an_office_document_is_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(word())
    done = as_windows(tmp_path, "ls", "a.docx")
    assert "read on Linux and macOS only; use WSL or Docker" in done.stdout + done.stderr


def test_a_batch_refuses_a_file_that_is_locked_on_windows(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from rlm_dspy.batch.answers_file import Answers
kept = Answers(Path("a.jsonl"))
kept.append({"key": "a"})
Answers(Path("a.jsonl"), resume=True)
"""
    done = as_windows(tmp_path, "-c", code)
    assert "another batch is writing" in done.stderr
    assert (tmp_path / "a.jsonl").read_text() == '{"key": "a"}\n'


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_is_refused_while_another_has_it(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a"
    with path.open("ab") as first, path.open("rb") as second:
        file_locks.lock(first)
        assert not file_locks.try_lock(second, shared=shared)
    with path.open("rb") as third, path.open("rb") as fourth:
        assert file_locks.try_lock(third, shared=shared)
        assert file_locks.try_lock(fourth, shared=shared) == shared
