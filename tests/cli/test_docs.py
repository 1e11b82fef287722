"""The pages: each snippet of README and docs runs as it is printed, and messages that are explained exist.

Models are those of the snippets, on a server that speaks their wire and answers as the offline engine does. Commands of
others (``docker``, ``curl``, …) are left out, and lines that export keys and addresses.
"""

from __future__ import annotations

import html
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import fpdf
import fsspec
import pytest

import rlm_dspy
from rlm_dspy.report.tree import tree_lines
from rlm_dspy.run import Run
from servers.batches import BatchServer
from servers.offline import AnyModelServer, OfflineOllama, offline_reply

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(python|sh)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
FOREIGN = {
    "export", "pip", "python3", "ollama", "vllm", "llama-server", "lms", "docker", "curl", "uvicorn", ".venv/bin/pip",
    ".venv/bin/uv", ".venv/bin/python", ".",
}  # fmt: skip
TEXT = "Call me Ishmael. The captain is Ahab. His ship is the Pequod. The default timeout is 30 seconds."


def blocks_of(page: Path, language: str) -> list[str]:
    """Return the snippets of a page in one language."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [re.sub(f"(?m)^{block[1]}", "", block[3]) for block in found if block[2] == language]


def with_snippets(language: str) -> list[str]:
    """Return the names of the pages that have snippets in a language."""
    return [str(page.relative_to(ROOT)) for page in PAGES if blocks_of(page, language)]


# A server of tools, under the name of the program that would fetch one.
UVX = """#!{python}
from mcp.server.mcpserver import MCPServer

server = MCPServer("time")

@server.tool()
def now() -> str:
    "Return the time."
    return "12:00"

server.run()
"""


def write_pdf(path: Path) -> None:
    """Write a report whose third page names the captain."""
    pdf = fpdf.FPDF()
    pdf.set_font("helvetica", size=10)
    for page in range(1, 5):
        pdf.add_page()
        lines = [f"Line {line} of page {page}." for line in range(1, 30)]
        if page == 3:
            lines[2] = "The captain is Ahab."
        pdf.multi_cell(0, text="\n".join(lines))
    pdf.output(str(path))


def copy_beginning(name: str, folder: Path, count: int) -> None:
    """Copy the first lines of a file: few questions can be asked about them."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / Path(name).name).write_text("".join(lines[:count]), encoding="utf-8")


@pytest.fixture
def workspace(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that snippets name, and servers for the models that they name."""
    (home / "docs").mkdir()
    copy_beginning("docs/concepts.md", home / "docs", 40)
    (home / "docs" / "ports.md").write_text("The default port is 8080.\n\nA run ends when a limit is reached.\n")
    (home / "src").mkdir()
    copy_beginning("src/rlm_dspy/rlm/module.py", home / "src", 150)
    (home / "datasets/mixed").mkdir(parents=True)
    for name in ("train.jsonl", "dev.jsonl"):
        rows = (ROOT / "datasets/mixed" / name).read_text().splitlines(keepends=True)
        (home / "datasets/mixed" / name).write_text("".join(rows[:6]))
    (home / "more.md").write_text("The retry limit is 7 attempts.\n")
    write_pdf(home / "report.pdf")
    uvx = home / "bin" / "uvx"
    uvx.parent.mkdir()
    uvx.write_text(UVX.replace("{python}", sys.executable))
    uvx.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uvx.parent}{os.pathsep}{os.environ['PATH']}")
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


@pytest.fixture(autouse=True)
def _settings_as_before() -> Iterator[None]:
    """Undo what a snippet configures for all of DSPy."""
    settings = sys.modules["dspy.dsp.utils.settings"].main_thread_config
    before = dict(settings)
    yield
    settings.clear()
    settings.update(before)


# --- Python --------------------------------------------------------------------------------------------------------


def names_for(page: str) -> dict[str, Any]:
    """Return the names that the snippets of a page use without defining them."""
    names: dict[str, Any] = {"dspy": dspy, "rlm_dspy": rlm_dspy, "text": TEXT}
    names["questions"] = ["What is the default port?", "Who is the captain?"]
    names["ask"] = lambda prompt: "a sub-model's answer"
    names["examples"] = [dspy.Example(review=text).with_inputs("review") for text in ("Great!", "Awful.")]
    if page == "docs/prompting.md":
        names["rlm"] = rlm_dspy.RLM("context, question -> answer")
    return names


@pytest.fixture
def services(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The services beside models that a page uses: a store of objects, a provider of batches."""
    if page == "docs/corpus.md":
        moto_server = pytest.importorskip("moto.server")
        bucket = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        bucket.start()
        address = "http://{}:{}".format(*bucket.get_host_and_port())
        for name, value in {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "user", "SECRET_ACCESS_KEY": "secret"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir("papers")
        store.pipe_file("papers/reports/2024/tea.md", b"Tea costs 3 crowns.")
        yield
        bucket.stop()
    elif page == "docs/batch.md":
        with BatchServer(reply=offline_reply) as batches:
            monkeypatch.setenv("OPENAI_API_BASE", batches.url)
            monkeypatch.setenv("OPENAI_API_KEY", "right-key")
            yield
    else:
        yield


@pytest.mark.parametrize("page", with_snippets("python"))
@pytest.mark.usefixtures("services")
def test_python_snippets_run_as_printed(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, stand_in(name))
    namespace = names_for(page)
    namespace["mlflow"] = sys.modules["mlflow"]
    with dspy.context(lm=rlm_dspy.lm("groq/openai/gpt-oss-20b")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's, if another test has the port of its dashboard
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
@pytest.mark.usefixtures("services")
def test_commands_run_as_printed(
    page: str, workspace: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in blocks_of(ROOT / page, "sh"):
        for words in commands_of(block):
            if words[0] == "export" and words[1].startswith("RLM_DSPY_"):
                monkeypatch.setenv(*words[1].split("="))
            if words[0] in FOREIGN:
                continue
            assert words[0].rpartition("/")[2] == "rlm-dspy", words
            result = run(*words[1:])
            assert result.code in (0, 7), (words, result.err)  # 7: the engine found nothing


# --- the site ------------------------------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    printed = done.stdout + done.stderr
    assert (done.returncode, "No issues found" in printed, "griffe:" in printed) == (0, True, False), printed
    assert "rlm_dspy.Budget" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")


def test_the_picture_shows_the_recorded_run() -> None:
    run = Run.model_validate_json((ROOT / "docs" / "images" / "run.json").read_bytes())
    drawn = runpy.run_path(str(ROOT / "docs" / "write_picture.py"))["picture"]()
    for svg in (drawn, (ROOT / "docs" / "images" / "run.svg").read_text()):
        texts = "".join(html.unescape(one) for one in re.findall(r"<text[^>]*>(.*?)</text>", svg))
        shown = texts.replace("\N{NO-BREAK SPACE}", " ")
        for line in tree_lines(run):
            assert line.strip() in shown
    assert run.outputs["answer"] == "202"
    assert run.model == "openai/qwen2.5-coder-1.5b"


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES[1:] if f'"{page.name}"' not in listed]
    assert not missing


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
