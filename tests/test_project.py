"""The project's own rules: style, types, import direction, a small public surface, a correct README."""

from __future__ import annotations

import ast
import gc
import re
import subprocess
import sys
from pathlib import Path

import measure_shape
import pytest

import rlm_dspy

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def tool(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_ruff_finds_nothing() -> None:
    tool("-m", "ruff", "check", "--no-cache", ".")
    tool("-m", "ruff", "format", "--check", "--no-cache", ".")


def test_imports_go_one_way() -> None:
    tool("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")


def test_the_public_names_are_these_and_all_resolve() -> None:
    assert rlm_dspy.__all__ == [
        "RLM", "Budget", "Context", "Corpus", "Evidence", "LiveCell", "RLMError", "Run", "Sandbox", "__version__",
        "data", "lm", "mcp_tools", "metrics", "read", "trace",
    ]  # fmt: skip
    for name in rlm_dspy.__all__:
        assert getattr(rlm_dspy, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        rlm_dspy.nothing  # noqa: B018  the access is the test


@pytest.fixture(scope="module")
def shape() -> measure_shape.Shape:
    # Python 3.11 fails if a collection of garbage parses code (for a traceback) while this does.
    gc.collect()
    gc.disable()
    try:
        return measure_shape.measure(ROOT / "src" / "rlm_dspy", lazy_rooms=frozenset({"rlm_dspy.cli"}))
    finally:
        gc.enable()


def test_no_modules_import_each_other(shape: measure_shape.Shape) -> None:
    assert shape.cycles == []


def test_functions_stay_short(shape: measure_shape.Shape) -> None:
    assert shape.line_percentile(0.9) <= 25
    assert max(shape.function_lines) <= 60


def test_a_class_name_stands_once(shape: measure_shape.Shape) -> None:
    assert not shape.double_classes


def test_names_say_what_comes_back(shape: measure_shape.Shape) -> None:
    assert shape.one_word_share < 0.45


ODD_WORDS = re.compile(
    r"(?<!there )\bis none\b|(?<!is )\bof none\b"
    r"|(?i:\b(?:mend(?:s|ed|ing)?|anew|whoever|tell whether|purse|chronicle|crew|shelf)\b)"
)


@pytest.mark.parametrize(
    "path", [*SOURCES, *(ROOT / "docs").glob("*.md"), ROOT / "README.md"], ids=lambda path: path.stem
)
def test_no_private_words(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if ODD_WORDS.search(line)]
    assert [line for line in found if "Whoever has seen the {c}" not in line] == []  # a sentence of a dataset


# Outer edges: each passes the exception on to code that raises, shows or sends it.
EDGES = {
    "corpus/readers/office/request_loop.py": 1,  # the edge of a converter's process
    "sandbox/tool_threads.py": 2,
    "sandbox/cell.py": 2,  # host functions called by code, and their errors that cannot be rendered
    "daemon_threads.py": 1,  # whose caller raises it
    "rlm/mcp_tools.py": 2,  # a foreign server, whose every failure is a failed call
    "rlm/outputs.py": 3,  # a validator of the user's type, whose error the model or the user is shown
    "batch/provider_batch.py": 1,  # the user's module, whose failures are rows
    "tuning/optimization.py": 1,  # DSPy's own evaluations, which give up with a plain Exception
    "tuning/evaluation.py": 2,  # a program and a metric of the user, whose failures are rows
    "spans.py": 1,  # listeners, which must not end a run
    "cli/mcp/files.py": 1,  # a thread that reads; its caller raises it
    "cli/mcp/questions.py": 1,  # a thread that answers; its result says it
}


def is_broad(kind: ast.expr | None) -> bool:
    """Whether a handler of this kind catches unexpected exceptions."""
    if isinstance(kind, ast.Tuple):
        return any(map(is_broad, kind.elts))
    return kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})


def swallowing(code: str) -> list[int]:
    """Return the lines of broad handlers that do not end by raising."""
    handlers = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ExceptHandler)]
    return [node.lineno for node in handlers if is_broad(node.type) and not isinstance(node.body[-1], ast.Raise)]


@pytest.mark.parametrize("path", [p for p in SOURCES if "worker" not in p.parts], ids=lambda path: path.stem)
def test_nothing_is_swallowed_outside_the_worker(path: Path) -> None:
    allowed = EDGES.get(str(path.relative_to(ROOT / "src" / "rlm_dspy")), 0)
    assert len(found := swallowing(path.read_text())) <= allowed, found


@pytest.mark.parametrize("kind", ["", " Exception", " BaseException", " (OSError, Exception)"])
def test_every_form_of_a_broad_handler_is_seen(kind: str) -> None:
    assert swallowing(f"try:\n    pass\nexcept{kind}:\n    pass") == [3]
    assert not swallowing(f"try:\n    pass\nexcept{kind}:\n    raise")


def test_the_ci_runs_the_readmes_test_command(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count("<!-- run -->") == readme.count("<!-- test -->") == 1
    (command,) = readme.split("<!-- test -->")[1].split("```")[1].removeprefix("sh\n").splitlines()
    assert "pytest" in command
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    (tmp_path / "README.md").write_text(readme.replace(command, "pwd > proof; false; true"))
    done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (tmp_path / "proof").read_text().strip() == str(tmp_path.resolve())
    assert done.returncode != 0  # the CI returns the exit status of the command


KNOWN = {"pypdfium2", "google-re2", "optuna", "numpy", "distributed"} | {
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "fastapi",
    "uvicorn",
    "s3fs",
    "gcsfs",
    "adlfs",
    "pyarrow",
}


def test_what_is_to_be_installed_can_be() -> None:
    for path in [*SOURCES, *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py"), ROOT / "README.md"]:
        text = path.read_text().replace("`pip install rlm-dspy` from an index is somebody else's package", "")
        assert not re.search(r"(?:rlm-dspy|dspy-recursive)\[", text), path
        for named in re.findall(r"(?<!/)(?<!uv )pip install((?: [\w.-]+)+)", text):
            assert set(named.rstrip(".").split()) <= KNOWN, (path, named)


def test_the_readme_warns_of_the_package_of_that_name() -> None:
    assert "`rlm-dspy` on PyPI is an unrelated package" in (ROOT / "README.md").read_text()
