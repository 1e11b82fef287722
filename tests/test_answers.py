"""A submitted value is a valid answer or is rejected with advice; it never breaks the run."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import dspy
import pydantic
import pytest

import rlm_dspy
from rlm_dspy import Evidence, Run
from rlm_dspy.rlm.outputs import parse_outputs
from rlm_dspy.testing import action, fields, scripted, texts

SKY = "the sky is blue"


def ask(signature: Any, *replies: Any, question: str = "which colour?", **options: Any) -> dspy.Prediction:
    lm, _ = scripted(*replies)
    with dspy.context(lm=lm):
        return rlm_dspy.RLM(signature, **options)(context=SKY, question=question)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("list[str]", "'[' * 3000"),
        ("dict[str, str]", "'{\"a\":' * 3000"),
        ("list[int]", "'-' * 5000 + '1'"),
        ("int", "10 ** 5000"),
    ],
)
def test_a_value_that_breaks_a_parser_is_refused(kind: str, code: str) -> None:
    right = {"list[str]": "['a']", "dict[str, str]": "{'a': 'b'}", "list[int]": "[1]", "int": "1"}[kind]
    replies = action(f"SUBMIT(answer={code})"), action(f"SUBMIT(answer={right})")
    result = ask(f"context, question -> answer: {kind}", *replies)
    assert "[Type Error] answer: expected" in result.trajectory[0]["output"]
    assert result.run.status == "submitted"


def test_a_hit_is_submitted_as_the_text_it_reads_like() -> None:
    assert ask("context, question -> answer", action("SUBMIT(answer=grep('blue')[0])")).answer == SKY
    assert ask("context, question -> answer: list[str]", action("SUBMIT(answer=grep('s'))")).answer == [SKY, SKY]


def test_bytes_that_are_no_text_are_rendered_in_the_record() -> None:
    result = ask("context, question -> answer: Any", action("SUBMIT(answer=b'\\xff')"))
    assert result.answer == b"\xff"
    assert result.run.outputs == {"answer": "b'\\xff'"}


def test_a_number_of_thousands_of_digits_breaks_no_check() -> None:
    assert ask("context, question -> answer", action("SUBMIT(answer='9' * 5000)")).answer == "9" * 5000


def test_an_output_with_a_default_factory_may_be_left_out() -> None:
    note = dspy.OutputField(default_factory=lambda: "none")
    signature = dspy.Signature("context, question -> answer").append("note", note, type_=str)
    assert parse_outputs(signature, {"answer": "a"}) == ({"answer": "a", "note": "none"}, None)


def test_names_that_a_prediction_takes_for_itself_may_be_outputs() -> None:
    assert ask("context, question -> base", action("SUBMIT(base='a')"))["base"] == "a"


class Claim(pydantic.BaseModel):
    text: str
    quotes: list[Evidence]


QUOTE = "{'quote': 'sky is blue'}"
FORGED = "{'quote': 'pigs can fly', 'match': 'exact', 'line': 3}"


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (Evidence, "{}"),
        (Evidence | None, "{}"),
        (list[Evidence], "[{}]"),
        (tuple[Evidence, ...], "[{}]"),
        (list[Evidence | int], "[{}, 3]"),
        (list[list[Evidence]], "[[{}]]"),
        (dict[str, Evidence], "{{'a': {}}}"),
        (dict[str, list[Evidence]], "{{'a': [{}]}}"),
        (Claim, "{{'text': 't', 'quotes': [{}]}}"),
    ],
)
def test_evidence_is_located_wherever_an_output_holds_it(kind: Any, shape: str) -> None:
    signature = dspy.Signature("context, question -> answer").append("found", dspy.OutputField(), type_=kind)
    wrong, right = (action(f"SUBMIT(answer='a', found={shape.format(quote)})") for quote in (FORGED, QUOTE))
    result = ask(signature, wrong, right)
    assert "pigs can fly" in result.trajectory[0]["output"]
    assert [(item["match"], item["line"]) for item in result.run.evidence] == [("exact", 1)]
    assert "'exact'" in repr(result.found)


def test_lone_surrogates_never_break_the_record() -> None:
    code = "print('\ud800', llm_query('sub \ud801'))\nSUBMIT(answer='a\\ud802b')"
    result = ask("context, question -> answer", action(code, "why \ud803"), "reply \udc80", question="q \ud804")
    run = result.run
    assert Run.model_validate_json(run.model_dump_json()) == run
    assert run.outputs == {"answer": "a?b"}
    assert run.inputs["question"] == "q ?"
    assert (run.steps[0].reasoning, run.steps[0].sub_calls[0].output) == ("why ?", "reply ?")


def test_an_output_called_task_leaves_the_task_in_the_extract() -> None:
    seen = []

    def reply(message: str) -> str:
        if "[[ ## trajectory ## ]]" in message:
            seen.append(message)
            return fields(task="paint it")
        return action("print(1)")

    assert ask("context, question -> task", reply, max_iters=1).task == "paint it"
    assert SKY in seen[0]


def test_the_extract_has_a_model_of_its_own() -> None:
    steps, _ = scripted(action("print(1)"), fields(answer="from the steps"))
    end, script = scripted(fields(answer="from the extract"), model="scripted/end")
    rlm = rlm_dspy.RLM("context, question -> answer", max_iters=1)
    rlm.generate_action.lm, rlm.extract.lm = steps, end
    assert rlm(context=SKY, question="q").answer == "from the extract"
    assert "[[ ## trajectory ## ]]" in texts(script.requests[0])[-1]


@pytest.mark.parametrize("annotation", [int, float, Decimal, list[int], dict[str, int]])
@pytest.mark.parametrize("text", ["1E+999999999", "-2.5e-123456789", " 1e00099999 "])
def test_a_number_that_takes_for_ever_to_write_out_is_refused_at_once(annotation: Any, text: str) -> None:
    signature = dspy.Signature({"answer": (annotation, dspy.OutputField())})
    wrapped = {list[int]: [text], dict[str, int]: {"a": text}}
    _, problem = parse_outputs(signature, {"answer": wrapped.get(annotation, text)})
    assert problem


def test_a_text_may_look_like_such_a_number() -> None:
    assert parse_outputs(dspy.Signature("a -> answer"), {"answer": "1E+999999999"}) == (
        {"answer": "1E+999999999"},
        None,
    )


def test_a_cell_cannot_freeze_the_host_by_a_decimal() -> None:
    code = "from decimal import Decimal\nSUBMIT(answer=Decimal('1E+999999999'))"
    lm, _ = scripted(action(code), action("SUBMIT(answer=7)"))
    with dspy.context(lm=lm):
        run = rlm_dspy.RLM("a -> answer: int")(a="x").run
    assert run.outputs["answer"] == 7
    assert "exponent" in run.steps[0].output


class Invoice(pydantic.BaseModel):
    total: float

    @pydantic.model_validator(mode="before")
    @classmethod
    def unpack(cls, data: Any) -> Any:
        return {"total": data["invoice"]["total"]}


class Near(pydantic.BaseModel):
    x: int


class Far(pydantic.BaseModel):
    y: str


def output_of(kind: Any) -> Any:
    return dspy.Signature({"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())}, "Do it.")


def test_a_value_that_is_wrong_in_very_many_places_is_refused_with_a_few_of_them() -> None:
    _, problem = parse_outputs(output_of(list[Near | Far]), {"answer": [{}] * 30_000})
    assert problem is not None
    assert "0.Near.x: Field required" in problem
    assert "60,000 places are wrong" in problem
    assert len(problem) < 1_500


def test_places_that_are_wrong_only_far_inside_are_counted() -> None:
    _, problem = parse_outputs(output_of(list[int]), {"answer": [1] * 10 + ["x"] * 1_000})
    assert problem is not None
    assert "1,000 places are wrong" in problem


def test_more_lists_and_dicts_than_can_be_checked_are_refused() -> None:
    _, problem = parse_outputs(output_of(list[list[int]]), {"answer": [[]] * 100_001})
    assert problem is not None
    assert "more than 100,000 lists and dicts" in problem


@pytest.mark.parametrize("value", [[1] * 100_001, "[" + "{}," * 100_000 + "{}]"], ids=["numbers", "JSON"])
def test_more_values_than_can_be_checked_against_a_union_are_refused(value: Any) -> None:
    _, problem = parse_outputs(output_of(list[Near | Far]), {"answer": value})
    assert problem is not None
    assert "more than 100,000 values" in problem


def test_json_with_millions_of_values_is_not_read() -> None:
    _, problem = parse_outputs(output_of(list[Near | Far]), {"answer": "[" + "{}," * 1_000_000 + "{}]"})
    assert problem is not None
    assert "more than 1,000,000 values" in problem


def test_the_wrong_places_of_json_are_named() -> None:
    _, problem = parse_outputs(output_of(list[Near | Far]), {"answer": "[" + "{}," * 1_000 + "{}]"})
    assert problem is not None
    assert "0.Near.x: Field required" in problem
    assert "2,002 places are wrong" in problem


def test_a_fraction_too_long_to_write_out_is_refused() -> None:
    _, problem = parse_outputs(output_of(Fraction), {"answer": 16**4_200})
    assert problem is not None
    assert "4300 digits" in problem


def test_what_a_validator_of_the_user_raises_is_told_to_the_model() -> None:
    lm, _ = scripted(action("SUBMIT(answer={'total': 3})"), action("SUBMIT(answer={'invoice': {'total': 3}})"))
    with dspy.context(lm=lm):
        found = rlm_dspy.RLM(output_of(Invoice))(question="q")
    assert found.answer == Invoice(invoice={"total": 3})
    assert "KeyError: 'invoice'" in found.run.steps[0].output
