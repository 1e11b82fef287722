"""What an optimization will do for a number of calls: rollouts, the optimizer's settings, cost and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.report import journal
from rlm_dspy.tuning import statistics
from rlm_dspy.tuning.evaluation import Row

OPTIMIZERS = ("gepa", "mipro", "bootstrap", "simba")
GUESSED_CALLS = 6.0  # LM calls of a question, where nothing has been measured
SPARE = 1.25  # the last evaluation may need so much more than the first


@dataclass(frozen=True)
class Rate:
    """What a question takes on the average, and how it is known."""

    calls: float = GUESSED_CALLS
    cost: float | None = None
    seconds: float | None = None
    measured: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Rate:
        """Measure it from rows of an evaluation."""
        asked = [row for row in rows if row.calls]
        if not asked:
            return cls()
        costs = [row.cost for row in asked]
        return cls(
            calls=statistics.mean([row.calls for row in asked]),
            cost=None if None in costs else statistics.mean([cost or 0.0 for cost in costs]),
            seconds=statistics.percentile([row.seconds for row in asked], 0.5),
            measured=len(asked),
        )


@dataclass(frozen=True)
class Plan:
    """How the calls are spent: on the first and last evaluation, and on the rollouts between them."""

    optimizer: str
    train: int
    val: int
    test: int
    max_calls: int
    rate: Rate
    rollouts: int
    settings: dict[str, Any] = field(default_factory=dict)

    def lines(self, max_cost: float | None, per_minute: int | None, threads: int) -> list[str]:
        """Return the plan as lines for people."""
        rate = self.rate
        how = f"measured on {rate.measured} questions" if rate.measured else "a guess; `rlm-dspy eval` measures it"
        said = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [
            f"{self.optimizer}: {said}",
            f"questions: {self.train} to learn from, {self.val} to choose by, {self.test} to judge by (twice)",
            f"rollouts: about {self.rollouts + 2 * self.test} × {rate.calls:.1f} calls ({how}), at most "
            f"{self.max_calls:,} calls",
        ]
        total = min(self.max_calls, (self.rollouts + 2 * self.test) * rate.calls)
        cost = "unknown" if rate.cost is None else f"about ${total / rate.calls * rate.cost:.2f}"
        lines.append(f"cost: {cost}{'' if max_cost is None else f', at most ${max_cost:.2f}'}")
        waits = []
        if per_minute:
            waits.append(f"at least {total / per_minute:.0f} min at {per_minute} calls a minute")
        if rate.seconds is not None:
            waits.append(f"about {total / rate.calls * rate.seconds / threads / 60:.1f} min as measured")
        return [*lines, f"time: {', '.join(waits) or 'unknown: neither a rate limit nor a measurement is known'}"]


def plan(optimizer: str, max_calls: int, *, train: int, val: int, test: int, rate: Rate) -> Plan:
    """Fit an optimizer's settings into a number of calls.

    Raises:
        ConfigurationError: there is no such optimizer, or the calls do not pay for anything.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigurationError(f"there is no optimizer {optimizer!r}; there are {', '.join(OPTIMIZERS)}")
    judged = test * (1 + SPARE)
    left = int(max_calls / rate.calls - judged)
    least = _least(optimizer, train, val)
    if left < least:
        needed = round((least + judged) * rate.calls + 1)
        raise ConfigurationError(
            f"max-calls {max_calls:,} is too little for {optimizer} on {train} + {val} + {test} questions at "
            f"{rate.calls:.1f} calls each: give at least {needed:,}, or fewer questions (--limit)"
        )
    rollouts, settings = _FIT[optimizer](left, train, val)
    return Plan(optimizer, train, val, test, max_calls, rate, rollouts, settings)


def _least(optimizer: str, train: int, val: int) -> int:
    return {
        "gepa": val + 6,
        "mipro": 2 * min(train, 4) + 2 * val,
        "bootstrap": min(train, 8) + 2 * val,
        "simba": 7 * min(8, train) + 2 * (train + val),
    }[optimizer]


def _gepa(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    return left, {"max_metric_calls": left, "reflection_minibatch_size": min(3, train)}


def _mipro(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    # Each candidate set of demos runs the teacher on a few questions; each trial runs a candidate on all of val.
    candidates = max(2, min(8, left // (4 * max(1, val))))
    sets = candidates * min(train, 4)
    trials = max(1, min(40, (left - sets) // val - 1))
    return sets + (trials + 1) * val, {"num_candidates": candidates, "num_trials": trials}


def _bootstrap(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    each = val + min(train, 8)
    candidates = max(0, min(16, left // each - 3))
    return (candidates + 3) * each, {"num_candidate_programs": candidates}


def _simba(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    # A step runs a batch under several programs, twice; the winners are put to all questions in the end.
    batch, candidates, whole = min(8, train), 3, train + val
    step = batch * (2 * candidates + 1)
    steps = max(1, min(8, (left - (candidates + 1) * whole) // step))
    return steps * step + (min(steps, candidates) + 1) * whole, {
        "bsize": batch,
        "num_candidates": candidates,
        "max_steps": steps,
    }


_FIT = {"gepa": _gepa, "mipro": _mipro, "bootstrap": _bootstrap, "simba": _simba}


def known(place: Path, model: str) -> Rate:
    """Return what earlier evaluations of a model measured, if their journal is there."""
    rows = journal.rows(place, Row.model_validate_json)
    return Rate.of([row for row in rows if row.side == "rlm" and row.model == model])
