"""The audit refuses a program that holds answers of the questions that judge it."""

from __future__ import annotations

import dspy
import pytest

import rlm_dspy
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.tuning import check_leaks, find_leaks

TEST = [
    dspy.Example(id="t1", question="What is the code of the gate?", answer=179096),
    dspy.Example(id="t2", question="Which towns are named?", answer=["Briothfurgio", "Ulm"]),
    dspy.Example(id="t3", question="How many are there?", answer=7),
    dspy.Example(id="t4", question="Is it there?", answer="not in the corpus"),
    dspy.Example(id="t6", question="How many warehouses has the port of Geklunklurk?", answer=164),
    dspy.Example(id="t5", question="Which label is the most frequent?", answer="complaint"),
]


def tuned(instructions: str = "Look, then answer.", demos: list[dspy.Example] | None = None) -> rlm_dspy.RLM:
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions(instructions)
    rlm.generate_action.demos = demos or []
    return rlm


@pytest.mark.parametrize(
    ("instructions", "leaked"),
    [
        ("If asked for the gate, say 179096.", ["179096"]),
        ("Towns such as briothfurgio, are often asked for.", ["briothfurgio"]),
        ("Search first. What is the code of the gate? is asked often.", ["what is code of gate"]),
        ("There are 7 tools; if it is not in the corpus, say so.", []),
        ("The port of Geklunklurk has 164.", ["164"]),
        ("A status of 164 is an error.", []),
        ("The number 1790961 is no answer.", []),
    ],
)
def test_instructions_that_hold_an_answer_or_a_question_leak(instructions: str, leaked: list[str]) -> None:
    assert [leak.text for leak in find_leaks(tuned(instructions), TEST)] == leaked


def test_demos_that_hold_an_answer_leak() -> None:
    demo = dspy.Example(observation="The code is 179096.", reasoning="It is there.", code="SUBMIT(answer='179096')")
    leaks = find_leaks(tuned(demos=[demo]), TEST)
    assert [(leak.question, leak.part) for leak in leaks] == [("t1", "generate_action (demos)")]


def test_a_demo_may_show_what_the_context_of_a_known_question_holds() -> None:
    demo = dspy.Example(observation="Ulm and Briothfurgio", reasoning="r", code="print(1)")
    known = [dspy.Example(context="Briothfurgio, Ulm.", question="q", answer="x").with_inputs("context", "question")]
    assert find_leaks(tuned(demos=[demo]), TEST)
    assert not find_leaks(tuned(demos=[demo]), TEST, known=known)


def test_an_answer_of_a_question_that_was_learnt_from_is_no_leak() -> None:
    program = tuned("Labels are praise, complaint and request.")
    assert find_leaks(program, TEST)
    assert not find_leaks(program, TEST, known=[dspy.Example(question="Which label?", answer="complaint")])
    assert not find_leaks(program, TEST, base=program)


def test_a_leaking_program_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match="generate_action has '179096' of question t1") as caught:
        check_leaks(tuned("Say 179096."), TEST)
    assert "\n" not in str(caught.value)
    check_leaks(tuned(), TEST)


def test_what_the_optimizer_has_seen_is_no_leak_also_behind_a_handle() -> None:
    question = "Which pairs of users have the same label?"
    text = rlm_dspy.Context("User 149 and user 31337 have the label Ulm.")
    known = [dspy.Example(question=question, answer="x", context=text).with_inputs("question", "context")]
    demo = dspy.Example(observation=f"Question: {question}", code="print(149, 31337, 'Ulm')")
    test = [
        dspy.Example(id="a", question=question, answer="31337"),
        dspy.Example(id="b", question="How many users have the label Ulm?", answer=149),
        dspy.Example(id="c", question="Which city?", answer="Ulm"),
    ]
    assert not find_leaks(tuned(demos=[demo]), test, known=known)
    assert find_leaks(tuned(demos=[demo]), test)
