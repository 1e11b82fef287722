"""Provider batches from Python: ``Batch(provider_batch=…)`` and ``predict_batch``."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.batch import Answers, Batch, Job, Program, WavePace, Waves, predict_batch
from rlm_dspy.batch.plan import plan_calls, plan_runs
from rlm_dspy.errors import ActionError, ConfigurationError, LMError
from rlm_dspy.testing import fields, scripted
from servers.batches import BatchServer

QUICK = WavePace(first_poll=0.02, longest_poll=0.05, quiet=0.3)


def label(body: Any) -> str:
    return fields(label=body["messages"][-1]["content"].split("]]")[1].split()[0].upper())


def model(server: BatchServer) -> Any:
    return rlm_dspy.lm("openai/gpt-4o-mini", api_base=f"{server.url}/v1", api_key="right-key", cache=False)


def examples(*texts: str) -> list[dspy.Example]:
    return [dspy.Example(text=text).with_inputs("text") for text in texts]


def test_a_predictor_is_called_for_each_example_in_one_batch() -> None:
    with BatchServer(reply=label, polls=2) as server, dspy.context(lm=model(server)):
        waves = Waves(pace=QUICK)
        found = predict_batch(dspy.Predict("text -> label"), examples("one", "two", "three"), waves=waves)
        waves.close()
        assert [row.label for row in found.rows] == ["ONE", "TWO", "THREE"]
        assert found.success_rate == 1.0
        assert (len(server.batches), len(server.paid)) == (1, 3)


def test_a_predictors_own_lm_is_used_and_left_as_it_was() -> None:
    predictor = dspy.ChainOfThought("text -> label")
    with BatchServer(reply=lambda body: fields(reasoning="so", label="x")) as server:
        predictor.set_lm(own := model(server))
        waves = Waves(pace=QUICK)
        found = predict_batch(predictor, examples("one"), waves=waves)
        waves.close()
        assert found.rows[0].label == "x"
        assert predictor.get_lm() is own
        assert server.ordinary == []


def test_a_row_that_fails_is_an_error_in_its_place() -> None:
    outcome = lambda body, before: "400" if "two" in body["messages"][-1]["content"] else "ok"  # noqa: E731
    with BatchServer(reply=label, outcome=outcome) as server, dspy.context(lm=model(server)):
        waves = Waves(pace=QUICK)
        found = predict_batch(dspy.Predict("text -> label"), examples("one", "two"), waves=waves)
        waves.close()
        assert found.rows[0].label == "ONE"
        assert isinstance(found.rows[1], LMError)
        assert (found.success_rate, len(found.failed)) == (0.5, 1)


def test_predictions_are_replayed_from_the_journal(tmp_path: Path) -> None:
    predictor, given = dspy.Predict("text -> label"), examples("one", "two")
    with BatchServer(reply=label) as server, dspy.context(lm=model(server)):
        for _ in range(2):
            found = predict_batch(predictor, given, journal=tmp_path / "labels.waves")
            assert [row.label for row in found.rows] == ["ONE", "TWO"]
        assert len(server.paid) == 2


def test_no_examples_are_no_batch() -> None:
    with BatchServer() as server, dspy.context(lm=model(server)):
        assert predict_batch(dspy.Predict("text -> label"), []).rows == ()
        assert server.batches == {}


def test_a_job_and_its_questions_go_in_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.md").write_text("The gate opens at six.\n")
    with BatchServer(reply=lambda body: fields(answer="six", evidence="[]")) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "right-key")
        connection = {"api_base": f"{server.url}/v1", "cache": False}
        job = Job("context, question -> answer", (str(tmp_path / "a.md"),), "openai/gpt-4o-mini", connection=connection)
        out = Answers(tmp_path / "answers.jsonl")
        report = Batch(job, out=out, provider_batch=True).run([f"q{number}" for number in range(30)])
        assert report.success_rate == 1.0
        assert (len(server.batches), len(server.paid)) == (1, 30)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 30
    assert not (tmp_path / "answers.jsonl.waves").exists()


def test_max_cost_holds_for_provider_batches(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("The gate opens at six.\n")
    with BatchServer(reply=lambda body: fields(answer="six", evidence="[]")) as server:
        program = Program("context, question -> answer", rlm_dspy.read([str(tmp_path)]), model(server))
        waves = Waves(pace=QUICK)
        batch = Batch(program, max_cost=1e-4, concurrency=2, provider_batch=waves)
        report = batch.run([f"q{number}" for number in range(40)])
        assert report.stopped_by == "max_cost"
        assert 0 < report.cost <= 1e-4
        assert len(server.paid) == report.answered < 40


def test_an_executor_or_another_kind_of_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x\n")
    lm, _ = scripted("x")
    program = Program("context, question -> answer", rlm_dspy.read([str(tmp_path)]), lm)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ConfigurationError, match="executor"):
        Batch(program, executor=pool, provider_batch=True)
    with pytest.raises(ConfigurationError, match=r"in Python by rlm_dspy\.lm"):
        Batch(program, provider_batch=True)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="deadline must be above 0"):
        Waves(deadline=0)
    waves = Waves()
    with pytest.raises(ConfigurationError, match="cannot be used together"):
        predict_batch(dspy.Predict("a -> b"), [], journal=tmp_path / "x.waves", waves=waves)
    waves.close()


def test_the_plan_counts_the_discount_of_the_cache() -> None:
    alike = plan_calls("openai/gpt-4o-mini", 100, 400_000)
    apart = plan_calls("openai/gpt-4o-mini", 100, 400_000, is_shared=False)
    assert alike.batch_cost == apart.batch_cost == pytest.approx(apart.ordinary_cost / 2)
    assert alike.ordinary_cost < apart.ordinary_cost
    cheap_cache = plan_calls("anthropic/claude-haiku-4-5", 100, 400_000)  # its cache costs a tenth
    assert cheap_cache.ordinary_cost < cheap_cache.batch_cost
    assert "Ordinary calls are cheaper here." in cheap_cache.text
    runs = plan_runs("openai/gpt-4o-mini", 10)
    assert (runs.calls, runs.waves) == (80, 8)
    assert plan_runs("openai/unheard-of", 10).batch_cost is None
    assert "cost unknown" in plan_runs("openai/unheard-of", 10).text
    assert json.dumps(runs.text)


def test_a_reply_that_cannot_be_read_is_the_error_of_its_row() -> None:
    def reply(body: Any) -> str:
        return "I cannot help with that." if "two" in str(body) else fields(stars="4")

    with BatchServer(reply=reply) as server, dspy.context(lm=model(server)):
        waves = Waves(pace=QUICK)
        found = predict_batch(dspy.Predict("text -> stars: int"), examples("one", "two", "three"), waves=waves)
        waves.close()
    assert [getattr(row, "stars", None) for row in found.rows] == [4, None, 4]
    assert isinstance(found.rows[1], ActionError)


def test_what_a_module_raises_is_the_error_of_its_row() -> None:
    class Strict(dspy.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("text -> label")

        def forward(self, text: str) -> dspy.Prediction:
            done = self.predict(text=text)
            if done.label == "TWO":
                raise ValueError("not this one")
            return done

    with BatchServer(reply=label) as server, dspy.context(lm=model(server)):
        waves = Waves(pace=QUICK)
        found = predict_batch(Strict(), examples("one", "two"), waves=waves)
        waves.close()
    assert found.rows[0].label == "ONE"
    assert str(found.rows[1]) == "not this one"
    assert found.failed == (found.rows[1],)
