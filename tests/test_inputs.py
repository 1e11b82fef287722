"""Inputs of every kind reach the REPL unchanged, or are rejected in one clear line before any model call."""

from __future__ import annotations

import datetime
import decimal
import threading
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic
import pytest

import rlm_dspy
from rlm_dspy.testing import action, scripted


class Person(pydantic.BaseModel):
    name: str
    age: int


@dataclass
class Point:
    x: int
    y: int


def ask(value: Any, code: str) -> Any:
    class Given(dspy.Signature):
        context: Any = dspy.InputField()
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    lm, script = scripted(action(code))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM(Given, max_iters=2)(context=value, question="q")
    assert len(script.requests) == 1, result.trajectory
    return result.answer


@pytest.mark.parametrize(
    ("value", "expression", "answer"),
    [
        ({1: "a", (2, 3): "b"}, "context[1] + context[2, 3]", "ab"),
        ([1, [2, {"a": None}]], "context[1][1]", "{'a': None}"),
        (2**100, "context", str(2**100)),
        (float("nan"), "context != context", "True"),
        (b"\xff\x00", "list(context)", "[255, 0]"),
        ({1, 2}, "sorted(context)", "[1, 2]"),
        (datetime.date(2026, 1, 2), "context.year", "2026"),
        (decimal.Decimal("0.1"), "context + context", "0.2"),
        (Person(name="Ann", age=3), "context.name + str(context['age'])", "Ann3"),
        (Point(1, 2), "context.x + context.y", "3"),
        ("\ud800 text", "len(context)", "6"),
        ("x" * 5_000_000, "len(context)", "5000000"),
        ("é" * 100_000 + "\U0001f600", "context[-1] == chr(0x1f600)", "True"),
        ("", "repr(context)", "''"),
    ],
)
def test_a_value_is_the_same_in_the_repl(value: Any, expression: str, answer: str) -> None:
    assert ask(value, f"SUBMIT(answer=str({expression}))") == answer


@pytest.mark.parametrize("value", [threading.Lock(), object(), lambda: 1])
def test_a_value_that_cannot_cross_is_refused_before_any_call(value: Any) -> None:
    class Given(dspy.Signature):
        context: Any = dspy.InputField()
        answer: str = dspy.OutputField()

    lm, script = scripted(action("SUBMIT('x')"))
    with dspy.context(lm=lm), pytest.raises(rlm_dspy.RLMError, match="context"):
        rlm_dspy.RLM(Given)(context=value)
    assert not script.requests


@pytest.mark.parametrize(
    ("kind", "code", "value"),
    [
        (int, "10**30", 10**30),
        (float, "0.5", 0.5),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, float], "{'a': 1}", {"a": 1.0}),
        (set[int], "{1, 2}", {1, 2}),
        (datetime.date, "__import__('datetime').date(2026, 1, 2)", datetime.date(2026, 1, 2)),
        (decimal.Decimal, "__import__('decimal').Decimal('0.1')", decimal.Decimal("0.1")),
        (bytes, "b'ab'", b"ab"),
        (Person, "{'name': 'Ann', 'age': 3}", Person(name="Ann", age=3)),
        (list[Person], "[{'name': 'Ann', 'age': '3'}]", [Person(name="Ann", age=3)]),
        (bool, "False", False),
        (str | None, "None", None),
    ],
)
def test_a_submitted_value_keeps_its_type(kind: Any, code: str, value: Any) -> None:
    signature = dspy.Signature({"context": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())})
    lm, script = scripted(action(f"SUBMIT(answer={code})"))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM(signature, max_iters=2)(context="c")
    assert result.answer == value
    assert type(result.answer) is type(value)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        ("a -> b: list[Ship]", ("the type Ship is not known here", "class Task(dspy.Signature)", "list[Ship]")),
        ("a -> list[Ship]", ("each field is a name, or name: type",)),
        ("a, b", ("must contain exactly one '->'", "Write it as")),
    ],
)
def test_a_signature_that_cannot_be_read_says_what_to_write(signature: str, says: tuple[str, ...]) -> None:
    with pytest.raises(rlm_dspy.errors.ConfigurationError) as caught:
        rlm_dspy.RLM(signature)
    for words in says:
        assert words in str(caught.value)
