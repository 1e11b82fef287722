"""The package as seen by type checkers, editors and ``inspect``."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dspy
import pytest

import rlm_dspy
from rlm_dspy.run import ConstructorSignature
from warm import warm_python

Done = subprocess.CompletedProcess[str]

PROGRAM = """\
import dspy

import rlm_dspy
from rlm_dspy.testing import action, scripted

lm, script = scripted(action("SUBMIT(answer='a limit', evidence=[{'quote': 'A limit may end a run.'}])"))
dspy.configure(lm=lm or rlm_dspy.lm("ollama_chat/qwen3:8b", num_ctx=16_384))
rlm = rlm_dspy.RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]", max_iters=15, max_cost=0.5)
result = rlm(context=rlm_dspy.Corpus.from_texts({"a.txt": "A limit may end a run."}), question="What may end a run?")
evidence: list[rlm_dspy.Evidence] = result.evidence
run: rlm_dspy.Run = result.run
print(result.answer, [piece.where for piece in evidence], run.status, run.usage.cost, len(script.requests))


async def watch(question: str) -> None:
    async for event in rlm.stream(context=rlm_dspy.read(["docs", "src"]), question=question):
        print(event)
"""
MISTAKES = """\


rlm_dspy.RML("a -> b")
rlm_dspy.RLM("a -> b", max_iterations=3)
rlm_dspy.RLM("a -> b", max_iters="three")
rlm_dspy.read(3)
rlm_dspy.Sandbox(timeout="long")
print(run.usage.cots)
print(len(evidence[0].line))
"""


# Only the libraries whose types show in ours are followed, which halves the time.
MYPY = """\
[mypy]
strict = true
follow_imports = skip
[mypy-rlm_dspy.*,pydantic.*,pydantic_core.*]
follow_imports = normal
[mypy-dspy.*]
ignore_missing_imports = true
"""


def run_mypy(program: Path) -> Done:
    """Check a program as strictly as mypy can; DSPy itself has no types to offer."""
    settings = program.with_name("mypy.ini")
    settings.write_text(MYPY)
    command = [sys.executable, "-m", "mypy", f"--config-file={settings}", f"--cache-dir={program.parent}", str(program)]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True, timeout=300)


def run_pyright(program: Path) -> Done:
    """Check a program as editors do while it is written."""
    settings = program.with_name("pyrightconfig.json")
    settings.write_text(json.dumps({"typeCheckingMode": "standard"}))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "-p", str(settings)]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True, timeout=300)


CHECKERS = pytest.mark.parametrize("check", [run_mypy, run_pyright])


@pytest.mark.slow
@CHECKERS
def test_a_program_is_right_by_its_types_and_each_mistake_in_it_is_found(
    check: Callable[[Path], Done], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + MISTAKES)
    done = check(program)
    told = re.findall(r"program\.py:(\d+).* error: ", done.stdout)
    first = PROGRAM.count("\n") + 3
    lines = sorted({int(line) for line in told})
    assert lines == list(range(first, first + MISTAKES.count("\n") - 2)), done.stdout + done.stderr


def test_that_program_runs(tmp_path: Path) -> None:
    done = subprocess.run([*warm_python(), "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "a limit ['a.txt:1'] submitted 0.001 1\n", done.stderr


def test_names_are_shown_before_they_are_used() -> None:
    assert set(rlm_dspy.__all__) <= set(dir(rlm_dspy))


class Program(dspy.Module):
    """A module that shows its arguments."""

    __signature__ = ConstructorSignature()

    def __init__(self, question: str, *, times: int = 3) -> None:
        super().__init__()

    def __call__(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(text=text)


class Narrow(Program):
    """A module of a module."""

    def __init__(self, times: int) -> None:
        super().__init__("what?", times=times)


def test_a_module_shows_its_arguments_and_one_that_is_made_of_it_its_own() -> None:
    assert str(inspect.signature(Program)) == "(question: 'str', *, times: 'int' = 3) -> 'None'"
    assert str(inspect.signature(Narrow)) == "(times: 'int') -> 'None'"
    assert str(inspect.signature(Narrow(2))) == "(text: 'str') -> 'dspy.Prediction'"
