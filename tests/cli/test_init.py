"""``init``: three questions, what is tested, and what is written."""

from __future__ import annotations

import io
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from rlm_dspy.cli import key_store, reading
from rlm_dspy.cli.init import updated_toml
from rlm_dspy.cli.startup import user_toml
from servers.openai import OpenAIServer

KEY = "gsk_canary_init_0123456789"
GROQ = "groq/openai/gpt-oss-20b"


def answers(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def test_the_offline_engine_and_a_folder_are_written(run: Callable, write: Callable) -> None:
    place = write("docs/a.md", "text").parent
    result = run("init", stdin=answers("", "docs"))
    assert result.code == 0
    assert f"{place}: 1 file" in result.err
    assert "address" not in result.err
    assert tomllib.loads(user_toml().read_text()) == {"model": "offline", "folder": str(place)}


def test_a_model_is_tested_with_its_key_which_is_kept(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("docs/a.md", "text")
    with OpenAIServer(key=KEY, reply="ok") as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        monkeypatch.setenv("GROQ_API_KEY", "")
        result = run("init", stdin=answers(GROQ, KEY, "docs"))
        assert server.posts[-1].headers["Authorization"] == f"Bearer {KEY}"
    assert result.code == 0
    assert "warning: the server's address is that of GROQ_API_BASE" in result.err
    assert key_store.key_places() == {"GROQ_API_KEY": str(key_store.keys_file())}
    assert KEY not in result.out + result.err + user_toml().read_text()


@pytest.mark.parametrize(
    "typed", [(GROQ, "", "docs", "n"), ("offline", "gone", ""), ("gpt\x00", "docs", "n"), ("nomodel/x", "docs", "n")]
)
def test_what_does_not_work_is_said_and_not_written(
    run: Callable, write: Callable, typed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "")
    write("docs/a.md", "text")
    result = run("init", stdin=answers(*typed))
    assert result.code == 1
    assert "failure  " in result.err
    assert "Nothing was written." in result.err
    assert not user_toml().exists()


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
    assert reading.paths_or_stdin((), Path("/docs")) == ("/docs",)
    assert reading.paths_or_stdin(("a",), Path("/docs")) == ("a",)
    with pytest.raises(click.UsageError):
        reading.paths_or_stdin(())
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert reading.paths_or_stdin((), Path("/docs")) == ("-",)


def test_the_folder_of_the_settings_is_said(run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write("docs/a.md", "The port is 8080.").parent
    monkeypatch.setenv("RLM_DSPY_FOLDER", str(place))
    monkeypatch.setattr(reading, "paths_or_stdin", lambda paths, folder: paths or (str(folder),))
    result = run("what is the port")
    assert f"reading {place} (the setting folder, environment RLM_DSPY_FOLDER)" in result.err
    assert "8080" in result.out


def test_a_project_may_not_set_what_is_read(run: Callable, write: Callable) -> None:
    write("rlm-dspy.toml", f"folder = '{os.sep}'\n")
    result = run("config")
    assert result.code == 2
    assert "may not set what is read" in result.err
