"""Scores are exact, serve every caller that DSPy has, and explain themselves from the run."""

from __future__ import annotations

import inspect
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy import metrics
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence.absence import ABSENT
from rlm_dspy.run import Run, Step, SubCall, Usage
from rlm_dspy.testing import action, scripted
from rlm_dspy.tuning import Tunable, feedback, ran, scoring

JSON = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.lists(st.text()), st.none(), st.booleans())


def gold(answer: Any, **more: Any) -> dspy.Example:
    return dspy.Example(context="c", question="q?", answer=answer, **more).with_inputs("context", "question")


def pred(answer: Any, **more: Any) -> dspy.Prediction:
    return dspy.Prediction(answer=answer, **more)


@pytest.mark.parametrize(
    ("expected", "got", "score"),
    [
        ("Paris", " paris. ", 1),
        ("the Paris", "Paris", 1),
        ("Paris", "London", 0),
        (12, "12", 1),
        (12, "It is 12.", 1),
        (1234.5, "1,234.5", 1),
        (10000, "10_000", 1),
        (12, "12 of 13", 0),
        (12, None, 0),
        (12, True, 0),
        (["a", "b"], "a, b", 1),
        (["a", "b"], '["a", "b"]', 1),
        (["a", "b"], ["b", "a"], 0),
        (["July 4, 1776"], "July 4, 1776", 1),
        (["Simon and Garfunkel"], "Simon and Garfunkel", 1),
        (["Rome, Italy", "Oslo"], "rome, italy, Oslo", 1),
        (["Oslo", "Rome, Italy"], "Rome, Italy and Oslo", 0),
        (["1,234"], "1,234", 1),
        ([1000, 2.0], "1000, 2", 1),
        ([1000, 7], "1,000 and 7", 1),
        ([100, 200], "100,200", 1),
        (["Denver Broncos", "the Broncos"], "Denver Broncos", 0),
        (5, "−5", 0),
        (-5, "−5", 1),
        (5, "5 million", 0),
        (5_000_000, "$5 million", 1),
        (5_000, "5k", 1),
        (5, "5m", 0),
        (5_000_000, "5m", 0),
        (5, "5 km", 1),
        (5, "5km.", 1),
        (30, "30s", 1),
        (1.2, "1.2.3", 0),
        (10**400, 10**400, 1),
        ("1234", "1,234", 1),
        ("42", "42.0", 1),
        ("007", "7", 0),
        ("12345678901234567", "12345678901234568", 0),
        (True, "yes", 1),
        (False, "No.", 1),
        (True, "no", 0),
        ("yes", True, 1),
        (None, "not in the corpus", 1),
        ("", "It is not stated.", 1),
        (None, "13", 0),
        ("[]", "{}", 0),
        ("?", "!", 0),
        ("*", "", 0),
        ("Vitamin A", "vitamin", 0),
        ("Paris", "“Paris”", 1),
        ("don’t", "don't", 1),
        ("1939–1945", "1939-1945", 1),
    ],
)
def test_exact(expected: Any, got: Any, score: float) -> None:
    assert scoring.exact(expected, got) == score


@pytest.mark.parametrize(
    ("expected", "got", "score"),
    [
        (["a", "b"], ["b", "a"], 1),
        (["a", "b"], "- B\n- A\n", 1),
        (["a", "b"], "1. a\n2. b", 1),
        (["a", "b"], "a and b", 1),
        (["a", "b"], ["a"], 2 / 3),
        (["a & b"], "(a & b)", 1),
        ([1, 2], "[1, 2]", 1),
        ([], [], 1),
        (["a"], [], 0),
        (["a"], None, 0),
        (["Paris, France"], "Paris, France", 1),
        (["Oslo", "Paris, France"], "Paris, France and Oslo", 1),
        ([1000], "1,000", 1),
    ],
)
def test_set_f1(expected: Any, got: Any, score: float) -> None:
    assert scoring.set_f1(expected, got) == pytest.approx(score)


@pytest.mark.parametrize(("got", "score"), [(10, 1), (11, 0.75), ("8", 0.75**2), (10**9, 0), ("none", 0), (None, 0)])
def test_closeness_is_that_of_oolong(got: Any, score: float) -> None:
    assert scoring.closeness(10, got) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize(
    ("expected", "got", "score"),
    [
        (ABSENT, "This is not in the corpus.", 1),
        (ABSENT, "The context does not mention it.", 1),
        (ABSENT, "42", 0),
        (42, "It is not stated.", 0),
        (42, "42", 1),
        (ABSENT, None, 1),
        (ABSENT, "Nothing in the files tells it.", 1),
        (ABSENT, "It is defined in utils.py, not in the tests", 0),
    ],
)
def test_abstention(expected: Any, got: Any, score: float) -> None:
    assert scoring.abstention(expected, got) == score


def test_f1_counts_words() -> None:
    assert scoring.f1("a big red dog", "the red dog") == pytest.approx(2 * 2 / (3 + 2))
    assert scoring.f1(["red", "green"], "red, green") == 1
    assert scoring.f1("red, green, blue", "red green (blue)") == 1


def test_any_of_several_answers_may_be_right() -> None:
    assert scoring.any_of(["Denver Broncos", "the Broncos"], "broncos") == 1
    assert scoring.any_of(["Denver Broncos", "the Broncos"], "Denver") == 0
    assert scoring.any_of("Rome", "rome") == 1
    assert metrics.graded(gold(["2", "two"], scorer="any"), pred("Two")) == 1


@given(JSON, JSON)
def test_every_scorer_gives_a_share_for_anything(expected: Any, got: Any) -> None:
    for scorer in scoring.SCORERS.values():
        assert 0 <= scorer(expected, got) <= 1


@given(st.one_of(st.text(), st.integers(), st.lists(st.text(min_size=1), min_size=1)))
def test_the_right_answer_scores_full_as_a_set_and_exactly(value: Any) -> None:
    assert scoring.set_f1(value, value) == 1
    assert scoring.exact(value, value) == 1


def test_a_metric_serves_evaluate_bootstrapping_and_gepa() -> None:
    example, right, near = gold(["a", "b"]), pred(["a", "b"]), pred(["a"])
    inspect.signature(metrics.set_f1).bind(None, None, None, None, None)
    assert metrics.set_f1(example, near) == pytest.approx(2 / 3)
    assert metrics.set_f1(example, near, []) is False
    assert metrics.set_f1(example, right, []) is True
    explained = metrics.set_f1(example, near, [], "generate_action", [])
    assert explained.score == pytest.approx(2 / 3)
    assert "Expected: ['a', 'b']" in explained.feedback
    assert metrics.set_f1(example, None) == 0


def test_a_metric_of_a_function_is_not_asked_about_a_missing_answer() -> None:
    holds = metrics.of(lambda expected, got: expected in got)
    assert holds(gold("a"), dspy.Prediction(other=1)) == 0
    assert holds(gold("a"), pred("bar")) == 1


@pytest.mark.parametrize("value", [float("nan"), 7, -1])
def test_a_score_that_is_no_share_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="a score is from 0 to 1"):
        metrics.of(lambda expected, got: value)(gold("a"), pred("a"))


def test_a_proof_may_be_one_text() -> None:
    found = rlm_dspy.Evidence(quote="the tag is QX1").model_copy(update={"match": "exact"})
    assert metrics.evidence_precision(gold("QX1", support="the tag is QX1"), pred("QX1", evidence=[found])) == 1


def test_graded_uses_the_scorer_that_the_example_names() -> None:
    assert metrics.graded(gold(10, scorer="closeness"), pred(11)) == 0.75
    assert metrics.graded(gold(10), pred(11)) == 0
    with pytest.raises(ConfigurationError, match="'nothing' is not a scorer; choose from"):
        metrics.graded(gold(10, scorer="nothing"), pred(11))


def test_evidence_counts_only_what_was_found_and_proves_the_answer() -> None:
    lost = rlm_dspy.Evidence(quote="the code of Oslo is 4711")
    found = lost.model_copy(update={"quote": "the code of Oslo is 4711 now", "match": "exact"})
    beside = lost.model_copy(update={"quote": "nothing of the kind", "match": "exact"})
    example = gold(4711, support=["The code of Oslo is 4711"])
    assert metrics.evidence_precision(example, pred("4711", evidence=[found])) == 1
    assert metrics.evidence_precision(example, pred("4711", evidence=[found, beside])) == 0.5
    assert metrics.evidence_precision(example, pred("4711", evidence=[lost])) == 0
    assert metrics.evidence_precision(example, pred("4711", evidence=[])) == 0
    assert metrics.evidence_precision(gold(4711), pred("4711", evidence=[found])) == 1
    assert metrics.evidence_precision(gold(471), pred("471", evidence=[found])) == 0


def run(**more: Any) -> Run:
    return Run(**{"id": "r", "status": "submitted", **more})


def test_thrift_never_makes_up_for_a_wrong_answer() -> None:
    metric = metrics.composite(metrics.exact, penalty=0.9, of="tokens", allowance=100, gate=0.5)
    cheap, dear = Usage(calls=1, prompt_tokens=10), Usage(calls=9, prompt_tokens=100_000)
    wrong = metric(gold("a"), pred("b", run=run(usage=cheap)))
    right_cheap = metric(gold("a"), pred("a", run=run(usage=cheap)))
    right_dear = metric(gold("a"), pred("a", run=run(usage=dear)))
    assert wrong == 0
    assert 0.5 <= right_dear < right_cheap < 1
    with pytest.raises(ConfigurationError, match="composite"):
        metrics.composite(metrics.exact, gate=0)


def test_feedback_tells_what_went_wrong_in_few_words() -> None:
    query = SubCall(kind="plain", prompt="what is it?", output="x")
    failed = SubCall(kind="plain", prompt="and?", error="LMServerError: down")
    steps = (
        Step(index=1, code="grep(", output="SyntaxError", error="SyntaxError: '(' was never closed"),
        Step(index=2, code="llm_query(x)", output="x", sub_calls=(query, query, failed)),
        Step(index=3, code="a = 1", output="(no output - did you forget to print?)"),
        Step(index=4, code="a = 1", output="(no output - did you forget to print?)", timed_out=True),
    )
    record = run(
        status="extracted",
        stopped_by="max_iters",
        steps=steps,
        sub_calls=3,
        usage=Usage(calls=7, prompt_tokens=900, cost=None),
        warnings=("unverified evidence in evidence: the quote is not there",),
    )
    text = metrics.exact.feedback(gold("Paris"), pred("London", run=record))
    for part in (
        "Asked: q?",
        "Expected: Paris",
        "Got: London",
        "Score: 0.00 (exact)",
        "max_iters stopped it after 4 steps",
        "step 1 (grep(): SyntaxError",
        "step 4 (a = 1): timed out",
        "steps [3, 4] printed nothing",
        "1 step repeated code",
        "1 of them asked again",
        "1 of them failed (LMServerError: down)",
        "not found 1: unverified evidence",
        "7 LM calls (3 by sub-calls), 900 tokens, unknown cost",
    ):
        assert part in text
    assert "Asked: q?" in text
    assert len(text) <= feedback.MAX_FEEDBACK_CHARS


@given(st.text(), st.text(max_size=9_000), st.lists(st.text(max_size=500), max_size=30))
def test_feedback_is_never_long(question: str, answer: str, codes: list[str]) -> None:
    steps = tuple(Step(index=n, code=code, output=code, error=code) for n, code in enumerate(codes, 1))
    example = dspy.Example(context="x" * 5_000, question=question, answer=answer).with_inputs("context", "question")
    text = metrics.f1.feedback(example, pred(answer, run=run(steps=steps)))
    assert len(text) <= feedback.MAX_FEEDBACK_CHARS
    assert "x" * 500 not in text.replace(answer, "")


def test_a_run_that_failed_scores_with_feedback_instead_of_raising() -> None:
    lm, _ = scripted("no code at all")
    with dspy.context(lm=lm):
        prediction = Tunable("context, question -> answer")(context="c", question="q?")
    assert prediction.answer is None
    assert prediction.run.status == "stopped"
    explained = metrics.exact.explained(gold("Paris"), prediction)
    assert explained.score == 0
    assert "Ended without an answer after 3 steps: ActionError" in explained.feedback


def test_a_run_that_failed_is_no_right_answer_to_a_question_without_one() -> None:
    lm, _ = scripted("no code at all")
    with dspy.context(lm=lm):
        prediction = Tunable("context, question -> answer")(context="c", question="q?")
    for metric in (metrics.abstention, metrics.evidence_precision, metrics.set_f1, metrics.graded):
        assert metric(gold([], scorer="abstention"), prediction) == 0
    of_another_field = metrics.Metric(lambda example, pred: len(pred.title) / 10, "length")
    assert of_another_field(gold("x"), dspy.Prediction(title="hello")) == 0.5


async def test_a_run_that_failed_asynchronously_scores_too() -> None:
    lm, _ = scripted("no code at all")
    with dspy.context(lm=lm):
        prediction = await Tunable("context, question -> answer").acall(context="c", question="q?")
    assert metrics.exact(gold("Paris"), prediction) == 0


def test_a_provider_that_is_down_is_nobodys_candidates_fault() -> None:
    lm, _ = scripted(dspy.lm15.ServerError("down"))
    with dspy.context(lm=lm), pytest.raises(rlm_dspy.RLMError, match="down"):
        Tunable("context, question -> answer")(context="c", question="q?")


class State:
    """What of GEPA's state the component selector reads."""

    def __init__(self, names: list[str]) -> None:
        self.list_of_named_predictors = names
        self.named_predictor_id_to_update_next_for_program_candidate = [0]


def test_a_predictor_that_never_ran_gets_no_turn() -> None:
    lm, _ = scripted(action("SUBMIT(answer='x')"))
    rlm = rlm_dspy.RLM("context, question -> answer")
    with dspy.context(lm=lm, trace=[]):
        rlm(context="c", question="q")
        trace = list(dspy.settings.trace)
    candidate = {name: predictor.signature.instructions for name, predictor in rlm.named_predictors()}
    state = State(list(candidate))
    turns = [ran(state, [{"trace": trace}], [0.0], 0, candidate) for _ in range(4)]
    assert turns == [["generate_action"]] * 4
    assert ran(state, [], [], 0, candidate)[0] in candidate
