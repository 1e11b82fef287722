"""Signatures as JSON: what is saved is the same signature when it is read."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import dspy
import pydantic
import pytest

from rlm_dspy import RLM, Corpus, Evidence
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.testing import action, scripted
from rlm_dspy.tuning import program
from rlm_dspy.tuning.typed_signature import SchemaReader, SerializableSignature


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(pydantic.BaseModel):
    """A part of a thing."""

    name: str = pydantic.Field(description="as in the list")
    count: int = 1


class Order(pydantic.BaseModel):
    parts: list[Part]
    colour: Colour
    due: datetime.date | None = None
    prices: dict[str, float] = {}


def signature_of(annotation: Any) -> type[dspy.Signature]:
    fields = {
        "context": (Corpus, dspy.InputField(desc="the files")),
        "question": (str, dspy.InputField()),
        "answer": (annotation, dspy.OutputField(desc="the whole answer")),
        "evidence": (list[Evidence], dspy.OutputField()),
    }
    return dspy.Signature(fields, "Answer it.")


def round_trip(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    text = SerializableSignature.of(signature).model_dump_json()
    return SerializableSignature.model_validate_json(text).signature()


@pytest.mark.parametrize(
    "annotation",
    [str, int, float, bool, list[str], dict[str, int], set[int], tuple[int, str], Literal["a", "b"], int | None, Any,
     list[dict[str, list[float]]], datetime.date],
)  # fmt: skip
def test_plain_types_come_back_as_they_were(annotation: Any) -> None:
    again = round_trip(signature_of(annotation))
    assert again.output_fields["answer"].annotation == annotation
    assert again.input_fields["context"].annotation is Corpus
    assert again.output_fields["evidence"].annotation == list[Evidence]
    assert again.output_fields["answer"].json_schema_extra["desc"] == "the whole answer"
    assert again.instructions == "Answer it."


def test_a_pydantic_model_comes_back_as_one() -> None:
    model = round_trip(signature_of(list[Order])).output_fields["answer"].annotation.__args__[0]
    given = {"parts": [{"name": "bolt"}], "colour": "red", "due": "2026-01-02"}
    read = model.model_validate(given)
    assert (read.parts[0].count, read.due, read.prices) == (1, datetime.date(2026, 1, 2), {})
    with pytest.raises(pydantic.ValidationError):
        model.model_validate({**given, "colour": "green"})
    with pytest.raises(pydantic.ValidationError):
        model.model_validate({"colour": "red"})
    assert model.model_json_schema()["$defs"]["Part"]["description"] == "A part of a thing."
    assert model.model_json_schema()["$defs"]["Part"]["properties"]["name"]["description"] == "as in the list"


class Node(pydantic.BaseModel):
    below: list[Node] = []


def test_what_cannot_travel_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="refers to itself"):
        round_trip(signature_of(Node))
    with pytest.raises(ConfigurationError, match="the type of the field answer has no JSON schema"):
        SerializableSignature.of(signature_of(Callable[[], int]))


def test_a_saved_program_holds_its_typed_signature_and_is_rebuilt_from_it(tmp_path: Any) -> None:
    path = program.save(RLM(signature_of(Order)), tmp_path / "program.json")
    rlm = program.restored_rlm(path)
    assert rlm.signature.output_fields["answer"].annotation.__name__ == "Order"
    assert rlm.signature.instructions == "Answer it."


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "maximum": 5}, 5, 6),
        ({"type": "number", "exclusiveMinimum": 0}, 0.1, 0),
        ({"type": "string", "pattern": "^R-[0-9]+$"}, "R-1", "oops"),
        ({"type": "string", "minLength": 2}, "ab", "a"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 2}, ["a"], ["a"] * 3),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, None, 0),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "a", [1]),
        (
            {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False},
            {"n": 1},
            {"x": 1},
        ),
    ],
)
def test_the_limits_of_a_schema_hold(schema: dict[str, Any], good: Any, bad: Any) -> None:
    read = pydantic.TypeAdapter(SchemaReader(schema).type_of(schema, "answer"))
    read.validate_python(good)
    with pytest.raises(pydantic.ValidationError):
        read.validate_python(bad)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"not": {"type": "string"}}, "uses not, which cannot be checked here"),
        ({"type": "object", "minProperties": 2}, "uses minProperties"),
        ({"type": "string", "pattern": "("}, "has a limit that cannot be checked"),
    ],
)
def test_a_limit_that_cannot_be_checked_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        SchemaReader(schema).type_of(schema, "answer")


def test_a_model_is_told_of_a_limit_that_its_answer_does_not_keep() -> None:
    lm, script = scripted(action("SUBMIT(answer=9)"), action("SUBMIT(answer=4)"))
    inputs = {"context": (str, dspy.InputField()), "question": (str, dspy.InputField())}
    signature = dspy.Signature({**inputs, "answer": (int, dspy.OutputField(le=5))})
    with dspy.context(lm=lm):
        done = RLM(signature)(context="c", question="q")
    assert done.answer == 4
    assert "less than or equal to 5" in done.run.steps[0].output
    assert "(less than or equal to: 5)" in str(script.requests[0].system)


class Tagged(pydantic.BaseModel):
    tags: list[str] = pydantic.Field(default_factory=list)


class Nested(pydantic.BaseModel):
    meta: Tagged = Tagged()
    when: datetime.time | None = None


def restored(kind: Any, **limits: Any) -> Any:
    fields = {"context": (str, dspy.InputField()), "answer": (kind, dspy.OutputField(**limits))}
    return SerializableSignature.model_validate_json(
        SerializableSignature.of(dspy.Signature(fields)).model_dump_json()
    ).signature()


def test_the_limits_of_a_field_are_saved_and_named_in_the_prompt() -> None:
    lm, script = scripted(action("SUBMIT(answer=9)"), action("SUBMIT(answer=4)"))
    with dspy.context(lm=lm):
        assert RLM(restored(int, ge=0, le=5))(context="c").answer == 4
    assert "less than or equal to: 5" in str(script.requests[0].system)


def test_defaults_are_values_of_their_types() -> None:
    value = restored(Nested).output_fields["answer"].annotation()
    assert (value.meta.tags, value.when) == ([], None)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (UUID, '"12345678123456781234567812345678"', UUID("12345678123456781234567812345678")),
        (datetime.time, '"03:04:05"', datetime.time(3, 4, 5)),
        (datetime.timedelta, '"PT90S"', datetime.timedelta(seconds=90)),
    ],
)
def test_a_format_is_a_type(kind: Any, text: str, value: Any) -> None:
    annotation = restored(kind).output_fields["answer"].annotation
    assert pydantic.TypeAdapter(annotation).validate_json(text) == value


def test_a_format_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the format 'ipv4'"):
        SchemaReader({}).type_of({"type": "string", "format": "ipv4"}, "answer")


def test_keys_that_a_schema_cannot_say_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    restored(dict[int, str])
    assert "those in answer become texts in the saved signature" in caplog.text
