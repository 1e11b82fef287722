"""The command as users run it: in a separate process, or in this one if start-up does not matter."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from rlm_dspy.cli import logs
from rlm_dspy.cli.commands import main
from warm import warm_python

PROVIDER = ("_API_KEY", "_API_BASE", "_BASE_URL", "OLLAMA", "RLM_DSPY", "XDG_")


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working folder, no keys, the offline model."""
    for name in list(os.environ):
        if any(part in name for part in PROVIDER):
            monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "dspy-cache"))
    monkeypatch.setenv("RLM_DSPY_MODEL", "offline")
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def spawn(home: Path) -> Callable[..., Result]:
    """Run ``python -m rlm_dspy`` as a process; bytes go to its stdin."""
    return partial(spawn_with, warm_python())


@pytest.fixture
def spawn_cold(home: Path) -> Callable[..., Result]:
    """As ``spawn``, with all of its imports."""
    return partial(spawn_with, [sys.executable])


def spawn_with(python: list[str], *args: str | bytes, stdin: bytes | None = None) -> Result:
    command = [*python, "-m", "rlm_dspy", *args]
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, **source)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def run(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Run the command in this process, which saves the start-up, and put back what it sets."""
    loggers = [logging.getLogger(name) for name in (logs.OURS, *logs.NOISY_LOGGERS)]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    hook = sys.excepthook

    def call(*args: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with warnings.catch_warnings():
            code = main(list(args))
            logging.captureWarnings(False)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    yield call
    sys.excepthook = hook
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def write(home: Path) -> Callable[[str, str], Path]:
    """Write a file below the working folder."""

    def put(name: str, text: str) -> Path:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return put
