"""Failed sub-calls affect only their own slot, are always counted, and stay within the limits."""

from __future__ import annotations

import threading
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.errors import BudgetExceededError, SandboxDiedError
from rlm_dspy.testing import action, fields, scripted


def by_role(root: str, *, child: Any = None, plain: Any = "ok") -> Any:
    """Reply to the root, a child and plain calls by what the prompt shows."""

    def reply(message: str) -> Any:
        found = plain
        if message.startswith("[step "):
            found = child if "`instruction`" in message else root
        return found(message) if callable(found) else found

    return reply


def ask(reply: Any, *, window: int | None = None, **options: Any) -> tuple[dspy.Prediction, Any]:
    lm, script = scripted(reply)
    script.window = window
    with dspy.context(lm=lm):
        return rlm_dspy.RLM("context, question -> answer", **options)(context="the sky", question="q"), script


TRY = "try:\n    r = {}\nexcept Exception as error:\n    r = error\nSUBMIT(answer=repr(r))"


@pytest.mark.parametrize("bad", ["'c' * 500_000", "''", "7"])
def test_one_bad_prompt_of_a_batch_costs_no_other_answer(bad: str) -> None:
    code = f"r = llm_query_batched(['a', {bad}, 'b'])\nSUBMIT(answer=f'{{r[0]}} {{r[1].ok}} {{r[2]}}')"
    result, script = ask(by_role(action(code)), window=32_768)
    assert result.answer == "ok False ok"
    assert len(script.requests) == 3


def test_answers_of_a_batch_that_a_limit_ends_are_kept() -> None:
    code = "r = llm_query_batched(['a ' * 400] * 10)\nSUBMIT(answer=' '.join(x.kind or 'fine' for x in r))"
    result, _ = ask(by_role(action(code), plain="ok " * 300), max_tokens=4_000, max_concurrency=1)
    kinds = result.answer.split()
    assert (kinds[0], kinds[-1], len(kinds)) == ("fine", "BudgetExceededError", 10)


def test_an_unreadable_typed_reply_is_asked_for_once_more_and_told_in_a_line() -> None:
    result, script = ask(by_role(action(TRY.format("predict('doc -> n: int', doc='x')")), plain="garbage"))
    assert result.answer == "RuntimeError(\"AdapterParseError: The reply has no n; it reads 'garbage'\")"
    assert len(script.requests) == 3
    assert "An earlier reply could not be read. The reply has no n; it reads 'garbage'" in str(script.requests[2])
    assert result.run.usage.calls == 3
    assert len(result.run.steps[0].sub_calls) == 2


def test_a_typed_reply_that_is_read_the_second_time_is_the_answer() -> None:
    replies = iter(["garbage", fields(n="seven"), fields(n="7"), fields(n="8")])
    code = "r = predict_batched('doc -> n: int', [{'doc': 'a'}, {'doc': 'b'}])\nSUBMIT(answer=f'{r[0].n} {r[1].n}')"
    result, script = ask(by_role(action(code), plain=lambda message: next(replies)), max_concurrency=1)
    assert result.answer == "7 8"
    assert "output `n` cannot be 'seven': Input should be a valid integer" in str(script.requests[4])


def test_the_marker_that_ends_a_reply_is_no_part_of_it() -> None:
    code = action("SUBMIT(answer=llm_query('what?'))")
    result, _ = ask(by_role(code, plain="seven [[ ## completed ## ]]"))
    assert result.answer == "seven"


def test_optional_types_are_known_in_a_typed_sub_call() -> None:
    code = action(
        "import datetime, typing\n"
        "r = predict('doc -> n: Optional[int], m: typing.Optional[int], d: datetime.date', doc='a')\n"
        "SUBMIT(answer=f'{r.n} {r.m} {r.d}')"
    )
    result, _ = ask(by_role(code, plain=fields(n="7", m="None", d="2026-11-28")))
    assert result.answer == "7 None 2026-11-28"


def test_an_unreadable_typed_reply_is_not_asked_for_beyond_the_limit() -> None:
    code = action(TRY.format("predict('doc -> n: int', doc='x')"))
    result, script = ask(by_role(code, plain="garbage"), max_llm_calls=1)
    assert "The reply has no n" in result.answer
    assert len(script.requests) == 2


def test_a_typed_call_takes_its_inputs_in_order_and_an_instruction() -> None:
    call = "predict('docs: dict[str, list[int]], q -> n: int', {'a': [1]}, 'how many?', instruction='Count them.')"
    result, script = ask(by_role(action(f"SUBMIT(answer=str({call}.n))"), plain=fields(n="3")))
    assert result.answer == "3"
    told = str(script.requests[1])
    assert "Count them." in told
    assert "how many?" in told
    result, _ = ask(by_role(action(TRY.format("predict('doc -> n: int', 'a', 'b')"))))
    assert "got 2 values for 1 inputs: doc" in result.answer


def test_a_call_that_is_interrupted_is_recorded() -> None:
    over = threading.Event()

    def hang(message: str) -> str:
        over.wait(20)
        return "late"

    def reply(message: str) -> Any:
        if "[[ ## trajectory ## ]]" in message:
            return fields(answer="best")
        return action("llm_query('slow')") if message.startswith("[step ") else hang(message)

    try:
        run = ask(reply, max_seconds=3)[0].run
    except BudgetExceededError as stopped:  # a busy machine has no time left for the extract
        run = stopped.run
    finally:
        over.set()
    calls = [call for step in run.steps for call in step.sub_calls]
    assert [(call.prompt, bool(call.error)) for call in calls] == [("slow", True)]


def test_a_child_that_fails_is_in_the_usage_of_its_model() -> None:
    result, script = ask(by_role(action(TRY.format("subcall('t', 'Go')")), child=dspy.lm15.ServerError("down")))
    assert "LMUnavailableError" in result.answer
    assert result.run.usage_by_model["scripted/model"] == result.run.usage
    assert result.run.usage.calls == len(script.requests) == 2


class Dying(rlm_dspy.Sandbox):
    def run(self, code: str, *args: Any, **kwargs: Any) -> Any:
        if "DIE" in code:
            super().run("print('before')\nllm_query('paid')")
            raise SandboxDiedError("gone")
        return super().run(code, *args, **kwargs)


async def test_the_step_whose_cell_ends_the_run_is_recorded() -> None:
    async def at_once(rlm: rlm_dspy.RLM) -> Any:
        return rlm(context="c", question="q")

    for run in (at_once, lambda rlm: rlm.acall(context="c", question="q")):
        lm, _ = scripted(by_role(action("DIE = 1", "last words")))
        rlm = rlm_dspy.RLM("context, question -> answer", interpreter_factory=Dying)
        with dspy.context(lm=lm), pytest.raises(SandboxDiedError) as caught:
            await run(rlm)
        (step,) = caught.value.run.steps
        assert (step.code, step.reasoning, step.usage.calls) == ("DIE = 1", "last words", 1)
        assert [call.prompt for call in step.sub_calls] == ["paid"]


def test_an_event_of_a_sub_call_has_its_prompt() -> None:
    seen = []
    ask(by_role(action("llm_query('hello')\nSUBMIT(answer='a')")), on_event=seen.append)
    assert [event.text for event in seen if event.kind == "sub_call"] == ["hello"]


@pytest.mark.parametrize("name", ["trajectory", "final_reasoning"])
def test_an_output_that_a_child_cannot_have_is_refused_before_anything_is_paid(name: str) -> None:
    result, script = ask(by_role(action(TRY.format(f"subcall('t', 'Go', output='{name}: str')"))))
    assert "ConfigurationError" in result.answer
    assert len(script.requests) == 1


def test_a_text_whose_pieces_and_their_combining_pass_the_limit_is_refused_before_it_is_read() -> None:
    root = action(TRY.format("subcall('word ' * 8_000, 'Shout')"))
    result, script = ask(by_role(root), window=8_192, max_depth=0, max_llm_calls=3)
    assert "3 + 1 calls" in result.answer
    assert len(script.requests) == 1


def test_of_many_pieces_the_last_is_combined_too_and_a_cut_is_told() -> None:
    seen: list[str] = []

    def plain(message: str) -> str:
        seen.append(message)
        return "combined" if "From piece 1" in message else f"part {len(seen)} " + "x" * 9_000

    root = action("x = subcall('word ' * 8_000, 'Shout')\nprint(x)")
    lm, script = scripted(lambda m: fields(answer="a") if "[[ ## trajectory" in m else by_role(root, plain=plain)(m))
    script.window = 8_192
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", max_depth=0, max_iters=1)
        result = rlm(context="the sky", question="q")
    assert all(f"From piece {n}" in seen[-1] for n in (1, 2, 3))
    assert "were cut to" in result.trajectory[0]["output"]
    assert "combined" in result.trajectory[0]["output"]


def test_at_any_depth_the_call_is_refused_by_policy() -> None:
    child = action("try:\n    SUBMIT(output=subcall('deep', 'Go'))\nexcept Exception as e:\n    SUBMIT(output=repr(e))")
    result, _ = ask(by_role(action("SUBMIT(answer=subcall('text', 'Do'))"), child=child), depth_policy="raise")
    assert "Depth 2 exceeds max 1" in result.answer


def test_a_child_has_the_options_of_its_parent() -> None:
    child = rlm_dspy.RLM("a -> b", profile="small", max_concurrency=3, depth_policy="raise", tune_children=True).child
    assert child is not None
    assert (child.profile, child.budget.max_concurrency, child.depth_policy) == ("small", 3, "raise")


@pytest.mark.parametrize("chosen", [True, False])
def test_every_depth_has_the_same_interpreter(chosen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(rlm_dspy.Sandbox):
        def __init__(self) -> None:
            made.append(1)
            super().__init__()

    # DSPy's default means that nothing was chosen.
    factory = Counted if chosen else dspy.PythonInterpreter
    monkeypatch.setattr("rlm_dspy.rlm.module.default_factory", lambda: rlm_dspy.Sandbox if chosen else Counted)
    child = action("SUBMIT(output=subcall('deep', 'Go ' + text))")
    reply = by_role(action("SUBMIT(answer=subcall('t', 'Do'))"), child=child)
    result, _ = ask(reply, max_depth=2, interpreter_factory=factory)
    assert result.answer == "ok"
    assert len(made) == 3


ASKED = {
    "gather": "r = await asyncio.gather(*[llm_query(p) for p in ps])",
    "gather of a function's": "def one(p): return llm_query(p)\nr = await asyncio.gather(*[one(p) for p in ps])",
    "one": "r = [await llm_query(p) for p in ps]",
    "plain": "r = [llm_query(p) for p in ps]",
    "a coroutine": "async def one(p): return await llm_query(p)\nr = await asyncio.gather(*map(one, ps))",
    "run": "async def main(): return await asyncio.gather(*[llm_query(p) for p in ps])\nr = asyncio.run(main())",
    "predict": "r = [x.n for x in await asyncio.gather(*[predict('doc -> n', doc=p) for p in ps])]",
    "subcall": "r = await asyncio.gather(*[subcall(p, 'Go') for p in ps])",
}


@pytest.mark.parametrize("how", ASKED)
def test_sub_calls_may_be_awaited(how: str) -> None:
    root = action(f"import asyncio\nps = ['a', 'b']\n{ASKED[how]}\nSUBMIT(answer='-'.join(r))")
    plain = fields(n="ok") if how == "predict" else "ok"
    result, _ = ask(by_role(root, child=action("SUBMIT(output='ok')"), plain=plain))
    assert result.answer == "ok-ok"
    assert len(result.run.steps[0].sub_calls) == 2


def test_a_hit_is_a_prompt_as_it_is_printed() -> None:
    code = "h = grep('sky')\nllm_query(h[0]), llm_query_batched(h), predict('doc, all -> n', h[0], h)\nSUBMIT('a')"
    reply = lambda message: fields(n="1") if "[[ ## doc ## ]]" in message else "ok"  # noqa: E731
    result, _ = ask(by_role(action(code), plain=reply))
    prompts = [call.prompt for call in result.run.steps[0].sub_calls]
    assert prompts == ["1: the sky", "1: the sky", "doc: 1: the sky\nall: ['1: the sky']"]


def test_items_that_are_texts_are_refused_with_what_an_item_is() -> None:
    lm, _ = scripted(action("predict_batched('doc -> n: int', ['a', 'b'])"), action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        run = rlm_dspy.RLM("context, question -> answer")(context="c", question="q").run
    assert "each item is a dict of the inputs of 'doc -> n: int', not a str" in run.steps[0].output
