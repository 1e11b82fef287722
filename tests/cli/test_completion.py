"""Completion by the shell: what is offered, and what is not imported, since importing takes the time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from rlm_dspy.cli import completion, home_files
from rlm_dspy.cli.commands import app
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.lms.providers import PROVIDERS

HEAVY = ("dspy", "litellm", "pydantic_settings", "pydantic", "rich", "pathspec")


def offered(*args: str, incomplete: str = "") -> list[str]:
    shell = ShellComplete(app, {"obj": Terminal()}, "rlm-dspy", "_RLM_DSPY_COMPLETE")
    return [item.value for item in shell.get_completions(list(args), incomplete)]


def test_commands_and_options_are_completed(home: Path) -> None:
    assert offered(incomplete="as") == ["ask"]
    assert "--max-cost" in offered("ask", "what?", incomplete="--max")
    assert offered("runs", incomplete="ma") == ["mark"]


def test_models_are_those_listed_last_and_the_prefixes(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert offered("ask", "-m", incomplete="groq") == ["groq/"]
    monkeypatch.setenv("GROQ_API_KEY", "gsk_canary_0123456789")
    run("models")
    assert offered("ask", "-m", incomplete="groq") == ["groq/openai/gpt-oss-20b", "groq/openai/gpt-oss-120b", "groq/"]
    assert offered("batch", "--sub-model", incomplete="off") == ["offline"]


def test_prefixes_are_those_of_the_providers() -> None:
    assert set(completion.PREFIXES) == {provider.prefix for provider in PROVIDERS}


def test_runs_are_completed_newest_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "of-mine" / "runs"
    folder.mkdir(parents=True)
    monkeypatch.setenv("RLM_DSPY_HOME", str(folder.parent))
    for number, name in enumerate(("aaaa00000000.json", "bbbb00000000.jsonl", "notes.txt")):
        (folder / name).write_text("{}")
        os.utime(folder / name, (number, number))
    assert offered("trace") == ["last", "bbbb00000000", "aaaa00000000"]
    assert offered("ask", "--resume", incomplete="a") == ["aaaa00000000"]
    assert offered("runs", "mark", incomplete="b") == ["bbbb00000000"]


def test_the_home_of_the_users_file_is_found(home: Path) -> None:
    user = home_files.user_toml()
    user.parent.mkdir(parents=True)
    user.write_text(f"home = '{home}'\n")
    assert home_files.home_folder() == home
    user.write_text("broken")
    assert home_files.home_folder() == Path(os.environ["XDG_CACHE_HOME"]) / "rlm-dspy"


@pytest.mark.parametrize("text", ["{}", "[1, null]", "broken"])
def test_a_damaged_list_of_models_is_no_list(home: Path, text: str) -> None:
    place = home_files.home_folder()
    place.mkdir(parents=True)
    (place / completion.MODEL_NAMES).write_text(text)
    assert offered("ask", "-m", incomplete="o") == ["offline", "ollama_chat/", "openai/", "openrouter/"]


@pytest.mark.parametrize("words", ["rlm-dspy ask -m gr", "rlm-dspy trace ", "rlm-dspy as"])
def test_a_shell_completes_without_importing_anything_heavy(home: Path, words: str) -> None:
    place = home_files.home_folder()
    (place / "runs").mkdir(parents=True)
    (place / completion.MODEL_NAMES).write_text(json.dumps([f"groq/model-{number}" for number in range(3_000)]))
    for number in range(200):
        (place / "runs" / f"{number:012x}.json").write_text("{}")
    program = (
        "import sys\n"
        "from rlm_dspy.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)\n"
    )
    surroundings = {
        "_RLM_DSPY_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    environment = {**os.environ, **surroundings}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "[]\n"
    assert done.stdout.startswith("plain,")
