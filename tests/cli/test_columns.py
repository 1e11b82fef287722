"""Lines in a terminal: notes are cut between words, and the rails of a tree go on beside the parts of a line."""

from __future__ import annotations

import io
import sys

import pytest
from rich.cells import cell_len

from rlm_dspy.cli.terminal import Terminal, columns_of
from rlm_dspy.report import tree
from rlm_dspy.run import Run, Step, SubCall

NOTE = (
    "No language model: the offline engine looks up passages by keyword (named by --model). To use a model, set -m or "
    "RLM_DSPY_MODEL, e.g. `rlm-dspy ask -m ollama_chat/qwen3:8b`, or set GROQ_API_KEY."
)


class Screen(io.StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, columns: int, text: str) -> str:
    """Return what a terminal shows of a note."""
    screen = Screen()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stderr", screen)
    Terminal().note(text)
    return screen.getvalue()


@pytest.mark.parametrize("columns", [50, 80])
def test_a_note_is_cut_between_words_and_not_in_a_command(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    lines = shown(monkeypatch, columns, NOTE).splitlines()
    assert max(map(len, lines)) <= columns
    assert " ".join(lines) == NOTE
    assert any("`rlm-dspy ask -m ollama_chat/qwen3:8b`" in line for line in lines)


def test_each_line_keeps_its_indent_and_long_words_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "short\n  one two three four five\n/" + "x" * 30
    assert shown(monkeypatch, 20, text) == "short\n  one two three four\n  five\n/" + "x" * 30 + "\n"


def test_a_file_gets_the_line_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    Terminal().note(NOTE)
    Terminal().error(NOTE)
    assert capsys.readouterr().err == f"{NOTE}\nrlm-dspy: {NOTE}\n"


def test_a_stream_without_a_size_has_no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns_of(Screen()) == 0
    assert columns_of(io.StringIO()) == 0


@pytest.mark.parametrize("columns", [50, 80])
def test_the_rails_of_a_tree_go_on(columns: int) -> None:
    call = SubCall(kind="plain", prompt="a long question " * 20, output="長い答え" * 40)
    step = Step(
        index=1, reasoning="many words " * 12, code="if True:\n    print('" + "y" * 200 + "')", sub_calls=(call,)
    )
    run = Run(id="a", status="submitted", steps=(step,), outputs={"answer": "text"})
    lines = list(tree.tree_lines(run, whole=True))
    fitted = list(tree.fitted_lines(lines, columns))
    assert max(map(cell_len, fitted)) <= columns
    start = next(number for number, line in enumerate(fitted) if line.startswith("├─ step"))
    end = fitted.index("answer: text")
    assert all(line.startswith(("├─ ", "│  ")) for line in fitted[start:end])
    assert all(line.startswith("│  │  ") for line in fitted if "question" in line or "答" in line)
    assert sum(line.count("y") for line in fitted if line.startswith("│    ")) == 200
    assert list(tree.fitted_lines(fitted, columns)) == fitted
