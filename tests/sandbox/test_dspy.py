"""The sandbox serves DSPy's own modules, and any tool that DSPy wraps."""

import dspy
import pytest
from dspy.primitives.code_interpreter import CodeInterpreter

from rlm_dspy.sandbox import Sandbox


class Scripted(dspy.LM):
    """An LM that answers from a list, in ChatAdapter's format."""

    def __init__(self, *replies):
        super().__init__("scripted/model", cache=False)
        self.replies = list(replies)

    def forward(self, prompt=None, messages=None, **kwargs):
        raise AssertionError("replaced by __call__")

    def __call__(self, *args, **kwargs):
        fields = self.replies.pop(0)
        return ["\n\n".join(f"[[ ## {k} ## ]]\n{v}" for k, v in {**fields, "completed": ""}.items())]

    async def acall(self, *args, **kwargs):
        return self()


def test_a_sandbox_is_a_code_interpreter():
    assert isinstance(Sandbox(), CodeInterpreter)


def test_rlm_runs_on_the_sandbox():
    lm = Scripted(
        {"reasoning": "look", "code": "n = len(context)\nprint(context[:5], n)"},
        {"reasoning": "ask", "code": "part = shout('abc')\nprint(part, n)"},
        {"reasoning": "done", "code": "SUBMIT(answer=part, count=n)"},
    )

    def shout(text: str) -> str:
        """Shout."""
        return text.upper()

    with dspy.context(lm=lm):
        rlm = dspy.RLM("context, question -> answer: str, count: int", tools=[shout], interpreter_factory=Sandbox)
        done = rlm(context="hello world", question="?")
    assert (done.answer, done.count) == ("ABC", 11)
    assert "hello 11" in done.trajectory[0]["output"]


def test_the_sandbox_is_found_through_dspy_settings():
    lm = Scripted({"reasoning": "r", "code": "SUBMIT(len(context))"})
    with dspy.context(lm=lm, interpreter_factory=Sandbox):
        assert dspy.RLM("context -> count: int")(context="abc").count == 3


def test_an_error_reaches_the_model_and_the_run_goes_on():
    lm = Scripted(
        {"reasoning": "r", "code": "print('before')\nb'\\xff'.decode()"},
        {"reasoning": "r", "code": "SUBMIT('fine')"},
    )
    with dspy.context(lm=lm):
        done = dspy.RLM("context -> answer", interpreter_factory=Sandbox)(context="abc")
    assert done.answer == "fine"
    assert "before" in done.trajectory[0]["output"]
    assert "UnicodeDecodeError" in done.trajectory[0]["output"]


def test_program_of_thought_runs_on_the_sandbox():
    lm = Scripted(
        {"reasoning": "r", "generated_code": "```python\nx = 6 * 7\nSUBMIT({'answer': x})\n```"},
        {"reasoning": "r", "answer": "42"},
    )
    with dspy.context(lm=lm), pytest.warns(DeprecationWarning, match="deprecated"):
        done = dspy.ProgramOfThought("question -> answer", interpreter_factory=Sandbox)(question="6*7?")
    assert done.answer == "42"


def double(x: int) -> int:
    """Double a number."""
    return 2 * x


def test_code_act_runs_on_the_sandbox():
    lm = Scripted(
        {"generated_code": "```python\nprint(double(21))\n```", "finished": "True"},
        {"reasoning": "r", "answer": "42"},
    )
    with dspy.context(lm=lm), pytest.warns(DeprecationWarning, match="deprecated"):
        done = dspy.CodeAct("question -> answer", tools=[double], interpreter_factory=Sandbox)(question="21*2?")
    assert done.answer == "42"
    assert "42" in str(done.trajectory)


def test_a_sub_agent_of_the_dspy_facade_runs_on_the_host():
    lm = Scripted(
        {
            "reasoning": "r",
            "code": "import dspy\nclass M(dspy.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.p = dspy.Predict('q -> a')\nm = M()\nSUBMIT(answer=m.p(q='x').a)",
        },
        {"a": "from the host"},
    )
    with dspy.context(lm=lm):
        done = dspy.RLM("context -> answer", interpreter_factory=Sandbox)(context="abc")
    assert done.answer == "from the host"


class Table(dspy.primitives.sandbox_serializable.SandboxSerializable):
    def __init__(self, rows):
        self.rows = rows

    def sandbox_setup(self):
        return "import csv, io"

    def to_sandbox(self):
        return "\n".join(",".join(row) for row in self.rows).encode()

    def sandbox_assignment(self, var_name, data_expr):
        return f"{var_name} = list(csv.reader(io.StringIO({data_expr})))"

    def rlm_preview(self, max_chars=500):
        return "a table"


def test_a_sandbox_serializable_becomes_what_its_own_code_makes_of_it():
    with Sandbox() as sandbox:
        assert (
            sandbox.run("table[1][0], csv.__name__", {"table": Table([["a", "b"], ["c", "d"]])}).value == "('c', 'csv')"
        )


def test_rlm_hands_a_sandbox_serializable_over():
    lm = Scripted({"reasoning": "r", "code": "SUBMIT(answer=table[0][1])"})
    with dspy.context(lm=lm):
        rlm = dspy.RLM(
            dspy.Signature({"table": (Table, dspy.InputField()), "answer": (str, dspy.OutputField())}),
            interpreter_factory=Sandbox,
        )
        assert rlm(table=Table([["a", "b"]])).answer == "b"


def test_wrapped_tools_that_take_keywords_only_may_be_called_by_position():
    tool = dspy.Tool(double)

    def invoke(**kwargs):
        return tool(**kwargs)

    invoke.__signature__ = __import__("inspect").signature(double)
    with Sandbox(tools={"double": invoke}) as sandbox:
        assert sandbox.execute("double(4)") == 8
        with pytest.raises(dspy.primitives.code_interpreter.CodeExecutionError, match="TypeError"):
            sandbox.execute("double(4, 5)")
