"""A log of each candidate that an optimizer tried, written by the program and the metric.

Optimizers do not return their findings when interrupted. But every rollout goes through the program and every score
through the metric, so these two know which candidate scored what on which question. The order in which the candidates
were measured is also kept in a file, because a resumed attempt replays all of them at once.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
from pydantic import BaseModel

from rlm_dspy import safe_files
from rlm_dspy.errors import RLMError
from rlm_dspy.rlm.prediction import run_of
from rlm_dspy.run import Run
from rlm_dspy.tuning import scoring
from rlm_dspy.tuning.metered_engine import FAILURES, CapReachedError
from rlm_dspy.tuning.metrics import Metric
from rlm_dspy.tuning.program import Tunable, instructions, state_of

MAX_FAILED_IN_A_ROW = 10


class Measurement(BaseModel):
    """When a candidate was measured on the whole validation set: after how many LM calls, at which cost of its own."""

    digest: str
    calls: int
    cost: float | None = None
    score: float = 0.0


@dataclass
class Candidate:
    """A program that was tried: its state, and its scores by question id.

    ``measured_at`` is the number of LM calls of the optimization after which it had run on the whole validation set,
    and ``cost`` what its own runs had cost by then; None for unknown.
    """

    digest: str
    number: int
    state: dict[str, Any]
    instructions: dict[str, str]
    demos: int
    scores: dict[str, float] = field(default_factory=dict)
    measured_at: int | None = None
    cost: float | None = 0.0

    def mean(self, ids: Collection[str] | None = None) -> float:
        """Return the mean score, on some questions or all."""
        return scoring.mean([score for name, score in self.scores.items() if ids is None or name in ids])


class CandidateLog:
    """The candidates in the order they were first tried. Thread-safe; copying returns the same object.

    Args:
        val_ids: the questions of the validation set.
        count_calls: returns the LM calls so far.
        path: keeps the measurements for a resumed attempt; None keeps them only here.
    """

    def __init__(
        self, val_ids: Collection[str] = (), count_calls: Callable[[], int] = lambda: 0, path: Path | None = None
    ) -> None:
        self.candidates: dict[str, Candidate] = {}
        self._val_ids = frozenset(val_ids)
        self._count_calls = count_calls
        self._path = path
        if path:
            rows = safe_files.read_rows(path, Measurement.model_validate_json, repair=True)
        else:
            rows = []
        self._earlier = {row.digest: row for row in reversed(rows)}  # the first of each
        self.counts_failures = False  # while an optimizer compiles
        self.failed_questions = 0  # questions that a provider's failure ended; DSPy scores them as 0
        self.last_failure = ""
        self._failed_in_a_row = 0
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
            self._failed_in_a_row = 0
            self._runs[run.id] = digest
            candidate = self.candidates[digest]
            if candidate.measured_at is None:
                if candidate.cost is None or run.usage.cost is None:
                    candidate.cost = None
                else:
                    candidate.cost += run.usage.cost

    def record_failure(self, error: Exception) -> None:
        """Record a question that failed through no fault of its candidate.

        Raises:
            CapReachedError: too many in a row.
        """
        if not self.counts_failures:
            return
        with self._lock:
            self.failed_questions += 1
            self._failed_in_a_row += 1
            self.last_failure = f"{type(error).__name__}: {error}"
            if self._failed_in_a_row >= MAX_FAILED_IN_A_ROW:
                raise CapReachedError(FAILURES, f"{MAX_FAILED_IN_A_ROW} questions in a row failed") from error

    def record_score(self, example: Any, prediction: Any, score: float) -> None:
        """Record the score of a candidate's run."""
        run = run_of(prediction)
        with self._lock:
            if isinstance(run, Run) and (digest := self._runs.get(run.id)):
                candidate = self.candidates[digest]
                candidate.scores[str(example.get("id"))] = score
                if candidate.measured_at is None and self._val_ids and self._val_ids <= candidate.scores.keys():
                    self._record_measurement(candidate)

    def _record_measurement(self, candidate: Candidate) -> None:
        """Record that a candidate has run on the whole validation set; an earlier attempt's record holds."""
        measurement = self._earlier.get(candidate.digest)
        if measurement is None:
            score = candidate.mean(self._val_ids)
            measurement = Measurement(
                digest=candidate.digest, calls=self._count_calls(), cost=candidate.cost, score=score
            )
            if self._path is not None:
                safe_files.append_row(self._path, measurement.model_dump_json())
        candidate.measured_at, candidate.cost = measurement.calls, measurement.cost

    def best(self, ids: Collection[str]) -> Candidate | None:
        """Return the candidate with the best mean on the questions, among those that ran on all of them.

        A question that no candidate could answer, because it fails each time, does not count.
        """
        answered: set[str] = set()
        for candidate in self.candidates.values():
            answered |= candidate.scores.keys()
        shared = answered & set(ids)
        whole = [candidate for candidate in self.candidates.values() if shared and shared <= candidate.scores.keys()]
        if not whole:
            return None
        return max(whole, key=lambda candidate: (candidate.mean(ids), -candidate.number))

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
        try:
            prediction = super().forward(**inputs)
        except RLMError as error:
            self.candidate_log.record_failure(error)
            raise
        if isinstance(run := run_of(prediction), Run):
            self.candidate_log.record_run(self, run)
        return prediction
