"""One program, two classes: it runs on ``dspy.RLM`` and on ``rlm_dspy.RLM``, and gives the same on both.

Each program is a function of the class. DSPy's runs with ``dspy.LocalInterpreter``, ours with the sandbox that is its
default. Where the two differ on purpose, both values stand here, and a row of the table in ``docs/drop_in.md`` explains
the difference; a row that no program shows fails too.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import io
import json
import logging
import subprocess
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import cloudpickle
import dspy
import pydantic
import pytest
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.dummies import DummyLM

import rlm_dspy
from rlm_dspy.testing import AsyncScript, Script, action, fields, scripted, texts
from warm import warm_python

PAGE = Path(__file__).parent.parent / "docs" / "drop_in.md"
SIG = "context, question -> answer"
ASK = {"context": "the sky is blue", "question": "which colour?"}
LOST = dspy.lm15.ServerError("down")

Program = Callable[[Any], Any]


class Case(NamedTuple):
    """A program, its result with either class, and the reason.

    Args:
        row: the first cell of the row in ``docs/drop_in.md`` that explains the difference.
    """

    program: Program
    theirs: Any
    ours: Any
    row: str = ""


CASES: list[Case] = []


def same(value: Any) -> Callable[[Program], Program]:
    """Register a program that gives this value with both classes."""
    return differs(value, value, "")


def differs(theirs: Any, ours: Any, row: str) -> Callable[[Program], Program]:
    """Register a program that gives one value with ``dspy.RLM`` and, on purpose, another with ours."""

    def register(program: Program) -> Program:
        CASES.append(Case(program, theirs, ours, row))
        return program

    return register


# --- what the programs share ----------------------------------------------------------------------------------------


def run(rlm: Any, *replies: Any, **inputs: Any) -> tuple[dspy.Prediction, Script]:
    """Return the prediction of a program whose model replies as scripted, and the script."""
    lm, script = scripted(*replies)
    with dspy.context(lm=lm):
        return rlm(**(inputs or ASK)), script


def answer(rlm: Any, *codes: str, **inputs: Any) -> Any:
    """Return the answer of a program whose model writes these cells."""
    return run(rlm, *map(action, codes), **inputs)[0].answer


def shown(rlm: Any, code: str, **inputs: Any) -> str:
    """Return what the model is shown of a cell."""
    return str(run(rlm, action(code), action("SUBMIT('x')"), **inputs)[0].trajectory[0]["output"])


def prompt(rlm: Any) -> str:
    """Return the whole of a program's first prompt."""
    return "\n".join(texts(run(rlm, action("SUBMIT('x')"))[1].requests[0]))


def raised(call: Callable[[], Any], *kinds: type[BaseException]) -> list[str]:
    """Return which of these classes an exception of the call belongs to."""
    try:
        call()
    except Exception as error:
        return [kind.__name__ for kind in kinds if isinstance(error, kind)]
    return ["nothing was raised"]


def interpreter_of(RLM: Any) -> Any:
    """Return the interpreter that belongs to a class."""
    return dspy.LocalInterpreter if RLM is dspy.RLM else rlm_dspy.Sandbox


def local() -> Any:
    """Return the context in which ``dspy.RLM`` runs on either side."""
    return dspy.context(interpreter_factory=dspy.LocalInterpreter)


def carried(saved: Any, into: Any) -> Any:
    """Return the second program with the saved state of the first."""
    with tempfile.TemporaryDirectory() as folder:
        saved.save(Path(folder) / "state.json")
        into.load(Path(folder) / "state.json")
    return into


def tuned(rlm: Any, words: str = "Always be brilliant.") -> Any:
    """Return the program with these words added to its instructions."""
    signature = rlm.generate_action.signature
    rlm.generate_action.signature = signature.with_instructions(f"{signature.instructions}\n{words}")
    return rlm


def writes(*codes: str) -> Callable[..., dspy.Prediction]:
    """Return a function that takes the place of ``generate_action``."""
    left = iter(codes)
    return lambda **inputs: dspy.Prediction(reasoning="r", code=next(left))


def shout(word: str, times: int = 1) -> str:
    """Say it loudly."""
    return word.upper() * times


def examples(count: int) -> list[dspy.Example]:
    """Return examples whose answer is their question."""
    made = [dspy.Example(context="c", question=str(i), answer=str(i)) for i in range(count)]
    return [example.with_inputs("context", "question") for example in made]


# --- states: what one saved, the other loads ------------------------------------------------------------------------


@same(True)
def a_state_tuned_with_dspy_reaches_the_prompt(RLM: Any) -> Any:
    return "Always be brilliant." in prompt(carried(tuned(dspy.RLM(SIG)), RLM(SIG)))


@same([True, True])
def a_tuned_state_loads_into_dspy_with_its_protocol(RLM: Any) -> Any:
    with local():
        loaded = prompt(carried(tuned(RLM(SIG)), dspy.RLM(SIG)))
    return ["Always be brilliant." in loaded, "`SUBMIT(answer)`" in loaded]


@same(True)
def an_untuned_state_of_dspy_changes_no_prompt(RLM: Any) -> Any:
    return prompt(carried(dspy.RLM(SIG), RLM(SIG))) == prompt(RLM(SIG))


@same(1)
def an_untuned_state_of_dspy_with_tools_adds_no_second_protocol(RLM: Any) -> Any:
    return prompt(carried(dspy.RLM(SIG, tools=[shout]), RLM(SIG, tools=[shout]))).count("Say it loudly.")


@same(True)
def an_untuned_state_of_dspy_with_other_limits_is_untuned(RLM: Any) -> Any:
    loaded = carried(dspy.RLM(SIG, max_llm_calls=7), RLM(SIG, max_llm_calls=7))
    return (
        loaded.generate_action.signature.instructions
        == RLM(SIG, max_llm_calls=7).generate_action.signature.instructions
    )


@same(True)
def an_untuned_state_of_dspy_on_another_interpreter_is_untuned(RLM: Any) -> Any:
    with local():
        state = dspy.RLM(SIG).dump_state()
    loaded = RLM(SIG)
    loaded.load_state(state)
    return loaded.generate_action.signature.instructions == RLM(SIG).generate_action.signature.instructions


@same(True)
def an_untuned_state_changes_no_prompt_of_dspy(RLM: Any) -> Any:
    with local():
        return prompt(carried(RLM(SIG), dspy.RLM(SIG))) == prompt(dspy.RLM(SIG))


@same(True)
def an_untuned_state_of_its_own_changes_no_prompt(RLM: Any) -> Any:
    return prompt(carried(RLM(SIG), RLM(SIG))) == prompt(RLM(SIG))


@same(["extract", "generate_action"])
def a_state_has_two_predictors(RLM: Any) -> Any:
    return sorted(RLM(SIG).dump_state())


@same([True, True])
def a_tuned_extract_of_dspy_reaches_the_extract(RLM: Any) -> Any:
    theirs = dspy.RLM(SIG)
    theirs.extract.signature = theirs.extract.signature.with_instructions("EXTRACT with care.")
    theirs.extract.signature = theirs.extract.signature.with_updated_fields("answer", desc="one WORD")
    loaded = carried(theirs, RLM(SIG, max_iters=1))
    system = texts(run(loaded, action("print(1)"), fields(answer="e"))[1].requests[-1])[0]
    return ["EXTRACT with care." in system, "one WORD" in system]


@same(True)
def a_demo_in_a_state_of_dspy_is_shown(RLM: Any) -> Any:
    theirs = dspy.RLM(SIG)
    given = {"variables_info": "Variable: context", "repl_history": "nothing yet", "iteration": "1/20"}
    theirs.generate_action.demos = [dspy.Example(**given, reasoning="as before", code="print(DEMO)")]
    loaded = carried(theirs, RLM(SIG))
    return "print(DEMO)" in prompt(loaded)


class Pipeline(dspy.Module):
    """A program of somebody's own around an RLM."""

    def __init__(self, RLM: Any) -> None:
        super().__init__()
        self.reader = RLM(SIG)
        self.judge = dspy.Predict("answer -> verdict")

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return self.judge(answer=self.reader(**inputs).answer)


@same("good")
def a_pipeline_loads_what_it_saved_with_dspy(RLM: Any) -> Any:
    program = carried(Pipeline(dspy.RLM), Pipeline(RLM))
    return run(program, action("SUBMIT('x')"), fields(verdict="good"))[0].verdict


@same(["reader.generate_action", "reader.extract", "judge"])
def optimizers_see_two_predictors(RLM: Any) -> Any:
    return [name for name, _ in Pipeline(RLM).named_predictors()]


# --- predictors replaced --------------------------------------------------------------------------------------------


@same(["x", 2])
def generate_action_may_be_a_chain_of_thought_of_its_signature(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.generate_action = dspy.ChainOfThought(rlm.generate_action.signature)
    prediction, script = run(rlm, action("print(context)"), action("SUBMIT('x')"))
    return [prediction.answer, len(script.requests)]


class NextCell(dspy.Signature):
    """Write the next cell; end with SUBMIT."""

    variables_info: str = dspy.InputField()
    repl_history: str = dspy.InputField()
    iteration: str = dspy.InputField()
    code: str = dspy.OutputField()


@same(["x", True, True])
def generate_action_may_be_a_chain_of_thought_of_ones_own(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.generate_action = dspy.ChainOfThought(NextCell)
    prediction, script = run(rlm, action("print('SEEN' + 'IT')"), action("SUBMIT('x')"))
    first, second = ("\n".join(texts(request)) for request in script.requests)
    return [prediction.answer, "the sky is blue" in first, "SEENIT" in second]


@same(["x", True])
def generate_action_may_be_a_predict_with_ones_own_instructions(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.generate_action = dspy.Predict(NextCell.prepend("reasoning", dspy.OutputField()))
    prediction, script = run(rlm, action("SUBMIT('x')"))
    return [prediction.answer, "Write the next cell; end with SUBMIT." in texts(script.requests[0])[0]]


@same(["x", ["hello"]])
def generate_action_may_be_a_module_that_reads_the_history(RLM: Any) -> Any:
    class Agent(dspy.Module):
        def forward(self, variables_info: Any, repl_history: Any, iteration: str, **rest: Any) -> Any:
            read.extend(entry.output.strip() for entry in repl_history)
            return dspy.Prediction(reasoning="r", code="SUBMIT('x')" if read else "print('hello')")

    read: list[str] = []
    rlm = RLM(SIG)
    rlm.generate_action = Agent()
    return [run(rlm, "unused")[0].answer, read]


@same(["x", [("1/5", 0, True), ("2/5", 1, True)]])
def generate_action_may_be_a_function_of_dspys_inputs(RLM: Any) -> Any:
    def write(variables_info: Any, repl_history: Any, iteration: str, signature: Any = None) -> Any:
        seen.append((iteration, len(repl_history), bool(variables_info)))
        return dspy.Prediction(reasoning="r", code="SUBMIT('x')" if repl_history else "print(1)")

    seen: list[Any] = []
    rlm = RLM(SIG, max_iters=5)
    rlm.generate_action = write
    return [run(rlm, "unused")[0].answer, seen]


@same(
    ["x", 2, {"iteration", "repl_history", "variables_info"}],
)
def generate_action_may_be_a_mock(RLM: Any) -> Any:
    rlm = RLM(SIG)
    written = [dspy.Prediction(reasoning="r", code=code) for code in ("print(1)", "SUBMIT('x')")]
    rlm.generate_action = MagicMock(side_effect=written)
    given = run(rlm, "unused")[0].answer
    return [given, rlm.generate_action.call_count, set(rlm.generate_action.call_args.kwargs) - {"signature"}]


@same("x")
def an_object_with_acall_takes_the_place_in_acall(RLM: Any) -> Any:
    class Writer:
        def __call__(self, **inputs: Any) -> Any:
            return write()

        async def acall(self, **inputs: Any) -> Any:
            return write()

    write = writes("print(1)", "SUBMIT('x')")
    rlm = RLM(SIG)
    rlm.generate_action = Writer()
    with dspy.context(lm=scripted("unused")[0]):
        return asyncio.run(rlm.acall(**ASK)).answer


@same("x")
def an_object_with_nothing_but_acall_takes_the_place_in_acall(RLM: Any) -> Any:
    class Writer:
        async def acall(self, **inputs: Any) -> Any:
            return write()

    write = writes("print(1)", "SUBMIT('x')")
    rlm = RLM(SIG)
    rlm.generate_action = Writer()
    with dspy.context(lm=scripted("unused")[0]):
        return asyncio.run(rlm.acall(**ASK)).answer


@same("x")
def no_lm_is_needed_where_predictors_are_replaced(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.generate_action = writes("print(1)", "SUBMIT('x')")
    with dspy.context(lm=None):
        return rlm(**ASK).answer


@same("blue")
def extract_may_be_a_chain_of_thought(RLM: Any) -> Any:
    rlm = RLM(SIG, max_iters=1)
    rlm.extract = dspy.ChainOfThought(rlm.extract.signature)
    return run(rlm, action("print(context)"), fields(reasoning="so", answer="blue"))[0].answer


@same(["extracted", 2])
def extract_may_be_a_function_of_dspys_inputs(RLM: Any) -> Any:
    def extract(variables_info: Any, repl_history: Any) -> Any:
        seen.extend(repl_history)
        return dspy.Prediction(answer="extracted")

    seen: list[Any] = []
    rlm = RLM(SIG, max_iters=2)
    rlm.extract = extract
    return [answer(rlm, "print(1)", "print(2)"), len(seen)]


@same(["e", 1, 1])
def each_predictor_may_have_an_lm_of_its_own(RLM: Any) -> Any:
    (one, first), (two, second) = scripted(action("print(1)")), scripted(fields(answer="e"))
    rlm = RLM(SIG, max_iters=1)
    rlm.generate_action.lm, rlm.extract.lm = one, two
    return [rlm(**ASK).answer, len(first.requests), len(second.requests)]


@same(True)
def instructions_may_be_edited(RLM: Any) -> Any:
    return "CITE LINES." in prompt(tuned(RLM(SIG), "CITE LINES."))


@differs([True, True], [False, False], "`generate_action.signature.instructions`")
def instructions_hold_the_protocol(RLM: Any) -> Any:
    instructions = RLM(SIG, tools=[shout]).generate_action.signature.instructions
    return ["SUBMIT" in instructions, "shout" in instructions]


@differs(
    [["variables_info", "repl_history", "iteration"], ["variables_info", "repl_history"]],
    [["history", "observation"], ["task", "trajectory"]],
    "Input fields of the two predictors",
)
def predictors_have_these_inputs(RLM: Any) -> Any:
    rlm = RLM(SIG)
    return [list(predictor.signature.input_fields) for predictor in (rlm.generate_action, rlm.extract)]


# --- sub_lm ---------------------------------------------------------------------------------------------------------


@same("<one><two><three>")
def sub_lm_may_be_a_function(RLM: Any) -> Any:
    rlm = RLM(SIG, sub_lm=lambda prompt: [f"<{prompt}>"])
    return answer(rlm, "SUBMIT(llm_query('one') + ''.join(llm_query_batched(['two', 'three'])))")


@same("ONE")
def sub_lm_may_be_an_object_without_a_model(RLM: Any) -> Any:
    class Upper:
        def __call__(self, prompt: str) -> list[dict[str, str]]:
            return [{"text": prompt.upper()}]

    return answer(RLM(SIG, sub_lm=Upper()), "SUBMIT(llm_query('one'))")


@same(["mocked", [("one",)]])
def sub_lm_may_be_a_mock(RLM: Any) -> Any:
    mock = MagicMock(return_value=["mocked"])
    given = answer(RLM(SIG, sub_lm=mock), "SUBMIT(llm_query('one'))")
    return [given, [call.args for call in mock.call_args_list]]


@same("later")
def sub_lm_may_be_assigned(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.sub_lm = scripted("later", model="scripted/sub")[0]
    return answer(rlm, "SUBMIT(llm_query('one'))")


@same([20, 2, "b"])
def a_dummy_lm_steers(RLM: Any) -> Any:
    steps = [{"reasoning": "a", "code": "x = 10\nprint(x)"}, {"reasoning": "b", "code": "SUBMIT(x * 2)"}]
    with dspy.context(lm=DummyLM(steps)):
        prediction = RLM("query -> answer: int")(query="double ten")
    return [prediction.answer, len(prediction.trajectory), prediction.final_reasoning]


@differs("TypeError", "text", "A `sub_lm` that returns a `str`")
def sub_lm_returns_a_str(RLM: Any) -> Any:
    output = shown(RLM(SIG, sub_lm=lambda prompt: "text"), "print(llm_query('one'))")
    return "TypeError" if "TypeError" in output else output


@differs("from settings", "from set_lm", "`rlm.set_lm(lm)`")
def set_lm_reaches_sub_calls(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.set_lm(scripted(action("SUBMIT(llm_query('q'))"), "from set_lm")[0])
    with dspy.context(lm=scripted("from settings")[0]):
        return rlm(**ASK).answer


# --- llm_query ------------------------------------------------------------------------------------------------------


def fails_on_bad(prompt: str) -> str:
    """Fail as a server does where the prompt is bad."""
    if "bad" in prompt:
        raise LOST
    return "fine"


BATCH = "r = llm_query_batched(['ok', 'bad'])\n"


@same(["fine", True, True])
def a_failed_slot_is_a_text_that_says_so(RLM: Any) -> Any:
    code = BATCH + "print(r[0])\nprint(r[1].startswith('[ERROR]'))\nprint('down' in '|'.join(r))"
    first, *rest = shown(RLM(SIG, sub_lm=scripted(fails_on_bad)[0]), code).splitlines()
    return [first, *(line == "True" for line in rest)]


@same("0,1,2,3,4,5,6,7,8,9")
def a_batch_keeps_the_order(RLM: Any) -> Any:
    rlm = RLM(SIG, sub_lm=scripted(lambda prompt: prompt)[0])
    return answer(rlm, "SUBMIT(','.join(llm_query_batched([str(i) for i in range(10)])))")


@differs("AttributeError", "True down", "A failed slot of `llm_query_batched`")
def a_failed_slot_has_ok_and_error(RLM: Any) -> Any:
    code = BATCH + "print(r[0].ok, 'down' if 'down' in r[1].error else r[1].error)"
    output = shown(RLM(SIG, sub_lm=scripted(fails_on_bad)[0]), code)
    return "AttributeError" if "AttributeError" in output else output


@differs("the cell fails", "its slot says so", "A failed slot of `llm_query_batched`")
def a_bug_of_sub_lm_in_a_batch(RLM: Any) -> Any:
    output = shown(RLM(SIG, sub_lm=MagicMock(side_effect=TypeError("bug"))), "print(llm_query_batched(['a'])[0])")
    assert "bug" in output
    return "its slot says so" if output.startswith("[ERROR]") else "the cell fails"


@same("caught True")
def a_failed_llm_query_is_a_runtime_error(RLM: Any) -> Any:
    code = "try:\n    llm_query('q')\nexcept RuntimeError as error:\n    print('caught', 'down' in str(error))"
    return shown(RLM(SIG, sub_lm=scripted(LOST)[0]), code)


@same("caught True")
def the_limit_of_sub_calls_is_a_runtime_error(RLM: Any) -> Any:
    code = "llm_query('a')\ntry:\n    llm_query('b')\nexcept RuntimeError as error:\n    "
    code += "print('caught', 'LLM call limit exceeded' in str(error))"
    return shown(RLM(SIG, max_llm_calls=1, sub_lm=lambda prompt: ["sub"]), code)


@differs([42], [], "A prompt that is not text")
def a_number_as_a_prompt_reaches_the_model(RLM: Any) -> Any:
    sub = MagicMock(return_value=["ok"])
    shown(RLM(SIG, sub_lm=sub), "llm_query(42)")
    return [call.args[0] for call in sub.call_args_list]


# --- interpreters of one's own --------------------------------------------------------------------------------------


class Fake:
    """An interpreter with scripted results, as people write them for their tests; it keeps what it is given."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.tools: dict[str, Any] = {}
        self.codes: list[str] = []
        self.variables: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.output_fields: Any = None

    def start(self) -> None:
        self.events.append("start")

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        self.variables.append(dict(variables or {}))
        self.events.append("set-up" if "__dspy_host_token" in self.variables[-1] else "cell")
        if self.events[-1] == "set-up":
            return None
        self.codes.append(code)
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result(self.tools) if callable(result) else result

    def shutdown(self) -> None:
        self.events.append("shutdown")


def final(**outputs: Any) -> dspy.FinalOutput:
    """Return what an interpreter returns when a cell has submitted."""
    return dspy.FinalOutput(outputs)


def on_fake(RLM: Any, fake: Fake, *codes: str, **options: Any) -> dspy.Prediction:
    """Return the prediction of an RLM on this interpreter."""
    rlm = RLM(options.pop("signature", SIG), interpreter_factory=lambda: fake, **options)
    return run(rlm, *map(action, codes or ["print(1)", "SUBMIT('x')"]))[0]


@same([["set-up", "cell", "cell", "shutdown"], ["print(1)", "SUBMIT('x')"], ["explored", "42"]])
def a_fake_sees_one_set_up_and_then_each_cell(RLM: Any) -> Any:
    fake = Fake("explored", final(answer="42"))
    prediction = on_fake(RLM, fake)
    events = [event for event in fake.events if event != "start"]
    return [events, fake.codes, [prediction.trajectory[0]["output"], prediction.answer]]


@same([ASK, ASK])
def a_fake_gets_all_inputs_with_each_cell(RLM: Any) -> Any:
    fake = Fake("explored", final(answer="42"))
    on_fake(RLM, fake)
    return fake.variables[1:]


@same("sub:K")
def a_fake_calls_the_tools(RLM: Any) -> Any:
    fake = Fake(lambda tools: final(answer=tools["llm_query"](prompt="q") + tools["shout"](word="k")))
    return on_fake(RLM, fake, tools=[shout], sub_lm=lambda prompt: ["sub:"]).answer


@same(["(word: 'str', times: 'int' = 1) -> 'str'", "shout"])
def a_fake_can_inspect_the_tools(RLM: Any) -> Any:
    fake = Fake(final(answer="42"))
    on_fake(RLM, fake, tools=[shout])
    return [str(inspect.signature(fake.tools["shout"])), fake.tools["shout"].__name__]


@same([{"name": "answer", "type": "str"}, {"name": "n", "type": "int"}, {"name": "tags"}])
def a_fake_gets_the_output_fields(RLM: Any) -> Any:
    fake = Fake(final(answer="a", n=1, tags=["x"]))
    on_fake(RLM, fake, signature="context, question -> answer, n: int, tags: list[str]")
    return fake.output_fields


@same(["[Error] NameError: x", "[Error] bad", "(no output - did you forget to print?)", "a\nb", "7"])
def what_a_fake_returns_or_raises_is_shown(RLM: Any) -> Any:
    fake = Fake(dspy.CodeExecutionError("NameError: x"), SyntaxError("bad"), None, ["a", "b"], 7, final(answer="42"))
    return [step["output"] for step in on_fake(RLM, fake, "x = 1").trajectory[:5]]


@same(["yes", 4])
def a_wrong_final_of_a_fake_is_reported_and_the_run_goes_on(RLM: Any) -> Any:
    fake = Fake(dspy.FinalOutput("bare"), final(other=1), final(answer="maybe"), final(answer="yes"))
    prediction = on_fake(RLM, fake, "SUBMIT(1)", signature="context, question -> answer: Literal['yes', 'no']")
    return [prediction.answer, len(prediction.trajectory)]


@same([["CodeInterpreterError"], "shutdown"])
def a_fake_that_dies_in_a_cell_ends_the_run(RLM: Any) -> Any:
    fake = Fake(dspy.CodeInterpreterError("protocol corrupt"))
    return [raised(lambda: on_fake(RLM, fake, max_iters=1), dspy.CodeInterpreterError), fake.events[-1]]


class Dead(Fake):
    """An interpreter whose process is gone."""

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        raise dspy.CodeInterpreterError("the process is gone")


@same([["CodeInterpreterError"], "shutdown", 0])
def a_dead_fake_is_an_error_before_the_model_is_asked(RLM: Any) -> Any:
    fake = Dead()
    lm, script = scripted(action("SUBMIT('x')"))
    with dspy.context(lm=lm):
        error = raised(lambda: RLM(SIG, interpreter_factory=lambda: fake)(**ASK), dspy.CodeInterpreterError)
    return [error, fake.events[-1], len(script.requests)]


class Mine(Exception):
    """An exception of the user's own."""


class Unstartable(Fake):
    """An interpreter that cannot start."""

    def start(self) -> None:
        raise dspy.CodeInterpreterError("no such runtime")


@same([["CodeInterpreterError"], "shutdown"])
def a_fake_that_cannot_start_ends_the_run(RLM: Any) -> Any:
    fake = Unstartable()
    return [raised(lambda: on_fake(RLM, fake), dspy.CodeInterpreterError), fake.events[-1]]


@same([["Mine"], "shutdown"])
def a_fake_is_shut_down_when_a_predictor_raises(RLM: Any) -> Any:
    def fail(**inputs: Any) -> Any:
        raise Mine("mine")

    fake = Fake()
    rlm = RLM(SIG, interpreter_factory=lambda: fake)
    rlm.generate_action = fail
    return [raised(lambda: run(rlm, "unused"), Mine), fake.events[-1]]


@same(["42", "shutdown"])
def a_fake_works_in_acall(RLM: Any) -> Any:
    fake = Fake("explored", final(answer="42"))
    rlm = RLM(SIG, interpreter_factory=lambda: fake)
    with dspy.context(lm=scripted(action("print(1)"))[0]):
        return [asyncio.run(rlm.acall(**ASK)).answer, fake.events[-1]]


@same(["constructor", "settings", "constructor", "call"])
def the_factory_of_the_call_comes_before_the_others(RLM: Any) -> Any:
    def named(name: str) -> Any:
        return lambda: Fake(final(answer=name))

    given = {"lm": scripted(action("SUBMIT(1)"))[0], "interpreter_factory": named("settings")}
    own = RLM(SIG, interpreter_factory=named("constructor"))
    with dspy.context(**given):
        answers = [own(**ASK), RLM(SIG)(**ASK), own(**ASK), own(interpreter_factory=named("call"), **ASK)]
    return [prediction.answer for prediction in answers]


@same([["TypeError"], ["TypeError"], ["TypeError"]])
def what_is_not_a_factory_is_refused(RLM: Any) -> Any:
    return [
        raised(lambda: RLM(SIG, interpreter_factory=Fake()), TypeError),
        raised(lambda: RLM(SIG, interpreter_factory=3), TypeError),
        raised(lambda: run(RLM(SIG, interpreter_factory=lambda: None), "unused"), TypeError),
    ]


@same(True)
def execution_instructions_of_a_factory_are_in_the_prompt(RLM: Any) -> Any:
    class Factory:
        execution_instructions = "Use runtime 42."

        def __call__(self) -> Fake:
            return Fake(final(answer="x"))

    return "Use runtime 42." in prompt(RLM(SIG, interpreter_factory=Factory()))


# --- assigned after construction ------------------------------------------------------------------------------------


@same(["extracted", 1, 2])
def max_iters_may_be_assigned(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.max_iters = 1
    prediction, script = run(rlm, action("print(1)"), fields(answer="extracted"))
    return [prediction.answer, rlm.max_iters, len(script.requests)]


@same([1, True])
def max_llm_calls_may_be_assigned(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.max_llm_calls = 1
    return [rlm.max_llm_calls, "LLM call limit exceeded" in shown(rlm, "llm_query_batched(['a', 'b'])")]


@same(False)
def max_output_chars_may_be_assigned(RLM: Any) -> Any:
    rlm = RLM(SIG)
    rlm.max_output_chars = 50
    return "a" * 200 in texts(run(rlm, action("print('a' * 500)"), action("SUBMIT('x')"))[1].requests[1])[-1]


@same(["extracted", 20])
def limits_of_a_copy_are_its_own(RLM: Any) -> Any:
    rlm = RLM(SIG)
    copied = rlm.deepcopy()
    copied.max_iters = 1
    return [run(copied, action("print(1)"), fields(answer="extracted"))[0].answer, rlm.max_iters]


@same([3, 4, 500, False, None, ["shout"], ["context", "question"]])
def programs_read_these_attributes(RLM: Any) -> Any:
    rlm = RLM(SIG, 3, 4, 500, tools=[shout])
    numbers = [rlm.max_iters, rlm.max_llm_calls, rlm.max_output_chars]
    return [*numbers, rlm.verbose, rlm.sub_lm, list(rlm.tools), list(rlm.signature.input_fields)]


# --- verbose --------------------------------------------------------------------------------------------------------

PLAIN_SCRIPT = """
import dspy
from {package} import RLM
from rlm_dspy.testing import action, scripted

lm, _ = scripted(action("print('HELLO ' * 2)", "I look first"), action("SUBMIT('x')", "I am done"))
dspy.configure(lm=lm, interpreter_factory=dspy.{interpreter})
print(RLM("context -> answer", verbose=True)(context="c").answer)
"""


@same(["x", True, True, True, True])
def verbose_is_seen_in_a_plain_script(RLM: Any) -> Any:
    theirs = RLM is dspy.RLM
    source = PLAIN_SCRIPT.format(
        package="dspy" if theirs else "rlm_dspy", interpreter="LocalInterpreter" if theirs else "PythonInterpreter"
    )
    done = subprocess.run([*warm_python(), "-c", source], capture_output=True, text=True, timeout=120, check=True)
    seen = ("RLM iteration 1/20", "Reasoning: I look first", "print('HELLO ' * 2)", "HELLO HELLO")
    return [done.stdout.strip(), *(words in done.stderr for words in seen)]


@same([True])
def reaching_max_iters_is_logged_as_a_warning(RLM: Any) -> Any:
    logger, warned = logging.getLogger("dspy"), MagicMock(level=logging.WARNING)
    logger.addHandler(warned)
    try:
        run(RLM(SIG, max_iters=1), action("print(1)"), fields(answer="e"))
    finally:
        logger.removeHandler(warned)
    return ["max iterations" in call.args[0].getMessage() for call in warned.handle.call_args_list]


# --- predictions ----------------------------------------------------------------------------------------------------


@same(["x", "x"])
def the_majority_of_predictions_wins(RLM: Any) -> Any:
    predictions = [run(RLM(SIG), action(f"SUBMIT({word!r})"))[0] for word in ("x", "y", "x")]
    return [dspy.majority(predictions).answer, dspy.majority(predictions, field="answer").answer]


@same("x")
def an_ensemble_takes_the_majority(RLM: Any) -> Any:
    ensemble = dspy.Ensemble(reduce_fn=dspy.majority).compile([RLM(SIG) for _ in range(3)])
    return run(ensemble, action("SUBMIT('x')"))[0].answer


@same("good")
def best_of_n_takes_the_best(RLM: Any) -> Any:
    best = dspy.BestOfN(module=RLM(SIG), N=3, reward_fn=lambda args, got: float(got.answer == "good"), threshold=1.0)
    return run(best, action("SUBMIT('bad')"), action("SUBMIT('good')"))[0].answer


@same(["good", True])
def refine_gives_its_advice_to_the_next_attempt(RLM: Any) -> Any:
    advice = json.dumps({"generate_action": "ADVICE be good", "extract": "N/A"})
    replies = [action("SUBMIT('bad')"), fields(discussion="d", advice=advice), action("SUBMIT('good')")]
    rewarded = dspy.Refine(module=RLM(SIG), N=3, reward_fn=lambda a, got: float(got.answer == "good"), threshold=1.0)
    prediction, script = run(rewarded, *replies)
    return [prediction.answer, "ADVICE be good" in "\n".join(texts(script.requests[-1]))]


@same([["answer", "final_reasoning", "n", "trajectory"], "answer", 4])
def a_prediction_has_these_keys(RLM: Any) -> Any:
    prediction, _ = run(RLM("context, question -> answer, n: int"), action("SUBMIT('x', 2)"))
    kept = json.loads(json.dumps(prediction.toDict()))
    return [sorted(kept), next(iter(prediction.keys())), len(prediction)]


@same([["code", "output", "reasoning"], "FINAL: {'answer': 'x'}", True])
def programs_read_the_trajectory(RLM: Any) -> Any:
    first, last = run(RLM(SIG), action("1/0"), action("SUBMIT('x')"))[0].trajectory
    return [sorted(first), last["output"], first["output"].startswith("[Error] ")]


@same([["scripted/model"], True])
def usage_is_tracked(RLM: Any) -> Any:
    with dspy.context(track_usage=True):
        used = run(RLM(SIG), action("print(llm_query('q'))"), "sub", action("SUBMIT('x')"))[0].get_lm_usage()
    return [sorted(used), used["scripted/model"]["prompt_tokens"] > 0]


@same([3, 3, 2, True])
def histories_hold_every_call(RLM: Any) -> Any:
    rlm, written = RLM(SIG), io.StringIO()
    lm, _ = scripted(action("print(llm_query('q'))"), "sub", action("SUBMIT('x')"))
    with dspy.context(lm=lm):
        rlm(**ASK)
    rlm.inspect_history(n=3, file=written)
    sizes = [len(lm.history), len(rlm.history), len(rlm.generate_action.history)]
    return [*sizes, "SUBMIT('x')" in written.getvalue()]


# --- inputs and outputs ---------------------------------------------------------------------------------------------


@same("Trueq")
def none_is_an_input(RLM: Any) -> Any:
    return answer(RLM(SIG), "SUBMIT(str(context is None) + question)", context=None, question="q")


@same([["ValueError"], ["ValueError"], ["TypeError"], 0])
def inputs_that_do_not_fit_are_refused_before_any_call(RLM: Any) -> Any:
    lm, script = scripted(action("SUBMIT('x')"))
    rlm = RLM(SIG)
    with dspy.context(lm=lm):
        missing, more = raised(lambda: rlm(context="c"), ValueError), raised(lambda: rlm(**ASK, n=1), ValueError)
        return [missing, more, raised(lambda: rlm("c", "q"), TypeError), len(script.requests)]


@same(["the sky is blue", "gone"])
def an_input_that_was_rebound_is_itself_again_at_the_next_step(RLM: Any) -> Any:
    prediction, _ = run(RLM(SIG), action("context = 'gone'\nprint(context)"), action("SUBMIT(context)"))
    return [prediction.answer, prediction.trajectory[0]["output"].splitlines()[0]]


@differs("[1, 2]", "[1, 2, 3]", "An input that a cell changes in place")
def an_input_that_was_changed_in_place(RLM: Any) -> Any:
    return answer(RLM("items: list[int] -> answer"), "items.append(3)", "SUBMIT(str(items))", items=[1, 2])


class Item(pydantic.BaseModel):
    """A thing that is sold."""

    name: str
    price: float = 1.0


@same([7, ["a"], "yes", {"a": 1}, "a"])
def outputs_are_converted_to_their_types(RLM: Any) -> Any:
    rlm = RLM(
        "context, question -> n: int, tags: list[str], said: Literal['yes', 'no'], by: dict[str, int], item: Item"
    )
    made = run(rlm, action("""SUBMIT('7', ["a"], 'yes', {'a': 1}, {'name': 'a'})"""))[0]
    return [made.n, made.tags, made.said, made.by, made.item.name]


@same([7, True])
def a_wrong_type_is_reported_and_the_run_goes_on(RLM: Any) -> Any:
    prediction, _ = run(RLM("context, question -> answer: int"), action("SUBMIT('many')"), action("SUBMIT(7)"))
    return [prediction.answer, "[Type Error]" in prediction.trajectory[0]["output"]]


NOT_JSON = "Values that JSON cannot hold"


@differs(["refused"], ["2024-05-06", [1, 2], ["a"]], NOT_JSON)
def dates_sets_and_views_are_submitted(RLM: Any) -> Any:
    code = "import datetime\nSUBMIT(datetime.date(2024, 5, 6), {1, 2}, {'a': 1}.keys())"
    made, _ = run(
        RLM("context, question -> day, n: list[int], k: list[str]"), action(code), action("SUBMIT('', [], [])")
    )
    return ["refused"] if len(made.trajectory) > 1 else [made.day, made.n, made.k]


@differs(["CodeInterpreterError"], "a 2", NOT_JSON)
def models_and_sets_are_inputs(RLM: Any) -> Any:
    rlm = RLM("item, seen -> answer")
    given = {"item": Item(name="a"), "seen": {1, 2}}
    if RLM is dspy.RLM:
        return raised(lambda: answer(rlm, "SUBMIT('x')", **given), dspy.CodeInterpreterError)
    return answer(rlm, "SUBMIT(f'{item.name} {len(seen)}')", **given)


@differs("{'1': 'a'} list", "{1: 'a'} tuple", NOT_JSON)
def numbers_as_keys_and_tuples_are_kept(RLM: Any) -> Any:
    return answer(RLM("d, t -> answer"), "SUBMIT(f'{d} {type(t).__name__}')", d={1: "a"}, t=(1, 2))


@differs("[Error]", "one", NOT_JSON)
def a_tool_returns_a_prediction(RLM: Any) -> Any:
    def retrieve(query: str) -> Any:
        return dspy.Prediction(passages=["one", "two"])

    return shown(RLM(SIG, tools=[retrieve]), "print(retrieve(query='q')['passages'][0])")[:7]


@differs("None", "refused", "`SUBMIT(None)` for a `str` output")
def none_is_submitted_for_a_str(RLM: Any) -> Any:
    prediction, _ = run(RLM(SIG), action("SUBMIT(None)"), action("SUBMIT('second')"))
    return "refused" if prediction.answer == "second" else prediction.answer


ONE_DICT = "`SUBMIT` of one dict whose keys are the outputs"


@differs("{'answer': 'x'}", "x", ONE_DICT)
def a_dict_of_the_output_is_submitted(RLM: Any) -> Any:
    return answer(RLM(SIG), "SUBMIT({'answer': 'x'})")


@differs(("second", 2), ("x", 1), ONE_DICT)
def a_dict_of_several_outputs_is_submitted(RLM: Any) -> Any:
    cells = action("SUBMIT({'a': 'x', 'n': 1})"), action("SUBMIT('second', 2)")
    prediction, _ = run(RLM("context, question -> a, n: int"), *cells)
    return prediction.a, prediction.n


@differs(("second", 2), ("x", 1), "`SUBMIT` with positional and keyword arguments")
def a_mixed_submit(RLM: Any) -> Any:
    prediction, _ = run(
        RLM("context, question -> a, n: int"), action("SUBMIT('x', n=1)"), action("SUBMIT('second', 2)")
    )
    return prediction.a, prediction.n


# --- DataFrames -----------------------------------------------------------------------------------------------------


class Frame(dspy.SandboxSerializable):
    """A DataFrame as DSPy's tutorial wraps it, by CSV."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def sandbox_setup(self) -> str:
        return "import pandas as pd\nimport io"

    def to_sandbox(self) -> bytes:
        return str(self.data.to_csv(index=False)).encode()

    def sandbox_assignment(self, var_name: str, data_expr: str) -> str:
        return f"{var_name} = pd.read_csv(io.StringIO({data_expr}))"

    def rlm_preview(self, max_chars: int = 500) -> str:
        return f"DataFrame: {len(self.data)} rows"


def ages() -> Any:
    """Return a small table."""
    import pandas as pd

    return pd.DataFrame({"city": ["X", "Y", "X"], "age": [25, 30, 35]})


@same([30.0, "(3, 2)", True])
def the_dataframe_tutorial_runs(RLM: Any) -> Any:
    mean = "import pandas as pd\nSUBMIT(float(pd.concat([data]).groupby('city')['age'].mean()['X']))"
    cells = action("import pandas as pd\nprint(data.shape)"), action(mean)
    made, script = run(RLM("data, query -> answer: float"), *cells, data=Frame(ages()), query="mean age in X?")
    return [made.answer, made.trajectory[0]["output"], "DataFrame: 3 rows" in "\n".join(texts(script.requests[0]))]


@same([True, ["query"]])
def a_fake_gets_a_dataframe_by_its_set_up_code(RLM: Any) -> Any:
    fake = Fake("", final(answer="done"))
    run(
        RLM("data, query -> answer", interpreter_factory=lambda: fake),
        action("SUBMIT('x')"),
        data=Frame(ages()),
        query="q",
    )
    return ["_raw_data" in fake.variables[-2] and "read_csv" in fake.codes[0], sorted(fake.variables[-1])]


@differs(["CodeInterpreterError"], "{'X': 60, 'Y': 30}", NOT_JSON)
def a_dataframe_is_an_input_as_it_is(RLM: Any) -> Any:
    if RLM is dspy.RLM:
        return raised(lambda: answer(RLM("data -> answer"), "SUBMIT('x')", data=ages()), dspy.CodeInterpreterError)
    return answer(RLM("data -> answer"), "SUBMIT(str(data.groupby('city')['age'].sum().to_dict()))", data=ages())


@differs("runs", "the error names Sandbox(modules=…)", "Third-party packages in a cell")
def pandas_where_no_input_needs_it(RLM: Any) -> Any:
    output = shown(RLM(SIG), "import pandas\nprint('runs')")
    return "the error names Sandbox(modules=…)" if "modules=" in output else output


PYDANTIC = "from pydantic import BaseModel\nclass A(BaseModel):\n    n: int\nSUBMIT(repr(A(n='6').n))"


@differs("6", "'6'", "`pydantic` in a cell")
def pydantic_validates_in_a_cell(RLM: Any) -> Any:
    return answer(RLM(SIG), PYDANTIC)


# --- names ----------------------------------------------------------------------------------------------------------

OURS = ["predict", "predict_batched", "subcall", "subcall_batched", "P", "FINAL", "FINAL_VAR", "run", "search", "grep"]
OURS += ["peek", "past_steps", "chunk", "select", "outline", "rows", "Corpus", "Evidence", "find", "read", "history"]


@same(" ".join(["context", *OURS]))
def inputs_may_have_the_names_of_our_functions(RLM: Any) -> Any:
    names = ["context", *OURS]
    return answer(
        RLM(f"{', '.join(names)} -> answer"), f"SUBMIT(' '.join([{', '.join(names)}]))", **{n: n for n in names}
    )


@same("/".join(["context", *OURS]))
def tools_may_have_the_names_of_our_functions(RLM: Any) -> Any:
    names = ["context", *OURS]
    tools = [dspy.Tool(lambda key: key, name=name, args={"key": {"type": "string"}}) for name in names]
    calls = ", ".join(f"{name}(key={name!r})" for name in names)
    return answer(RLM("question -> answer", tools=tools), f"SUBMIT('/'.join([{calls}]))", question="q")


@same([1, 2, "g"])
def code_may_use_the_names_of_our_functions(RLM: Any) -> Any:
    code = "search, P = 1, 2\ndef grep(text):\n    return text"
    rlm = RLM("context, question -> answer: list")
    return answer(rlm, code, "SUBMIT([search, P, grep('g')])")


@same("v")
def an_output_may_be_called_run(RLM: Any) -> Any:
    return run(RLM("context, question -> run"), action("SUBMIT(run='v')"))[0].run


@same([["ValueError"]] * 6)
def what_dspy_reserves_is_refused(RLM: Any) -> Any:
    inputs = [raised(lambda n=n: RLM(f"{n} -> answer"), ValueError) for n in ("llm_query", "SUBMIT", "dspy")]
    outputs = [raised(lambda n=n: RLM(f"context -> {n}"), ValueError) for n in ("trajectory", "final_reasoning")]
    tool = raised(lambda: RLM(SIG, tools=[dspy.Tool(shout, name="llm_query_batched")]), ValueError)
    return [*inputs, *outputs, tool]


# --- `import dspy` in a cell ----------------------------------------------------------------------------------------


def with_sub(RLM: Any, code: str, *replies: Any, **options: Any) -> tuple[Any, Script]:
    """Return what a cell submits, or else prints, when the model of its sub-calls replies as scripted."""
    lm, script = scripted(*replies)
    made, _ = run(RLM(SIG, sub_lm=lm, **options), action(f"import dspy\n{code}"), action("SUBMIT('nothing')"))
    return (made.answer if made.answer != "nothing" else made.trajectory[0]["output"]), script


@same("skysky")
def dspy_predict_works_in_a_cell(RLM: Any) -> Any:
    code = "r = dspy.Predict('text -> label')(text=context)\nSUBMIT(r.label + r['label'])"
    return with_sub(RLM, code, fields(label="sky"))[0]


@same("['a', 4, ['x', 'y']]")
def dspy_predict_gives_types_in_a_cell(RLM: Any) -> Any:
    code = "r = dspy.Predict('text -> label, n: int, tags: list[str]')(text=context)\n"
    code += "SUBMIT(str([r.label, r.n + 1, r.tags]))"
    return with_sub(RLM, code, fields(label="a", n="3", tags='["x", "y"]'))[0]


@same("so/sky")
def dspy_chain_of_thought_works_in_a_cell(RLM: Any) -> Any:
    code = "r = dspy.ChainOfThought('text -> label')(text=context)\nSUBMIT(r.reasoning + '/' + r.label)"
    return with_sub(RLM, code, fields(reasoning="so", label="sky"))[0]


@same(["sky", True])
def dspy_signature_works_in_a_cell(RLM: Any) -> Any:
    code = "s = dspy.Signature('text -> label', 'Label it well.')\nSUBMIT(dspy.Predict(s)(text=context).label)"
    given, script = with_sub(RLM, code, fields(label="sky"))
    return [given, "Label it well." in texts(script.requests[0])[0]]


@same("child saw the sky is blue")
def dspy_rlm_works_in_a_cell(RLM: Any) -> Any:
    code = "SUBMIT(dspy.RLM('context, query -> output')(context=context, query='q').output)"
    return with_sub(RLM, code, action("SUBMIT(output='child saw ' + context)"))[0]


@same("[3, 1, 'child done']")
def dspy_rlm_in_a_cell_takes_any_inputs_and_has_a_trajectory(RLM: Any) -> Any:
    code = "r = dspy.RLM('rows, n: int -> total: int')(rows=[1, 2, 3], n=2)\n"
    code += "SUBMIT(str([r.total, len(r.trajectory), r.final_reasoning]))"
    return with_sub(RLM, code, action("SUBMIT(total=sum(rows[:n]))", "child done"))[0]


@same(["True", 1])
def sub_agents_draw_on_max_llm_calls(RLM: Any) -> Any:
    code = "p = dspy.Predict('text -> label')\np(text='a')\ntry:\n    p(text='b')\n"
    code += "except Exception as error:\n    print('LLM call limit exceeded' in str(error))"
    printed, script = with_sub(RLM, code, fields(label="sky"), max_llm_calls=1)
    return [printed.strip(), len(script.requests)]


@differs("sky!", "AttributeError: dspy here has", "`dspy` in a cell")
def a_module_is_declared_in_a_cell(RLM: Any) -> Any:
    code = "class Two(dspy.Module):\n    def forward(self, text):\n        "
    code += "return dspy.Predict('text -> label')(text=text)\nSUBMIT(Two()(text=context).label + '!')"
    given = with_sub(RLM, code, fields(label="sky"))[0]
    return given if given == "sky!" else given[given.index("AttributeError") :][:29]


# --- the interpreter by itself --------------------------------------------------------------------------------------


@same([2, [1, "a", None], {"a": {"b": 1.5}}, "text", None, "a\nb"])
def execute_returns_the_value_of_the_last_expression(RLM: Any) -> Any:
    cells = ["1+1", "[1, 'a', None]", "{'a': {'b': 1.5}}", "'text'", "x = 1", "print('a')\nprint('b')"]
    with interpreter_of(RLM)() as interpreter:
        return [interpreter.execute(cell) for cell in cells]


@same([2, "5", 5])
def an_interpreter_is_called_like_a_function(RLM: Any) -> Any:
    with interpreter_of(RLM)() as interpreter:
        return [interpreter("x + 1", {"x": 1}), interpreter("print(x)", variables={"x": 5}), interpreter("x")]


@same(["3", {"x": "a", "n": 2}, ["CodeExecutionError"], ["SyntaxError"], "alive"])
def an_interpreter_has_tools_outputs_and_errors(RLM: Any) -> Any:
    outputs = [{"name": "x", "type": "str"}, {"name": "n", "type": "int"}]
    with interpreter_of(RLM)(tools={"add": lambda a, b=1: a + b}, output_fields=outputs) as interpreter:
        called, submitted = interpreter.execute("print(add(a=1, b=2))"), interpreter.execute("SUBMIT('a', 2)").output
        failed = raised(lambda: interpreter.execute("1/0"), dspy.CodeExecutionError)
        broken = raised(lambda: interpreter.execute("def f(:"), SyntaxError)
        return [called, submitted, failed, broken, interpreter.execute("print('alive')")]


@same({"startup": 1, "execute": 1, "tool_call": 1, "shutdown": 1})
def an_interpreter_calls_its_own_callbacks(RLM: Any) -> Any:
    watch = Recorder()
    with closing(watch), interpreter_of(RLM)(tools={"add": lambda a, b: a + b}, callbacks=[watch]) as interpreter:
        interpreter.execute("print(add(a=1, b=2))")
    return {kind: len(watch.of(f"interpreter_{kind}")) for kind in ("startup", "execute", "tool_call", "shutdown")}


@differs(["{1, 2}", "b'x'"], [{1, 2}, b"x"], NOT_JSON)
def execute_returns_a_set_or_bytes(RLM: Any) -> Any:
    with interpreter_of(RLM)() as interpreter:
        return [interpreter.execute("{1, 2}"), interpreter.execute("b'x'")]


@differs("the session", "the cell", "A cell that takes too long")
def a_time_limit_ends(RLM: Any) -> Any:
    limit = {"execution_timeout": 0.5} if RLM is dspy.RLM else {"timeout": 0.5}
    with interpreter_of(RLM)(**limit) as interpreter:
        assert raised(lambda: interpreter.execute("while True: pass"), dspy.CodeInterpreterError)
        after = raised(lambda: interpreter.execute("1"), dspy.CodeInterpreterError)
    return "the session" if after == ["CodeInterpreterError"] else "the cell"


# --- events ---------------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """A call that DSPy's callbacks saw start."""

    kind: str
    instance: Any
    id: str
    parent: str | None
    inputs: dict[str, Any]


class Recorder(BaseCallback):
    """Every start of a call, with the call it was made in."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def above(self, event: Event) -> list[str]:
        """Return the kinds of an event and of those that it lies in; of a module, the class too."""
        by_id = {each.id: each for each in self.events}
        path, here = [], event
        while here:
            module = "RLM" if type(here.instance).__name__ == "RLM" else "predictor"
            path.append(module if here.kind == "module" else here.kind.removeprefix("interpreter_"))
            here = by_id.get(here.parent or "")
        return path

    def close(self) -> None: ...


def _start(kind: str) -> Any:
    def on_start(self: Recorder, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.events.append(Event(kind, instance, call_id, ACTIVE_CALL_ID.get(), inputs))

    return on_start


for _kind in ("module", "lm", "tool", *(f"interpreter_{op}" for op in ("startup", "execute", "tool_call", "shutdown"))):
    setattr(Recorder, f"on_{_kind}_start", _start(_kind))


def watched(rlm: Any, *replies: Any, **inputs: Any) -> Recorder:
    """Return the events of a run."""
    watch = Recorder()
    with dspy.context(callbacks=[watch]):
        run(rlm, *replies, **inputs)
    return watch


@same([["print(shout(word='a'))", "SUBMIT('x')"], ["shout"], True, 1])
def interpreter_events_fire(RLM: Any) -> Any:
    watch = watched(RLM(SIG, tools=[shout]), action("print(shout(word='a'))"), action("SUBMIT('x')"))
    codes = [event.inputs["code"] for event in watch.of("interpreter_execute")]
    called = [event.inputs["tool_name"] for event in watch.of("interpreter_tool_call")]
    return [codes[1:], called, bool(watch.of("interpreter_startup")), len(watch.of("interpreter_shutdown"))]


@same(
    [
        ["lm", "tool_call", "execute", "RLM"],
        ["tool", "tool_call", "execute", "RLM"],
        "print(llm_query('q'), shout('a'))",
    ]
)
def sub_calls_and_tools_lie_under_the_cell_that_made_them(RLM: Any) -> Any:
    code = "print(llm_query('q'), shout(word='a'))"
    watch = watched(RLM(SIG, tools=[shout]), action(code), "sub", action("SUBMIT('x')"))
    _, sub, _ = watch.of("lm")
    cell = next(e for e in watch.of("interpreter_execute") if e.inputs["code"] == code)
    assert {e.parent for e in watch.of("interpreter_tool_call")} == {cell.id}
    return [watch.above(sub), watch.above(watch.of("tool")[0]), cell.inputs["code"].replace("word=", "")]


@same([["lm", "tool_call", "execute", "RLM"]] * 3)
def sub_calls_of_acall_lie_under_their_cell(RLM: Any) -> Any:
    watch, code = Recorder(), "print(llm_query('q'), llm_query_batched(['a', 'b']))"
    lm, _ = scripted(action(code), "sub", "sub", "sub", action("SUBMIT('x')"))
    with dspy.context(lm=lm, callbacks=[watch]):
        asyncio.run(RLM(SIG).acall(**ASK))
    return [watch.above(event) for event in watch.of("lm")[1:-1]]


@same([["predictor", "tool_call", "execute", "RLM"]])
def a_typed_sub_call_is_a_module_under_its_cell(RLM: Any) -> Any:
    code = "import dspy\nprint(dspy.Predict('text -> label')(text='t').label)"
    watch = watched(RLM(SIG), action(code), fields(label="a"), action("SUBMIT('x')"))
    return [path for path in map(watch.above, watch.of("module")) if len(path) > 2]


CHILD = ["RLM", "tool_call", "execute", "RLM"]


@same([CHILD, ["predictor", *CHILD], ["predictor", *CHILD]])
def a_child_lies_under_its_cell_and_its_steps_under_it(RLM: Any) -> Any:
    code = "import dspy\nprint(dspy.RLM('context, query -> output')(context=context, query='q').output)"
    cells = [action(code), action("print(1)"), action("SUBMIT(output='x')"), action("SUBMIT('x')")]
    watch = watched(RLM(SIG), *cells)
    return [path for path in map(watch.above, watch.of("module")) if len(path) > 2]


OWN = "`subcall` in a cell, `rlm.stream` and `rlm(…, stop=event)`"


@differs([], [CHILD, ["predictor", *CHILD]], OWN)
def subcall_makes_a_child_under_its_cell(RLM: Any) -> Any:
    watch = watched(
        RLM(SIG), action("print(subcall(context, 'q'))"), action("SUBMIT(output='x')"), action("SUBMIT('x')")
    )
    return [path for path in map(watch.above, watch.of("module")) if len(path) > 2]


@differs([["str"], True], [["Context"], False], "Texts above 20,000 characters in callbacks")
def callbacks_hold_the_whole_context(RLM: Any) -> Any:
    watch = watched(RLM(SIG), action("SUBMIT('x')"), context="a b " * 12_500, question="q")
    given = [type(event.inputs["kwargs"]["context"]).__name__ for event in watch.of("module")[:1]]
    return [given, any(len(repr(event.inputs)) > 40_000 for event in watch.of("interpreter_execute"))]


@same("x")
def a_callback_that_raises_does_not_end_the_run(RLM: Any) -> Any:
    class Bad(BaseCallback):
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            raise RuntimeError("callback")

    with dspy.context(callbacks=[Bad()]):
        return answer(RLM(SIG), "SUBMIT('x')")


# --- async, streams, engines ----------------------------------------------------------------------------------------


def without_twin(*replies: Any) -> dspy.LM:
    """Return an LM whose engine has no async counterpart."""
    return dspy.LM("scripted/model", engine=Script(*replies), cache=False, num_retries=0)


async def streamed(rlm: Any, lm: dspy.LM, **options: Any) -> list[Any]:
    """Return what a streamified program yields."""
    with dspy.context(lm=lm):
        return [item async for item in dspy.streamify(rlm, **options)(**ASK)]


@same(["0", "1", "2"])
def acalls_are_gathered(RLM: Any) -> Any:
    async def ask() -> list[str]:
        calls = [rlm.acall(context="c", question=str(i)) for i in range(3)]
        return [prediction.answer for prediction in await asyncio.gather(*calls)]

    rlm = RLM(SIG)
    with dspy.context(lm=scripted(action("SUBMIT(question)"))[0]):
        return asyncio.run(ask())


TWIN = "An engine without an async twin in `acall`"


@differs(["LMUnsupportedFeatureError"], ["x"], TWIN)
def an_engine_without_a_twin_serves_acall(RLM: Any) -> Any:
    given: list[str] = []
    lm = without_twin(action("print(llm_query('q'))"), "sub", action("SUBMIT('x')"))
    with dspy.context(lm=lm):
        error = raised(lambda: given.append(asyncio.run(RLM(SIG).acall(**ASK)).answer), dspy.LMUnsupportedFeatureError)
    return given or error


@same("x")
def an_engine_without_a_twin_serves_streamify(RLM: Any) -> Any:
    lm = without_twin(action("print(llm_query('q'))"), "sub", action("SUBMIT('x')"))
    return asyncio.run(streamed(RLM(SIG), lm))[-1].answer


@differs("no rlm.stream", ["x", True], OWN)
def an_engine_without_a_twin_serves_a_stream_of_events(RLM: Any) -> Any:
    async def events(rlm: Any) -> list[Any]:
        with dspy.context(lm=without_twin(action("print(llm_query('q'))"), "sub", action("SUBMIT('x')"))):
            return [item async for item in rlm.stream(**ASK)]

    if not hasattr(RLM, "stream"):
        return "no rlm.stream"
    *seen, last = asyncio.run(events(RLM(SIG)))
    return [last.answer, bool(seen)]


@differs(["ValueError"], ["done", "stop"], OWN)
def a_call_is_stopped_by_an_event(RLM: Any) -> Any:
    def halt() -> None:
        event.set()

    event = threading.Event()
    rlm = RLM(SIG, tools=[halt])
    if RLM is dspy.RLM:
        return raised(lambda: rlm(stop=event, **ASK), ValueError)
    prediction, _ = run(rlm, action("halt()\nprint(1)"), fields(answer="done"), stop=event, **ASK)
    return [prediction.answer, prediction.run.stopped_by]


class Typing(Script):
    """An engine that streams its replies in small pieces, as servers do."""

    def stream(self, request: Any) -> Iterator[Any]:
        for event in super().stream(request):
            text = getattr(getattr(event, "delta", None), "text", "")
            for start in range(0, len(text), 5):
                yield replace(event, delta=replace(event.delta, text=text[start : start + 5]))
            if not text:
                yield event


class AsyncTyping(AsyncScript):
    """Its twin for async callers."""

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        for event in self.script.stream(request):
            yield event
            await asyncio.sleep(0)


@same(["x", "LOOKING AT ITDONE NOW"])
def streamify_yields_the_reasoning_as_it_is_written(RLM: Any) -> Any:
    rlm, script = RLM(SIG), Typing(action("print(1)", "LOOKING AT IT"), action("SUBMIT('x')", "DONE NOW"))
    listener = dspy.streaming.StreamListener("reasoning", rlm.generate_action, "generate_action", allow_reuse=True)
    lm = dspy.LM("scripted/model", engine=script, async_engine=AsyncTyping(script), cache=False, num_retries=0)
    *items, last = asyncio.run(streamed(rlm, lm, stream_listeners=[listener]))
    pieces = [item.chunk for item in items if isinstance(item, dspy.streaming.StreamResponse)]
    assert len(pieces) > 4
    return [last.answer, "".join(pieces).replace("\n", "")]


@differs(
    ["RLM", "lm", "lm"],
    ["RLM", "Step 1/20: asking", "lm", "Step 1/20: running", "Step 2/20: asking", "lm", "Step 2/20: running"],
    "Status messages of `dspy.streamify`",
)
def streamify_yields_status_messages(RLM: Any) -> Any:
    class Status(dspy.streaming.StatusMessageProvider):
        def module_start_status_message(self, instance: Any, inputs: Any) -> str | None:
            return "RLM" if type(instance).__name__ == "RLM" else None

        def lm_start_status_message(self, instance: Any, inputs: Any) -> str:
            return "lm"

    lm, _ = scripted(action("print(1)"), action("SUBMIT('x')"))
    items = asyncio.run(streamed(RLM(SIG), lm, status_message_provider=Status()))
    messages = [item.message for item in items if isinstance(item, dspy.streaming.StatusMessage)]
    return [" ".join(message.split()[:3]) for message in messages]


@differs("[ERROR]", "['sub',", "`llm_query_batched` under `dspy.streamify`")
def a_batch_works_under_streamify(RLM: Any) -> Any:
    lm, _ = scripted(action("print(llm_query_batched(['a', 'b']))"), "sub", "sub", action("SUBMIT('x')"))
    output = asyncio.run(streamed(RLM(SIG), lm))[-1].trajectory[0]["output"]
    return "[ERROR]" if "[ERROR]" in output else output[:7]


@same("x")
def a_call_works_inside_a_running_loop(RLM: Any) -> Any:
    async def notebook() -> Any:
        return run(RLM(SIG), action("print(llm_query('q'))"), "sub", action("SUBMIT('x')"))[0].answer

    return asyncio.run(notebook())


@differs(False, True, "The event loop during a cell")
def the_event_loop_is_free_while_a_cell_runs(RLM: Any) -> Any:
    def turned() -> bool:
        turn = threading.Event()
        loop.call_soon_threadsafe(turn.set)
        return turn.wait(0.2 if RLM is dspy.RLM else 30)

    async def ask() -> Any:
        nonlocal loop
        loop = asyncio.get_running_loop()
        return (await RLM("context, question -> answer: bool", tools=[turned]).acall(**ASK)).answer

    loop: Any = None
    with dspy.context(lm=scripted(action("SUBMIT(turned())"))[0]):
        return asyncio.run(ask())


@same("x")
def asyncify_works(RLM: Any) -> Any:
    with dspy.context(lm=scripted(action("SUBMIT('x')"))[0]):
        return asyncio.run(dspy.asyncify(RLM(SIG))(**ASK)).answer


# --- many questions, copies, adapters -------------------------------------------------------------------------------


@same([100.0, ["0", "1", "2"]])
def evaluate_scores(RLM: Any) -> Any:
    evaluate = dspy.Evaluate(
        devset=examples(3), metric=lambda e, got, trace=None: e.answer == got.answer, num_threads=2
    )
    with dspy.context(lm=scripted(action("SUBMIT(question)"))[0]):
        result = evaluate(RLM(SIG), display_progress=False, display_table=False)
    return [result.score, [got.answer for _, got, _ in result.results]]


@same([["0", "1", "2"], ["0", "1"]])
def batch_and_parallel_run(RLM: Any) -> Any:
    rlm, quiet = RLM(SIG), {"num_threads": 2, "disable_progress_bar": True}
    with dspy.context(lm=scripted(action("SUBMIT(question)"))[0]):
        batch = rlm.batch(examples(3), **quiet)
        parallel = dspy.Parallel(**quiet)([(rlm, example) for example in examples(2)])
    return [[got.answer for got in batch], [got.answer for got in parallel]]


@same([["Ks", 4, []]] * 3)
def copies_are_independent(RLM: Any) -> Any:
    rlm = RLM(SIG, max_iters=4, tools=[shout], sub_lm=lambda prompt: ["s"])
    seen = []
    for copied in (rlm.deepcopy(), copy.deepcopy(rlm), rlm.reset_copy()):
        given = answer(copied, "SUBMIT(shout(word='k') + llm_query('q'))")
        copied.generate_action.demos = [dspy.Example(code="c")]
        seen.append([given, copied.max_iters, rlm.generate_action.demos])
    return seen


@same(["x", 4])
def a_program_is_pickled(RLM: Any) -> Any:
    pickled = cloudpickle.loads(cloudpickle.dumps(RLM(SIG, max_iters=4)))
    return [answer(pickled, "SUBMIT('x')"), pickled.max_iters]


@same(["x", 7])
def a_whole_program_is_saved(RLM: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        RLM(SIG, max_iters=7).save(folder, save_program=True)
        loaded = dspy.load(folder, allow_pickle=True)
    return [answer(loaded, "SUBMIT('x')"), loaded.max_iters]


def as_json(code: str) -> str:
    """Return the reply of a model that is asked for JSON."""
    return json.dumps({"reasoning": "r", "code": code})


def as_xml(code: str) -> str:
    """Return the reply of a model that is asked for XML."""
    return f"<reasoning>\nr\n</reasoning>\n<code>\n{code}\n</code>"


@same([["x", 2], ["x", 2], ["x", 2]])
def adapters_are_taken_from_the_settings(RLM: Any) -> Any:
    forms = {dspy.JSONAdapter: as_json, dspy.XMLAdapter: as_xml, dspy.ChatAdapter: action}
    seen = []
    for adapter, reply in forms.items():
        with dspy.context(adapter=adapter()):
            prediction, script = run(RLM(SIG), reply("print(1)"), reply("SUBMIT('x')"))
        seen.append([prediction.answer, len(script.requests)])
    return seen


@same(["extracted", "JSON"])
def an_adapter_serves_the_extract_too(RLM: Any) -> Any:
    with dspy.context(adapter=dspy.JSONAdapter()):
        prediction, script = run(RLM(SIG, max_iters=1), as_json("print(1)"), json.dumps({"answer": "extracted"}))
    return [prediction.answer, "JSON" if "JSON" in "\n".join(texts(script.requests[-1])) else "chat"]


@same(["x", "mine", "mine"])
def a_subclass_wraps_forward(RLM: Any) -> Any:
    class Labelled(RLM):
        def forward(self, **inputs: Any) -> Any:
            prediction = super().forward(**inputs)
            prediction["label"] = "mine"
            return prediction

    prediction, _ = run(Labelled(SIG), action("SUBMIT('x')"))
    return [prediction.answer, prediction.label, run(Labelled(SIG).deepcopy(), action("SUBMIT('x')"))[0].label]


# --- errors ---------------------------------------------------------------------------------------------------------


@same([["LMRateLimitError", "LMError"], ["LMAuthError", "LMError"], ["LMTransportError", "LMError"]])
def errors_of_the_lm_keep_their_class(RLM: Any) -> Any:
    kinds = [dspy.LMRateLimitError, dspy.LMAuthError, dspy.LMTransportError, dspy.LMError]
    errors = [dspy.lm15.RateLimitError("slow"), dspy.lm15.AuthError("who"), dspy.LMTransportError("net")]
    return [raised(lambda e=error: run(RLM(SIG), e), *kinds) for error in errors]


@same(["ValueError"])
def no_lm_is_a_value_error(RLM: Any) -> Any:
    with dspy.context(lm=None):
        return raised(lambda: RLM(SIG)(**ASK), ValueError)


@same(["AdapterParseError"])
def a_model_that_never_writes_code_is_a_parse_error(RLM: Any) -> Any:
    return raised(lambda: run(RLM(SIG), "I do not know."), dspy.AdapterParseError)


@same(["AdapterParseError"])
def an_extract_that_is_not_valid_is_a_parse_error(RLM: Any) -> Any:
    rlm = RLM("context, question -> answer: int", max_iters=1)
    return raised(lambda: run(rlm, action("print(1)"), fields(answer="many")), dspy.AdapterParseError)


@same(["KeyboardInterrupt"])
def an_interrupt_in_a_tool_ends_the_run(RLM: Any) -> Any:
    def halt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run(RLM(SIG, tools=[halt]), action("halt()"), action("SUBMIT('x')"))
    return [caught.type.__name__]


# --- what a cell is -------------------------------------------------------------------------------------------------


@same("x")
def submit_ends_the_run_from_inside_a_function_and_a_try(RLM: Any) -> Any:
    code = "def end():\n    try:\n        SUBMIT('x')\n    except Exception:\n        print('caught')\nend()"
    return answer(RLM(SIG), code, "SUBMIT('second')")


@same("a,b,c")
def threads_of_a_cell_may_ask(RLM: Any) -> Any:
    code = "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(3) as pool:\n    "
    code += "r = list(pool.map(llm_query, 'abc'))\nSUBMIT(','.join(r))"
    return answer(RLM(SIG, sub_lm=lambda prompt: [prompt]), code)


@same(["s", "False", "s"])
def each_call_has_a_session_and_a_budget_of_its_own(RLM: Any) -> Any:
    rlm = RLM(SIG, max_llm_calls=1, sub_lm=lambda prompt: ["s"])
    first = answer(rlm, "leak = llm_query('q')\nSUBMIT(leak)")
    second, _ = run(rlm, action("print('leak' in globals())"), action("SUBMIT(llm_query('q'))"))
    return [first, second.trajectory[0]["output"], second.answer]


@same([True, True])
def stderr_and_warnings_of_a_cell_are_shown(RLM: Any) -> Any:
    output = shown(RLM(SIG), "import sys, warnings\nprint('err', file=sys.stderr)\nwarnings.warn('careful')")
    return ["err" in output, "careful" in output]


LAST = "The last expression of a cell"


@differs(["text", "1\n2"], ["'text'", "[1, 2]"], LAST)
def a_last_expression_is_shown(RLM: Any) -> Any:
    return [shown(RLM(SIG), "'text'"), shown(RLM(SIG), "[1, 2]")]


@differs("(no output - did you forget to print?)", "0", LAST)
def a_last_expression_that_is_false_is_shown(RLM: Any) -> Any:
    return shown(RLM(SIG), "len([])")


@differs("42", "seen\n42", LAST)
def what_was_printed_before_a_last_expression_is_shown(RLM: Any) -> Any:
    return shown(RLM(SIG), "print('seen')\n40 + 2")


@differs(False, True, "The output of a cell that fails")
def a_failed_cell_shows_the_line_that_failed(RLM: Any) -> Any:
    output = shown(RLM(SIG), "n = 0\n1 / n")
    assert output.startswith("[Error] ")
    assert "ZeroDivisionError: division by zero" in output
    return "1 / n" in output


@differs(5000, True, "Output beyond `max_output_chars`")
def the_trajectory_keeps_all_of_a_long_output(RLM: Any) -> Any:
    length = len(shown(RLM(SIG, max_output_chars=100), "print('a' * 5000)"))
    return length if length >= 5000 else length < 300


@differs("second", "1", "Several code blocks in one reply")
def two_blocks_of_one_reply(RLM: Any) -> Any:
    reply = fields(reasoning="r", code="```python\nx = 1\n```\nthen\n```python\nSUBMIT(str(x))\n```")
    return run(RLM(SIG), reply, action("SUBMIT('second')"))[0].answer


@differs("second", "3", "`await` outside a function")
def a_cell_awaits(RLM: Any) -> Any:
    code = "async def three():\n    return 3\nSUBMIT(str(await three()))"
    return answer(RLM(SIG), code, "SUBMIT('second')")


@differs("other", "main", "`if __name__ == '__main__':`")
def a_main_block_runs(RLM: Any) -> Any:
    return shown(RLM(SIG), "print('main' if __name__ == '__main__' else 'other')")


@differs(["open", "open", "open"], ["closed", "closed", "closed"], "Files, environment and processes of the host")
def the_host_is_open_to_a_cell(RLM: Any) -> Any:
    tried = [
        f"print(len(open({str(PAGE)!r}).read()) > 0)",
        "import os\nprint('HOME' in os.environ)",
        "import subprocess\nprint(subprocess.run(['true']).returncode == 0)",
    ]
    return ["open" if shown(RLM(SIG), code).strip() == "True" else "closed" for code in tried]


@differs("[Error]", "AA", "Positional arguments of a tool")
def a_tool_takes_positional_arguments(RLM: Any) -> Any:
    return shown(RLM(SIG, tools=[shout]), "print(shout('a', 2))")[:7]


@differs("RuntimeError", "KeyError", "An exception in a tool")
def a_tools_exception_arrives_as(RLM: Any) -> Any:
    def find(key: str) -> str:
        return {"a": "b"}[key]

    return shown(
        RLM(SIG, tools=[find]), "try:\n    find(key='x')\nexcept Exception as error:\n    print(type(error).__name__)"
    )


# --- replies and limits ---------------------------------------------------------------------------------------------

NO_CODE = "A reply without Python"


@differs(["AdapterParseError"], "x", NO_CODE)
def a_reply_without_code_is_asked_again(RLM: Any) -> Any:
    replies = "I do not know.", action("SUBMIT('x')")
    if RLM is dspy.RLM:
        return raised(lambda: run(RLM(SIG), *replies), dspy.AdapterParseError)
    return run(RLM(SIG), *replies)[0].answer


@differs("[Error]", "[reply ", NO_CODE)
def a_shell_block_is_shown_as(RLM: Any) -> Any:
    shell = fields(reasoning="r", code="```bash\nls\n```")
    return run(RLM(SIG), shell, action("SUBMIT('x')"))[0].trajectory[0]["output"][:7]


NOTHING = "An extract when no cell has run"


@differs("guess", ["BudgetExceededError"], NOTHING)
def an_answer_is_extracted_from_nothing(RLM: Any) -> Any:
    shell = fields(reasoning="r", code="```bash\nls\n```")
    if RLM is dspy.RLM:
        return run(RLM(SIG, max_iters=1), shell, fields(answer="guess"))[0].answer
    from rlm_dspy.errors import BudgetExceededError

    return raised(lambda: run(RLM(SIG, max_iters=1), shell, fields(answer="guess")), BudgetExceededError)


@differs("guess", ["ValueError"], NOTHING)
def max_iters_may_be_zero(RLM: Any) -> Any:
    if RLM is dspy.RLM:
        return run(RLM(SIG, max_iters=0), fields(answer="guess"))[0].answer
    return raised(lambda: RLM(SIG, max_iters=0), ValueError)


# --- the module itself ----------------------------------------------------------------------------------------------


@differs(False, True, "Descriptions of outputs")
def the_description_of_an_output_is_in_the_prompt(RLM: Any) -> Any:
    signature = dspy.Signature(SIG).with_updated_fields("answer", desc="the VERDICT of the court")
    return "the VERDICT of the court" in prompt(RLM(signature))


@differs(False, True, "The prompt of a step")
def each_prompt_begins_with_the_one_before(RLM: Any) -> Any:
    _, script = run(RLM(SIG), action("print(1)"), action("SUBMIT('x')"))
    first, second = (texts(request) for request in script.requests)
    return second[: len(first)] == first


@differs([True, 1], [False, 0], "`isinstance(rlm, dspy.RLM)` and private methods")
def an_rlm_is_a_dspy_rlm(RLM: Any) -> Any:
    return [isinstance(RLM(SIG), dspy.RLM), len(list(Pipeline(RLM).named_sub_modules(dspy.RLM)))]


@differs(["CodeInterpreterError"], ["user", "assistant", "user"], "An input of type `dspy.History`")
def a_history_is_an_input(RLM: Any) -> Any:
    def ask() -> None:
        past = dspy.History(messages=[{"question": "which sea?", "answer": "the red one"}])
        made, script = run(rlm, action("SUBMIT('x')"), question="which colour?", past=past)
        assert len(made.history.messages) == 2
        roles.extend(message.role for message in script.requests[0].messages)

    rlm, roles = RLM("question, past: dspy.History -> answer"), []
    wrong = raised(ask, dspy.CodeInterpreterError)
    return roles or wrong


@differs(["SUBMIT('x')"], [], "`isinstance(rlm, dspy.RLM)` and private methods")
def a_private_method_is_overridden(RLM: Any) -> Any:
    class Spied(RLM):
        def _execute_code(self, repl: Any, code: str, inputs: Any) -> Any:
            seen.append(code)
            return super()._execute_code(repl, code, inputs)

    seen: list[str] = []
    answer(Spied(SIG), "SUBMIT('x')")
    return seen


@differs(True, False, "`repr(rlm)`")
def repr_lists_the_predictors(RLM: Any) -> Any:
    return "generate_action = Predict(" in repr(RLM(SIG))


# --- the tests ------------------------------------------------------------------------------------------------------


def rows() -> dict[str, list[str]]:
    """Return the cells of each row of the page's table by the first."""
    lines = [line.strip("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    _, *cells = ([cell.strip() for cell in line.split(" | ")] for line in lines)
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.program.__name__)
def test_both_give_the_same_or_what_the_page_explains(case: Case) -> None:
    with local(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Passing OpenAI-style message", DeprecationWarning)  # by DSPy's own facade
        theirs = case.program(dspy.RLM)
    ours = case.program(rlm_dspy.RLM)
    assert theirs == case.theirs
    assert ours == case.ours
    if case.row:
        assert theirs != ours
        assert len(rows()[case.row]) == 3
        assert all(rows()[case.row])


def test_every_row_of_the_page_is_shown_by_a_program() -> None:
    assert set(rows()) == {case.row for case in CASES if case.row}


def test_the_programs_are_many_and_short() -> None:
    assert len({case.program.__name__ for case in CASES}) == len(CASES) >= 60
    for case in CASES:
        lines = inspect.getsource(case.program).split("def ", 1)[1].splitlines()[1:]
        assert len([line for line in lines if line.strip()]) <= 12, case.program.__name__
