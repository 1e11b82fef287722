"""What notebooks show: tables of values, and a run while it goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest

import rlm_dspy
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence import Evidence
from rlm_dspy.run import Run, Step
from rlm_dspy.testing import action, scripted

BAD = "<script>alert('x')</script>"


def test_a_corpus_is_a_table_of_its_first_files(tmp_path: Path) -> None:
    for number in range(14):
        (tmp_path / f"<b>{number:02}.md").write_text("one\ntwo\n")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    shown = rlm_dspy.read(tmp_path)._repr_html_()
    assert "<tr><th>&lt;b&gt;00.md</th><td>2 lines</td></tr>" in shown
    assert "4 more files" in shown
    assert "<th>skipped</th>" in shown
    assert "<b>" not in shown


def test_evidence_is_a_table() -> None:
    checked = Evidence(quote=BAD, source="a.md", line=3).model_copy(update={"match": "exact", "weak": True})
    shown = checked._repr_html_()
    assert "<tr><th>where</th><td>a.md:3</td></tr>" in shown
    assert "it does not show the answer" in shown
    assert "<script" not in shown
    assert "not found in the context" in Evidence(quote="x")._repr_html_()


def test_a_run_unfolds_its_steps() -> None:
    steps = tuple(Step(index=number, reasoning=BAD, code="print(1)", output="1") for number in range(1, 61))
    shown = Run(id="x", status="submitted", steps=steps)._repr_html_()
    assert shown.count("<details>") == 50
    assert "… and 10 more steps" in shown
    assert "<script" not in shown
    assert len(Run(id="x", status="submitted", steps=(Step(index=1, output="x" * 9_000_000),))._repr_html_()) < 10_000


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """What IPython displays, and each update of it."""
    pytest.importorskip("IPython")
    from IPython.core import display_functions
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    seen: list[str] = []
    InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    monkeypatch.setattr(
        display_functions, "publish_display_data", lambda data, *args, **more: seen.append(data["text/html"])
    )
    yield seen
    InteractiveShell.clear_instance()


def test_a_live_cell_shows_each_step_of_an_awaited_run(displays: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-secret-000000")
    lm, _ = scripted(
        action("print(subcall('abc', 'say'))", f"Look for {BAD} sk-secret-000000."),
        action("SUBMIT(output='x')", "The child answers."),
        action("SUBMIT(answer='x')", "It is x."),
    )

    async def ask() -> None:
        rlm = rlm_dspy.RLM("context, question -> answer", on_event=rlm_dspy.LiveCell())
        with dspy.context(lm=lm):
            await rlm.acall(context="c" * 500, question="q")

    asyncio.run(ask())
    last = displays[-1]
    assert last.startswith("<pre> 1  Look for &lt;script&gt;")
    assert "\n 2  It is x · answered" in last
    assert "The child" not in last
    assert "sk-secret" not in "".join(displays)
    assert "<script" not in "".join(displays)
    assert len(displays) >= 3


def test_runs_at_the_same_time_have_a_display_each(displays: list[str]) -> None:
    async def ask(name: str, rlm: rlm_dspy.RLM) -> None:
        lm, _ = scripted(*(action(f"print({n})", f"Run {name} looks.") for n in range(3)), action("SUBMIT(answer='x')"))
        with dspy.context(lm=lm):
            await rlm.acall(context="c" * 500, question="q")

    async def ask_both() -> None:
        rlm = rlm_dspy.RLM("context, question -> answer", on_event=rlm_dspy.LiveCell())
        await asyncio.gather(ask("A", rlm), ask("B", rlm))

    asyncio.run(ask_both())
    assert not [shown for shown in displays if "Run A" in shown and "Run B" in shown]
    for name in "AB":
        whole = [shown for shown in displays if shown.count(f"Run {name} looks") == 3 and "answered" in shown]
        assert len(whole) >= 1


def test_without_ipython_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(ConfigurationError, match="IPython is not installed here"):
        rlm_dspy.LiveCell()
