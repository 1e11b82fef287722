"""No submitted number, in any form, keeps the host busy: each is accepted or rejected at once."""

import dataclasses
import datetime
import decimal
import fractions
import json
import re
import subprocess
import sys
from typing import Annotated, Any, Literal

import dspy
import pydantic
import pytest

from rlm_dspy.rlm.outputs import parse_outputs
from rlm_dspy.sandbox import Sandbox
from warm import warm_python

D, F = decimal.Decimal, fractions.Fraction
SECONDS = 120

VALUES = {
    "exponents as text": ["1e999999999", " -1E+999999999\n", "1.5e-999999999", "1" * 30 + "e999999999", "1e+9_9_9_9_9"],
    "other digits": ["١e٩٩٩٩٩٩٩٩٩"],
    "in JSON": ["[1e999999999]", '["1e999999999"]', '{"a": "1e999999999"}', '{"a": ' + "9" * 10**6 + "}"],
    "many digits": ["9" * 10**6, "1_0" * 10**5, "0x" + "f" * 10**6, "0x" + "f" * 90_000, "9" * 10**6 + "e10"],
    "numbers": [D("1E+999999999"), D("-1E-999999999"), D("9" * 9_999), 10**12_000, F(10**4_999, 3), D("sNaN"), 1e308],
    "times": ["P999999999999D", "P" + "9" * 10**6 + "D", "99999999999999 days", "PT1e999999999S"],
    "broken JSON": ["[{]" * 10**5, "{a:b" * 10**5, "[" * 10**5, "-" * 50_000, "1+" * 40_000 + "1", "('" * 1_000],
}


class Model(pydantic.BaseModel):
    a: F | None = None
    d: list[int] | None = None


@dataclasses.dataclass
class Data:
    a: F


TYPES = {
    "int": int,
    "float": float,
    "Decimal": D,
    "Fraction": F,
    "timedelta": datetime.timedelta,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "positive": Annotated[int, pydantic.Field(gt=0)],
    "optional": int | None,
    "union": F | int | str,
    "literal": Literal["1", "2"],
    "list": list[F],
    "dict": dict[int, F],
    "model": Model,
    "models": list[Model],
    "dataclass": Data,
    "any": Any,
}

# Run in a process of its own, because what cannot be interrupted would never end; only such a value takes ten seconds.
CODE = """
import sys, time
sys.path[:0] = {path!r}
from test_endless import TYPES, VALUES, read
for value in VALUES[{kind!r}]:
    for name, annotation in TYPES.items():
        for given in (value, [value], {{"a": value, "d": [value]}}, [{{"a": value}}]):
            begun = time.process_time()
            read(annotation, given)
            took = time.process_time() - begun
            assert took < 10, (name, str(given)[:60], took)
        if not (isinstance(value, VALUES["numbers"][0].__class__) and value.is_snan()):
            read(annotation, {{value: 1}})
"""


def read(annotation, value):
    """Read ``value`` as what SUBMIT was given for an output of this type."""
    signature = dspy.Signature({"q": (str, dspy.InputField()), "answer": (annotation, dspy.OutputField())})
    return parse_outputs(signature, {"answer": value})


@pytest.mark.parametrize("kind", VALUES)
def test_a_number_is_read_or_refused_at_once(kind):
    code = CODE.format(path=[str(entry) for entry in (*sys.path, __file__.rpartition("/")[0])], kind=kind)
    done = subprocess.run([*warm_python(), "-c", code], timeout=SECONDS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_hash_or_a_sentence_is_no_number():
    assert read(dict, '{"sha": "deadbeef1e99999a", "file": "v1e12345.txt"}')[1] is None
    assert read(dict, {"text": "about 1e99999 of them"})[1] is None
    assert read(str, "1e999999999") == ({"answer": "1e999999999"}, None)


def test_a_long_list_submitted_as_text_is_read():
    items = [f"item {i}" for i in range(1_000)]
    for text in (repr(items), json.dumps(items)):
        assert read(list[str], text) == ({"answer": items}, None)


@pytest.mark.parametrize(
    "code",
    [
        "from decimal import Decimal\nSUBMIT(answer=Decimal('1E+999999999'))",
        "from decimal import Decimal\nSUBMIT(answer=[{'a': (Decimal('1E-999999999'),)}])",
        "from fractions import Fraction\nSUBMIT(answer=Fraction(1, 10**20_000))",
        "SUBMIT(answer={10**20_000: 1})",
        "SUBMIT(answer=-(10**20_000))",
    ],
)
def test_the_model_is_told_of_a_number_that_cannot_cross(code):
    with Sandbox(timeout=5.0, output_fields=[{"name": "answer"}]) as sandbox:
        done = sandbox.run(code)
        assert "SUBMIT()" in done.exception
        assert "cannot cross" in done.exception or "too long" in done.exception


SAME_HASH = [number * (2**61 - 1) for number in range(30_000)]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[int], SAME_HASH),
        (frozenset[int], json.dumps(SAME_HASH)),
        (set, SAME_HASH),
        (set[int] | None, SAME_HASH),
        (set[decimal.Decimal], [str(number) for number in SAME_HASH]),
        (set[tuple[int, int]], [[number, 0] for number in SAME_HASH]),
        (dict[int, int], {str(number): 0 for number in SAME_HASH}),
        (dict[str, set[int]], {"a": SAME_HASH}),
    ],
    ids=str,
)
def test_values_that_share_a_hash_are_refused_before_a_set_is_made(annotation: Any, value: Any) -> None:
    assert "its values collide" in str(read(annotation, value)[1])


def test_usual_sets_and_keys_are_read() -> None:
    assert read(set[int], list(range(20_000)))[0]["answer"] == set(range(20_000))
    assert read(set[int], [7] * 20_000)[0]["answer"] == {7}
    assert len(read(dict[int, str], {str(number): "x" for number in range(20_000)})[0]["answer"]) == 20_000


def test_a_long_pattern_is_refused() -> None:
    assert "a pattern of more than 500 characters" in str(read(re.Pattern, "(?i)" + r"[\x00-\uffff]" * 2_000)[1])
    assert read(re.Pattern[str], "a+")[0]["answer"].pattern == "a+"


class Raising(pydantic.BaseModel):
    answer: int

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return {"answer": data["value"]}


def test_what_a_validator_raises_while_outputs_are_unpacked_is_told() -> None:
    assert "expected Raising" in str(read(Raising, {"answer": "5"})[1])
