"""Arrays and tables cross as plain data, or as what they are where their library is loaded."""

import datetime
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.sandbox import Sandbox
from rlm_dspy.sandbox.errors import HandoverError
from rlm_dspy.testing import action, scripted, texts

np = pytest.importorskip("numpy")

COLUMNWISE = np.asfortranarray(np.arange(40_000).reshape(4, -1))
PLAIN = {
    "integers": (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
    "a number": (np.int64(5), 5),
    "short numbers": ([np.float16(2), np.bool_(True)], [2.0, True]),
    "a number wider than Python's": (np.longdouble(2), 2.0),
    "no dimension": (np.array(5), 5),
    "no element": (np.zeros((3, 0)), [[], [], []]),
    "texts": (np.array(["a", "bc"]), ["a", "bc"]),
    "anything": (np.array([1, "x", None], dtype=object), [1, "x", None]),
    "records": (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), [(1, 2.0)]),
    "masked": (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    "inside": ({"a": [np.arange(2)]}, {"a": [[0, 1]]}),
    "days": (np.datetime64("2026-01-02"), datetime.date(2026, 1, 2)),
    "nanoseconds": (
        np.array(["2026-01-02", "NaT"], "datetime64[ns]"),
        [datetime.datetime(2026, 1, 2), None],
    ),
    "spans": (np.array([5_000], "timedelta64[ns]"), [datetime.timedelta(microseconds=5)]),
    "many": (np.arange(40_000.0).reshape(200, 200), np.arange(40_000.0).reshape(200, 200).tolist()),
    "many in another order": (COLUMNWISE, COLUMNWISE.tolist()),
    "many short": (np.arange(2_000, dtype="f2").repeat(20), np.arange(2_000, dtype="f2").repeat(20).tolist()),
    "many of another machine": (np.arange(40_000, dtype=">i4"), list(range(40_000))),
}  # fmt: skip


@pytest.fixture(scope="module")
def bare():
    with Sandbox() as made:
        yield made


@pytest.fixture(scope="module")
def full():
    with Sandbox(modules=("numpy",), timeout=30) as made:
        yield made


@pytest.mark.parametrize("name", PLAIN)
def test_an_array_arrives_as_plain_data(bare, name):
    value, expected = PLAIN[name]
    assert bare.run("SUBMIT(x=x)", {"x": value}).final["x"] == expected


def test_nan_in_an_array_stays(bare):
    assert bare.run("str(x)", {"x": np.array([1.5, np.nan])}).value == "'[1.5, nan]'"


@pytest.mark.parametrize("name", [name for name in PLAIN if isinstance(PLAIN[name][0], np.ndarray)])
def test_where_numpy_is_loaded_an_array_is_one(full, name):
    value, expected = PLAIN[name]
    done = full.run("SUBMIT(x=x, kind=str(getattr(x, 'dtype', None)), shape=getattr(x, 'shape', None))", {"x": value})
    assert done.final["x"] == expected
    if name not in ("anything", "records", "masked"):
        assert done.final["kind"] == str(value.dtype)
        assert done.final["shape"] == value.shape


def test_numpy_works_as_it_does_elsewhere(full):
    code = (
        "import numpy as np\nx *= 2\nrng = np.random.default_rng(0)\n"
        "SUBMIT(a=np.linalg.det(x), b=rng.integers(5, size=3))"
    )
    done = full.run(code, {"x": np.eye(2)})
    assert done.final["a"] == 4.0
    assert len(done.final["b"]) == 3


def test_a_tool_may_return_an_array():
    with Sandbox(tools={"tool": lambda: {"scores": np.ones(2)}}) as sandbox:
        assert sandbox.run("tool()").value == "{'scores': [1.0, 1.0]}"


def test_what_is_no_data_is_refused_by_name(bare):
    with pytest.raises(HandoverError, match=r"'x'.*Generator"):
        bare.run("1", {"x": np.random.default_rng(0)})


def ask(code: str, factory: Any = Sandbox, **inputs: Any) -> tuple[Any, list[str]]:
    class Given(dspy.Signature):
        table: Any = dspy.InputField()
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    lm, script = scripted(action(code))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM(Given, max_iters=2, interpreter_factory=factory)(question="q", **inputs)
    return result.answer, texts(script.requests[0])


@pytest.mark.parametrize("factory", [Sandbox, dspy.LocalInterpreter])
def test_an_rlm_is_told_what_an_array_is_and_gets_it(factory):
    answer, shown = ask("SUBMIT(answer=str(sum(map(sum, table))))", factory, table=np.ones((1000, 30)))
    assert answer == "30000.0"
    assert "`table`: ndarray, shape (1000, 30), float64; here nested lists, unless numpy can be imported" in shown[1]
    assert len(shown[1]) < 5_000


def test_a_table_arrives_as_rows(bare):
    pd = pytest.importorskip("pandas")
    table = frame(pd)
    first = {"a": 1, "b": "x", "t": datetime.datetime(2026, 1, 2), "f": 1.5, "c": "u", "n": 1}
    last = {"a": 2, "b": None, "t": None, "f": None, "c": "v", "n": None}
    assert bare.run("SUBMIT(x=x)", {"x": table}).final["x"] == [first, last]
    assert bare.run("x", {"x": table.groupby("b")["a"].sum()}).value == "[1]"
    assert bare.run("x", {"x": table[["b", "a"]].set_index("b")}).value == "[{'b': 'x', 'a': 1}, {'b': None, 'a': 2}]"
    with pytest.raises(HandoverError, match=r"'x'.*share a name"):
        bare.run("1", {"x": table[["a", "a"]]})
    with pytest.raises(HandoverError, match=r"'x'.*Period"):
        bare.run("1", {"x": pd.DataFrame({"p": pd.period_range("2026", periods=1, freq="Y")})})


def test_where_pandas_is_loaded_a_table_is_one():
    pd = pytest.importorskip("pandas")
    table = frame(pd)
    with Sandbox(modules=("pandas",), timeout=60) as sandbox:
        done = sandbox.run("print(x)\nx.to_csv()\nSUBMIT(x=x, kinds=list(map(str, x.dtypes)))", {"x": table})
        assert done.final["kinds"] == list(map(str, table.dtypes))
        assert done.final["x"][1]["n"] is None
        assert sandbox.run("x.loc['v', 'a']", {"x": table.set_index("c")[["a"]]}).value == "np.int64(2)"
        assert sandbox.run("list(x.columns), len(x)", {"x": table[:0]}).value == f"({list(table.columns)}, 0)"


def test_an_rlm_is_told_what_a_table_is():
    pd = pytest.importorskip("pandas")
    code = "import pandas as pd\nSUBMIT(answer=str(table.a[1] if isinstance(table, pd.DataFrame) else None))"
    answer, shown = ask(code, table=pd.concat([frame(pd)] * 500, ignore_index=True))
    assert answer == "2"
    told = "1,000 rows, 6 columns; a DataFrame where pandas can be imported, else a list of dicts, one a row"
    assert told in shown[1]
    assert "a: int64, b: " in shown[1]
    assert len(shown[1]) < 5_000


def frame(pd: Any) -> Any:
    return pd.DataFrame(
        {
            "a": [1, 2],
            "b": ["x", None],
            "t": pd.to_datetime(["2026-01-02", None]),
            "f": [1.5, None],
            "c": pd.Categorical(["u", "v"]),
            "n": pd.array([1, None], dtype="Int64"),
        }
    )
