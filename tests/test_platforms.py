"""The package on a platform without the modules and calls of POSIX, simulated in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from documents import word
from rlm_dspy import safe_files

SCRIPT = Path(__file__).with_name("as_windows.py")
PUBLIC_NAMES = """
import rlm_dspy, rlm_dspy.batch, rlm_dspy.testing
for name in rlm_dspy.__all__:
    getattr(rlm_dspy, name)
print("imported")
"""


class Done(NamedTuple):
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str


AsWindows = Callable[..., Done]


@pytest.fixture(scope="module")
def windows() -> Iterator[subprocess.Popen[str]]:
    """Start the process that has the libraries, and forks one without what Windows lacks for each command."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(SCRIPT)], env=dict(os.environ), text=True, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def as_windows(windows: subprocess.Popen[str], tmp_path: Path) -> AsWindows:
    """Return a function that runs the command, or code after -c, in the temporary folder."""

    def run(*arguments: str) -> Done:
        windows.stdin.write(json.dumps({"folder": str(tmp_path), "arguments": arguments}) + "\n")
        windows.stdin.flush()
        code = int(windows.stdout.readline())
        return Done(code, (tmp_path / "stdout").read_text(), (tmp_path / "stderr").read_text())

    return run


def test_every_public_name_is_imported(as_windows: AsWindows) -> None:
    done = as_windows("-c", PUBLIC_NAMES)
    assert done.stdout == "imported\n", done.stderr


def test_the_help_is_shown(as_windows: AsWindows) -> None:
    done = as_windows("--help")
    assert "Usage: rlm-dspy" in done.stdout, done.stderr


def test_doctor_names_the_alternatives(as_windows: AsWindows) -> None:
    done = as_windows("doctor")
    line = next(line for line in done.stdout.splitlines() if "no native isolation is known for win32" in line)
    assert "WSL" in line
    assert "Docker" in line
    assert "dspy.PythonInterpreter (WASM" in line


def test_a_question_is_answered_without_a_sandbox_and_its_run_is_saved(as_windows: AsWindows, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The harbour closes at nine.\n")
    done = as_windows("ask", "-m", "offline", "--mode", "direct", "When does the harbour close?", "a.txt")
    assert "nine" in done.stdout, done.stderr
    assert "harbour" in as_windows("runs").stdout


def test_an_office_document_is_skipped_with_the_reason(as_windows: AsWindows, tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(word())
    done = as_windows("ls", "a.docx")
    assert "read on Linux and macOS only; use WSL or Docker" in done.stdout + done.stderr


def test_a_batch_refuses_a_file_that_is_locked_on_windows(as_windows: AsWindows, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from rlm_dspy.batch.answers_file import Answers
kept = Answers(Path("a.jsonl"))
kept.append({"key": "a"})
Answers(Path("a.jsonl"), resume=True)
"""
    done = as_windows("-c", code)
    assert "another batch is writing" in done.stderr
    assert (tmp_path / "a.jsonl").read_text() == '{"key": "a"}\n'


@pytest.mark.parametrize("shared", [False, True])
def test_a_lock_is_refused_while_another_has_it(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "a"
    with path.open("ab") as first, path.open("rb") as second:
        safe_files.lock(first)
        assert not safe_files.try_lock(second, shared=shared)
    with path.open("rb") as third, path.open("rb") as fourth:
        assert safe_files.try_lock(third, shared=shared)
        assert safe_files.try_lock(fourth, shared=shared) == shared
