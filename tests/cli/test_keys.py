"""Kept keys: where they are, what they are used for, and that nothing shows them."""

from __future__ import annotations

import os
import stat
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy.cli import key_store, settings
from servers.openai import OpenAIServer

KEY = "gsk_canary_kept_0123456789"


def leaves_no_trace(folder: Path, *results: Any) -> bool:
    """Whether the key is in no output and in no file but that of the keys."""
    texts = [result.out + result.err for result in results]
    for path in folder.parent.rglob("*"):
        if path.is_file() and path.name != "keys.toml":
            texts.append(path.read_bytes().decode("utf-8", "replace"))
    return not any(KEY in text for text in texts)


def test_a_key_is_kept_in_a_private_file_and_removed(run: Callable, home: Path) -> None:
    done = run("keys", "set", "groq", stdin=f"{KEY}\n".encode())
    path = key_store.keys_file()
    assert (done.code, done.out) == (0, f"GROQ_API_KEY is kept in {path}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listed = run("keys", "list")
    assert listed.out == f"GROQ_API_KEY  {path}\n"
    bare = run("keys")
    assert bare.code == 0
    assert "Usage: rlm-dspy keys" in bare.out
    assert bare.out.endswith(listed.out)
    assert KEY not in bare.out + bare.err
    removed = run("keys", "remove", "GROQ_API_KEY")
    assert removed.code == 0
    assert KEY not in path.read_text()
    assert run("keys", "remove", "GROQ_API_KEY").code == 2
    assert leaves_no_trace(home, done, listed, removed)


@pytest.mark.parametrize("value", [b"", b"\n", b"two words\n", "schlüssel\n".encode(), b"gsk\x1b[0m\n"])
def test_what_cannot_be_a_key_is_refused(run: Callable, value: bytes) -> None:
    assert run("keys", "set", "groq", stdin=value).code == 2
    assert not key_store.keys_file().exists()


def test_a_key_is_never_an_argument(run: Callable) -> None:
    assert run("keys", "set", "groq", KEY).code == 2
    result = run("keys", "set", "groq=" + KEY, stdin=b"x\n")
    assert result.code == 2
    assert KEY.upper() not in result.err.upper()


def test_the_environment_comes_first_then_the_kept_key_then_the_config(
    run: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = Path(os.environ["XDG_CONFIG_HOME"]) / "rlm-dspy" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("groq_api_key = 'of-the-config'\n")
    seen = [settings.load()]
    run("keys", "set", "groq", stdin=KEY.encode())
    seen.append(settings.load())
    shown = run("config")
    monkeypatch.setenv("GROQ_API_KEY", "of-the-environment")
    seen.append(settings.load())
    values = [one.settings.groq_api_key.get_secret_value() for one in seen]
    assert values == ["of-the-config", KEY, "of-the-environment"]
    places = [one.origins["groq_api_key"] for one in seen]
    assert places == [str(user), str(key_store.keys_file()), "environment GROQ_API_KEY"]
    assert f"********              {key_store.keys_file()}".split() == shown.out.split("groq_api_key")[1].split()[:2]
    assert leaves_no_trace(home, shown)


def test_a_kept_key_is_sent_and_shown_nowhere(run: Callable, write: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.txt", f"The key is {KEY}.\n")
    run("keys", "set", "groq", stdin=KEY.encode())
    monkeypatch.setenv("GROQ_API_KEY", "")
    with OpenAIServer(key=KEY, reply=f"[[ ## answer ## ]]\n{KEY}\n\n[[ ## evidence ## ]]\n[]") as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        result = run("ask", "-m", "groq/openai/gpt-oss-20b", "--mode", "direct", "--json", "kept?", "a.txt")
        assert server.posts[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "********" in result.out
    assert KEY not in result.out + result.err


def test_a_key_of_any_provider_is_exported(run: Callable) -> None:
    run("keys", "set", "OPENROUTER_API_KEY", stdin=KEY.encode())
    environ: dict[str, str] = {}
    loaded = settings.load()
    assert settings.export_credentials(loaded, environ) == [KEY]
    assert environ["OPENROUTER_API_KEY"] == KEY
    assert KEY in loaded.secrets()
    assert settings.key_origins(loaded, {}) == {"OPENROUTER_API_KEY": str(key_store.keys_file())}


@pytest.mark.parametrize("text", ["keys = 3", "in_keyring = [1]", f"{KEY}", f"[keys]\nA_API_KEY = '{KEY}"])
def test_a_broken_file_is_named_and_not_shown(run: Callable, text: str) -> None:
    key_store.keys_file().parent.mkdir(parents=True)
    key_store.keys_file().write_text(text)
    result = run("keys", "list")
    assert result.code == 2
    assert str(key_store.keys_file()) in result.err
    assert KEY not in result.err


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for the package ``keyring``, which keeps entries in a dict."""
    errors = types.ModuleType("keyring.errors")
    errors.KeyringError = type("KeyringError", (Exception,), {})
    errors.PasswordDeleteError = type("PasswordDeleteError", (errors.KeyringError,), {})
    package = types.ModuleType("keyring")
    package.entries = {}
    package.errors = errors
    package.backend = types.SimpleNamespace(priority=5)
    package.get_keyring = lambda: package.backend
    package.set_password = lambda service, name, value: package.entries.update({(service, name): value})
    package.get_password = lambda service, name: package.entries.get((service, name))
    package.delete_password = lambda service, name: package.entries.pop((service, name))
    monkeypatch.setitem(sys.modules, "keyring", package)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    return package


def test_where_there_is_a_keyring_it_keeps_the_key(run: Callable, keyring: Any) -> None:
    assert run("keys", "set", "groq", stdin=KEY.encode()).out == "GROQ_API_KEY is kept in the system's keyring\n"
    assert keyring.entries == {("rlm-dspy", "GROQ_API_KEY"): KEY}
    assert KEY not in key_store.keys_file().read_text()
    loaded = settings.load()
    assert loaded.settings.groq_api_key.get_secret_value() == KEY
    assert loaded.origins["groq_api_key"] == "keyring"
    assert run("keys", "remove", "groq").code == 0
    assert keyring.entries == {}
    assert settings.load().settings.groq_api_key is None


def test_a_keyring_that_is_none_is_not_used(run: Callable, keyring: Any) -> None:
    keyring.backend.priority = 0
    run("keys", "set", "groq", stdin=KEY.encode())
    assert keyring.entries == {}
    assert settings.load().settings.groq_api_key.get_secret_value() == KEY


def test_a_keyring_that_is_locked_is_named_unless_the_environment_has_the_key(
    run: Callable, keyring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("keys", "set", "groq", stdin=KEY.encode())

    def refuse(service: str, name: str) -> str:
        raise keyring.errors.KeyringError(KEY)

    keyring.get_password = refuse
    result = run("config")
    assert result.code == 2
    assert "the keyring does not give GROQ_API_KEY (KeyringError). Unlock it." in result.err
    assert KEY not in result.err
    monkeypatch.setenv("GROQ_API_KEY", "of-the-environment")
    assert run("config").code == 0
