"""Values cross the border exactly, in both directions, and nothing else does."""

import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import math

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.sandbox import Sandbox
from rlm_dspy.sandbox.cell import as_dict
from rlm_dspy.sandbox.worker import values

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**60, max_value=2**300)
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals()
    | st.fractions()
    | st.complex_numbers()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.times()
    | st.timedeltas()
)
KEYS = st.text() | st.integers() | st.binary() | st.dates() | st.tuples(st.integers(), st.text())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
        | st.dictionaries(st.just("$"), inner)
    ),
    max_leaves=6,
)


def same(one, other):
    """Compare with types, and NaN equal to itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return same(sorted(one, key=repr), sorted(other, key=repr))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)


def through(value):
    return values.decode(json.loads(json.dumps(values.encode(value))), as_dict)


@given(ANYTHING)
@settings(max_examples=100, deadline=None)
def test_decoding_undoes_encoding(value):
    assert same(through(value), value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["$", "v", "n", "fold", "x"]), inner)
        | st.builds(
            lambda tag, v: {"$": tag, "v": v},
            st.sampled_from([*values._DECODERS, "tuple", "set", "dict", "record", "object"]),
            inner,
        )
    ),
    max_leaves=15,
)


@given(JSON)
@settings(max_examples=300, deadline=None)
def test_decoding_anything_else_is_a_value_error_or_a_plain_value(data):
    with contextlib.suppress(ValueError):
        values.decode(data, as_dict)


def test_keys_that_share_one_hash_are_refused():
    body = [{"$": "int", "v": hex(i * (2**61 - 1))} for i in range(1, 2000)]
    with pytest.raises(ValueError, match="collide"):
        values.decode({"$": "set", "v": body}, as_dict)


@given(st.dictionaries(st.sampled_from("abcdef"), ANYTHING, min_size=1))
@settings(max_examples=25, deadline=None)
def test_a_variable_submitted_unchanged_is_the_same(value):
    with Sandbox() as sandbox:
        done = sandbox.run("SUBMIT(value=value)", {"value": value})
    assert same(done.final["value"], value)


@pytest.mark.parametrize(
    "text",
    [
        "é" * 70_000,
        "中" * 70_000,
        "\U0001f600" * 70_000,
        "a" * 70_000,
        "é\ud800" * 40_000,
        "x" * 65_535 + "é",
        "中" + "x" * 70_000,
    ],
)
def test_long_texts_of_every_width_arrive_exactly(text):
    with Sandbox() as sandbox:
        done = sandbox.run(
            "SUBMIT(n=len(text), back=text, ends=text[-3:], found=text.find(text[-5:]), h=hash(text))", {"text": text}
        )
        assert done.final["back"] == text
        assert done.final["n"] == len(text)
        assert (
            sandbox.run("text.upper()[:5], (text + 'x')[-3:], text[5:9].encode('utf-8', 'replace')").exception is None
        )


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    tags: list


class Model(pydantic.BaseModel):
    name: str
    point: dict


def test_records_have_attributes_and_items(sandbox):
    given = {"p": Point(1, ["a"]), "m": Model(name="n", point={"k": (1, 2)}), "c": Color.RED}
    assert sandbox.run("(p.x, p['tags'], m.name, m['point'], c, p)", given).value == (
        "(1, ['a'], 'n', {'k': (1, 2)}, 'red', Point(x=1, tags=['a']))"
    )


def test_what_a_cell_defines_comes_back_as_plain_data(sandbox):
    code = """
import dataclasses, collections, enum
@dataclasses.dataclass
class P: x: int
class E(enum.Enum): A = 1
class S(str): pass
N = collections.namedtuple('N', 'a b')
SUBMIT(p=P(2), e=E.A, s=S('s'), n=N(1, 2), c=collections.Counter('aab'), d=collections.deque([1])
    , r=range(3), k={1: 2}.keys())
"""
    final = sandbox.run(code).final
    assert final == {
        "p": {"x": 2},
        "e": 1,
        "s": "s",
        "n": (1, 2),
        "c": {"a": 2, "b": 1},
        "d": [1],
        "r": [0, 1, 2],
        "k": [1],
    }
    assert type(final["s"]) is str


@pytest.mark.parametrize("value", [object(), lambda: 1, open, json, {"deep": [object()]}, (x for x in [])])
def test_a_value_that_cannot_cross_is_refused_by_name_before_anything_runs(sandbox, value):
    with pytest.raises(ConfigurationError, match="'thing'"):
        sandbox.run("ran = True", {"thing": value})
    assert sandbox.run("'ran' in globals()").value == "False"


@pytest.mark.parametrize(
    "code", ["SUBMIT(x=object())", "SUBMIT(lambda: 1)", "x = []\nx.append(x)\nSUBMIT(x)", "SUBMIT(x=print)"]
)
def test_a_submitted_value_that_cannot_cross_is_told_to_the_model(sandbox, code):
    done = sandbox.run(code)
    assert "SUBMIT()" in done.exception
    assert not done.has_final
    assert sandbox.run("SUBMIT(1)").final == {"output": 1}


def test_a_name_given_before_with_the_same_object_is_not_sent_again(sandbox):
    text = "t" * 100_000
    sandbox.run("text = 'rebound'", {"text": text})
    assert sandbox.run("text", {"text": text}).value == "'rebound'"
    assert sandbox.run("len(text)", {"text": text + "!"}).value == "100001"


def test_a_nan_is_a_nan_on_both_sides(sandbox):
    assert math.isnan(sandbox.run("SUBMIT(x=x)", {"x": math.nan}).final["x"])


def test_numbers_keep_their_exact_value(sandbox):
    given = {"a": 2**64 + 1, "b": decimal.Decimal("1.10"), "c": fractions.Fraction(1, 3), "d": -0.0, "e": 1e308 * 10}
    final = sandbox.run("SUBMIT(a=a, b=b, c=c, d=d, e=e)", given).final
    assert {k: repr(v) for k, v in final.items()} == {k: repr(v) for k, v in given.items()}


LONG = 10 * values.MAX_NUMBER


@pytest.mark.parametrize(
    "encoded",
    [
        {"$": "int", "v": "0x" + "f" * LONG},
        {"$": "decimal", "v": "9" * LONG},
        {"$": "fraction", "v": f"0x{'f' * LONG}/0x{'e' * LONG}"},
        {"$": "complex", "v": [{"$": "int", "v": "0x" + "f" * LONG}, 0]},
    ],
)
def test_an_absurdly_long_number_is_refused_before_it_is_made(encoded):
    with pytest.raises(ValueError, match="too long"):
        values.decode(encoded, as_dict)


@pytest.mark.parametrize("number", ["10**100_000", "Fraction(1, 7**50_000)", "Decimal('0.' + '1' * 20_000)"])
def test_a_number_too_long_to_cross_is_told_to_the_model(number):
    with Sandbox(tools={"tool": lambda x: x}) as sandbox:
        sandbox.run("from fractions import Fraction\nfrom decimal import Decimal\nkept = 1")
        for call in ("SUBMIT", "tool"):
            done = sandbox.run(f"{call}({number})")
            assert done.kind == "error"
            assert f"TypeError: {call}(): a number of" in done.exception
        assert sandbox.run("SUBMIT(10**5000)").final == {"output": 10**5000}
        assert sandbox.run("kept").value == "1"


ODD_KEYS = ["{P(1)}", "frozenset([P(1)])", "{P(1): 2}", "{range(3): 2}", "{(1, range(3))}", "{Kind.ONE}"]


@pytest.mark.parametrize("value", ODD_KEYS)
def test_a_key_that_would_lose_its_hash_is_told_to_the_model(value):
    with Sandbox(tools={"tool": lambda x: x}) as sandbox:
        sandbox.run(
            "from dataclasses import dataclass\nfrom enum import Enum\nclass Kind(Enum): ONE = [1]\n"
            "@dataclass(frozen=True)\nclass P: x: int"
        )
        for call in ("SUBMIT", "tool"):
            done = sandbox.run(f"{call}({value})")
            assert done.kind == "error"
            assert f"TypeError: {call}(): a " in done.exception
            assert "as a key" in done.exception
        assert sandbox.run("SUBMIT([P(1), {(1, 'a'): {2}, b'x': {frozenset({1})}}])").final == {
            "output": [{"x": 1}, {(1, "a"): {2}, b"x": {frozenset({1})}}]
        }
