"""A user's DSPy callbacks see our evaluations and optimizations, as MLflow's and W&B's do."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

import rlm_dspy
from rlm_dspy import data, metrics
from rlm_dspy.budget import Budget
from rlm_dspy.testing import action, scripted
from rlm_dspy.tuning import contenders, optimization
from rlm_dspy.tuning.evaluation import Evaluation
from rlm_dspy.tuning.optimization import Optimization, OptimizationJob
from tuning.student import examples, student, teacher

DOCS = Path(__file__).parents[2] / "docs" / "optimizing.md"


class Recorder(BaseCallback):
    """Keeps each event, with the event that it happened in."""

    def __init__(self) -> None:
        self.started: list[tuple[str, Any, dict[str, Any]]] = []
        self.ended: list[tuple[str, Any]] = []

    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.started]

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.started.append(("evaluate", instance, inputs))

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.ended.append(("evaluate", outputs))

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.started.append(("module", instance, inputs))

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.started.append(("lm", instance, inputs))

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.started.append(("compile", instance, inputs))

    def on_compile_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.ended.append(("compile", outputs))


def sky(count: int) -> list[dspy.Example]:
    same = {"context": "the sky is blue", "answer": "blue"}
    rows = [dspy.Example(id=f"q{n}", question=f"colour {n}?", **same) for n in range(count)]
    return [row.with_inputs("context", "question") for row in rows]


def test_callbacks_see_each_side_of_an_evaluation_with_its_calls(tmp_path: Path) -> None:
    lm, _ = scripted(lambda _: action("SUBMIT(answer='blue', evidence=['the sky is blue'])"))
    seen = Recorder()
    for _ in range(2):  # the second time every row is in the journal
        with dspy.context(lm=lm, callbacks=[seen]):
            sides = [contenders.make_contender("rlm", Budget(max_iters=3))]
            Evaluation(sky(2), metrics.exact, journal=tmp_path / "rows.jsonl").run(sides)
    assert seen.kinds()[0] == "evaluate"
    assert seen.kinds().count("evaluate") == 2
    assert seen.kinds().count("lm") >= 2
    assert "module" in seen.kinds()
    first = seen.started[0][2]
    assert first["program"] is not None
    assert first["callback_metadata"] == {"metric_key": "eval_rlm"}
    for kind, result in seen.ended:
        assert kind == "evaluate"
        assert isinstance(result, dspy.evaluate.EvaluationResult)
        assert result.score == 100.0
        assert [(one.id, got.answer, score) for one, got, score in result.results] == [
            ("q0", "blue", 1.0),
            ("q1", "blue", 1.0),
        ]


def test_the_callback_for_wandb_in_the_documentation_logs_each_score(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, float]] = []
    wandb = types.ModuleType("wandb")
    wandb.init = lambda project: types.SimpleNamespace(log=logged.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (code,) = (part for part in DOCS.read_text().split("```python\n") if "class WandbScores" in part)
    code = code.split("```")[0].replace("dspy.configure(callbacks=[", "made = ([")
    names: dict[str, Any] = {}
    exec(code, names)
    lm, _ = scripted(lambda _: action("SUBMIT(answer='blue', evidence=['the sky is blue'])"))
    with dspy.context(lm=lm, callbacks=names["made"]):
        Evaluation(sky(2), metrics.exact).run([contenders.make_contender("rlm", Budget(max_iters=3))])
    assert logged == [{"eval_rlm": 100.0}]


def test_callbacks_see_an_optimization_from_the_first_evaluation_to_the_last(tmp_path: Path) -> None:
    (lm, _), (prompt_lm, _) = student(), teacher()
    parts = [data.handles(examples(count, seed)) for count, seed in ((4, 1), (4, 2), (4, 3))]
    for seed, part in enumerate(parts):
        for number, one in enumerate(part):
            one["id"] = f"{seed}-{number}"
    job = OptimizationJob(
        optimizer="gepa",
        train=parts[0],
        val=parts[1],
        test=parts[2],
        metric=metrics.exact,
        lm=lm,
        folder=tmp_path / "run",
        max_calls=100,
        prompt_lm=prompt_lm,
        budget=Budget(max_iters=4),
        signature="context, question -> answer",
        threads=2,
    )
    seen = Recorder()
    with dspy.context(callbacks=[seen]):
        Optimization(job, optimization.plan_for(job, optimization.UsageRate(calls=2))).run()
    keys = [inputs["callback_metadata"] for kind, _, inputs in seen.started if kind == "evaluate"]
    assert keys[0] == {"metric_key": "test_before"}
    assert keys[-1] == {"metric_key": "test_after"}
    assert len(keys) > 3  # and those of GEPA between them
    assert seen.kinds().count("compile") == 1
    assert {"module", "lm"} <= set(seen.kinds())
    assert all(isinstance(result.score, float) for kind, result in seen.ended if kind == "evaluate")


MLFLOW_RUN = """
import dspy, mlflow
mlflow.set_tracking_uri("sqlite:///runs.db")
mlflow.set_experiment("x")
mlflow.dspy.autolog(log_compiles=True, log_evals=True)
from rlm_dspy import metrics
from rlm_dspy.budget import Budget
from rlm_dspy.testing import action, scripted
from rlm_dspy.tuning import contenders
from rlm_dspy.tuning.evaluation import Evaluation
lm, _ = scripted(lambda _: action("SUBMIT(answer='blue', evidence=['the sky is blue'])"))
asked = dspy.Example(id="q", context="the sky is blue", question="colour?", answer="blue")
with dspy.context(lm=lm):
    sides = [contenders.make_contender("rlm", Budget(max_iters=3))]
    Evaluation([asked.with_inputs("context", "question")], metrics.exact).run(sides)
for run in mlflow.search_runs(experiment_names=["x"], output_format="list"):
    print(run.info.run_name, run.info.status, run.data.metrics)
"""


@pytest.mark.integration
@pytest.mark.skipif("RLM_DSPY_MLFLOW" not in os.environ, reason="RLM_DSPY_MLFLOW names no virtual environment")
def test_mlflows_autolog_keeps_a_run_with_the_score_of_an_evaluation(tmp_path: Path) -> None:
    python = Path(os.environ["RLM_DSPY_MLFLOW"]).absolute() / "bin" / "python"
    source = Path(rlm_dspy.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(
        [python, "-c", MLFLOW_RUN], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=True
    )
    assert done.stdout.splitlines() == ["eval_rlm FINISHED {'eval': 100.0}"]
