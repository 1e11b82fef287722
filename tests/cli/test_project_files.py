"""A file of the current folder may be somebody else's: it does not decide where keys, documents or records go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_dspy.cli import key_store
from servers import local
from servers.local import LocalServer
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer

KEY = "canary-key-of-the-user-4711"
SUBMIT = "```python\nSUBMIT(answer='done', evidence=grep('timeout'))\n```"
ASK = ("ask", "what is the timeout?", "notes.txt", "--mode", "rlm")

REFUSED = {
    "an address": ("rlm-dspy.toml", "ollama_host = 'http://192.0.2.7:11434'\n", "ollama_host"),
    "a name that begins like this machine's": (
        "rlm-dspy.toml",
        "ollama_host = 'http://localhost.evil.example'\n",
        "ollama_host",
    ),
    "an address behind a user": ("rlm-dspy.toml", "ollama_host = 'http://127.0.0.1:1@192.0.2.7/'\n", "ollama_host"),
    "an address of dotenv": (".env", "OLLAMA_HOST=192.0.2.7\n", "OLLAMA_HOST"),
    "an address of OpenAI's API": (
        "rlm-dspy.toml",
        "openai_api_base = 'http://192.0.2.7/v1'\n",
        "openai_api_base",
    ),
    "an address of OpenAI's API in dotenv": (".env", "OPENAI_BASE_URL=http://192.0.2.7/v1\n", "OPENAI_API_BASE"),
    "a folder": ("rlm-dspy.toml", "home = '/tmp/theirs'\n", "home"),
    "a folder of dotenv": (".env", "RLM_DSPY_HOME=theirs\n", "RLM_DSPY_HOME"),
    "a model with an address": ("rlm-dspy.toml", "model = 'huggingface/https://192.0.2.7/x'\n", "model"),
    "a sub-model with an address": (".env", "RLM_DSPY_SUB_MODEL=huggingface/https://192.0.2.7/x\n", "SUB_MODEL"),
    "a fallback with an address": ("rlm-dspy.toml", "fallback = 'huggingface/http://192.0.2.7/x'\n", "fallback"),
    "a program": ("rlm-dspy.toml", "[mcp.x]\ncommand = 'sh'\n", "mcp"),
    "a program of dotenv": (".env", 'RLM_DSPY_MCP={"x": {"command": "sh"}}\n', "RLM_DSPY_MCP"),
    "a key": ("rlm-dspy.toml", "groq_api_key = 'theirs'\n", "groq_api_key"),
    "a key of dotenv": (".env", "OPENAI_API_KEY=theirs\n", "OPENAI_API_KEY"),
    "a key of the model's provider": (
        ".env",
        "RLM_DSPY_MODEL=deepseek/x\nDEEPSEEK_API_KEY=theirs\n",
        "DEEPSEEK_API_KEY",
    ),
    "Ollama's key": (".env", "OLLAMA_API_KEY=theirs\n", "OLLAMA_API_KEY"),
}


@pytest.fixture(autouse=True)
def notes(write: Callable) -> None:
    write("notes.txt", "the timeout is 30 s\n")


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_project_file_may_not_set_is_an_error_that_says_how_to_allow_it(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("RLM_DSPY_MODEL")
    file, text, key = REFUSED[name]
    write(file, text)
    result = run(*ASK)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert result.err.startswith(f"rlm-dspy: {file} sets ")
    assert key in result.err
    assert "--trust-project" in result.err
    assert "theirs" not in result.err


@pytest.mark.parametrize("command", [["runs"], ["config"], ["doctor"], ["models"], ["trace", "last"]])
def test_every_command_refuses_another_home(run: Callable, write: Callable, command: list[str]) -> None:
    write("rlm-dspy.toml", "home = 'theirs'\n")
    assert run(*command).code == 2
    assert "--trust-project" in run(*command).err


def test_a_project_that_is_trusted_may_set_all_of_it(
    run: Callable, home: Path, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLM_DSPY_MODEL")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with OpenAIServer(key="theirs", models=("x",), reply=SUBMIT) as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        write(".env", "OPENAI_API_KEY=theirs\nRLM_DSPY_MODEL=openai/x\nRLM_DSPY_HOME=ours\n")
        assert run(*ASK).code == 2
        assert run(*ASK, "--trust-project").out.startswith("done")
    assert list((home / "ours" / "runs").iterdir())
    monkeypatch.setenv("RLM_DSPY_TRUST_PROJECT", "1")
    assert run("runs").code == 0


def test_a_project_file_cannot_say_that_it_is_trusted(run: Callable, write: Callable) -> None:
    write(".env", "RLM_DSPY_TRUST_PROJECT=1\nRLM_DSPY_HOME=theirs\n")
    assert run("runs").code == 2
    write(".env", "")
    write("rlm-dspy.toml", "trust_project = true\nhome = 'theirs'\n")
    assert run("runs").code == 2


def test_a_stronger_source_makes_the_projects_value_moot(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(".env", "OPENAI_API_KEY=theirs\nOLLAMA_HOST=192.0.2.7\n")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert run(*ASK).code == 0


def test_other_programs_keys_in_dotenv_are_left_alone(run: Callable, write: Callable) -> None:
    write(".env", "STRIPE_API_KEY=theirs\nPOSTGRES_PASSWORD=theirs\n")
    assert run(*ASK).code == 0
    assert "STRIPE_API_KEY" not in os.environ


def test_no_key_goes_to_an_address_of_this_machine_that_a_project_names(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RLM_DSPY_MODEL")
    for source in ("project", "user"):
        with OllamaServer() as server:
            server.turns = [(SUBMIT, "stop")]
            monkeypatch.setenv("OLLAMA_API_KEY", KEY)
            if source == "project":
                write("rlm-dspy.toml", f"ollama_host = '{server.url}'\nmodel = 'ollama_chat/qwen3:8b'\n")
            else:
                write("rlm-dspy.toml", "model = 'ollama_chat/qwen3:8b'\n")
                monkeypatch.setenv("OLLAMA_HOST", server.url)
            result = run(*ASK)
            assert result.out.startswith("done")
            assert ("OLLAMA_API_KEY is not sent" in result.err) == (source == "project")
            sent = {seen.headers.get("Authorization") for seen in server.posts if seen.path == "/api/chat"}
            assert sent == ({None} if source == "project" else {f"Bearer {KEY}"})


@pytest.mark.parametrize("kept", [False, True])
def test_no_key_of_openai_goes_to_an_address_that_a_project_names(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.delenv("RLM_DSPY_MODEL")
    if kept:
        key_store.put_key("OPENAI_API_KEY", KEY)
    else:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LocalServer(local.plain(local.NAME), reply=SUBMIT) as server:
        write("rlm-dspy.toml", f"openai_api_base = '{server.url}/v1'\nmodel = 'openai/{local.NAME}'\n")
        results = [run(*ASK), run(*ASK)]  # the first one exports the address for the second
        sent = {seen.headers.get("Authorization") for seen in server.seen}
    assert all(result.out.startswith("done") for result in results)
    assert "OPENAI_API_KEY is not sent" in results[0].err
    assert not any(KEY in str(value) for value in sent)


def test_a_reference_in_dotenv_is_not_replaced_by_the_users_variable(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    monkeypatch.delenv("RLM_DSPY_MODEL")
    bomb = "".join(f"A{number + 1}=" + f"${{A{number}}}" * 10 + "\n" for number in range(20))
    write(".env", f"RLM_DSPY_MODEL=openrouter/any/${{GROQ_API_KEY}}\nA0=xxxxxxxxxx\n{bomb}")
    result = run("config", "--json")
    assert json.loads(result.out)["settings"]["model"]["value"] == "openrouter/any/${GROQ_API_KEY}"
    assert caplog.text.count("RLM_DSPY_MODEL has a reference to a variable, which is not replaced") == 1


def test_litellm_does_not_load_a_dotenv_file(home: Path, write: Callable) -> None:
    write(".env", "OPENAI_API_BASE=http://192.0.2.7\n")
    code = "import rlm_dspy, litellm, os; print(os.environ.get('OPENAI_API_BASE'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "None\n"


def test_an_address_of_another_machine_is_named_once(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_BASE", "http://bob:hunter2secret@192.0.2.7:8000/v1")
    models = ("-m", "openai/x", "--sub-model", "openai/y")
    result = run(*ASK, *models, "--dry-run")
    assert result.err.count("http://192.0.2.7:8000/v1") == 1
    assert "hunter2secret" not in result.err
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:8000/v1")
    assert "127.0.0.1" not in run(*ASK, *models, "--dry-run").err
    monkeypatch.delenv("OPENAI_API_BASE")
    assert "is served at" not in run(*ASK, *models, "--dry-run").err


def test_a_cloud_model_that_a_project_names_is_told(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    monkeypatch.delenv("RLM_DSPY_MODEL")
    write("rlm-dspy.toml", "model = 'groq/openai/gpt-oss-20b'\nsub_model = 'groq/openai/gpt-oss-20b'\n")
    assert run(*ASK, "--dry-run").err.count("rlm-dspy.toml sets the model groq/openai/gpt-oss-20b") == 1
    assert "rlm-dspy.toml sets" not in run(*ASK, "--dry-run", "-m", "offline").err
    write("rlm-dspy.toml", "")
    assert "sets the model" not in run(*ASK, "--dry-run", "-m", "groq/openai/gpt-oss-20b").err


def test_what_is_kept_is_closed_to_other_users(run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = home.parent / "cache" / "rlm-dspy"
    cache.mkdir(parents=True)
    (cache / "runs").mkdir(mode=0o755)
    replies = home.parent / "dspy-cache"
    replies.mkdir(mode=0o755, exist_ok=True)
    assert run(*ASK, "--index").code == 0
    folders = [*(folder for folder in cache.iterdir() if folder.is_dir()), replies]
    assert {folder.name for folder in folders} >= {"runs", "indexes"}
    assert {oct(folder.stat().st_mode & 0o777) for folder in folders} == {"0o700"}
    replies.chmod(0o775)
    assert run(*ASK).code == 0
    assert replies.stat().st_mode & 0o777 == 0o775, "what others may write to is shared on purpose"
