"""Start-up: help is instant because nothing heavy is imported for it."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("dspy", "litellm", "pydantic_settings", "pydantic", "rich", "pathspec")


@pytest.mark.parametrize("args", [["--help"], ["ask", "--help"], ["ls", "--help"], ["config", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    program = (
        "import sys; from rlm_dspy.cli import main; code = main(sys.argv[1:]); "
        f"print(code, sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "0 []\n"
    assert "rlm-dspy" in done.stdout


def test_reading_files_imports_no_model_library(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    program = (
        "import sys; from rlm_dspy.cli import main; code = main(sys.argv[1:]); "
        "print(code, {'dspy', 'litellm'} & set(sys.modules), file=sys.stderr)"
    )
    for path, code in ((tmp_path, 0), (tmp_path / "gone", 6)):
        done = subprocess.run(
            [sys.executable, "-c", program, "ls", str(path)], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr.splitlines()[-1] == f"{code} set()"


@pytest.mark.parametrize(
    ("args", "code"),
    [(["config"], 0), (["runs"], 0), (["ask", "hi", "gone"], 6), (["batch", "gone", ".", "--out", "answers"], 6)],
)
def test_settings_and_errors_in_the_files_need_no_model_library(args: list[str], code: int, home: Path) -> None:
    program = (
        "import sys; from rlm_dspy.cli import main; code = main(sys.argv[1:]); "
        "print(code, {'dspy', 'litellm'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.splitlines()[-1] == f"{code} set()"


def test_no_arguments_print_the_help(run: Callable) -> None:
    result = run()
    assert result.code == 0
    assert "Commands:" in result.out


def test_the_module_is_the_command(spawn_cold: Callable) -> None:
    result = spawn_cold("--version")
    assert result.code == 0
    assert result.out.startswith("rlm-dspy ")


INTERRUPTED = """
import os, runpy, signal, sys
name, start, *sys.argv[1:] = sys.argv[1:]
class Interrupt:
    def find_spec(self, found, path=None, target=None):
        if found == name:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
if start == "-m":
    runpy.run_module("rlm_dspy", run_name="__main__", alter_sys=True)
module, _, function = start.partition(":")
sys.exit(getattr(__import__(module, fromlist=[function]), function)())
"""


@pytest.mark.parametrize("name", ["rlm_dspy.cli", "click", "rlm_dspy.cli.commands", "rlm_dspy.cli.settings"])
@pytest.mark.parametrize("start", ["script", "-m"])
def test_ctrl_c_while_the_command_is_imported_is_one_line(name: str, start: str, home: Path) -> None:
    if start == "script":
        start = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["rlm-dspy"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, name, start, "config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.lstrip()) == (130, "", "rlm-dspy: interrupted.\n")


def test_the_page_on_the_command_is_fresh() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "write_cli.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run: python docs/write_cli.py"
    assert script["MAN_PAGE"].read_text(encoding="utf-8") == script["man_page"](), "run: python docs/write_cli.py"


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_page_is_good_roff() -> None:
    page = ROOT / "docs" / "rlm-dspy.1"
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-k", str(page)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    for text in (
        "rlm-dspy ask [OPTIONS] [QUESTION] [PATH]...",
        "--max-cost USD",
        "Exit codes: 0 answered",
        "NO_COLOR",
        "OPENAI_API_BASE",
        "EXAMPLES",
    ):
        assert text.replace("-", "‐") in done.stdout or text in done.stdout


def test_the_manual_page_is_in_the_packages() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["shared-data"] == {"docs/rlm-dspy.1": "share/man/man1/rlm-dspy.1"}
    assert "docs/rlm-dspy.1" in build["sdist"]["include"]


@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        ("2>&-", 0, "the code is 4711", ""),
        (">&-", 1, "", "stdout is closed"),
        ("<&-", 0, "the code is 4711", "No language model"),
    ],
)
def test_a_closed_stream_loses_no_answer(
    home: Path, write: Callable[[str, str], Path], closed: str, code: int, out: str, err: str
) -> None:
    write("notes.md", "the code is 4711\n")
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "rlm_dspy"]
    done = subprocess.run([*shell, "ask", "What is the code?", "notes.md"], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stdout.startswith(out)
    assert err in done.stderr


def test_a_current_folder_that_was_deleted_is_named(
    spawn_cold: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = spawn_cold("ask", "-m", "offline", "what?", ".")
    assert result.code == 1
    assert result.err == "rlm-dspy: the current folder was deleted. Change to another one.\n"
