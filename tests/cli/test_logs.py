"""Logging: silent by default, structured on request, never with a secret."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm_dspy.cli import logs
from rlm_dspy.cli.terminal import Terminal
from servers.openai import OpenAIServer

KEY = "gsk_canary_0123456789"


def new_terminal(verbose: int, *, quiet: bool) -> Terminal:
    terminal = Terminal()
    terminal.verbose, terminal.quiet = verbose, quiet
    terminal.redactor.learn([KEY])
    return terminal


@pytest.fixture
def configure() -> Iterator[Callable[[int, bool], logging.Logger]]:
    loggers = [logging.getLogger(name) for name in (logs.OURS, *logs.NOISY_LOGGERS)]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]

    def call(verbose: int, as_json: bool) -> logging.Logger:
        logs.configure(new_terminal(verbose, quiet=True), as_json)
        return logging.getLogger("rlm_dspy.some.module")

    yield call
    logging.captureWarnings(False)
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def speak(logger: logging.Logger) -> None:
    logger.debug("fine detail")
    logger.info("step %d done", 3, extra={"step": 3, "key": KEY})
    logger.warning("careful")
    logging.getLogger("dspy.some").warning("from the library")


def test_a_warning_is_a_line_for_the_user_unless_quiet(configure: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    logger = configure(0, False)
    for quiet, shown in ((False, "warning: the key is ********\n"), (True, "")):
        logs.configure(new_terminal(0, quiet=quiet))
        logger.warning("the key is %s", KEY)
        logger.info("not shown")
        assert capsys.readouterr() == ("", shown)


def test_logs_are_silent_by_default(configure: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    speak(configure(0, False))
    assert capsys.readouterr() == ("", "")


def test_v_shows_info_with_extras_and_vv_the_rest(configure: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    speak(configure(1, False))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "INFO rlm_dspy.some.module: step 3 done step=3 key='********'",
        "WARNING rlm_dspy.some.module: careful",
    ]
    speak(configure(2, False))
    text = capsys.readouterr().err
    assert "fine detail" in text
    assert "from the library" in text


def test_json_logs_are_objects_with_the_extras(configure: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    logger = configure(0, True)
    speak(logger)
    try:
        raise ValueError(f"bad {KEY}")
    except ValueError:
        logger.exception("failed", extra={"what": object})
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.err.splitlines()]
    assert captured.out == ""
    assert [row["message"] for row in rows] == ["step 3 done", "careful", "failed"]
    assert rows[0] | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "rlm_dspy.some.module",
        "message": "step 3 done",
        "step": 3,
        "key": "********",
    }
    assert "ValueError: bad ********" in rows[2]["error"]
    assert KEY not in captured.err
    assert sys.stderr is not None


def test_libraries_log_to_stderr_and_never_to_stdout(
    spawn: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "a.md").write_text("The port is 8080.\n")
    with OpenAIServer(models=("m",), key=KEY, reply="```python\nSUBMIT(answer='8080', evidence=[])\n```") as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        result = spawn("ask", "-m", "openai/m", "--mode", "rlm", "which port?", "a.md", "--json", "-vv")
    assert json.loads(result.out)["answer"] == "8080"
    assert "LiteLLM" in result.err
    assert KEY not in result.err
