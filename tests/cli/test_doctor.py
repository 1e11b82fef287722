"""``doctor``: its findings, suggested fixes and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from rlm_dspy.cli import container, doctor, key_store
from rlm_dspy.cli.container import check_container
from rlm_dspy.errors import SandboxUnavailableError
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer

GROQ = "groq/openai/gpt-oss-20b"
KEY = "gsk_canary_0815_doctor"


@pytest.fixture(autouse=True)
def nobody(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLM_DSPY_MODEL")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    monkeypatch.setattr(doctor, "selftest", lambda isolation: [])


def test_with_nothing_configured_the_offline_engine_works_and_is_said_to_be_none(run: Callable) -> None:
    result = run("doctor")
    assert result.code == 0
    assert "warning  no language model: the offline engine looks up passages by keyword" in result.out
    assert "→ To use a model, set -m or RLM_DSPY_MODEL" in result.out
    assert "no Ollama answers at http://127.0.0.1:9" in result.out
    assert "GROQ_API_KEY is not set" in result.out
    assert len(result.out.splitlines()) <= 24
    assert result.err == ""


def test_a_good_ollama_is_ok_in_every_line(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("doctor")
    assert result.code == 0
    assert "failure" not in result.out
    assert "model: ollama_chat/qwen3:8b (the newest model" in result.out
    assert "tokens/s" in result.out
    assert "was read whole (the server allocated 32,768)" in result.out


def test_a_window_too_small_is_a_failure_with_the_mend(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with OllamaServer(models={"tiny": {"window": 2048}}) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("doctor")
    assert result.code == 4
    assert "failure  a window of 2,048 tokens is too small" in result.out


def test_a_window_that_the_user_sets_is_the_one_that_is_proved(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_DSPY_NUM_CTX", "16384")
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("doctor")
        sizes = {seen.body["options"]["num_ctx"] for seen in server.posts if seen.path == "/api/chat"}
    assert (result.code, sizes) == (0, {16384})


def test_a_bad_key_is_a_failure_that_does_not_show_it(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    with OpenAIServer() as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        result = run("doctor")
    assert result.code == 4
    assert "failure  Groq (groq/openai/gpt-oss-20b) refused the credentials" in result.out
    assert "Check GROQ_API_KEY" in result.out
    assert KEY not in result.out + result.err


def test_a_good_key_tells_the_limits(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    with OpenAIServer(key=KEY) as server:
        monkeypatch.setenv("GROQ_API_BASE", server.url)
        result = run("doctor", "--json")
    facts = json.loads(result.out)
    assert (result.code, facts["ok"], facts["model"]) == (0, True, GROQ)
    assert any("remaining-tokens 7500" in check["what"] for check in facts["checks"])
    assert {check["status"] for check in facts["checks"]} == {"ok"}


def test_the_fallback_and_the_sub_model_are_checked_too(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLM_DSPY_FALLBACK", "groq/openai/gpt-oss-120b")
    with OllamaServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = run("doctor")
    assert result.code == 4
    assert "fallback: groq/openai/gpt-oss-120b" in result.out
    assert "Set GROQ_API_KEY" in result.out


def test_no_strong_sandbox_is_a_failure(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(isolation: str) -> None:
        raise SandboxUnavailableError("seccomp is not there; use a newer kernel")

    monkeypatch.setattr(doctor, "report", refuse)
    result = run("doctor")
    assert result.code == 1
    assert "failure  a strong sandbox is not available here\n         → seccomp is not there" in result.out


def test_a_version_that_does_not_fit_is_a_failure(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["click>=8", "dspy>=99", "no-such-package>=1", "numpy>=99; extra == 'x'"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    result = run("doctor")
    assert result.code == 1
    assert "→ pip install 'dspy>=99'" in result.out
    assert "failure  no-such-package is not installed" in result.out
    assert "numpy" not in result.out


@pytest.mark.parametrize("name", ["two words", "frobnicate/x"])
def test_a_model_that_cannot_be_is_a_failure(run: Callable, name: str) -> None:
    result = run("doctor", "-m", name)
    assert result.code == 4
    assert "failure" in result.out
    assert "Traceback" not in result.out + result.err


def test_a_container_is_checked(run: Callable, home: Path) -> None:
    checks = json.loads(run("doctor", "--container", "--json").out)["checks"]
    shown = [check["what"] for check in checks]
    assert any(line.startswith("container: ") for line in shown)
    assert any(line.startswith("isolation is strong") for line in shown)
    assert not any(line.startswith("container") for line in run("doctor").out.splitlines())


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        ({}, ["container: none found", "processes: no limit", "memory: no limit"]),
        ({".dockerenv": ""}, ["container: Docker"]),
        ({"run/.containerenv": ""}, ["container: Podman"]),
        ({"sys/fs/cgroup/pids.max": "max\n", "sys/fs/cgroup/memory.max": "max\n"}, ["processes: no limit"]),
        ({"sys/fs/cgroup/pids.max": "32\n"}, ["at most 32 processes"]),
        ({"sys/fs/cgroup/pids.max": "4096\n"}, ["processes: at most 4,096"]),
        ({"sys/fs/cgroup/memory.max": str(100 << 20)}, ["at most 100 MB of memory"]),
        ({"sys/fs/cgroup/memory.max": str(4 << 30)}, ["memory: at most 4,096 MB"]),
    ],
)
def test_the_limits_of_a_container_are_read(tmp_path: Path, files: dict[str, str], lines: list[str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = list(check_container(tmp_path))
    for line in lines:
        (check,) = [one for one in found if one.what.startswith(line)]
        assert bool(check.fix) == (check.status != "ok")


def test_a_container_without_any_layer_is_a_failure_with_a_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(isolation: str) -> None:
        raise SandboxUnavailableError("seccomp is blocked")

    monkeypatch.setattr(container, "report", refuse)
    (failed,) = [check for check in check_container(tmp_path) if check.status == "failure"]
    assert "seccomp is blocked" in failed.what
    assert "seccomp profile" in failed.fix


def test_where_a_key_comes_from_is_said_and_an_open_file_of_keys_is_a_warning(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "")  # put back what doctor sets
    run("keys", "set", "mistral", stdin=KEY.encode())
    place = key_store.keys_file()
    assert f"keys: MISTRAL_API_KEY ({place})" in run("doctor").out
    place.chmod(0o644)
    result = run("doctor")
    assert f"other users may read {place}" in result.out
    assert KEY not in result.out + result.err
