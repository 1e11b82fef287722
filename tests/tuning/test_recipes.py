"""The recipes are short, use DSPy directly, run as they are, and what they compiled loads."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import rlm_dspy
from rlm_dspy.tuning import contenders, program
from tuning.classroom import STUDENT, TEACHER, Classroom
from tuning.make_class import write
from warm import warm_python

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "optimizers").glob("run_*.py"))
COMPILED = sorted((ROOT / "optimizers/compiled").glob("*.json"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_short_and_uses_the_optimizer_of_dspy(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 60
    assert re.search(r"dspy\.(GEPA|MIPROv2|SIMBA|BootstrapFewShot|BootstrapFewShotWithRandomSearch)\(", text)


def test_the_snippet_that_loads_a_program_runs_as_it_is() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "optimizers/README.md").read_text(), re.S)
    done = subprocess.run([*warm_python(), "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_each_compiled_program_is_in_the_table_of_results() -> None:
    told = (ROOT / "optimizers/README.md").read_text()
    assert COMPILED
    assert [path.name for path in COMPILED if f"compiled/{path.name}" not in told] == []


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_what_was_compiled_loads_and_is_not_what_it_was(path: Path) -> None:
    rlm, plain = rlm_dspy.RLM(contenders.signature()), rlm_dspy.RLM(contenders.signature())
    program.load(rlm, path)
    rlm.load(path)
    assert (program.instructions(rlm), program.demos(rlm)) != (program.instructions(plain), program.demos(plain))
    assert "127.0.0.1" not in path.read_text()


@pytest.mark.slow
def test_a_recipe_runs_as_it_is(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "dev", "test")):
        write(tmp_path / f"{part}.jsonl", 8, seed + 20)
    with Classroom() as room:
        environment = {**os.environ, "OPENAI_API_KEY": room.key, "OPENAI_API_BASE": f"{room.url}/v1"}
        models = ["-m", f"openai/{STUDENT}", "--prompt-model", f"openai/{TEACHER}", "--threads", "2"]
        command = [*warm_python(), str(ROOT / "optimizers/run_gepa.py"), str(tmp_path), *models, "--limit", "6"]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "p.json")], capture_output=True, text=True, timeout=240, env=environment
        )
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = map(float, re.findall(r"gepa on \S+: ([\d.]+) -> ([\d.]+),", done.stdout)[0])
    assert before < after == 100
    assert program.load(rlm_dspy.RLM(contenders.signature()), tmp_path / "p.json")
