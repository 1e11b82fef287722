"""Settings: precedence of sources, origins of values, and messages for broken files."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from rlm_dspy import safe_files
from rlm_dspy.cli import key_store, settings
from rlm_dspy.cli.commands import ask
from rlm_dspy.cli.home_files import home_folder, user_toml
from rlm_dspy.cli.options import SETTING_FLAGS
from rlm_dspy.cli.settings import Settings
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.local_servers import chosen_address
from servers import local
from servers.local import LocalServer

KEY = "gsk_canary_0123456789"
REPLY = "[[ ## answer ## ]]\n8080\n\n[[ ## evidence ## ]]\n[]\n\n[[ ## completed ## ]]\n"


def test_each_source_gives_way_to_the_stronger_one(
    home: Path, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = Path(os.environ["XDG_CONFIG_HOME"]) / "rlm-dspy" / "config.toml"
    user.parent.mkdir(parents=True)
    seen = [settings.load()]
    user.write_text("max_iters = 1\n")
    seen.append(settings.load())
    write("rlm-dspy.toml", "max_iters = 2\n")
    seen.append(settings.load())
    write(".env", "RLM_DSPY_MAX_ITERS=3\nUNRELATED=1\nRLM_DSPY_UNRELATED=1\n")
    seen.append(settings.load())
    monkeypatch.setenv("RLM_DSPY_MAX_ITERS", "4")
    seen.append(settings.load())
    seen.append(settings.load({"max_iters": 5, "max_calls": None}))
    assert [loaded.settings.max_iters for loaded in seen] == [20, 1, 2, 3, 4, 5]
    assert [loaded.origins["max_iters"] for loaded in seen] == [
        "default",
        str(user),
        "rlm-dspy.toml",
        ".env",
        "environment RLM_DSPY_MAX_ITERS",
        "flag --max-iters",
    ]
    assert seen[-1].origins["max_calls"] == "default"


def test_a_misspelt_variable_is_reported_once(
    home: Path, write: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "_told_names", set())
    write(".env", "RLM_DSPY_MODLE=offline\nRLM_DSPY_ENGINE=x\nRLM_DSPY_NO_CACHE=1\nMODLE=1\nRLM_DSPY_MODEL=offline\n")
    monkeypatch.setenv("RLM_DSPY_MAX_ITER", "4")
    monkeypatch.setenv("RLM_DSPY_GROQ_API_KEY", "gsk_none")
    monkeypatch.setenv("RLM_DSPY_CORPUS", "docs")  # of another program
    settings.load()
    settings.load()
    assert sorted(record.getMessage() for record in caplog.records) == [
        ".env sets RLM_DSPY_ENGINE, which is not a setting. `rlm-dspy config` lists the settings.",
        ".env sets RLM_DSPY_MODLE, which is not a setting. Did you mean RLM_DSPY_MODE or RLM_DSPY_MODEL?",
        "the environment sets RLM_DSPY_GROQ_API_KEY, which is not a setting. Did you mean GROQ_API_KEY?",
        "the environment sets RLM_DSPY_MAX_ITER, which is not a setting. Did you mean RLM_DSPY_MAX_ITERS?",
    ]


def test_config_shows_values_sources_and_no_secret(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    write(".env", "OPENAI_API_KEY=sk-canary-from-the-file\n")
    result = run("config", "--json")
    shown = json.loads(result.out)["settings"]
    assert result.code == 0
    assert shown["model"] == {"value": "offline", "source": "environment RLM_DSPY_MODEL"}
    assert shown["groq_api_key"] == {"value": "********", "source": "environment GROQ_API_KEY"}
    assert shown["openai_api_key"] == {"value": "********", "source": ".env"}
    assert "canary" not in result.out + result.err
    plain = run("config")
    assert re.search(r"^groq_api_key +\*{8} +environment GROQ_API_KEY$", plain.out, re.M)
    assert "canary" not in plain.out + plain.err


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("max_iters = ", "not valid TOML"),
        ("max_iters = -3", "greater than or equal to 1, got -3"),
        ("max_iters = 'many'", "valid integer"),
        ("max_itres = 3", "Did you mean 'max_iters'?"),
        ("xyzzy = 3", "not a setting"),
        ("mode = 'fast'", "'auto', 'rlm' or 'direct'"),
        ("max_cost = nan", "finite"),
    ],
)
def test_a_broken_file_is_one_line_that_names_it(run: Callable, write: Callable, toml: str, says: str) -> None:
    write("rlm-dspy.toml", toml + "\n")
    result = run("config")
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert "rlm-dspy.toml" in result.err
    assert says in result.err


def test_files_that_are_not_text_are_named(home: Path, write: Callable) -> None:
    (home / ".env").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"^\.env cannot be read"):
        settings.load()
    (home / ".env").unlink()
    (home / "rlm-dspy.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"^rlm-dspy\.toml cannot be read"):
        settings.load()


def test_a_bad_secret_is_not_echoed(write: Callable) -> None:
    write("rlm-dspy.toml", "groq_api_key = [12345678]\n")
    with pytest.raises(ConfigurationError, match="groq_api_key") as caught:
        settings.load()
    assert "12345678" not in str(caught.value)


def test_keys_of_files_reach_the_providers_but_never_override_the_environment(home: Path, write: Callable) -> None:
    write(".env", "OPENROUTER_API_KEY=router-key\nGROQ_API_KEY=file-key\nDEEPSEEK_API_BASE=http://evil\n")
    environ = {"GROQ_API_KEY": "own-key"}
    given = settings.export_credentials(settings.load(trust_project=True), environ)
    assert environ == {"GROQ_API_KEY": "own-key", "OPENROUTER_API_KEY": "router-key"}
    assert set(given) == {"router-key", "file-key"}


def put_user_settings(text: str) -> Path:
    path = user_toml()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_address_of_an_openai_server_is_kept_in_the_users_settings(
    run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.txt", "The port is 8080.\n")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with LocalServer(local.plain(local.NAME), reply=REPLY) as server:
        put_user_settings(f"openai_api_base = '{server.url}/v1'\n")
        result = run("ask", "-m", f"openai/{local.NAME}", "--mode", "direct", "What is the port?", "a.txt")
        assert result.code == 0, result.err
        assert server.posts


@pytest.mark.parametrize("variable", ["OPENAI_API_BASE", "OPENAI_BASE_URL"])
def test_the_variables_address_wins_over_the_settings(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    put_user_settings("openai_api_base = 'http://127.0.0.1:1/v1'\n")
    monkeypatch.setenv(variable, "http://127.0.0.1:2/v1")
    loaded = settings.load()
    assert loaded.settings.openai_api_base == "http://127.0.0.1:2/v1"
    assert loaded.origins["openai_api_base"] == f"environment {variable}"
    environ = {variable: "http://127.0.0.1:2/v1"}
    settings.export_credentials(loaded, environ)
    assert chosen_address("openai/x", None, environ) == "http://127.0.0.1:2/v1"


def test_the_environments_key_does_not_go_to_an_address_of_the_settings(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = put_user_settings("openai_api_base = 'http://127.0.0.1:1/v1'\nmodel = 'openai/x'\n")
    monkeypatch.delenv("RLM_DSPY_MODEL")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    environ = {"OPENAI_API_KEY": KEY}
    settings.export_credentials(settings.load(), environ)
    assert environ == {"OPENAI_API_BASE": "http://127.0.0.1:1/v1"}
    assert f"OPENAI_API_KEY is not sent to the server set in {place}" in caplog.text
    key_store.put_key("OPENAI_API_KEY", "the-servers-own-key")
    environ = {"OPENAI_API_KEY": KEY}
    settings.export_credentials(settings.load(), environ)
    assert environ == {"OPENAI_API_BASE": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": "the-servers-own-key"}


def test_an_address_in_the_environment_gets_the_environments_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"OPENAI_API_BASE": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": KEY}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environ = dict(given)
    settings.export_credentials(settings.load(), environ)
    assert environ == given


def test_flags_and_help_agree_with_the_settings() -> None:
    options = {param.name: param for param in ask.params if isinstance(param, click.Option)}
    assert set(SETTING_FLAGS) <= set(Settings.model_fields)
    for name in SETTING_FLAGS:
        option = options[name]
        assert option.default is None or "Sentinel" in repr(option.default), "a flag's default would hide the files"
        if stated := re.search(r"\(default: (\w+)\)", option.help or ""):
            assert stated.group(1) == str(Settings.model_fields[name].default)


def test_home_may_be_set_and_begins_in_the_cache_folder(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert settings.load().settings.home == Path(os.environ["XDG_CACHE_HOME"]) / "rlm-dspy"
    monkeypatch.setenv("RLM_DSPY_HOME", "~/runs")
    assert settings.load().settings.home == Path(os.environ["HOME"]) / "runs"


@pytest.mark.parametrize(
    ("platform", "place"),
    [("linux", ".cache/rlm-dspy"), ("darwin", "Library/Caches/rlm-dspy"), ("win32", "local/rlm-dspy/cache")],
)
def test_the_cache_folder_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, home: Path, platform: str, place: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("LOCALAPPDATA", str(Path.home() / "local"))
    monkeypatch.setattr(sys, "platform", platform)
    assert safe_files.cache_folder() == Path.home() / place


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of Unix")
@pytest.mark.parametrize("name", [".env", "rlm-dspy.toml"])
def test_a_named_pipe_in_place_of_a_settings_file_is_not_waited_for(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(home)
    os.mkfifo(home / name)
    result = run("config")
    assert (result.code != 0, f"{name} is not a regular file" in result.err) == (True, True)


def test_settings_files_may_begin_with_a_byte_order_mark(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    put_user_settings("\ufeffmax_iters = 7\n")
    (home / ".env").write_text("\ufeffRLM_DSPY_MAX_CALLS=9\n", encoding="utf-8")
    loaded = settings.load().settings
    assert (loaded.max_iters, loaded.max_calls) == (7, 9)


def test_an_empty_home_in_the_users_settings_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLM_DSPY_HOME", raising=False)
    put_user_settings('home = ""\n')
    assert settings.load().settings.home == safe_files.cache_folder() == home_folder()


def test_a_line_of_dotenv_that_cannot_be_read_is_named_once(spawn: Callable, home: Path) -> None:
    (home / ".env").write_text("A=1\nB='open\n")
    result = spawn("config")
    assert result.err.count("cannot be read") == 1
    assert ".env: line 2 cannot be read" in result.err
    assert "python-dotenv" not in result.err.lower()
