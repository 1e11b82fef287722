"""The display of a run's record; its contents are tested with the runs that create it."""

from __future__ import annotations

import pickle

import pytest

from rlm_dspy.run import Run, Step, SubCall, Usage

STEP = Step(index=1, code="x" * 5_000, output="y" * 5_000, sub_calls=(SubCall(kind="plain", prompt="p"),))
RUN = Run(
    id="r1",
    status="submitted",
    signature="context, question -> answer",
    model="groq/openai/gpt-oss-20b",
    inputs={"context": "z" * 5_000},
    outputs={"answer": "<b>disk</b> & full", "rows": list(range(1_000))},
    steps=(STEP, STEP),
    usage=Usage(calls=4, prompt_tokens=12_000, completion_tokens=345, cost=0.00123),
    sub_calls=2,
    seconds=3.21,
)


def failed(error: str) -> Run:
    return RUN.model_copy(update={"status": "stopped", "stopped_by": "max_cost", "error": error, "warnings": ("w",)})


@pytest.mark.parametrize("shown", [repr(RUN), str(RUN)])
def test_a_run_is_one_line(shown: str) -> None:
    assert shown == (
        "Run(status='submitted', steps=2, sub_calls=2, calls=4, tokens=12345, cost=0.00123, seconds=3.2, "
        "model='groq/openai/gpt-oss-20b')"
    )


def test_a_run_that_failed_says_why_in_one_line() -> None:
    shown = repr(failed("the server\nis gone " * 100))
    assert "status='stopped', stopped_by='max_cost', error='the server is gone" in shown
    assert "warnings=1" in shown
    assert "\n" not in shown
    assert len(shown) < 400


def test_an_unknown_cost_is_shown_as_unknown() -> None:
    assert "cost=None" in repr(RUN.model_copy(update={"usage": Usage(cost=None)}))


def test_in_a_notebook_a_run_is_a_small_table_without_markup_of_its_own() -> None:
    shown = RUN._repr_html_()
    assert shown.startswith("<table>")
    assert shown.endswith("</details>")
    assert "<tr><th>answer</th><td>&lt;b&gt;disk&lt;/b&gt; &amp; full</td></tr>" in shown
    assert "<tr><th>tokens</th><td>12,345</td></tr>" in shown
    assert len(shown) < 25_000


def test_what_is_hostile_in_a_run_is_escaped_wherever_it_is_shown() -> None:
    bad = "<script>alert('x')</script>"
    run = failed(bad).model_copy(update={"model": bad, "stopped_by": bad, "outputs": {bad: bad}, "warnings": (bad,)})
    shown = run._repr_html_()
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 6


def test_a_run_is_the_same_after_a_journey() -> None:
    assert Run.model_validate_json(RUN.model_dump_json()) == RUN
    assert pickle.loads(pickle.dumps(RUN)) == RUN
