"""``init``: three questions, what is tested, and what is written."""

from __future__ import annotations

import io
import os
import shlex
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from rlm_dspy.cli import input_paths, key_store
from rlm_dspy.cli.home_files import user_toml
from rlm_dspy.cli.init import updated_toml
from servers import local
from servers.local import LocalServer
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer

KEY = "gsk_canary_init_0123456789"
GROQ = "groq/openai/gpt-oss-20b"


def answers(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def test_the_offline_engine_and_a_folder_are_written(run: Callable, write: Callable) -> None:
    place = write("docs/a.md", "text").parent
    result = run("init", stdin=answers("", "docs"))
    assert result.code == 0, result.err
    assert f"{place}: 1 file" in result.err
    assert "the server's address is" not in result.err
    assert tomllib.loads(user_toml().read_text()) == {"model": "offline", "folder": str(place)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "# Notes\n\n## The harbour\n\nThe harbour is deep.\n"),
        ("a.py", "def flash_lamp() -> int:\n    return 7\n"),
        ("a.txt", "The captain is Ahab and his ship is the Pequod.\n"),
        ("a.csv", "month,visitors\nMay,412\nJune,530\n"),
    ],
)
def test_the_question_that_it_suggests_is_one_that_the_offline_engine_answers(
    run: Callable, write: Callable, name: str, text: str
) -> None:
    write(f"docs/{name}", text)
    result = run("init", stdin=answers("", "docs"))
    line = next(line for line in result.out.splitlines() if line.startswith("Now ask: "))
    again = run(*shlex.split(line.partition(": ")[2])[1:], "docs")
    assert again.code == 0, line


def test_a_model_is_tested_with_its_key_which_is_kept(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.md", "text")
    with OpenAIServer(key=KEY, reply="ok") as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        monkeypatch.setenv("GROQ_API_KEY", "")
        result = run("init", stdin=answers(GROQ, KEY, "docs"))
        assert server.posts[-1].headers["Authorization"] == f"Bearer {KEY}"
    assert result.code == 0, result.err
    assert "warning: the server's address is that of GROQ_API_BASE" in result.err
    assert key_store.key_places() == {"GROQ_API_KEY": str(key_store.keys_file())}
    assert KEY not in result.out + result.err + user_toml().read_text()


def test_a_servers_address_is_an_answer_and_is_kept(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.md", "text")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LocalServer(local.plain("one", "two"), models=("one", "two"), reply="ok") as server:
        result = run("init", stdin=answers("http://127.0.0.1:9", server.url, "three", "two", "", "docs"))
        assert not any(KEY in str(seen.headers) for seen in server.seen)
    assert result.code == 0, result.err
    assert "failure  nothing answers at http://127.0.0.1:9/v1" in result.err
    assert "found    two (an OpenAI-compatible server)" in result.err
    kept = tomllib.loads(user_toml().read_text())
    assert (kept["model"], kept["openai_api_base"]) == ("openai/two", f"{server.url}/v1")


def test_a_server_that_refuses_to_list_its_models_is_asked_with_a_key(run: Callable, write: Callable) -> None:
    write("docs/a.md", "text")
    with LocalServer(local.plain(local.NAME), key=KEY, reply="ok") as server:
        result = run("init", stdin=answers(f"{server.url}/v1/", "two words", KEY, "docs"))
    assert result.code == 0, result.err
    assert "the key has blanks" in result.err
    assert "openai/" in tomllib.loads(user_toml().read_text())["model"]
    assert key_store.key_places() == {"OPENAI_API_KEY": str(key_store.keys_file())}
    assert KEY not in result.out + result.err + user_toml().read_text()


def test_an_address_that_a_project_names_does_not_become_the_users(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.md", "text")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with LocalServer(local.vllm(), reply="ok") as server:
        write("rlm-dspy.toml", f"openai_api_base = '{server.url}/v1'\n")
        result = run("init", stdin=answers(f"openai/{local.NAME}", "", "docs"))
    assert result.code == 0, result.err
    assert "openai_api_base" not in user_toml().read_text()


def test_a_kept_key_goes_to_the_server_that_is_kept(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.md", "text")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    key_store.put_key("OPENAI_API_KEY", KEY)
    with LocalServer(local.vllm(), reply="ok") as server:
        result = run("init", stdin=answers(server.url, "docs"))
        assert server.posts[-1].headers["Authorization"] == f"Bearer {KEY}"
    assert result.code == 0, result.err
    assert f"OPENAI_API_KEY is there already: {key_store.keys_file()}. It is sent" in result.err


def test_the_address_of_an_ollama_is_kept_as_that(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.md", "text")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with OllamaServer() as server:
        result = run("init", stdin=answers(server.url, "", "docs"))
    assert result.code == 0, result.err
    kept = tomllib.loads(user_toml().read_text())
    assert (kept["model"], kept["ollama_host"]) == ("ollama_chat/qwen3:8b", server.url)


def test_the_models_of_a_server_that_answers_are_offered(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.md", "text")
    monkeypatch.delenv("RLM_DSPY_MODEL")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with LocalServer(local.vllm(), reply="ok") as server:
        monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
        result = run("init", stdin=answers("", "", "docs"))
    assert result.code == 0, result.err
    assert f"found    openai/{local.NAME} (vLLM)" in result.err
    kept = tomllib.loads(user_toml().read_text())
    assert (kept["model"], kept["openai_api_base"]) == (f"openai/{local.NAME}", f"{server.url}/v1")


@pytest.mark.parametrize(
    "typed", [(GROQ, "", "n"), ("offline", "gone", "n"), ("gpt\x00", "n"), ("nomodel/x", "n"), ("http://127.0.0.1:9",)]
)
def test_what_does_not_work_is_said_and_not_written(
    run: Callable, write: Callable, typed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "")
    write("docs/a.md", "text")
    result = run("init", stdin=answers(*typed))
    assert result.code == 130  # the input ends where the question is asked again
    assert "failure  " in result.err
    assert "Nothing was written." in result.err
    assert not user_toml().exists()


def test_an_answer_that_does_not_work_can_be_kept(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "")
    write("docs/a.md", "text")
    result = run("init", stdin=answers(GROQ, "", "y", "docs"))
    assert result.code == 1
    assert tomllib.loads(user_toml().read_text())["model"] == GROQ


def test_other_lines_of_the_settings_stay() -> None:
    text = "# mine\nmodel = 'old'\nmax_iters = 3\n\n[mcp.time]\nmodel = 'of a server'\n"
    made = updated_toml(text, {"model": 'a "quoted" \\ name', "folder": "/x"})
    assert tomllib.loads(made) == {
        "model": 'a "quoted" \\ name',
        "folder": "/x",
        "max_iters": 3,
        "mcp": {"time": {"model": "of a server"}},
    }
    assert "# mine" in made


class TerminalInput(io.StringIO):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_folder_is_read_in_a_terminal_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TerminalInput())
    assert input_paths.paths_or_stdin((), Path("/docs")) == ("/docs",)
    assert input_paths.paths_or_stdin(("a",), Path("/docs")) == ("a",)
    with pytest.raises(click.UsageError):
        input_paths.paths_or_stdin(())
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert input_paths.paths_or_stdin((), Path("/docs")) == ("-",)


def test_the_folder_of_the_settings_is_said(run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write("docs/a.md", "The port is 8080.").parent
    monkeypatch.setenv("RLM_DSPY_FOLDER", str(place))
    monkeypatch.setattr(input_paths, "paths_or_stdin", lambda paths, folder: paths or (str(folder),))
    result = run("what is the port")
    assert f"reading {place} (the setting folder, environment RLM_DSPY_FOLDER)" in result.err
    assert "8080" in result.out


def test_a_project_may_not_set_what_is_read(run: Callable, write: Callable) -> None:
    write("rlm-dspy.toml", f"folder = '{os.sep}'\n")
    result = run("config")
    assert result.code == 2
    assert "may not set what is read" in result.err
