"""An optimization keeps to its caps, loses nothing when it is killed, and pays for nothing twice."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.parallelizer import ParallelExecutor

from rlm_dspy import RLM, data, metrics
from rlm_dspy.budget import Budget
from rlm_dspy.errors import ConfigurationError, RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.run import Usage
from rlm_dspy.testing import action, scripted
from rlm_dspy.tuning import optimization, program
from rlm_dspy.tuning.candidate_log import MAX_FAILED_IN_A_ROW, Candidate, CandidateLog
from rlm_dspy.tuning.evaluation import Row
from rlm_dspy.tuning.metered_engine import BudgetPhase, CapReachedError, SharedBudget, metered_lm
from rlm_dspy.tuning.optimization import CandidateParents, Optimization, OptimizationJob, plan_for, redirect_output
from rlm_dspy.tuning.report import figures
from rlm_dspy.tuning.report.outcome import failure_lines, outcome_report, report_markdown
from tuning.student import Student, Teacher, examples, student, teacher
from warm import warm_python

HERE = Path(__file__).parent
RATE = optimization.UsageRate(calls=2)


def named(count: int, seed: int) -> list[dspy.Example]:
    made = data.handles(examples(count, seed))
    for number, one in enumerate(made):
        one["id"] = f"{seed}-{number}"
    return made


def job(
    folder: Path, optimizer: str = "gepa", calls: int = 160, **more: Any
) -> tuple[OptimizationJob, Student, Teacher]:
    (lm, learner), (prompt_lm, adviser) = student(), teacher()
    made = OptimizationJob(
        optimizer=optimizer,
        train=named(6, 1),
        val=named(6, 2),
        test=named(8, 3),
        metric=metrics.exact,
        lm=lm,
        folder=folder,
        max_calls=calls,
        prompt_lm=prompt_lm,
        budget=Budget(max_iters=4),
        signature="context, question -> answer",
        threads=2,
        **more,
    )
    return made, learner, adviser


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", optimization.OPTIMIZERS)
def test_an_optimization_finds_what_is_there_and_reports_it(optimizer: str, tmp_path: Path) -> None:
    made, learner, adviser = job(tmp_path / "run", optimizer, 260 if optimizer in ("simba", "mipro") else 160)
    found = Optimization(made, plan_for(made, RATE)).run()
    assert found.ended == "finished"
    assert figures.side_figures(found.before)["score"] < 0.6
    assert figures.side_figures(found.after)["score"] == 1
    assert found.calls == lines(tmp_path / "run/calls.jsonl") == learner.calls + adviser.calls <= made.max_calls
    told = outcome_report(made, found)
    text = report_markdown(told)
    assert told["gain"]["interval"][0] > 0
    assert f"# {optimizer} on scripted/student" in text
    assert "**chosen**" in text
    if optimizer == "gepa":
        assert "+Answer by code: find the tag." in text
        assert any(one["parent"] == 0 for one in told["candidates"])
    loaded = program.load(dspy_program(), tmp_path / "run/program.json")
    assert program.instructions(loaded) == program.instructions(found.program)


def dspy_program() -> dspy.Module:
    from rlm_dspy import RLM

    return RLM("context, question -> answer")


def test_the_cap_on_calls_holds_and_the_best_so_far_is_kept(tmp_path: Path) -> None:
    made, learner, adviser = job(tmp_path / "run", calls=70)
    plan = optimization.Plan("gepa", 6, 6, 8, 70, RATE, 90, {"max_metric_calls": 90, "reflection_minibatch_size": 3})
    found = Optimization(made, plan).run()
    assert found.ended == "max-calls"
    assert learner.calls + adviser.calls <= 70
    assert len(found.after) == 8
    assert (tmp_path / "run/program.json").exists()
    told = outcome_report(made, found)
    tried = [one for one in told["candidates"] if one["val_score"] is not None and one["number"]]
    assert tried
    assert all(one["parent"] is not None for one in tried)  # also of what a cap cut off


@pytest.mark.slow
def test_the_cap_on_cost_holds_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    made, learner, adviser = job(tmp_path / "run", max_cost=0.04)
    found = Optimization(made, plan_for(made, RATE)).run()
    assert found.ended == "max-cost"
    assert found.cost is not None
    assert found.cost <= 0.04
    paid = learner.calls + adviser.calls
    more, learner, adviser = job(tmp_path / "run", max_cost=1.0)
    again = Optimization(more, plan_for(more, RATE), resume=True).run()
    assert again.ended == "finished"
    assert figures.side_figures(again.after)["score"] == 1
    assert again.calls == paid + learner.calls + adviser.calls


@pytest.mark.slow
def test_a_killed_optimization_is_resumed_without_paying_twice(tmp_path: Path) -> None:
    whole, learner, adviser = job(tmp_path / "whole")
    Optimization(whole, plan_for(whole, RATE)).run()
    needed = learner.calls + adviser.calls
    folder = tmp_path / "killed"
    worker = subprocess.Popen(
        [*warm_python(), str(HERE / "slow_job.py"), str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while lines(folder / "calls.jsonl") < needed // 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    paid = lines(folder / "calls.jsonl")
    assert needed // 2 <= paid < needed
    made, learner, adviser = job(folder)
    found = Optimization(made, plan_for(made, RATE), resume=True).run()
    assert learner.calls + adviser.calls <= needed - paid + 2 * made.threads  # what was in the air is asked again
    assert (folder / "program.json").read_text() == (tmp_path / "whole/program.json").read_text()
    assert figures.side_figures(found.after)["score"] == 1


def test_a_resumed_optimization_keeps_when_each_candidate_was_measured(tmp_path: Path) -> None:
    made, *_ = job(tmp_path / "run", calls=100)
    first = Optimization(made, plan_for(made, RATE)).run()
    again = Optimization(made, plan_for(made, RATE), resume=True).run()
    measured = [[one.measured_at for one in found.candidate_log.candidates.values()] for found in (first, again)]
    assert [number for number in measured[0] if number is not None]
    assert measured[0] == measured[1]
    assert [one.cost for one in first.candidate_log.candidates.values() if one.measured_at] != [0.0]
    (tmp_path / "run/candidates.jsonl").unlink()  # a folder of an earlier version has none
    old = Optimization(made, plan_for(made, RATE), resume=True).run()
    assert [number is None for number in measured[0]] == [
        one.measured_at is None for one in old.candidate_log.candidates.values()
    ]


def test_the_parents_of_proposals_make_no_circle() -> None:
    parents = CandidateParents()
    parents.on_optimization_start({"seed_candidate": {"act": "one"}})
    for above, new in (("one", "two"), ("two", "one"), ("two", "two"), ("two", "three"), ("one", "three")):
        parents.on_proposal_start({"parent_candidate": {"act": above}})
        parents.on_proposal_end({"new_instructions": {"act": new}})
    assert parents.by_text == {'{"act": "two"}': '{"act": "one"}', '{"act": "three"}': '{"act": "two"}'}


def test_a_folder_is_gone_on_with_only_when_that_is_said_and_is_meant(tmp_path: Path) -> None:
    made, *_ = job(tmp_path / "run")
    Optimization(made, plan_for(made, RATE))
    with pytest.raises(ConfigurationError, match="continue it with --resume"):
        Optimization(made, plan_for(made, RATE))
    other, *_ = job(tmp_path / "run", seed=7)
    with pytest.raises(ConfigurationError, match="with a different seed"):
        Optimization(other, plan_for(other, RATE), resume=True)


def test_changed_questions_are_not_gone_on_with(tmp_path: Path) -> None:
    made, *_ = job(tmp_path / "run")
    Optimization(made, plan_for(made, RATE))
    made.test[0]["answer"] += "x"
    with pytest.raises(ConfigurationError, match="with a different questions"):
        Optimization(made, plan_for(made, RATE), resume=True)


def test_the_plan_does_not_count_what_a_cache_answered() -> None:
    paid = Row(key="k", side="rlm", id="1", status="submitted", calls=3, cost=0.5, seconds=9)
    free = paid.model_copy(update={"cached_calls": 1, "calls": 1, "cost": 0.0, "seconds": 0.1})
    assert optimization.UsageRate.of([paid, free]) == optimization.UsageRate(calls=3, cost=0.5, seconds=9, measured=1)
    assert optimization.UsageRate.of([free]) == optimization.UsageRate()


def test_a_resumed_plan_is_the_one_that_was_begun_with(tmp_path: Path) -> None:
    made, *_ = job(tmp_path / "run")
    begun = plan_for(made, RATE)
    Optimization(made, begun)
    assert plan_for(made, optimization.UsageRate(calls=9.0, measured=4)) == begun


def test_a_metric_that_always_raises_ends_it_before_anything_is_compiled(tmp_path: Path) -> None:
    def broken(expected: Any, got: Any) -> float:
        raise ZeroDivisionError("by nothing")

    made, *_ = job(tmp_path / "run", "bootstrap")
    made = OptimizationJob(**{**vars(made), "metric": metrics.of(broken)})
    with pytest.raises(RLMError, match=r"every question failed, so there is nothing to learn from; .* by nothing"):
        Optimization(made, plan_for(made, RATE)).run()
    rows = [Row.model_validate_json(line) for line in (tmp_path / "run/before.jsonl").read_text().splitlines()]
    assert {row.status for row in rows} == {"failed"}
    assert "by nothing" in (rows[0].error or "")


# --- the shared budget ----------------------------------------------------------------------------------------------


def test_a_purse_remembers_what_was_paid_and_ignores_a_line_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    shared_budget = SharedBudget(3, log=log)
    for _ in range(2):
        shared_budget.settle(shared_budget.admit(10), Usage(calls=1, prompt_tokens=5, cost=0.5))
    log.write_text(log.read_text() + '{"calls": 1, "pro')
    again = SharedBudget(3, log=log)
    assert again.calls == 2
    assert again.cost == pytest.approx(1.0)
    again.settle(again.admit(10), Usage(calls=1, cost=None))
    assert again.cost is None
    with pytest.raises(CapReachedError, match="max-calls is used up"):
        again.admit(10)


def test_a_purse_is_opened_again_as_often_as_its_log_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    for number in range(3):
        shared_budget = SharedBudget(10, log=log)
        assert shared_budget.calls == number
        shared_budget.settle(shared_budget.admit(10), Usage(calls=1))
        with log.open("a") as file:
            file.write('{"calls": 1, "pro')


def test_a_purse_that_was_overdrawn_is_opened_again_and_pays_no_more(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    shared_budget = SharedBudget(10, max_cost=1.0, log=log)
    for reservation in [shared_budget.admit(1), shared_budget.admit(1)]:
        shared_budget.settle(reservation, Usage(calls=1, cost=1.5))
    again = SharedBudget(10, max_cost=1.0, log=log)
    assert (again.calls, again.cost) == (2, 3.0)
    with pytest.raises(CapReachedError, match="max-cost"):
        again.admit(1)


def test_one_call_of_unknown_price_leaves_the_cap_on_cost_in_force() -> None:
    shared_budget = SharedBudget(100, max_cost=1.0)
    shared_budget.settle(shared_budget.admit(1), Usage(calls=1, cost=None))
    shared_budget.settle(shared_budget.admit(1), Usage(calls=1, cost=1.5))
    with pytest.raises(CapReachedError, match="max-cost"):
        shared_budget.admit(1)


def test_a_log_that_is_none_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    log.write_text("my calls\n")
    with pytest.raises(ConfigurationError, match=r"calls\.jsonl:1 "):
        SharedBudget(10, log=log)
    assert log.read_text() == "my calls\n"


def test_calls_in_the_air_count_against_the_cap_on_cost() -> None:
    shared_budget = SharedBudget(100, max_cost=1.0)
    shared_budget.settle(shared_budget.admit(1), Usage(calls=1, cost=0.3))
    shared_budget.admit(1)
    shared_budget.admit(1)
    with pytest.raises(CapReachedError, match="max-cost"):
        shared_budget.admit(1)


def test_replies_from_the_cache_are_not_paid_for(tmp_path: Path) -> None:
    from rlm_dspy.tuning.optimization import replay_cache

    lm, learner = student()
    shared_budget = SharedBudget(5)
    capped = metered_lm(lm, BudgetPhase(shared_budget))
    with replay_cache(tmp_path / "cache"):
        for _ in range(3):
            capped("the same prompt")
    assert (shared_budget.calls, learner.calls) == (1, 1)


def test_an_lm_without_an_engine_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the caps cannot be enforced for openai/some-model"):
        metered_lm(dspy.LM("openai/some-model"), BudgetPhase(SharedBudget(1)))


async def test_asynchronous_calls_are_paid_for_as_well() -> None:
    from rlm_dspy.lms import offline_lm

    shared_budget = SharedBudget(1)
    capped = metered_lm(offline_lm(), BudgetPhase(shared_budget)).copy(cache=False)
    await capped.acall("what is it?")
    assert shared_budget.calls == 1
    with pytest.raises(CapReachedError):
        await capped.acall("and this?")


def test_a_phase_that_is_over_pays_for_no_call() -> None:
    shared_budget = SharedBudget(10)
    phase = BudgetPhase(shared_budget)
    left_behind = metered_lm(student()[0], phase)
    phase.close()
    with pytest.raises(CapReachedError, match="this part of the optimization is over"):
        left_behind("a prompt")
    assert shared_budget.calls == 0


def test_the_threads_that_an_optimizer_leaves_behind_do_not_spend_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Student.reply

    def slow_reply(self: Student, *prompt: Any) -> str:
        time.sleep(0.05)
        return quick(self, *prompt)

    monkeypatch.setattr(Student, "reply", slow_reply)
    made, *_ = job(tmp_path / "run", "bootstrap", calls=90)
    made = dataclasses.replace(made, val=named(24, 2), threads=8)
    plan = optimization.Plan("bootstrap", 6, 24, 8, 90, RATE, 90, {"num_candidate_programs": 3})
    found = Optimization(made, plan).run()
    assert (found.ended, len(found.after)) == ("max-calls", 8)


def test_the_last_evaluation_has_a_reserve_in_cost_too() -> None:
    shared_budget = SharedBudget(100, max_cost=1.0)
    shared_budget.kept_back_cost = 0.4
    shared_budget.settle(shared_budget.admit(1), Usage(calls=1, cost=0.7))
    with pytest.raises(CapReachedError, match="max-cost"):
        shared_budget.admit(1)


def test_what_a_server_does_not_count_is_estimated_and_paid_for() -> None:
    lm, script = scripted("a reply of some words", model="openai/gpt-4o-mini")
    script.reports = False
    shared_budget = SharedBudget(10, max_cost=1e-9)
    capped = metered_lm(lm, BudgetPhase(shared_budget)).copy(cache=False)
    capped("a prompt of several words")
    assert shared_budget.ledger.usage.estimated_calls == 1
    assert shared_budget.cost is not None
    assert shared_budget.cost > 0
    with pytest.raises(CapReachedError, match="max-cost"):
        capped("another prompt")
    assert len(script.requests) == 1


def test_code_cannot_catch_a_cap_that_a_sub_call_reaches() -> None:
    code = "try:\n    said = llm_query('what is it?')\nexcept BaseException:\n    said = 'unknown'\nSUBMIT(answer=said)"
    lm, _ = scripted(action(code))
    capped = metered_lm(lm, BudgetPhase(SharedBudget(1))).copy(cache=False)
    with dspy.context(lm=capped), pytest.raises(CapReachedError):
        RLM("context, question -> answer")(context="c", question="q")


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["gepa", "bootstrap"])
def test_a_server_that_goes_down_ends_the_optimization_and_is_reported(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Student.complete

    def complete(self: Student, request: Any) -> Any:
        if self.calls > 24:
            raise dspy.lm15.ServerError("overloaded")
        return answered(self, request)

    monkeypatch.setattr(Student, "complete", complete)
    made, *_ = job(tmp_path / "run", optimizer, 400)
    made = dataclasses.replace(made, val=named(14, 2))
    found = Optimization(made, plan_for(made, RATE)).run()
    told = outcome_report(made, found)
    assert (found.ended, told["ended"]) == ("failures", "failures")
    assert 1 <= told["failed_questions"] <= MAX_FAILED_IN_A_ROW + 1
    assert "overloaded" in told["last_failure"]
    assert "failed while compiling, which DSPy scores as 0" in report_markdown(told)


def test_test_questions_that_failed_are_reported() -> None:
    made = {"before": {"failed": 0, "questions": 6}, "after": {"failed": 4, "questions": 6}, "failed_questions": 0}
    assert failure_lines(made) == ["4 of 6 test questions failed after compiling: the score is too low."]


def test_a_question_that_always_fails_does_not_hide_the_best_candidate() -> None:
    log = CandidateLog(["a", "b", "c"])
    for number, scores in enumerate([{"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, {"a": 1.0}]):
        log.candidates[str(number)] = Candidate(str(number), number, {}, {}, 0, scores)
    best = log.best(["a", "b", "c"])
    assert best is not None
    assert best.number == 1


@pytest.mark.slow
def test_a_slow_question_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # DSPy asks a question again that takes 120 seconds; here it would after 1.
    monkeypatch.setattr(ParallelExecutor.__init__, "__defaults__", _defaults_with(timeout=1))
    quick = Student.reply

    def slow_reply(self: Student, *prompt: Any) -> str:
        time.sleep(1.2)
        return quick(self, *prompt)

    monkeypatch.setattr(Student, "reply", slow_reply)
    made, learner, _ = job(tmp_path / "run", "bootstrap", calls=300)
    made = dataclasses.replace(made, train=named(1, 1), val=named(2, 2), test=named(1, 3), threads=6)
    plan = optimization.Plan("bootstrap", 1, 2, 1, 300, RATE, 90, {"num_candidate_programs": 0})
    Optimization(made, plan).run()
    prompts = [str(request.messages) + str(request.system) for request in learner.requests]
    assert len(prompts) == len(set(prompts))


def _defaults_with(**changes: Any) -> tuple[Any, ...]:
    """Return the defaults of DSPy's executor with some changed."""
    parameters = inspect.signature(ParallelExecutor.__init__).parameters.values()
    return tuple(changes.get(one.name, one.default) for one in parameters if one.default is not one.empty)


# --- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", optimization.OPTIMIZERS)
@pytest.mark.parametrize("calls", [600, 2_000, 20_000])
def test_a_plan_stays_within_its_calls(optimizer: str, calls: int) -> None:
    made = optimization.plan(optimizer, calls, train=12, val=10, test=20, rate=optimization.UsageRate(calls=4))
    assert (made.rollouts + 20 * (1 + optimization.FINAL_CALLS_FACTOR)) * 4 <= calls * 1.05
    assert all(value >= 0 for value in made.settings.values())


def test_a_plan_that_cannot_be_paid_names_what_it_needs() -> None:
    with pytest.raises(ConfigurationError, match="max-calls 50 is too little for gepa on 12 \\+ 10 \\+ 20 questions"):
        optimization.plan("gepa", 50, train=12, val=10, test=20, rate=optimization.UsageRate())
    with pytest.raises(ConfigurationError, match="'adam' is not an optimizer"):
        optimization.plan("adam", 50, train=12, val=10, test=20, rate=optimization.UsageRate())


def test_a_plan_tells_rollouts_cost_and_time() -> None:
    rate = optimization.UsageRate(calls=5, cost=0.002, seconds=3.0, measured=8)
    made = optimization.plan("gepa", 1_000, train=12, val=10, test=20, rate=rate)
    told = "\n".join(made.lines(2.0, 30, 4))
    assert "× 5.0 calls (measured on 8 questions), at most 1,000 calls" in told
    assert "cost: about $0.3900, at most $2.0000" in told
    assert "at least 32 min at 30 calls a minute" in told


def test_a_rate_is_measured_from_rows() -> None:
    rows = [Row(key="k", side="rlm", id="q", status="submitted", calls=n, cost=0.01, seconds=n) for n in (2, 4, 6)]
    assert optimization.UsageRate.of(rows) == optimization.UsageRate(
        calls=4, cost=pytest.approx(0.01), seconds=4, measured=3
    )
    assert optimization.UsageRate.of([]).measured == 0


def test_a_measurement_of_which_a_kill_cut_the_last_row_is_read(tmp_path: Path) -> None:
    journal = tmp_path / "rows.jsonl"
    row = Row(key="k", side="rlm", model="m", id="q", status="submitted", calls=3, answer="a\u2028b")
    journal.write_text(row.model_dump_json() + "\n" + row.model_dump_json()[:40], encoding="utf-8")
    assert optimization.measured_rate(journal, "m").measured == 1
    assert optimization.measured_rate(tmp_path / "gone.jsonl", "m").measured == 0


@pytest.mark.slow
def test_nothing_that_is_kept_of_an_optimization_has_a_secret(tmp_path: Path) -> None:
    key = "sk-canary-0123456789"

    def told(expected: Any, got: Any) -> float:
        logging.getLogger("dspy").info("asked with %s", key)
        return 1.0

    made, *_ = job(tmp_path / "run", "bootstrap", redactor=Redactor({"SOME_API_KEY": key}))
    keyed = [one.copy(answer=f"{key} {number}") for number, one in enumerate(made.train)]
    made = OptimizationJob(**{**vars(made), "metric": metrics.of(told), "train": keyed, "test": keyed})
    Optimization(made, plan_for(made, RATE)).run()
    kept = {path.name: path.read_text() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert "asked with ********" in kept["log.txt"]
    for name in ("log.txt", "before.jsonl", "after.jsonl", "program.json"):
        assert key not in kept[name], name
        assert "********" in kept[name] or name == "program.json"


def test_the_log_takes_any_text(tmp_path: Path) -> None:
    with redirect_output(tmp_path / "log.txt", Redactor({"SOME_API_KEY": "sk-canary-0123456789"})):
        print("sk-canary-0123456789 \ud800 said")
    assert (tmp_path / "log.txt").read_text() == "******** ? said\n"


@pytest.mark.slow
def test_the_log_keeps_what_dspy_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, *_ = job(tmp_path / "run", "bootstrap")
    Optimization(made, plan_for(made, RATE)).run()
    assert "Bootstrapped" in (tmp_path / "run/log.txt").read_text()
    assert "Bootstrapped" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run/state.json").read_text())["optimizer"] == "bootstrap"
