"""The examples run as they are, on the offline engine, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "service")  # test_service.py runs it
EXPECTED = {
    "quickstart": "disk full",
    "typed_output": "1998 (line 1)",
    "composed": "14 days",
    "own_interpreter": "1931",
    "own_reader": "The gate opens\nat nine",
    "many_questions": "Piet de Boer. (two.txt:3)\n100% answered",
    "recursive_summary": "Bergen, Leith, Brest (3 children)",
    "testing_a_program": "both hold",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_the_right_answer(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert EXPECTED[path.stem] in done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert path.read_text().count("\n") <= 40


def test_the_service_is_short() -> None:
    assert (FOLDER / "service.py").read_text().count("\n") <= 120
