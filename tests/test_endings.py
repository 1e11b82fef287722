"""How a run ends: with an answer or with a typed error that carries the partial run; never with an empty answer."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import dspy
import psutil
import pytest

import rlm_dspy
from rlm_dspy import errors
from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.rlm import driving, session
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.run import Run
from rlm_dspy.testing import Reply, action, fields, scripted


def ask(lm: dspy.LM, rlm: rlm_dspy.RLM | None = None, **inputs: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return (rlm or rlm_dspy.RLM("context, question -> answer"))(
            **{"context": "the sky is blue", "question": "which colour?", **inputs}
        )


def test_a_provider_that_fails_leaves_the_partial_run_on_dspys_own_error() -> None:
    lm, _ = scripted(action("print('seen')"), dspy.lm15.AuthError("bad key"))
    with pytest.raises(dspy.LMAuthError) as caught:
        ask(lm)
    assert isinstance(caught.value, errors.LMAuthError)
    run = caught.value.run
    assert isinstance(run, Run)
    assert (run.status, run.steps[0].output.strip()) == ("stopped", "seen")
    assert "bad key" in (run.error or "")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (dspy.lm15.RateLimitError("slow down"), errors.LMRateLimitError),
        (dspy.lm15.ContextLengthError("too long"), errors.LMContextWindowError),
        (dspy.lm15.TransportError("refused"), errors.LMUnavailableError),
        (dspy.lm15.ServerError("down"), errors.LMUnavailableError),
        (dspy.lm15.InvalidRequestError("what"), errors.LMError),
    ],
)
def test_every_provider_error_is_also_ours(raised: Exception, kind: type[errors.LMError]) -> None:
    lm, _ = scripted(raised)
    with pytest.raises(kind) as caught:
        ask(lm)
    assert isinstance(caught.value, dspy.LMError)
    assert caught.value.run is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_cross_processes_whole(copied: Callable[[Any], Any]) -> None:
    lm, _ = scripted(dspy.lm15.RateLimitError("slow down"))
    with pytest.raises(errors.LMRateLimitError) as caught:
        ask(lm)
    error = copied(caught.value)
    assert isinstance(error, errors.LMRateLimitError)
    assert isinstance(error, dspy.LMRateLimitError)
    assert (str(error), error.run) == (str(caught.value), caught.value.run)
    deep = copied(errors.DepthExceededError(3, 2))
    assert (deep.depth, deep.max_depth, deep.limit, str(deep)) == (3, 2, "max_depth", "Depth 3 exceeds max 2")


def test_without_a_model_the_error_says_what_to_do() -> None:
    with dspy.context(lm=None), pytest.raises(errors.ConfigurationError, match=r"dspy\.configure"):
        rlm_dspy.RLM("context, question -> answer")(context="c", question="q")


class Dead:
    """An interpreter whose process is gone, or one that never shows anything."""

    def __init__(self, error: Exception | None = None) -> None:
        self.tools: dict[str, Any] = {}
        self.error = error

    def start(self) -> None: ...

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> None:
        if self.error:
            raise self.error

    def shutdown(self) -> None: ...


def test_a_dead_interpreter_is_a_typed_error_before_any_call() -> None:
    lm, script = scripted(action("SUBMIT('x')"))
    with pytest.raises(errors.SandboxError, match="gone") as caught:
        ask(lm, interpreter_factory=lambda: Dead(dspy.CodeInterpreterError("gone")))
    assert not script.requests
    assert caught.value.run is not None


def test_an_interpreter_that_shows_nothing_of_its_set_up_is_reported() -> None:
    lm, _ = scripted(action("print(1)"), fields(answer="x"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", max_iters=1, interpreter_factory=Dead)
        result = rlm(context="c", question="q")
    assert any("Dead returned no output" in warning for warning in result.run.warnings)


def test_a_model_that_writes_no_code_is_asked_again_and_then_reported() -> None:
    lm, script = scripted("I would rather talk.")
    with pytest.raises(errors.ActionError) as caught:
        ask(lm)
    assert len(script.requests) == 3
    assert caught.value.run is not None
    assert [step.reasoning for step in caught.value.run.steps] == ["I would rather talk."] * 3


def test_a_fenced_block_alone_is_run_without_asking_again() -> None:
    lm, script = scripted("```python\nSUBMIT(answer='blue')\n```")
    assert ask(lm).answer == "blue"
    assert len(script.requests) == 1


def test_a_final_answer_in_words_is_taken() -> None:
    lm, _ = scripted("Clear.\nFINAL: The answer is 42")
    assert ask(lm).answer == "The answer is 42"


@pytest.mark.parametrize("code", ["FINAL('Found it')", "x = 'Found it'\nFINAL_VAR('x')", "SUBMIT('Found it')"])
def test_the_finals_of_other_recursive_models_work_in_code(code: str) -> None:
    lm, _ = scripted(action("print(P[:3])"), action(code))
    result = ask(lm)
    assert result.answer == "Found it"
    assert len(result.run.steps) == 2
    assert result.trajectory[0]["output"].strip() == "the"


def test_a_run_that_only_fails_ends_with_what_it_saw() -> None:
    lm, _ = scripted(action("1 / 0"), action("1 / 0"), fields(answer="unknown"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_iters=2))
    assert result.run.status == "extracted"
    assert "ZeroDivisionError" in str(result.trajectory)


def test_a_limit_raises_with_the_run_when_asked_to() -> None:
    lm, _ = scripted(action("print(1)"))
    with pytest.raises(errors.BudgetExceededError) as caught:
        ask(lm, rlm_dspy.RLM("context, question -> answer", max_iters=1, on_limit="raise"))
    assert caught.value.limit == "max_iters"
    assert caught.value.run is not None
    assert caught.value.run.stopped_by == "max_iters"


TOO_LITTLE = "which leaves too little for another step"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_iters": 2}, r"max_iters was reached before the model submitted \(2 of 2 steps\); raise it, or let"),
        ({"max_tokens": 9_000}, rf"max_tokens was .* submitted \(\d,\d\d\d of 9,000 tokens, {TOO_LITTLE}\); raise it"),
        ({"max_cost": 0.005}, rf"max_cost was .* submitted \(\$0\.00\d0 of \$0\.0050, {TOO_LITTLE}\); raise it"),
        ({"max_cost": 0.001}, r"max_cost was reached before the model submitted \(\$0\.0010 of \$0\.0010\); raise it"),
        ({"max_seconds": 8}, rf"max_seconds was .* submitted \(\d\.\d of 8 s, {TOO_LITTLE}\); raise it"),
    ],
)
def test_a_limit_says_how_much_of_it_was_used(
    limits: dict[str, float], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "STEP_TIME_SHARE", 0.4)  # the model hangs when it is asked to
    lm, _ = scripted(lambda message: time.sleep(0.05) or action(f"print({len(message)}, {message.count('step')})"))
    if "max_seconds" in limits:
        lm, _ = scripted(action("print(1)"), lambda message: time.sleep(30))
    with pytest.raises(BudgetExceededError, match=says):
        ask(lm, rlm_dspy.RLM("context, question -> answer", on_limit="raise", **limits))


def test_a_stopped_run_is_not_told_to_raise_a_limit() -> None:
    stop = threading.Event()
    stop.set()
    lm, _ = scripted(action("print(1)"))
    with pytest.raises(BudgetExceededError, match=r"^its caller stopped the run before any code ran$"):
        ask(lm, rlm_dspy.RLM("context, question -> answer", on_limit="raise"), stop=stop)
    stop.clear()
    lm, _ = scripted(action("print(1)"), lambda message: stop.set() or action("print(2)"))
    with pytest.raises(BudgetExceededError, match=r"^its caller stopped the run before the model submitted$"):
        ask(lm, rlm_dspy.RLM("context, question -> answer", on_limit="raise"), stop=stop)


def test_unreadable_replies_say_what_ended_the_run() -> None:
    lm, _ = scripted(action("print(1)"), *["What is it?"] * 3)
    with pytest.raises(BudgetExceededError, match=r"^3 replies in a row without code that could be run ended"):
        ask(lm, rlm_dspy.RLM("context, question -> answer", on_limit="raise"))


def test_tokens_end_a_run_in_time_for_the_extract() -> None:
    lm, script = scripted(lambda message: fields(answer="x", reasoning="r", code=f"print('y' * 4000, {message[:9]!r})"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_tokens=20_000))
    assert result.run.stopped_by == "max_tokens"
    assert result.run.usage.total_tokens <= 20_000
    assert 2 < len(script.requests) < 20


def test_tokens_end_a_run_whose_engine_does_not_report_them() -> None:
    lm, script = scripted(lambda message: fields(answer="x", reasoning="r", code=f"print('y' * 4000, {message[:9]!r})"))
    script.reports = False
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_tokens=20_000))
    assert result.run.stopped_by == "max_tokens"
    assert result.run.usage.cost is None


def test_a_rerun_from_the_cache_costs_nothing() -> None:
    lm, script = scripted(action("print(1)"), action("SUBMIT(answer='x')"), cache=True, model="scripted/rerun")
    first, second = ask(lm), ask(lm)
    assert len(script.requests) == 2
    assert first.run.usage.total_tokens > 0
    assert (second.run.usage.total_tokens, second.run.usage.cost, second.run.usage.calls) == (0, 0.0, 2)


def test_cost_ends_a_run_with_room_for_the_extract() -> None:
    lm, script = scripted(lambda message: fields(answer="x", reasoning="r", code="print(1)"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_cost=0.005))
    assert result.run.stopped_by == "max_cost"
    assert result.run.status == "extracted"
    assert 2 <= len(script.requests) <= 5
    assert result.run.usage.cost == pytest.approx(0.001 * len(script.requests))


def test_an_unreadable_extract_after_the_cost_is_spent_is_not_asked_for_twice() -> None:
    lm, script = scripted(*[action("print(1)")] * 3, "It is unclear.")
    with pytest.raises(BudgetExceededError, match="max_cost ended the run") as caught:
        ask(lm, rlm_dspy.RLM("context, question -> answer", max_cost=0.005))
    assert "SUBMIT" not in str(caught.value)
    assert caught.value.limit == "max_cost"
    assert caught.value.run is not None
    assert caught.value.run.stopped_by == "max_cost"
    assert caught.value.run.usage.cost <= 0.005
    assert len(script.requests) == len(caught.value.run.steps) + 1


def test_an_unreadable_extract_after_the_last_step_names_what_ended_the_steps() -> None:
    lm, _ = scripted(action("print(1)"), "It is unclear.")
    with pytest.raises(errors.ActionError, match="max_iters ended the run") as caught:
        ask(lm, rlm_dspy.RLM("context, question -> answer", max_iters=1))
    assert caught.value.run.stopped_by == "max_iters"
    assert "SUBMIT" not in str(caught.value)


@pytest.mark.parametrize("also", [{"max_tokens": 3_000}, {"max_iters": 1}], ids=lambda also: next(iter(also)))
def test_no_extract_is_paid_for_when_another_limit_ended_the_run_too(also: dict[str, int]) -> None:
    lm, script = scripted(action(f"print('{'x' * 9_000}')"))
    with pytest.raises(BudgetExceededError, match=r"max_cost is spent \(\$0\.0010 of \$0\.0005\)") as caught:
        ask(lm, rlm_dspy.RLM("context, question -> answer", max_cost=0.0005, **also))
    assert len(script.requests) == 1
    assert caught.value.run.stopped_by == "max_cost"


def test_a_first_prompt_that_costs_more_than_max_cost_is_not_sent() -> None:
    lm, script = scripted(action("print(1)"), model="openai/gpt-4o")
    with pytest.raises(BudgetExceededError, match="max_cost was reached before any code ran"):
        ask(lm, rlm_dspy.RLM("context, question -> answer", max_cost=0.0001))
    assert not script.requests


@pytest.mark.parametrize("code", ["import time\ntime.sleep(60)", "while True: pass"])
def test_seconds_end_a_run_whose_cell_hangs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STEP_TIME_SHARE", 0.2)  # a busy machine has time for the extract
    lm, _ = scripted(action("print(1)"), action(code), fields(answer="x"))
    started = time.monotonic()
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_seconds=6))
    assert result.run.stopped_by == "max_seconds"
    assert time.monotonic() - started < 10


def test_seconds_end_a_run_whose_model_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STEP_TIME_SHARE", 0.4)
    over = threading.Event()

    def hang(message: str) -> str:
        over.wait(60)
        return action("print(1)")

    lm, _ = scripted(action("print(1)"), hang, fields(answer="x"))
    started = time.monotonic()
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_seconds=10))
    over.set()
    assert result.run.stopped_by == "max_seconds"
    assert time.monotonic() - started < 20


def test_an_interrupt_keeps_the_partial_run() -> None:
    def interrupt(message: str) -> str:
        raise KeyboardInterrupt

    lm, _ = scripted(action("print('seen')"), interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        ask(lm)
    assert caught.value.run.steps[0].output.strip() == "seen"  # type: ignore[attr-defined]


QUOTING = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"


def test_a_wrong_quote_is_refused_with_advice_and_a_right_one_is_located() -> None:
    wrong = action("SUBMIT(answer='blue', evidence=[{'quote': 'the sky was green'}])")
    right = action("SUBMIT(answer='blue', evidence=[{'quote': 'sky is blue', 'match': None, 'line': 99}])")
    lm, script = scripted(wrong, right)
    result = ask(lm, rlm_dspy.RLM(QUOTING))
    assert "SUBMIT refused" in result.trajectory[0]["output"]
    assert "the sky is blue" in result.trajectory[0]["output"]
    (evidence,) = result.evidence
    assert (evidence.quote, evidence.line, evidence.match) == ("sky is blue", 1, "exact")
    assert result.run.evidence[0]["match"] == "exact"
    assert len(script.requests) == 2


def test_wrong_quotes_are_flagged_in_the_end_and_not_dropped() -> None:
    both = "[{'quote': 'sky is blue'}, {'quote': 'pigs can fly', 'match': 'exact', 'line': 3}]"
    lm, _ = scripted(action(f"SUBMIT(answer='blue', evidence={both})"))
    result = ask(lm, rlm_dspy.RLM(QUOTING))
    assert [item.match for item in result.evidence] == ["exact", None]
    assert [item["match"] for item in result.run.evidence] == ["exact", None]
    assert "pigs can fly" in result.run.warnings[0]
    assert len(result.run.steps) == 4


def test_the_question_is_no_evidence() -> None:
    lm, _ = scripted(action("SUBMIT(answer='x', evidence=['which colour'])"))
    assert ask(lm, rlm_dspy.RLM(QUOTING)).evidence[0].match is None


def test_a_run_goes_to_json_and_back() -> None:
    lm, _ = scripted(action("print(llm_query('x'))"), "sub", action("SUBMIT(answer='a')"))
    run = ask(lm).run
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_events_tell_what_happens_in_order() -> None:
    seen: list[str] = []
    lm, _ = scripted(action("print(llm_query('x'))"), "sub", action("SUBMIT(answer='a')"))
    ask(lm, rlm_dspy.RLM("context, question -> answer", on_event=lambda event: seen.append(event.kind)))
    assert seen == ["probe", "step", "code", "sub_call", "output", "step", "code", "output", "final"]


async def meet(barrier: threading.Barrier, times: int) -> None:
    """Pass a barrier so many times, each time without waiting: when somebody in another thread waits there."""
    for _ in range(times):
        while not barrier.n_waiting:
            await asyncio.sleep(0.01)
        barrier.wait()
        while barrier.n_waiting:
            await asyncio.sleep(0)


async def test_the_event_loop_runs_while_a_cell_and_a_model_do() -> None:
    both = threading.Barrier(2, timeout=60)  # passed only if the loop runs while the model or the cell waits there

    def wait() -> str:
        both.wait()
        return "met"

    def reply(message: str) -> str:
        both.wait()
        return action("print(wait())") if "met" not in message else action("SUBMIT(answer='a')")

    lm, _ = scripted(reply)
    loop_side = asyncio.create_task(meet(both, 3))  # two calls of the model and one cell
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", tools=[wait])
        result = await rlm.acall(context="c", question="q")
    assert result.answer == "a"
    await loop_side


class Stubborn:
    """An interpreter whose cells nobody can interrupt."""

    def __init__(self) -> None:
        self.tools: dict[str, Any] = {}
        self.busy = threading.Event()
        self.over = threading.Event()
        self.closed = threading.Event()
        self.was_released = False

    def start(self) -> None: ...

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        if "hang" in code.splitlines():
            self.busy.set()
            self.was_released = self.over.wait(30)
        return "ready"

    def shutdown(self) -> None:
        self.closed.set()


async def stubborn_run(interpreter: Stubborn) -> asyncio.Task[Any]:
    """Start a run and return it when its cell hangs."""
    lm, _ = scripted(action("hang"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", interpreter_factory=lambda: interpreter)
        task = asyncio.create_task(rlm.acall(context="c", question="q"))
    assert await asyncio.to_thread(interpreter.busy.wait, 20)
    return task


async def test_the_event_loop_runs_while_a_cancelled_run_waits_for_a_foreign_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driving, "CLOSING_SECONDS", 60.0)
    interpreter = Stubborn()
    task = await stubborn_run(interpreter)
    asyncio.get_running_loop().call_later(0.1, interpreter.over.set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert interpreter.was_released
    assert interpreter.closed.is_set()


async def test_a_foreign_cell_that_never_ends_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "CLOSING_SECONDS", 0.1)
    interpreter = Stubborn()
    task = await stubborn_run(interpreter)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not interpreter.closed.is_set()
    interpreter.over.set()
    assert await asyncio.to_thread(interpreter.closed.wait, 20)


async def test_forward_works_inside_a_running_loop() -> None:
    lm, _ = scripted(action("SUBMIT(answer='a')"))
    assert ask(lm).answer == "a"


async def test_many_gathered_runs_share_nothing() -> None:
    def reply(message: str) -> str:
        word = message.split("WORD-")[1].split("\n")[0]
        return action(f"assert question == 'WORD-{word}'\nSUBMIT(answer=question)")

    lm, _ = scripted(reply, delay=0.02)
    rlm = rlm_dspy.RLM("context, question -> answer")
    with dspy.context(lm=lm):
        results = await asyncio.gather(*(rlm.acall(context="c", question=f"WORD-{i}") for i in range(20)))
    assert [result.answer for result in results] == [f"WORD-{i}" for i in range(20)]


async def test_a_cancelled_run_ends_its_cell() -> None:
    lm, _ = scripted(action("while True: pass"))
    with dspy.context(lm=lm):
        task = asyncio.create_task(rlm_dspy.RLM("context, question -> answer").acall(context="c", question="q"))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.2)
    busy = [child for child in psutil.Process().children(recursive=True) if child.status() == psutil.STATUS_RUNNING]
    assert not busy


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rlm: rlm.deepcopy(), lambda rlm: rlm.reset_copy()])
def test_copies_share_the_stop_flag_and_pickles_have_none(copied: Callable[[Any], Any]) -> None:
    for program in (rlm_dspy.RLM("context, question -> answer"), Direct("context, question -> answer")):
        assert program.stop is None
        program.stop = threading.Event()
        assert copied(program).stop is program.stop
        assert pickle.loads(cloudpickle.dumps(program)).stop is None


def test_the_last_error_is_named_without_a_link() -> None:
    lm, _ = scripted(action("SUBMIT(answer='twelve')"), "unreadable", "unreadable")
    with dspy.context(lm=lm), pytest.raises(errors.ActionError) as told:
        rlm_dspy.RLM("context, question -> answer: float", max_iters=1)(context="c", question="q")
    assert "the last step failed with" in str(told.value)
    assert "errors.pydantic.dev" not in str(told.value)


def rejected_reply() -> Exception:
    """A reply that its provider could not read, as DSPy reports it."""
    error = dspy.lm15.InvalidRequestError("Failed to validate JSON. Please adjust your prompt.")
    error.code, error.failed_generation = "json_validate_failed", '{"answer": 5}'
    return error


def test_the_answer_after_a_limit_is_asked_for_again_if_the_provider_could_not_read_it() -> None:
    lm, script = scripted(action("print(1)"), rejected_reply(), fields(answer="5"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_iters=1))
    assert (result.answer, result.run.status, len(script.requests)) == ("5", "extracted", 3)


@pytest.mark.parametrize(
    ("finish", "why"), [("length", "limit of output tokens"), ("content_filter", "filter withheld")]
)
def test_an_answer_after_a_limit_that_was_cut_off_has_a_warning(finish: str, why: str) -> None:
    lm, _ = scripted(action("print(1)"), Reply(fields(answer="fire, water,"), finish_reason=finish))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", max_iters=1))
    assert why in result.run.warnings[0]


def test_a_sub_call_that_the_provider_could_not_read_is_its_reply_or_asked_again() -> None:
    code = "print(llm_query('q'))\nprint(predict('t -> label', t='x').label)"
    lm, _ = scripted(action(code), action("SUBMIT(answer='x')"))
    sub_lm, script = scripted(rejected_reply(), rejected_reply(), fields(label="B"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", sub_lm=sub_lm))
    assert result.trajectory[0]["output"].split("\n")[:2] == ['{"answer": 5}', "B"]
    assert (len(script.requests), result.run.warnings) == (3, ())


def test_failed_sub_calls_are_in_the_warnings_of_their_answer() -> None:
    lm, _ = scripted(action("parts = llm_query_batched(['a', 'b'])\nSUBMIT(answer=str(len(parts)))"))
    sub_lm, _ = scripted("yes", dspy.lm15.ServerError("down"))
    result = ask(lm, rlm_dspy.RLM("context, question -> answer", sub_lm=sub_lm))
    assert [warning for warning in result.run.warnings if "1 of 2 sub-calls failed" in warning and "down" in warning]


@pytest.mark.parametrize(
    "code", ["SUBMIT({'answer': 'red', 'reasoning': 'line 3'})", "SUBMIT(answer={'answer': 'red', 'x': 1})"]
)
def test_what_stands_beside_the_outputs_in_a_dict_is_no_answer(code: str) -> None:
    lm, _ = scripted(action(code))
    assert ask(lm).answer == "red"


def test_without_content_no_warning_quotes_the_context() -> None:
    lm, _ = scripted(*[action("SUBMIT(answer='x', evidence=['the sky is green, says Ann'])")] * 4)
    signature = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"
    run = ask(lm, rlm_dspy.RLM(signature, content="none"), context="the sky is blue, says Ann").run
    assert run.warnings
    assert "says Ann" not in run.model_dump_json()
