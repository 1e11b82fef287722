"""The project keeps its own rules: style, types, the direction of imports, a small public surface, a true README."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rlm_dspy

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def tool(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_ruff_finds_nothing() -> None:
    tool("-m", "ruff", "check", "--no-cache", ".")


def test_mypy_strict_finds_nothing() -> None:
    tool("-m", "mypy")


def test_imports_go_one_way() -> None:
    tool("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")


def test_the_public_names_are_these_and_all_resolve() -> None:
    assert rlm_dspy.__all__ == [
        "RLM", "Budget", "Context", "Corpus", "Evidence", "RLMError", "Run", "Sandbox", "__version__", "data", "lm",
        "metrics", "read",
    ]  # fmt: skip
    for name in rlm_dspy.__all__:
        assert getattr(rlm_dspy, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        rlm_dspy.nothing  # noqa: B018  the access is the test


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 40, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", [p for p in SOURCES if "worker" not in p.parts], ids=lambda path: path.stem)
def test_nothing_is_swallowed_outside_the_worker(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            assert not broad, f"{path.name}:{node.lineno}"


def test_the_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count("<!-- run -->") == readme.count("<!-- test -->") == 1
    assert "pytest" in readme.split("<!-- test -->")[1].split("```")[1]
