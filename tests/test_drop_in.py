"""``rlm_dspy.RLM`` does what a program written for ``dspy.RLM`` 3.4 expects."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import json
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from dspy.utils.callback import BaseCallback

import rlm_dspy
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.testing import action, fields, scripted, texts


def ask(lm: dspy.LM, rlm: rlm_dspy.RLM | None = None, **inputs: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return (rlm or rlm_dspy.RLM("context, question -> answer"))(
            **{"context": "the sky is blue", "question": "which colour?", **inputs}
        )


def test_positional_arguments_and_defaults_are_those_of_dspy() -> None:
    theirs = list(inspect.signature(dspy.RLM.__init__).parameters.values())[1:]
    ours = list(inspect.signature(rlm_dspy.RLM.__init__).parameters.values())[1:]
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    same = [p for p in theirs if p.name != "interpreter_factory"]
    assert [p.default for p in ours[: len(same)]] == [p.default for p in same]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_the_prediction_has_outputs_trajectory_and_final_reasoning() -> None:
    lm, _ = scripted(action("x = 'blue'\nprint(x)", "look"), action("SUBMIT(answer=x)", "done"))
    result = ask(lm)
    assert result.answer == "blue"
    assert result.final_reasoning == "done"
    assert [sorted(step) for step in result.trajectory] == [["code", "output", "reasoning"]] * 2
    assert result.trajectory[0]["output"].strip() == "blue"
    assert result.trajectory[0]["code"] == "x = 'blue'\nprint(x)"
    assert result.run.status == "submitted"


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_predictors_have_the_names_of_dspy(depth: int) -> None:
    names = [name for name, _ in rlm_dspy.RLM("a -> b", max_depth=depth).named_predictors()]
    assert names == [name for name, _ in dspy.RLM("a -> b").named_predictors()] == ["generate_action", "extract"]


def test_children_are_tuned_when_asked_for() -> None:
    names = [name for name, _ in rlm_dspy.RLM("a -> b", tune_children=True).named_predictors()]
    assert names == ["generate_action", "extract", "child.generate_action", "child.extract"]


def test_positional_submit_fills_the_outputs_in_order() -> None:
    lm, _ = scripted(action("SUBMIT('blue', 3)"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer, n: int"))
    assert (result.answer, result.n) == ("blue", 3)


def test_tools_run_on_the_host_with_the_arguments_of_the_code() -> None:
    seen: list[Any] = []

    def lookup(word: str, times: int = 1) -> str:
        """Look a word up."""
        seen.append((word, times))
        return word * times

    lm, script = scripted(action("print(lookup('ab', times=2))"), action("SUBMIT(answer=lookup(word='c'))"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", tools=[lookup]))
    assert seen == [("ab", 2), ("c", 1)]
    assert result.answer == "c"
    assert "`lookup(word: str, times: int = 1)` Look a word up." in texts(script.requests[0])[0]


def test_the_prompt_shows_the_defaults_of_a_tool_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_TOKEN", "canary-0815")

    def search(
        query: str,
        site: str | None = None,
        sort: str = "new\nest",
        words: list[str] = ["stop"] * 40,
        api_key: str = "short-key",
        header: str = "canary-0815",
    ) -> str:
        """Search the web."""
        return query

    lm, script = scripted(action("SUBMIT(answer='x')"))
    ask(lm, rlm_dspy.RLM("context, question -> answer", tools=[search]))
    shown = "query: str, site: str | None = None, sort: str = 'new\\nest', words: list[str] = …, api_key: str = …"
    assert f"`search({shown}, header: str = '********')` Search the web." in texts(script.requests[0])[0]


def test_an_async_tool_is_awaited() -> None:
    async def fetch(word: str) -> str:
        """Fetch it."""
        await asyncio.sleep(0)
        return word.upper()

    lm, _ = scripted(action("SUBMIT(answer=fetch('ab'))"))
    assert ask(lm, rlm_dspy.RLM("context, question -> answer", tools=[fetch])).answer == "AB"


def test_a_tool_may_take_the_name_of_a_toolkit_function() -> None:
    def search(query: str) -> str:
        """Search the web."""
        return f"found {query}"

    lm, _ = scripted(action("SUBMIT(answer=search('x'))"))
    assert ask(lm, rlm_dspy.RLM("context, question -> answer", tools=[search])).answer == "found x"


def test_sub_calls_go_to_the_sub_lm_and_are_recorded_under_their_step() -> None:
    code = "a = llm_query('one')\nb = llm_query_batched(['two', 'three'])"
    lm, _ = scripted(action(code), action("SUBMIT(answer=a)"))
    sub, script = scripted(lambda prompt: f"<{prompt}>", model="scripted/sub")
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", sub_lm=sub))
    assert result.answer == "<one>"
    assert sorted(texts(request)[1] for request in script.requests) == ["user: one", "user: three", "user: two"]
    assert [call.output for call in result.run.steps[0].sub_calls][:1] == ["<one>"]
    assert len(result.run.steps[0].sub_calls) == 3
    assert result.run.sub_calls == 3
    assert set(result.run.usage_by_model) == {"scripted/model", "scripted/sub"}
    assert result.run.usage.calls == 5
    assert result.run.usage.cost == pytest.approx(0.005)


def test_answers_of_a_batch_keep_the_order_of_the_prompts() -> None:
    lm, _ = scripted(action("SUBMIT(answer=','.join(llm_query_batched([str(i) for i in range(9)])))"))
    sub, _ = scripted(lambda prompt: prompt, delay=0.01)
    assert ask(lm, rlm_dspy.RLM("context, question -> answer", sub_lm=sub)).answer == "0,1,2,3,4,5,6,7,8"


def test_a_failed_slot_of_a_batch_is_an_object_and_not_an_answer() -> None:
    def reply(prompt: str) -> str:
        if prompt == "bad":
            raise dspy.lm15.ServerError("down")
        return "fine"

    code = "r = llm_query_batched(['ok', 'bad'])\nSUBMIT(answer=f'{r[0]} {r[1].ok} {r[1].kind}')"
    sub, _ = scripted(reply)
    lm, _ = scripted(action(code))
    assert ask(lm, rlm_dspy.RLM("context, question -> answer", sub_lm=sub)).answer == "fine False LMServerError"


def test_the_limit_of_sub_calls_is_told_to_the_model() -> None:
    ask_a, ask_b = action("print(llm_query('a'))"), action("print(llm_query('b'))")
    lm, script = scripted(ask_a, "one", ask_b, action("SUBMIT('x')"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_llm_calls=1))
    assert "LLM call limit exceeded" in result.trajectory[1]["output"]
    assert len(script.requests) == 4


def test_a_wrong_type_is_fed_back_and_the_run_goes_on() -> None:
    lm, script = scripted(action("SUBMIT(answer='many')"), action("SUBMIT(answer='7')"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer: int"))
    assert result.answer == 7
    assert "answer: expected int, got str" in texts(script.requests[1])[-1]


def test_a_missing_output_is_fed_back() -> None:
    lm, script = scripted(action("SUBMIT(answer='x')"), action("SUBMIT(answer='x', label='a')"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer, label: Literal['a', 'b']"))
    assert result.label == "a"
    assert "label" in texts(script.requests[1])[-1]


def test_outputs_are_shown_with_type_and_description() -> None:
    class Judge(dspy.Signature):
        """Judge it."""

        context: str = dspy.InputField()
        question: str = dspy.InputField(desc="what to judge")
        label: Literal["good", "bad"] = dspy.OutputField(desc="the verdict of the court")

    lm, script = scripted(action("SUBMIT(label='good')"))
    ask(lm, rlm_dspy.RLM(Judge))
    system, first = texts(script.requests[0])
    assert "Judge it." in system
    assert "`label` (Literal['good', 'bad']): the verdict of the court" in system
    assert "`question` (what to judge)" in first


@pytest.mark.parametrize(
    ("signature", "tools", "message"),
    [
        ("context ->", [], "signature"),
        ("->", [], "signature"),
        ("interpreter_factory -> answer", [], "interpreter_factory"),
        ("llm_query -> answer", [], "built-in sandbox function"),
        ("context -> trajectory", [], "result metadata"),
        ("lookup -> answer", [dspy.Tool(print, name="lookup")], "conflict with user tools"),
        ("context -> answer", [dspy.Tool(print, name="not a name")], "Invalid tool name"),
        ("context -> answer", [dspy.Tool(print, name="class")], "Invalid tool name"),
        ("context -> answer", [dspy.Tool(print, name="SUBMIT")], "built-in sandbox function"),
        ("context, dspy -> answer", [], "built-in sandbox function"),
        ("context -> answer", [dspy.Tool(print, name="__rlm_predict__")], "built-in sandbox function"),
        ("context -> answer", [dspy.Tool(print, name="a"), dspy.Tool(len, name="a")], "Duplicate tool name"),
    ],
)
def test_names_that_cannot_work_are_refused_at_construction(signature: str, tools: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rlm_dspy.RLM(signature, tools=tools)


@pytest.mark.parametrize("tools", [{"a": print}, [3]])
def test_tools_that_are_not_a_list_of_callables_are_refused(tools: Any) -> None:
    with pytest.raises(TypeError):
        rlm_dspy.RLM("context -> answer", tools=tools)


@pytest.mark.parametrize(
    "limits", [{"max_iters": 0}, {"max_llm_calls": -1}, {"max_cost": -1}, {"max_output_chars": 0}, {"on_limit": "no"}]
)
def test_limits_that_cannot_work_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(limits))):
        rlm_dspy.RLM("context -> answer", **limits)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"context": "x"}, "Missing required inputs: \\['question'\\]"),
        ({"context": "x", "question": "y", "other": 1}, "Unexpected inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_any_call(inputs: dict[str, Any], message: str) -> None:
    lm, script = scripted(action("SUBMIT('x')"))
    with dspy.context(lm=lm), pytest.raises(ConfigurationError, match=message):
        rlm_dspy.RLM("context, question -> answer")(**inputs)
    assert not script.requests


def test_the_interpreter_comes_from_the_call_else_the_constructor_else_the_settings() -> None:
    made: list[str] = []

    def factory(name: str) -> Any:
        def make() -> rlm_dspy.Sandbox:
            made.append(name)
            return rlm_dspy.Sandbox()

        return make

    lm, _ = scripted(action("SUBMIT(answer='x')"))
    ask(lm, rlm_dspy.RLM("context, question -> answer", interpreter_factory=factory("constructor")))
    with dspy.context(interpreter_factory=factory("settings")):
        ask(lm)
        ask(lm, interpreter_factory=factory("call"))
    assert made == ["constructor", "settings", "call"]


def test_an_instance_in_place_of_a_factory_is_refused() -> None:
    with pytest.raises(TypeError, match="ownership"):
        rlm_dspy.RLM("context -> answer", interpreter_factory=rlm_dspy.Sandbox())  # type: ignore[arg-type]


def test_a_saved_state_has_the_instructions_that_its_signature_has_now() -> None:
    rlm = rlm_dspy.RLM(dspy.Signature("context, question -> answer", "Find the ship."))
    assert "Find the ship." in rlm.dump_state()["generate_action"]["signature"]["instructions"]
    rlm.signature.instructions = "Find the port."
    assert "Find the port." in rlm.dump_state()["generate_action"]["signature"]["instructions"]


def test_a_saved_program_loads_with_its_instructions_and_without_any_context(tmp_path: Path) -> None:
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions("Be brilliant.")
    lm, script = scripted(action("SUBMIT(answer='x')"))
    ask(lm, rlm, context="secret " * 10_000)
    rlm.save(tmp_path / "program.json")
    assert "secret" not in (tmp_path / "program.json").read_text()
    loaded = rlm_dspy.RLM("context, question -> answer")
    loaded.load(tmp_path / "program.json")
    assert ask(lm, loaded).answer == "x"
    system = texts(script.requests[1])[0]
    assert "Be brilliant." in system
    assert "SUBMIT(answer=...)" in system
    assert "Work in small steps" not in system


def test_set_lm_reaches_the_steps_and_the_sub_calls() -> None:
    lm, _ = scripted(action("x = llm_query('q')\nprint(x)"), "sub", action("SUBMIT(answer=x)"))
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.set_lm(lm)
    assert rlm(context="c", question="q").answer == "sub"


def test_batch_parallel_and_threads_share_nothing() -> None:
    def reply(message: str) -> str:
        word = message.split("WORD-")[1].split("\n")[0]
        return action(f"assert question == 'WORD-{word}'\nSUBMIT(answer=question)")

    lm, _ = scripted(reply, delay=0.01)
    rlm = rlm_dspy.RLM("context, question -> answer")
    examples = [dspy.Example(context="c", question=f"WORD-{i}").with_inputs("context", "question") for i in range(8)]
    with dspy.context(lm=lm):
        batched = rlm.batch(examples, num_threads=4, disable_progress_bar=True)
        parallel = dspy.Parallel(num_threads=4, disable_progress_bar=True)([(rlm, example) for example in examples])
    assert [result.answer for result in batched] == [example.question for example in examples]
    assert [result.answer for result in parallel] == [example.question for example in examples]


def test_track_usage_sees_every_call() -> None:
    lm, _ = scripted(action("print(llm_query('q'))"), "sub", action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm, track_usage=True):
        result = rlm_dspy.RLM("context, question -> answer")(context="c", question="q")
    used = result.get_lm_usage()["scripted/model"]
    assert used["prompt_tokens"] == result.run.usage.prompt_tokens > 0


class Recorder(BaseCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.seen.append(repr(inputs))

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.seen.append(repr(inputs))


def test_callbacks_and_the_trace_never_hold_a_context() -> None:
    lm, _ = scripted(action("SUBMIT(answer='x')"))
    watcher = Recorder()
    text = "needle " * 100_000
    with dspy.context(lm=lm, callbacks=[watcher], trace=[]):
        rlm_dspy.RLM("context, question -> answer")(context=text, question="q")
        trace = repr(dspy.settings.trace)
    assert watcher.seen
    assert max(len(item) for item in watcher.seen) < 20_000
    assert len(trace) < 20_000


async def test_streamify_does_not_break_sub_calls() -> None:
    lm, _ = scripted(action("print(llm_query_batched(['a', 'b']))"), "sub", "sub", action("SUBMIT(answer='done')"))
    with dspy.context(lm=lm):
        stream = dspy.streamify(rlm_dspy.RLM("context, question -> answer"))
        results = [item async for item in stream(context="c", question="q")]
    assert results[-1].answer == "done"
    assert "sub" in results[-1].trajectory[0]["output"]


def test_a_demo_with_a_context_handle_stays_short() -> None:
    text = "x" * 1_000_000
    example = dspy.Example(context=rlm_dspy.Context(text), question="q", answer="a").with_inputs("context", "question")
    assert len(repr(example)) < 500
    assert len(json.dumps(example.toDict(), default=repr)) < 500
    lm, _ = scripted(action("SUBMIT(answer=str(len(context)))"))
    with dspy.context(lm=lm):
        assert rlm_dspy.RLM("context, question -> answer")(**example.inputs()).answer == "1000000"


def test_the_extract_answers_when_the_steps_are_used_up() -> None:
    lm, script = scripted(action("print('it is blue')"), fields(answer="blue"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", 1))
    assert result.answer == "blue"
    assert result.final_reasoning == "Extract forced final output"
    assert (result.run.status, result.run.stopped_by) == ("extracted", "max_iters")
    assert "it is blue" in texts(script.requests[1])[1]


@pytest.mark.parametrize("saving", [rlm_dspy.RLM, dspy.RLM])
def test_a_state_saved_with_another_docstring_brings_no_text_of_dspy(saving: Any, tmp_path: Path) -> None:
    plain = dspy.Signature("context -> answer")
    saving(plain.with_instructions("Find the ship.")).save(tmp_path / "state.json")
    rlm = rlm_dspy.RLM(plain.with_instructions("Find the ship, please."))
    rlm.load(tmp_path / "state.json")
    instructions = rlm.generate_action.signature.instructions
    assert (
        instructions == rlm_dspy.RLM(plain.with_instructions("Find the ship.")).generate_action.signature.instructions
    )
    rlm = rlm_dspy.RLM(dspy.Signature("context -> answer, extra").with_instructions("Find the ship."))
    state = json.loads((tmp_path / "state.json").read_text())
    rlm.generate_action.load_state(state["generate_action"])
    assert "Pyodide" not in rlm.generate_action.signature.instructions


def test_a_state_of_other_fields_is_loaded_with_a_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    for number, rlm in enumerate([dspy.RLM("document, query -> summary"), rlm_dspy.RLM("document, query -> summary")]):
        rlm.save(tmp_path / f"{number}.json")
        rlm_dspy.RLM("document, query -> summary").load(tmp_path / f"{number}.json")
        assert not caplog.messages
        rlm_dspy.RLM("context, question -> answer").load(tmp_path / f"{number}.json")
        assert "'document, query -> summary', and this RLM has 'context, question -> answer'" in caplog.text
        caplog.clear()


def test_a_path_that_is_passed_as_the_context_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "sky.txt"  # nothing is looked up there
    lm, _ = scripted(action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer")
        named = rlm(context=str(path), question="q").run
        meant = rlm(context="see sky.txt", question=str(path)).run
    shown = repr(str(path))
    assert named.warnings == (f"context is only {shown}: pass rlm_dspy.read({shown}) to ask about a file",)
    assert meant.warnings == ()


@pytest.mark.parametrize(
    ("fields", "value", "warnings"),
    [
        ("context", None, ("context is None, where the signature has a text",)),
        ("context: rlm_dspy.Context", None, ("context is None, where the signature has a text",)),
        ("context", 5, ("context is 5, where the signature has a text",)),
        ("context: Optional[str]", None, ()),
        ("context: int", 5, ()),
        ("context", "", ()),
        ("context", {"rows": None}, ()),
    ],
)
def test_a_text_that_is_none_or_a_number_is_accepted_with_a_warning(fields: str, value: Any, warnings: Any) -> None:
    lm, _ = scripted(action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM(f"{fields}, question -> answer")(context=value, question="q")
    assert (result.answer, result.run.warnings) == ("x", warnings)


def test_what_is_passed_wrongly_is_refused_with_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"sub_lm must be .*: use rlm_dspy\.lm\('openai/x'\)"):
        rlm_dspy.RLM("context, question -> answer", sub_lm="openai/x")
    rlm = rlm_dspy.RLM("context, question -> answer")
    lm, _ = scripted(action("SUBMIT(answer='x')"))
    with pytest.raises(ConfigurationError, match="stop must be"):
        ask(lm, rlm, stop=True)
    with pytest.raises(ConfigurationError, match=r"\['max_iters'\].* Its inputs are context, question; .* RLM\("):
        ask(lm, rlm, max_iters=3)
    dspy.Predict("a -> b").save(tmp_path / "predict.json")
    with pytest.raises(
        ConfigurationError, match="not the state of such an RLM: it lacks the predictor generate_action"
    ):
        rlm.load(tmp_path / "predict.json")


def test_a_price_that_is_unknown_is_a_warning_where_max_cost_cannot_hold() -> None:
    lm, script = scripted(action("SUBMIT(answer='x')"))
    script.reports = False
    run = ask(lm, rlm_dspy.RLM("context, question -> answer", max_cost=1.0)).run
    assert run.warnings == ("a model's price is unknown, so max_cost does not cover it: limit max_tokens too",)


def test_the_state_of_an_rlm_with_a_replaced_predictor_loads_again(tmp_path: Path) -> None:
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.generate_action = dspy.ChainOfThought("variables_info, repl_history, iteration -> code")
    rlm.save(tmp_path / "replaced.json")
    rlm.load(tmp_path / "replaced.json")


def test_anything_that_can_be_set_stops_a_run() -> None:
    class Flag:
        def is_set(self) -> bool:
            return False

    lm, _ = scripted(action("SUBMIT(answer='x')"))
    assert ask(lm, stop=Flag()).answer == "x"


def pairs(items: list[tuple[str, int]]) -> int:
    return len([name for name, count in items if isinstance((name, count), tuple)])


def days(first: datetime.date, others: list[datetime.date]) -> int:
    return sum((other - first).days for other in others)


def kinds(values: set[int]) -> str:
    return type(values).__name__


def flexible(a: int, *rest: int, b: int = 1, **more: int) -> list[Any]:
    return [a, rest, b, more]


def keyed(*, x: int) -> int:
    return x


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("pairs(collections.Counter('aab').most_common())", "2"),
        ("days(datetime.date(2026, 1, 1), [datetime.date(2026, 1, 3)])", "2"),
        ("kinds({1, 2})", "set"),
        ("flexible(1, b=2, c=3)", "[1, [], 2, {'c': 3}]"),
        ("flexible(1, 2)", "TypeError"),
        ("keyed(1)", "TypeError"),
        ("keyed(x=1)", "1"),
        ("keyed(y=1)", "TypeError"),
    ],
)
def test_a_tool_takes_its_arguments_as_a_function_of_python_does(code: str, answer: str) -> None:
    cell = (
        f"import collections, datetime\ntry:\n    found = {code}\nexcept TypeError as error:\n    print(error)\n"
        "    found = 'TypeError'\nSUBMIT(answer=str(found))"
    )
    lm, _ = scripted(action(cell))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("question -> answer", tools=[pairs, days, kinds, flexible, keyed])
        found = rlm(question="q").answer
    assert found.replace("()", "[]") == answer
