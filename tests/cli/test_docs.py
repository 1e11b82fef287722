"""The pages: each snippet of README and docs runs as it is printed, and messages that are explained exist.

Models are those of the snippets, on a server that speaks their wire and answers as the offline engine does. Commands of
others (``docker``, ``curl``, …) and ``export`` lines are left out.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from servers.offline import AnyModelServer, OfflineOllama

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(python|sh)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
FOREIGN = {
    "export", "pip", "python3", "ollama", "vllm", "llama-server", "lms", "docker", "curl", "uvicorn", ".venv/bin/pip",
    ".venv/bin/uv", ".venv/bin/python",
}  # fmt: skip
TEXT = "Call me Ishmael. The captain is Ahab. His ship is the Pequod. The default timeout is 30 seconds."


def blocks_of(page: Path, language: str) -> list[str]:
    """Return the snippets of a page in one language."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [re.sub(f"(?m)^{block[1]}", "", block[3]) for block in found if block[2] == language]


def with_snippets(language: str) -> list[str]:
    """Return the names of the pages that have snippets in a language."""
    return [str(page.relative_to(ROOT)) for page in PAGES if blocks_of(page, language)]


@pytest.fixture
def workspace(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that snippets name, and servers for the models that they name."""
    (home / "docs").mkdir()
    for name in ("concepts.md", "cli.md"):
        shutil.copy(ROOT / "docs" / name, home / "docs")
    (home / "docs" / "ports.md").write_text("The default port is 8080.\n\n" + TEXT + "\n")
    (home / "src").mkdir()
    shutil.copy(ROOT / "src/rlm_dspy/rlm/module.py", home / "src")
    shutil.copytree(ROOT / "datasets/mixed", home / "datasets/mixed")
    for name in ("more.md", "report.pdf"):
        shutil.copy(home / "docs/ports.md", home / name)
    for name in ("questions.jsonl", "QUESTIONS.jsonl"):
        (home / name).write_text('{"question": "What is the default port?"}\n"Which limits end a run?"\n')
    monkeypatch.setenv("BROWSER", "true")
    with AnyModelServer() as models, OfflineOllama() as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.url)
        for name in ("OPENAI", "GROQ", "LM_STUDIO", "HOSTED_VLLM", "AZURE"):
            monkeypatch.setenv(f"{name}_API_BASE", f"{models.url}/v1")
            monkeypatch.setenv(f"{name}_API_KEY", "key-of-the-test-000000")
        monkeypatch.setenv("AZURE_API_BASE", models.url)
        monkeypatch.setenv("AZURE_API_VERSION", "2024-10-21")
        monkeypatch.setenv("ANTHROPIC_API_BASE", models.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-test-000000")
        yield home


# --- Python --------------------------------------------------------------------------------------------------------


def names_for(page: str) -> dict[str, Any]:
    """Return the names that the snippets of a page use without defining them."""
    names: dict[str, Any] = {"dspy": dspy, "rlm_dspy": rlm_dspy, "text": TEXT}
    names["questions"] = ["What is the default port?", "Who is the captain?"]
    names["ask"] = lambda prompt: "a sub-model's answer"
    if page == "docs/prompting.md":
        names["rlm"] = rlm_dspy.RLM("context, question -> answer")
    return names


@pytest.mark.parametrize("page", with_snippets("python"))
def test_python_snippets_run_as_printed(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, stand_in(name))
    namespace = names_for(page)
    namespace["mlflow"] = sys.modules["mlflow"]
    with dspy.context(lm=rlm_dspy.lm("groq/openai/gpt-oss-20b")):
        for code in blocks_of(ROOT / page, "python"):
            exec(compile(code, page, "exec"), namespace)


def stand_in(name: str) -> Any:
    """Return a module of a service that is not installed, whose functions do nothing."""
    module: Any = types.ModuleType(name)
    module.dspy = types.SimpleNamespace(autolog=lambda **options: None)
    module.init = lambda **options: types.SimpleNamespace(log=lambda values: None)
    return module


# --- the command ---------------------------------------------------------------------------------------------------


def commands_of(block: str) -> Iterator[list[str]]:
    """Return the commands of a block, as words."""
    for line in block.replace("\\\n", " ").splitlines():
        for command in line.split(" && "):
            words = shlex.split(command, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words


@pytest.mark.parametrize("page", with_snippets("sh"))
def test_commands_run_as_printed(page: str, workspace: Path, run: Callable[..., Any]) -> None:
    for block in blocks_of(ROOT / page, "sh"):
        for words in commands_of(block):
            if words[0] in FOREIGN:
                continue
            assert words[0].rpartition("/")[2] == "rlm-dspy", words
            result = run(*words[1:])
            assert result.code in (0, 7), (words, result.err)  # 7: the engine found nothing


# --- messages ------------------------------------------------------------------------------------------------------

FAQ = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### (.+)$", FAQ, re.MULTILINE)


@pytest.fixture(scope="module")
def source() -> str:
    """Every string of the package, joined as the compiler joins them."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))


@pytest.mark.parametrize("message", MESSAGES)
def test_each_explained_message_is_one_of_the_program(message: str, source: str) -> None:
    parts = [part.strip(" .:;,") for part in re.split(r"…|[.] ", message)]
    missing = [part for part in parts if len(part) > 3 and part not in source]
    assert not missing
