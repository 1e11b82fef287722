"""Any interpreter with DSPy's protocol works for an RLM: it receives inputs, toolkit, sub-calls and finals."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.primitives.code_interpreter import CodeExecutionError, FinalOutput

import rlm_dspy
from rlm_dspy.testing import action, fields, scripted


class Submitted(Exception):
    """Ends a cell with its outputs."""


class InProcess:
    """A third party's interpreter, as small as the protocol allows: it runs code right here, and confines nothing."""

    def __init__(self) -> None:
        self.tools: dict[str, Callable[..., Any]] = {}
        self.names: dict[str, Any] = {}

    def start(self) -> None: ...

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        def submit(**outputs: Any) -> None:
            raise Submitted(outputs)

        self.names.update({"SUBMIT": submit, **self.tools, **(variables or {})})
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "<cell>", "exec"), self.names)
        except Submitted as done:
            return FinalOutput(done.args[0])
        except ArithmeticError as error:
            raise CodeExecutionError(f"{type(error).__name__}: {error}") from error
        return printed.getvalue() or None

    def shutdown(self) -> None: ...


FACTORIES = {"ours": rlm_dspy.Sandbox, "local": dspy.LocalInterpreter, "in process": InProcess}


@pytest.fixture(params=FACTORIES)
def factory(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return FACTORIES[request.param]


def ask(factory: Callable[[], Any], *replies: Any, context: Any = "one\ntwo\nthree", **options: Any) -> dspy.Prediction:
    lm, _ = scripted(*replies)
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", interpreter_factory=factory, **options)
        return rlm(context=context, question="q")


def test_names_persist_and_the_toolkit_works_on_the_context(factory: Callable[[], Any]) -> None:
    result = ask(
        factory,
        action("found = grep('t\\\\w+')\nprint(len(found), found[0]['line'], peek(0, 3))"),
        action("SUBMIT(answer=select([(m['start'], m['end']) for m in found]))"),
    )
    assert result.trajectory[0]["output"].strip() == "2 2 one"
    assert result.answer == "twothree"


def test_a_corpus_has_files_by_name(factory: Callable[[], Any]) -> None:
    corpus = rlm_dspy.Corpus.from_texts({"a.txt": "alpha", "b/c.txt": "gamma ray"})
    result = ask(
        factory,
        action("print(list(context), len(context), context['a.txt'])"),
        action("m = grep('ray')[0]\nSUBMIT(answer=f\"{m['source']}:{m['line']}\")"),
        context=corpus,
    )
    assert result.trajectory[0]["output"].strip() == "['a.txt', 'b/c.txt'] 2 alpha"
    assert result.answer == "b/c.txt:1"


def test_sub_calls_and_tools_reach_the_host(factory: Callable[[], Any]) -> None:
    def double(n: int) -> int:
        """Double it."""
        return 2 * n

    result = ask(
        factory,
        action("x = llm_query(prompt='hi') + str(double(n=21))\nprint(x)"),
        "yes",
        action("SUBMIT(answer=x)"),
        tools=[double],
    )
    assert result.answer == "yes42"


def test_the_main_context_is_p_and_a_users_tool_stands_before_one_of_ours(factory: Callable[[], Any]) -> None:
    def grep(pattern: str) -> str:
        """Look it up."""
        return f"mine: {pattern}"

    result = ask(factory, action("SUBMIT(answer=f\"{P == context} {grep(pattern='x')}\")"), tools=[grep])
    assert result.answer == "True mine: x"


def test_typed_calls_work(factory: Callable[[], Any]) -> None:
    result = ask(
        factory, action("r = predict('doc -> n: int', doc=context)\nSUBMIT(answer=str(r.n + 1))"), fields(n="41")
    )
    assert result.answer == "42"


@pytest.mark.parametrize("code", ["FINAL('x')", "v = 'x'\nFINAL_VAR('v')"])
def test_finals_work(factory: Callable[[], Any], code: str) -> None:
    assert ask(factory, action(code)).answer == "x"


def test_an_error_of_the_code_is_an_observation(factory: Callable[[], Any]) -> None:
    result = ask(factory, action("y = 1\n1 / 0"), action("SUBMIT(answer=str(y))"))
    assert "ZeroDivisionError" in result.trajectory[0]["output"]
    assert result.answer == "1"


async def test_it_works_without_blocking_the_event_loop(factory: Callable[[], Any]) -> None:
    lm, _ = scripted(action("x = len(context)"), action("SUBMIT(answer=str(x))"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", interpreter_factory=factory)
        assert (await rlm.acall(context="abc", question="q")).answer == "3"
