"""Long runs stay inside the window; a run can be watched and stopped; a killed one is not paid for twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import dspy
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from counting import STEPS, Server
from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.rlm import compaction, session
from rlm_dspy.rlm.compaction import Turn, compact_turns, conversation_chars
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.run import Event, Step
from rlm_dspy.testing import action, fields, scripted, texts
from warm import warm_python


def common(left: str, right: str) -> int:
    """Count the characters with which both texts begin."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def test_a_hundred_steps_stay_inside_a_window_of_eight_thousand_tokens() -> None:
    def reply(message: str) -> str:
        number = int(message.split("[step ")[1].split("/")[0])
        if number == 100:
            return action("SUBMIT(answer=str(total) + ' ' + past_steps[4]['output'][:9])")
        return action(f"total = {number}\nprint('output {number} ' + 'x' * 900)", f"step {number}: look")

    lm, script = scripted(reply)
    script.window = 8192
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> answer", max_iters=120)(context="c" * 50_000, question="q")
    prompts = ["\n".join(texts(request)) for request in script.requests]
    assert result.answer == "99 output 5 "
    assert len(result.run.steps) == 100
    assert len(result.run.steps[4].output) > 900
    assert max(len(prompt) for prompt in prompts) // 4 < 8192
    kept = [common(a, b) / len(a) for a, b in pairwise(prompts)]
    assert sum(kept) / len(kept) >= 0.9


TURNS = st.lists(
    st.builds(
        Turn,
        number=st.just(1),
        observation=st.text(max_size=400).map(lambda text: f"[step]\n{text}"),
        reasoning=st.text(max_size=80),
        code=st.text(max_size=200),
    ),
    max_size=30,
)


@given(turns=TURNS, limit=st.integers(500, 20_000))
def test_compaction_keeps_the_probe_and_the_newest_turns_and_never_grows(turns: list[Turn], limit: int) -> None:
    turns = [Turn(n, t.observation, t.reasoning, t.code) for n, t in enumerate(turns, 1)]
    failed = {turn.number for turn in turns if len(turn.code) % 2}
    steps = [Step(index=n, output="o", error="boom" if n in failed else None) for n in range(1, len(turns) + 1)]
    shorter = compact_turns(turns, steps, limit)
    assert [turn.observation for turn in shorter[:1]] == [turn.observation for turn in turns[:1]]
    if len(turns) > compaction.UNTOUCHED_TURNS:
        assert shorter[-compaction.UNTOUCHED_TURNS :] == turns[-compaction.UNTOUCHED_TURNS :]
    assert conversation_chars(shorter) <= conversation_chars(turns)


def test_an_rlm_without_inputs_runs_in_the_smallest_window() -> None:
    signature = dspy.Signature({"answer": (str, dspy.OutputField())}, "Say a number.")
    lm, script = scripted(action("SUBMIT(answer='1')"))
    script.window = 1024
    with dspy.context(lm=lm):
        assert rlm_dspy.RLM(signature)().answer == "1"


def test_compaction_elides_before_it_folds_and_folds_before_it_summarises() -> None:
    turns = [Turn(n, f"[step {n}]\n" + "o" * 2000, f"think {n}", "c" * 100) for n in range(1, 9)]
    steps = [Step(index=n, output="o" * 2000, error="boom" if n == 3 else None) for n in range(1, 9)]
    elided = compact_turns(turns, steps, 2 * (2 * 2000 + 2000 + 3000))
    assert "print(past_steps[1]['output'])" in elided[2].observation
    assert elided[2].code == "c" * 100
    summarised = compact_turns(turns, steps, 9000)
    assert len(summarised) < len(turns)
    assert "think 2" in summarised[0].reasoning
    assert conversation_chars(summarised) < conversation_chars(elided) < conversation_chars(turns)


@pytest.mark.parametrize("watched", [False, True])
async def test_a_stream_yields_the_events_and_then_the_prediction(watched: bool) -> None:
    heard: list[Event] = []
    lm, _ = scripted(action("print(llm_query('x'))"), "sub", action("SUBMIT(answer='a')"))
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", on_event=heard.append if watched else None)
        seen = [item async for item in rlm.stream(context="c", question="q")]
    kinds = [item.kind for item in seen if isinstance(item, Event)]
    assert [event.kind for event in heard] == (kinds if watched else [])
    assert kinds == ["probe", "step", "code", "sub_call", "output", "step", "code", "output", "final"]
    assert seen[-1].answer == "a"


async def test_a_stream_that_fails_raises_what_the_run_raised() -> None:
    lm, _ = scripted(dspy.lm15.AuthError("no"))
    with dspy.context(lm=lm), pytest.raises(dspy.LMAuthError):
        async for _ in rlm_dspy.RLM("context, question -> answer").stream(context="c", question="q"):
            pass


@pytest.mark.parametrize("where", ["model", "cell"])
def test_a_run_that_is_stopped_gives_its_best_answer(where: str) -> None:
    over = threading.Event()

    def hang(message: str) -> str:
        if where == "model":
            over.wait(20)
        return action("import time\ntime.sleep(20)")

    lm, _ = scripted(action("print('seen')"), hang, fields(answer="best so far"))
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.stop = threading.Event()
    threading.Timer(0.5, rlm.stop.set).start()
    started = time.monotonic()
    with dspy.context(lm=lm):
        result = rlm(context="c", question="q")
    over.set()
    assert result.answer == "best so far"
    assert (result.run.status, result.run.stopped_by) == ("extracted", "stop")
    assert time.monotonic() - started < 8


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds for a run whose steps end after a fifth of them, so that a busy machine has time for the extract."""
    monkeypatch.setattr(session, "STEP_TIME_SHARE", 0.2)
    return 6.0


def test_a_sub_call_that_hangs_ends_with_the_run(early: float) -> None:
    over = threading.Event()

    def reply(message: str) -> Any:
        if not message.startswith(("[step ", "[[ ## ")):
            over.wait(20)
            return "late"
        return fields(answer="best", reasoning="r", code="print(llm_query('x'))")

    lm, _ = scripted(reply)
    started = time.monotonic()
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM("context, question -> answer", max_seconds=early)(context="c", question="q")
    over.set()
    assert result.run.stopped_by == "max_seconds"
    assert time.monotonic() - started < early + 4


BAD_MODELS: dict[str, Any] = {
    "only loops": action("while True: pass"),
    "never submits": action("print('hm')"),
    "submits wrong types": action("SUBMIT(answer='many')"),
    "writes a megabyte": action(f"x = '{'y' * 1000}'\n" * 1000),
    "prints a gigabyte": action("print('x' * 10**9)"),
    "calls ten thousand times": action("for i in range(10_000):\n    llm_query('q')"),
    "fails every cell": action("1 / 0"),
    "is empty": "",
    "refuses": "I cannot help with that.",
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_every_bad_model_ends_by_a_limit_with_a_useful_run(kind: str) -> None:
    def reply(message: str) -> str:
        if "[[ ## trajectory ## ]]" in message:
            return fields(answer="0")
        return "ok" if not message.startswith("[step ") else BAD_MODELS[kind]

    lm, _ = scripted(reply)
    factory = lambda: rlm_dspy.Sandbox(timeout=0.3, memory_mb=256)  # noqa: E731
    rlm = rlm_dspy.RLM("context, question -> answer: int", max_iters=3, interpreter_factory=factory)
    with dspy.context(lm=lm):
        if kind in {"is empty", "refuses"}:
            with pytest.raises(rlm_dspy.RLMError) as caught:
                rlm(context="c", question="q")
            run = caught.value.run
        else:
            run = rlm(context="c", question="q").run
    assert run is not None
    assert run.status == ("stopped" if kind in {"is empty", "refuses"} else "extracted")
    assert len(run.steps) == 3
    assert all(len(step.output) <= 12_000 for step in run.steps)


KILLS = 5
PROGRAM = """
import sys, dspy, rlm_dspy
sys.path.insert(0, {tests!r})
from counting import counting_lm
with dspy.context(lm=counting_lm({port})):
    result = rlm_dspy.RLM("context, question -> answer")(context="the sky", question="q")
print(result.answer, flush=True)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_pays_for_each_call_once(tmp_path: Path) -> None:
    moments = random.Random(7)
    with Server() as server:
        env = {**os.environ, "DSPY_CACHEDIR": str(tmp_path)}
        code = PROGRAM.format(tests=str(Path(__file__).parent), port=server.port)
        for kill in range(KILLS):
            asking = subprocess.Popen([*warm_python(), "-c", code], env=env, stdout=subprocess.DEVNULL)
            server.wait_for(2 * kill + 1)
            time.sleep(moments.uniform(0, 0.05))  # somewhere between two answers
            asking.send_signal(signal.SIGKILL)
            asking.wait()
        done = subprocess.run([*warm_python(), "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "end", done.stderr
    assert set(server.answered) == set(range(1, STEPS + 1))
    # Only a call that was in flight when its process died may be asked again, and then as the very next one.
    assert server.answered == sorted(server.answered)
    assert len(server.answered) <= STEPS + KILLS


HANGING = """
import time, dspy, rlm_dspy
from rlm_dspy.testing import action, scripted
lm, _ = scripted(action("print(1)"), lambda message: time.sleep(60))
try:
    with dspy.context(lm=lm):
        rlm_dspy.RLM("context, question -> answer", max_seconds=1, on_limit="raise")(context="c", question="q")
except rlm_dspy.RLMError:
    print("ended", flush=True)
"""


def test_a_call_that_was_left_behind_does_not_hold_up_the_process() -> None:
    done = subprocess.run([*warm_python(), "-c", HANGING], capture_output=True, text=True, timeout=50)
    assert (done.stdout.strip(), done.returncode) == ("ended", 0), done.stderr


async def test_twenty_runs_gathered_take_little_longer_than_one() -> None:
    lm, _ = scripted(action("print(1)"), delay=0.0)

    def reply(message: str) -> str:
        return action("SUBMIT(answer=question)")

    lm, _ = scripted(reply, delay=0.1)
    rlm = rlm_dspy.RLM("context, question -> answer")
    with dspy.context(lm=lm):
        results = await asyncio.gather(*(rlm.acall(context="c", question=f"q{i}") for i in range(20)))
    assert [result.answer for result in results] == [f"q{i}" for i in range(20)]


class Cancellable:
    """An async engine that hangs as a network client does, until it is cancelled."""

    def __init__(self, script: Any) -> None:
        self.script = script
        self.waiting = 0
        self.cancelled = 0

    async def complete(self, request: Any) -> Any:
        response = self.script.complete(request)
        if response.message.text == "hang":
            self.waiting += 1
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return response


def hanging(where: str) -> tuple[Cancellable, dspy.LM]:
    """Return an engine, and an LM of it, whose second step, sub-calls or only call hang."""

    def reply(message: str) -> str:
        if "[[ ## trajectory ## ]]" in message:
            return fields(answer="best")
        if where == "direct" or (where == "step" and "step 2/" in message) or not message.startswith("[step "):
            return "hang"
        return action("print(1)" if where == "step" else "llm_query_batched(['a', 'b'])")

    _, script = scripted(reply)
    engine = Cancellable(script)
    return engine, dspy.LM("scripted/model", engine=script, async_engine=engine, cache=False, num_retries=0)


@pytest.mark.parametrize("where", ["step", "sub-call"])
def test_a_run_that_is_over_in_time_leaves_no_process_and_no_thread(where: str, early: float) -> None:
    engine, lm = hanging(where)
    rlm = rlm_dspy.RLM("context, question -> answer", max_seconds=early)
    with dspy.context(lm=lm), rlm_dspy.Sandbox() as warm:  # the zygote stays for the life of this process
        warm.execute("1")
        before = set(threading.enumerate())
        children = set(psutil.Process().children(recursive=True))
        started = time.monotonic()
        result = rlm(context="c", question="q")
        seconds = time.monotonic() - started
        left, added = set(threading.enumerate()) - before, set(psutil.Process().children(recursive=True)) - children
        until = time.monotonic() + 1
        while (left or added) and time.monotonic() < until:
            time.sleep(0.02)  # what was cancelled or killed takes a moment to go
            left, added = left & set(threading.enumerate()), {child for child in added if child.is_running()}
    assert result.answer == "best"
    assert result.run.stopped_by == "max_seconds"
    assert seconds < early + 1
    assert engine.cancelled == (1 if where == "step" else 2)
    assert not left
    assert not added


@pytest.mark.parametrize("where", ["step", "sub-call"])
def test_calls_that_a_limit_ends_in_flight_are_in_the_usage_as_estimates(where: str, early: float) -> None:
    engine, lm = hanging(where)
    with dspy.context(lm=lm):
        run = rlm_dspy.RLM("context, question -> answer", max_seconds=early)(context="c", question="q").run
    assert engine.waiting == (1 if where == "step" else 2)
    assert run.usage.estimated_calls == engine.waiting
    assert run.usage == run.usage_by_model["scripted/model"]


@pytest.mark.parametrize("where", ["step", "sub-call"])
async def test_a_run_that_is_cancelled_has_its_record_with_what_was_in_flight(where: str) -> None:
    engine, lm = hanging(where)
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer", max_seconds=60)
        task = asyncio.ensure_future(rlm.acall(context="c", question="q"))
        while not engine.waiting and not task.done():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    run = caught.value.run  # type: ignore[attr-defined]
    assert (run.status, run.stopped_by) == ("stopped", "CancelledError")
    assert run.usage.estimated_calls == engine.waiting
    assert run.usage == run.usage_by_model["scripted/model"]


async def test_a_direct_call_that_is_cancelled_counts_what_was_sent(early: float) -> None:
    engine, lm = hanging("direct")
    direct = Direct("context, question -> answer", budget=rlm_dspy.Budget(max_seconds=early))
    with dspy.context(lm=lm), pytest.raises(BudgetExceededError) as caught:
        direct(context="c" * 4000, question="q")
    assert engine.waiting == 1
    assert caught.value.run.usage.estimated_calls == 1
    assert caught.value.run.usage.prompt_tokens > 1000
