"""Colours: only in a terminal, and none with NO_COLOR."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from rlm_dspy.report import live

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


def shown_bar(*, is_terminal: bool, environ: dict[str, str]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=80, _environ={"TERM": "xterm-256color", **environ})
    reached = SimpleNamespace(failed=1, done=1, total=2, answered=0, reused=0, cost=None)
    with live.Bar(console) as bar:
        bar(reached)
    return stream.getvalue()


def test_a_terminal_has_colours_unless_no_color_is_set() -> None:
    assert COLOUR.search(shown_bar(is_terminal=True, environ={}))
    plain = shown_bar(is_terminal=True, environ={"NO_COLOR": "1"})
    assert "0 answered, 1 failed" in plain
    assert not COLOUR.search(plain)


def test_a_file_gets_neither_colours_nor_a_bar() -> None:
    assert "\x1b" not in shown_bar(is_terminal=False, environ={})


@pytest.mark.parametrize("args", [["--help"], ["ask", "what?", "a.txt"], ["config"], ["gone"]], ids=" ".join)
def test_no_output_over_a_pipe_has_control_sequences(run: Callable, write: Callable, args: list[str]) -> None:
    write("a.txt", "text")
    result = run(*args)
    assert "\x1b" not in result.out + result.err
