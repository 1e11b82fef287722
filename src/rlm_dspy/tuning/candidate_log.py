"""A log of each candidate that an optimizer tried, written by the program and the metric.

Optimizers do not return their findings when interrupted. But every rollout goes through the program and every score
through the metric, so these two know which candidate scored what on which question.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import dspy

from rlm_dspy.rlm.prediction import run_of
from rlm_dspy.run import Run
from rlm_dspy.tuning import scoring
from rlm_dspy.tuning.metrics import Metric
from rlm_dspy.tuning.program import Tunable, instructions, state_of


@dataclass
class Candidate:
    """A program that was tried: its state, and its scores by question id."""

    digest: str
    number: int
    state: dict[str, Any]
    instructions: dict[str, str]
    demos: int
    scores: dict[str, float] = field(default_factory=dict)

    def mean(self, ids: Collection[str] | None = None) -> float:
        """Return the mean score, on some questions or all."""
        return scoring.mean([score for name, score in self.scores.items() if ids is None or name in ids])


class CandidateLog:
    """The candidates in the order they were first tried. Thread-safe; copying returns the same object."""

    def __init__(self) -> None:
        self.candidates: dict[str, Candidate] = {}
        self._runs: dict[str, str] = {}
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> CandidateLog:
        return self

    def record_run(self, program: Tunable, run: Run) -> None:
        """Record which candidate made a run."""
        state = state_of(program)
        digest = hashlib.sha256(json.dumps(state, sort_keys=True, default=repr).encode()).hexdigest()[:12]
        with self._lock:
            if digest not in self.candidates:
                demos = sum(len(part.get("demos") or ()) for part in state.values())
                number = len(self.candidates)
                self.candidates[digest] = Candidate(digest, number, state, instructions(program), demos)
            self._runs[run.id] = digest

    def record_score(self, example: Any, prediction: Any, score: float) -> None:
        """Record the score of a candidate's run."""
        run = run_of(prediction)
        with self._lock:
            if isinstance(run, Run) and (digest := self._runs.get(run.id)):
                self.candidates[digest].scores[str(example.get("id"))] = score

    def best(self, ids: Collection[str]) -> Candidate | None:
        """Return the candidate with the best mean on the questions, among those that ran on all of them."""
        whole = [one for one in self.candidates.values() if set(ids) <= one.scores.keys()]
        return max(whole, key=lambda one: (one.mean(ids), -one.number)) if whole else None

    def metric(self, metric: Metric) -> Metric:
        """Return a metric that also records every score."""

        def score(example: Any, prediction: Any) -> float:
            value = metric.score(example, prediction)
            self.record_score(example, prediction, value)
            return value

        return Metric(score, metric.__name__, accept=metric.accept, field=metric.field)


class LoggedTunable(Tunable):
    """A tunable RLM that records its runs in the log."""

    def __init__(self, signature: Any, candidate_log: CandidateLog, **options: Any) -> None:
        super().__init__(signature, **options)
        self.candidate_log = candidate_log

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Answer, and record which candidate did."""
        prediction = super().forward(**inputs)
        if isinstance(run := run_of(prediction), Run):
            self.candidate_log.record_run(self, run)
        return prediction
