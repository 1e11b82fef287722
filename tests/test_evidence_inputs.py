"""True quotes are located in inputs of every shape, and quotes that prove nothing are rejected once."""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import dspy
import pandas as pd
import pydantic
import pytest

import rlm_dspy
from rlm_dspy.evidence import Evidence, check, is_weak
from rlm_dspy.testing import action, scripted


class Note(pydantic.BaseModel):
    title: str
    body: str


@dataclasses.dataclass
class Row:
    name: str
    age: int


BODY = "The north gate opens at seven.\nThe south gate stays shut all winter."
SOUTH = "The south gate stays shut"


class State(str, enum.Enum):  # noqa: UP042  whose str() is not its text
    SHUT = SOUTH


INPUTS: dict[str, tuple[Any, str, str | None, int | None]] = {
    "a text": (BODY, SOUTH, None, 2),
    "a list": (["one", "two", "three", BODY], SOUTH, "docs[3]", 2),
    "a dict": ({"a.txt": "one", "b.txt": BODY}, SOUTH, 'docs["b.txt"]', 2),
    "a list of dicts": ([{"id": 1, "body": "x"}, {"id": 2, "body": BODY}], SOUTH, 'docs[1]["body"]', 2),
    "a dict of dicts": ({"k": {"body": BODY}}, SOUTH, 'docs["k"]["body"]', 2),
    "models": ([Note(title="t", body=BODY)], SOUTH, "docs[0].body", 2),
    "a dict of models": ({"a.txt": Note(title="t", body=BODY)}, SOUTH, 'docs["a.txt"].body', 2),
    "dataclasses": ([Row("Ann Lee of Ulm", 31)], "Ann Lee of Ulm", "docs[0].name", 1),
    "a tuple in a list": ([("x", BODY)], SOUTH, "docs[0][1]", 2),
    "a set": ({"alpha", BODY}, SOUTH, "docs", 2),
    "nested deeply": ({"a": [[{"b": (BODY,)}]]}, SOUTH, 'docs["a"][0][0]["b"][0]', 2),
    "a key": ({SOUTH: 1}, SOUTH, "docs", 1),
    "a queue": (deque(["one", BODY]), SOUTH, "docs[1]", 2),
    "tables in a list": ([pd.DataFrame({"note": [BODY]})], SOUTH, 'docs[0][0]["note"]', 2),
    "a decimal": ({"k": Decimal("1250.50")}, "1250.50", 'docs["k"]', 1),
    "a date": ({"k": date(2024, 1, 2)}, "2024-01-02", 'docs["k"]', 1),
    "a time as ISO": ({"k": datetime(2024, 1, 2, 3, 4, 5)}, "2024-01-02T03:04:05", 'docs["k"]', 1),
    "an enum of texts": ([{"state": State.SHUT}], SOUTH, 'docs[0]["state"]', 1),
    "a truth value": ({"active": True}, "True", 'docs["active"]', 1),
    "a part as JSON": ({"a": {"total": 61_500}}, '"total": 61500', "docs", None),
    "accents of two characters": ("the cafe\u0301 opens at seven", "caf\u00e9 opens", None, 1),
    "accents escaped in JSON": ('{"k": "the caf\\u00e9 opens"}', "caf\u00e9 opens", None, 1),
    "numbers": ([{"total": 61_500}], "61500", 'docs[0]["total"]', 1),
    "a record as str": ([{"name": "Ann", "age": 31}], "{'name': 'Ann', 'age': 31}", "docs[0]", None),
    "a record as JSON": ([{"name": "Ann", "age": 31}], '{"name": "Ann", "age": 31}', "docs[0]", None),
    "a part of a record": ([{"name": "Ann", "age": 31, "x": 1}], "{'name': 'Ann', 'age': 31}", "docs[0]", None),
    "a quote with the preview's bars": (BODY, "| at seven.\n| The south gate stays shut", None, 1),
    "a row of a table in a text": ("name,age\nBob,7\nAnn,31\n", "{'name': 'Ann', 'age': '31'}", None, 3),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_a_true_quote_is_located_and_accepted_at_once(kind: str) -> None:
    value, quote, source, line = INPUTS[kind]
    code = f"SUBMIT(answer='the south gate stays shut, says Ann', evidence=[{quote!r}])"
    lm, script = scripted(action(code))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("docs, question -> answer, evidence: list[rlm_dspy.Evidence]")(docs=value, question="?")
    (found,) = result.evidence
    assert (found.source, found.line) == (source, line)
    assert found.match in ("exact", "normalized")
    assert len(script.requests) == 1 or found.weak
    assert not result.run.warnings


def test_a_table_is_quoted_by_its_cells() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"name": ["Bob", "Ann Lee of Ulm"], "age": [7, 31]})
    lm, _ = scripted(action("SUBMIT(answer='Ann Lee of Ulm', evidence=['Ann Lee of Ulm'])"))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("docs, question -> answer, evidence: list[rlm_dspy.Evidence]")(docs=table, question="?")
    assert result.evidence[0].source == 'docs[1]["name"]'


@pytest.mark.parametrize("inputs", [{}, {"docs": ["nothing of it"]}])
def test_a_quote_of_the_question_alone_is_no_evidence(inputs: dict[str, Any]) -> None:
    question = "Is it true that the south gate stays shut all winter?"
    names = ", ".join([*inputs, "question"])
    code = "SUBMIT(answer='yes', evidence=['the south gate stays shut all winter'])"
    lm, script = scripted(action(code), action("SUBMIT(answer='unknown', evidence=[])"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM(f"{names} -> answer, evidence: list[rlm_dspy.Evidence]")
        result = rlm(question=question, **inputs)
    assert (result.answer, len(script.requests)) == ("unknown", 2)


WEAK = "SUBMIT(answer='12', evidence=['max_iters'])"


def test_a_weak_quote_is_asked_back_once_and_then_marked() -> None:
    lm, script = scripted(action(WEAK))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")
        result = rlm(context="max_iters: int = 20\n", question="What is the default of max_iters?")
    assert len(script.requests) == 2
    assert "does not show the answer" in result.run.steps[0].output
    assert result.evidence[0].weak
    assert result.run.evidence[0]["weak"]


@pytest.mark.parametrize(
    ("quote", "weak"),
    [
        ("max_iters", True),
        ("max_iters: int = 20", False),
        ("the default is 20", False),
        ("it says how many steps there are", False),
        ("two words", True),
    ],
)
def test_a_quote_is_weak_unless_it_holds_the_answer_or_five_words(quote: str, weak: bool) -> None:
    assert is_weak(quote, ["20"]) is weak


def test_an_empty_list_is_right_for_a_computed_answer() -> None:
    lm, script = scripted(action("SUBMIT(answer=str(len(context)), evidence=[])"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")
        assert rlm(context="abc", question="How long?").answer == "3"
    assert len(script.requests) == 1
    assert "computed" in str(script.requests[0].system)


def test_a_hundred_thousand_rows_are_looked_through_quickly_enough_to_be_tested() -> None:
    rows = [{"id": index, "text": f"row number {index} of the ledger"} for index in range(100_000)]
    located, problems = check([Evidence(quote="row number 99999 of the ledger")], {"rows": rows})
    assert not problems
    assert located[0].source == 'rows[99999]["text"]'


def test_the_advice_names_the_quote_that_is_wrong() -> None:
    code = f"SUBMIT(answer='shut', evidence=[{SOUTH!r}, 'The west gate is open'])"
    lm, script = scripted(action(code), action(f"SUBMIT(answer='shut', evidence=[{SOUTH!r}])"))
    with dspy.context(lm=lm):
        rlm_dspy.RLM("docs, question -> answer, evidence: list[rlm_dspy.Evidence]")(
            docs=BODY, question="Which is shut?"
        )
    shown = str(script.requests[1].messages[-1].text)
    assert "evidence 2: " in shown
    assert "evidence 1: " not in shown
