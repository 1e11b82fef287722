"""The loop, driven by hand: it asks, executes and ends by its rules, without I/O."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Any

import pytest

from rlm_dspy.errors import ActionError, BudgetExceededError
from rlm_dspy.rlm import loop
from rlm_dspy.rlm.loop import Ask, Ending, Execute, Extract, LoopSettings, ModelReply, Observation
from rlm_dspy.rlm.step_texts import StepTexts
from rlm_dspy.run import Step, SubCall


class Call:
    """A call with the limits that a test sets, and an answer that must be a dict."""

    def __init__(self, steps: list[Step], limit: str = "", problem: str = "", *, overspent: bool = False) -> None:
        self.steps, self.limit, self.problem, self.overspent = steps, limit, problem, overspent

    def exhausted_limit(self, steps: tuple[Step, ...]) -> str | None:
        return self.limit or None if steps else None

    def is_overspent(self) -> bool:
        return self.overspent

    def used_text(self, limit: str) -> str:
        return ""

    def validate_answer(self, value: Any, *, strict: bool) -> tuple[dict[str, Any], str | None]:
        if self.problem or not isinstance(value, dict):
            return {}, self.problem or "not a dict"
        return value, None

    def header_text(self, step: int) -> str:
        return f"[{step}]"

    def take_sub_calls(self) -> tuple[SubCall, ...]:
        return ()

    def take_notes(self) -> list[str]:
        return []

    def record_step(self, step: Step) -> None:
        self.steps.append(step)


def run_loop(
    steps: list[Step], *, limit: str = "", problem: str = "", overspent: bool = False, **settings: Any
) -> Generator[Any, Any, Ending]:
    """Start a loop of at most three steps, which it appends to ``steps``."""
    texts = StepTexts(10_000, ("answer",))
    fixed: dict[str, Any] = {"outputs": ("answer",), "max_iters": 3, "on_limit": "extract", "probe": "PROBE"}
    fixed |= {"room": 1_000_000, "texts": texts, **settings}
    return loop.run_loop(Call(steps, limit, problem, overspent=overspent), LoopSettings(**fixed))


def drive(flow: Generator[Any, Any, Ending], *answers: Any) -> tuple[list[Any], Ending | None]:
    """Send the answers in order; return what was asked for and how it ended."""
    asked = [next(flow)]
    for answer in answers:
        try:
            asked.append(flow.send(answer))
        except StopIteration as stop:
            return asked, stop.value
    return asked, None


SUBMITTED = Observation(submitted={"answer": "a"}, has_submitted=True)


def test_each_prompt_begins_with_the_turns_before_it() -> None:
    asked, _ = drive(
        run_loop([]),
        ModelReply(code="1"),
        Observation("one"),
        ModelReply(code="2"),
        Observation("two"),
        ModelReply(code="3"),
    )
    asks = [need for need in asked if isinstance(need, Ask)]
    assert [ask.observation for ask in asks] == ["[1]\nPROBE", "[2]\none", "[3]\ntwo"]
    for earlier, later in itertools.pairwise(asks):
        assert later.history[: len(earlier.history)] == earlier.history
        assert later.history[-1].observation == earlier.observation


def test_a_submitted_answer_ends_the_run() -> None:
    steps: list[Step] = []
    _, ending = drive(run_loop(steps), ModelReply(code="SUBMIT(answer='a')", reasoning="why"), SUBMITTED)
    assert ending == Ending("submitted", {"answer": "a"}, "why")
    assert steps[0].submitted


BLOCKS = "```python\na\n```\n```python\nb\n```\n```python\nSUBMIT(answer=c)\n```"


@pytest.mark.parametrize("second", [Observation("B"), Observation("B", error="boom")], ids=["prints", "fails"])
def test_the_blocks_of_a_reply_run_until_one_prints_or_fails(second: Observation) -> None:
    steps: list[Step] = []
    asked, _ = drive(run_loop(steps), ModelReply(code=BLOCKS), Observation(), second)
    assert asked[1:3] == [Execute("a"), Execute("b")]
    assert isinstance(asked[3], Ask)
    assert "the block after it was not run, nor was its SUBMIT(answer=c)" in asked[3].observation
    assert steps[0].code == "a\n\nb"


def test_a_cell_that_brings_the_same_output_again_is_pointed_out_and_then_ends_the_run() -> None:
    steps: list[Step] = []
    flow = run_loop(steps, max_iters=20)
    again = [item for _ in range(5) for item in (ModelReply(code="1"), Observation("x"))]
    asked, ending = drive(flow, *again, ModelReply(outputs={"answer": "x"}))
    assert ["same code" in step.output for step in steps] == [False, True, True, True, True]
    assert isinstance(asked[-1], Extract)
    assert ending is not None
    assert ending.stopped_by == "repeats"


def test_a_cell_with_another_output_is_no_repeat() -> None:
    steps: list[Step] = []
    drive(run_loop(steps), ModelReply(code="1"), Observation("x"), ModelReply(code="1"), Observation("y"))
    assert [step.output for step in steps] == ["x", "y"]


@pytest.mark.parametrize(
    ("finish", "why"), [("length", "limit of output tokens"), ("content_filter", "filter withheld")]
)
def test_why_a_reply_ended_early_is_said_to_the_model_and_to_the_user(finish: str, why: str) -> None:
    steps: list[Step] = []
    with pytest.raises(ActionError, match=why):
        drive(run_loop(steps, max_iters=20), *[ModelReply(text="", finish=finish)] * 3)
    assert all(why in step.output for step in steps)


def test_code_that_was_cut_off_is_not_run() -> None:
    steps: list[Step] = []
    asked, _ = drive(run_loop(steps), ModelReply(code="for x in [1,", finish="length"))
    assert isinstance(asked[-1], Ask)
    assert "cut off" in steps[0].output


def test_whole_blocks_before_one_that_was_cut_off_run_and_the_cut_is_said() -> None:
    steps: list[Step] = []
    cut = ModelReply(text="```python\nlook()\n```\nnow\n```python\nfor x in [1,", finish="length")
    asked, _ = drive(run_loop(steps), cut, Observation("seen"))
    assert [step.code for step in asked if isinstance(step, Execute)] == ["look()"]
    assert "seen" in steps[0].output
    assert "cut off" in steps[0].output


def test_a_cut_is_kept_in_the_record_where_a_whole_block_before_it_submits() -> None:
    steps: list[Step] = []
    cut = ModelReply(text="```python\nSUBMIT(1)\n```\nor\n```python\nfor x in [1,", finish="length")
    drive(run_loop(steps), cut, SUBMITTED)
    assert steps[0].submitted
    assert "cut off" in steps[0].output


def test_a_refused_submit_is_shown_to_the_model_and_the_run_goes_on() -> None:
    bad = Observation(text="printed", submitted=3, has_submitted=True)
    asked, ending = drive(run_loop([]), ModelReply(code="s"), bad, ModelReply(code="t"), SUBMITTED)
    assert asked[2].observation == "[2]\nprinted\n[SUBMIT refused] not a dict"
    assert ending is not None


def test_an_unreadable_reply_is_asked_again_twice_and_each_is_a_step() -> None:
    steps: list[Step] = []
    flow = run_loop(steps, max_iters=20)
    with pytest.raises(ActionError, match="no code that could be run"):
        drive(flow, ModelReply(text="no"), ModelReply(text="nope"), ModelReply(text="never"))
    assert [step.reasoning for step in steps] == ["no", "nope", "never"]
    assert all(step.error for step in steps)


def test_a_readable_reply_resets_the_count_of_unreadable_ones() -> None:
    no, yes = ModelReply(text="no"), ModelReply(code="1")
    asked, _ = drive(run_loop([], max_iters=20), no, no, yes, Observation("x"), no, no, yes, Observation("y"), no)
    assert isinstance(asked[-1], Ask)


def test_a_limit_ends_in_an_extract_from_the_steps() -> None:
    asked, ending = drive(
        run_loop([], max_iters=1),
        ModelReply(code="1"),
        Observation("seen"),
        ModelReply(outputs={"answer": "x"}),
    )
    assert isinstance(asked[-1], Extract)
    assert asked[-1].steps[0].output == "seen"
    assert ending == Ending("extracted", {"answer": "x"}, "Extract forced final output", "max_iters")


def test_nothing_is_extracted_when_no_cell_ran() -> None:
    with pytest.raises(BudgetExceededError, match="before any code ran"):
        drive(run_loop([], max_iters=1), ModelReply(text="no"))


def test_a_limit_raises_when_asked_to() -> None:
    with pytest.raises(BudgetExceededError, match="max_iters"):
        drive(run_loop([], max_iters=1, on_limit="raise"), ModelReply(code="1"), Observation("seen"))


def test_a_refused_call_ends_the_run_by_the_limit_that_it_names() -> None:
    asked, ending = drive(
        run_loop([]),
        ModelReply(code="1"),
        Observation("seen"),
        "max_seconds",
        ModelReply(outputs={"answer": "x"}),
    )
    assert isinstance(asked[-1], Extract)
    assert ending is not None
    assert ending.stopped_by == "max_seconds"


def test_an_invalid_extract_is_an_error_and_never_an_empty_answer() -> None:
    with pytest.raises(ActionError, match="not valid"):
        drive(
            run_loop([], max_iters=1, problem="answer is missing"),
            ModelReply(code="1"),
            Observation("seen"),
            ModelReply(outputs={}),
        )


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("answer = 7", "`answer` set, not submitted: SUBMIT(answer=answer)"),
        ("answer == 7", None),
        ("found = 7", None),
    ],
)
def test_an_output_that_was_set_and_not_submitted_is_pointed_out(code: str, told: str | None) -> None:
    steps: list[Step] = []
    drive(run_loop(steps), ModelReply(code=code), Observation("7"))
    assert (told or "7") in steps[0].output
    assert ("not submitted" in steps[0].output) == (told is not None)


def test_a_match_that_is_none_is_explained() -> None:
    steps: list[Step] = []
    error = "AttributeError: 'NoneType' object has no attribute 'group'"
    drive(run_loop(steps), ModelReply(code="m.group(1)"), Observation(error, error=error))
    assert 'search("…") or grep("…")' in steps[0].output


def test_a_repeated_cell_that_fails_is_pointed_out_too() -> None:
    steps: list[Step] = []
    failed = [Observation(f'File "<cell {n}>", line 1\nBoom', error="Boom") for n in (2, 3)]
    drive(run_loop(steps), ModelReply(code="m"), failed[0], ModelReply(code="m"), failed[1])
    assert "You ran this same code in step 1" in steps[1].output


def test_a_class_of_the_outputs_that_a_cell_does_not_know_is_explained() -> None:
    failed = Observation("", error="NameError: name 'Person' is not defined")
    advice = loop.step_advice(["Person(name='Ann')"], failed, ("who",), frozenset({"list", "Person"}))
    assert advice == "[Person is not defined in the REPL: SUBMIT takes a dict with its fields instead.]"
    assert (
        loop.step_advice(["persons"], Observation("", error="NameError: name 'persons' is not defined"), ("who",))
        is None
    )


@pytest.mark.parametrize("first", ["max_cost", "max_tokens", "max_seconds"])
def test_nothing_is_asked_for_once_the_cost_has_passed_its_limit(first: str) -> None:
    with pytest.raises(BudgetExceededError, match="max_cost is spent") as caught:
        drive(run_loop([], limit=first, overspent=True), ModelReply(code="1"), Observation("seen"))
    assert caught.value.limit == "max_cost"


def test_the_error_without_an_answer_names_what_failed_last() -> None:
    failed = Observation("", error="Traceback (most recent call last):\nNameError: name 'x' is not defined")
    missing = run_loop([], max_iters=1, problem="answer is missing")
    with pytest.raises(ActionError, match="the last step failed with NameError: name 'x' is not defined; raise it"):
        drive(missing, ModelReply(code="x"), failed, ModelReply(outputs={"answer": None}))
