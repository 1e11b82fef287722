"""Metrics for ``dspy.Evaluate`` and for optimizers, with feedback written from the whole run.

Called by ``dspy.Evaluate``, a metric returns a number; called by GEPA for a predictor, the number with feedback; called
with a trace by the bootstrapping optimizers, whether the run is good enough for a demo. A missing answer scores 0 with
an explanation; it does not raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

import dspy

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence.absence import is_absent
from rlm_dspy.rlm.prediction import run_of
from rlm_dspy.run import Run
from rlm_dspy.tuning import feedback, scoring

MAX_SHOWN_CHARS = 80  # of an answer in an error

Score = Callable[[Any, Any], float]
Spending = Literal["tokens", "cost", "calls", "seconds"]


class Metric:
    """A score of predictions, usable as the metric of every DSPy optimizer.

    Args:
        score: returns a number from 0 to 1 for (example, prediction).
        name: the name in reports.
        accept: the minimum score for bootstrapping to use a run as a demo.
        field: the compared output, with the same name on example and prediction.

    Example:
        >>> dspy.GEPA(metric=rlm_dspy.metrics.graded, reflection_lm=lm, max_metric_calls=100)
    """

    def __init__(self, score: Score, name: str, *, accept: float = 1.0, field: str = "answer") -> None:
        self._score = score
        self.__name__ = name
        self.accept = accept
        self.field = field

    def score(self, example: Any, prediction: Any) -> float:
        """Return the score of a prediction; 0 if there is none, or the run failed to give an answer.

        Raises:
            ConfigurationError: the metric gave no number from 0 to 1.
        """
        if prediction is None or prediction.get(self.field, "") is None:
            return 0.0
        value = float(self._score(example, prediction))
        if not 0 <= value <= 1:
            raise ConfigurationError(f"the metric {self.__name__} gave {value:g}, and a score is from 0 to 1")
        return value

    def feedback(self, example: Any, prediction: Any) -> str:
        """Explain the score from the run, in at most 2,000 characters."""
        run = run_of(prediction)
        return feedback.write_feedback(
            asked=dict(example.inputs().items()),
            expected=example.get(self.field),
            got=None if prediction is None else prediction.get(self.field),
            score=self.score(example, prediction),
            name=self.__name__,
            run=run if isinstance(run, Run) else None,
            error="" if prediction is None or isinstance(run, Run) else str(prediction.get("error") or ""),
        )

    def explained(self, example: Any, prediction: Any, *_: Any) -> dspy.Prediction:
        """Return score and feedback together, e.g. for SIMBA."""
        return dspy.Prediction(score=self.score(example, prediction), feedback=self.feedback(example, prediction))

    def __call__(
        self, example: Any, prediction: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> Any:
        if pred_name is not None or pred_trace is not None:
            return self.explained(example, prediction)
        value = self.score(example, prediction)
        if trace is None:
            return value
        return value >= self.accept

    def __repr__(self) -> str:
        return f"Metric({self.__name__})"


def of(scorer: str | Score, *, field: str = "answer", accept: float = 1.0) -> Metric:
    """Make a metric from a scorer's name, or from a function of (expected, got)."""
    if isinstance(scorer, str):
        compare, name = _find_scorer(scorer), scorer
    else:
        compare, name = scorer, getattr(scorer, "__name__", "score")

    def compare_field(example: Any, prediction: Any) -> float:
        got = prediction.get(field)
        if got is None:
            return 0.0
        return compare(example[field], got)

    return Metric(compare_field, name, field=field, accept=accept)


def _find_scorer(name: str) -> Score:
    if name not in scoring.SCORERS:
        known = ", ".join(sorted(scoring.SCORERS))
        raise ConfigurationError(f"{name!r} is not a scorer; choose from {known}")
    return scoring.SCORERS[name]


def check_answers(examples: Iterable[dspy.Example], metric: str) -> None:
    """Refuse expected answers that no answer in text can equal, instead of scoring 0.

    Raises:
        ConfigurationError: an expected answer is an object, or no number where closeness is measured.
    """
    for example in examples:
        answer = example.get("answer")
        shown = repr(answer)[:MAX_SHOWN_CHARS]
        if metric == graded.__name__:
            scorer = example.get("scorer") or "exact"
        else:
            scorer = metric
        items = answer if isinstance(answer, list) else [answer]
        if any(isinstance(item, dict) for item in items):
            raise ConfigurationError(
                f"question {example.get('id')}: the answer {shown} is or has an object. Write a text, a number, a list "
                'or null; if several answers are right, a list of them and `"scorer": "any"`'
            )
        if scorer == "closeness" and scoring.number_in(answer) is None:
            raise ConfigurationError(
                f"question {example.get('id')}: closeness needs a number, and the answer is {shown}"
            )


def _graded_score(example: Any, prediction: Any) -> float:
    return _find_scorer(example.get("scorer") or "exact")(example["answer"], prediction.get("answer"))


def _evidence_share(example: Any, prediction: Any) -> float:
    """Return the share of quotes that the host found and that contain the proof of the answer."""
    quotes = [item for item in evidence_of(prediction) if item.match is not None]
    claimed = len(evidence_of(prediction))
    if not claimed:
        return float(is_absent(example.get("answer")))
    proofs = example.get("support") or scoring.listed_items(example.get("answer"))
    proofs = [proofs] if isinstance(proofs, str) else proofs
    good = 0
    for item in quotes:
        good += any(supports(item.quote, proof) for proof in proofs)
    return good / claimed


def supports(quote: str, proof: Any) -> bool:
    """Return whether a quote and a proof are the same passage, i.e. one contains the other."""
    said, needed = scoring.normal_text(quote), scoring.normal_text(proof)
    if not said or not needed:
        return False
    # A bare value counts only as a whole word; a sentence may be quoted in part.
    return bool(re.search(rf"(?<!\w){re.escape(needed)}(?!\w)", said)) or (len(said) >= 12 and said in needed)


def evidence_of(prediction: Any) -> list[Any]:
    """Return the quotes of a prediction; empty if it has no evidence."""
    evidence = prediction.get("evidence")
    if not isinstance(evidence, list):
        return []
    return [item for item in evidence if hasattr(item, "quote")]


def spent(prediction: Any, what: Spending) -> float:
    """Return the tokens, US dollars, calls or seconds that a prediction's run used; an unknown cost counts as 0."""
    run = run_of(prediction)
    if not isinstance(run, Run):
        return 0.0
    used = {"tokens": run.usage.total_tokens, "cost": run.usage.cost, "calls": run.usage.calls, "seconds": run.seconds}
    return float(used[what] or 0.0)


def composite(
    quality: Metric,
    *,
    evidence: float = 0.0,
    penalty: float = 0.2,
    of: Spending = "tokens",
    allowance: float = 50_000,
    gate: float = 0.5,
) -> Metric:
    """Combine quality and evidence, and subtract cost only from answers above the quality gate.

    Args:
        quality: the main metric.
        evidence: the weight of evidence precision within the quality, from 0 to 1.
        penalty: the deduction for using the whole allowance.
        of: the resource to save: ``tokens``, ``cost``, ``calls`` or ``seconds``.
        allowance: the amount of it that incurs the full penalty.
        gate: below this quality nothing is deducted, and above it the score never drops below it.
    """
    if not 0 <= evidence <= 1 or not 0 < gate <= 1 or penalty < 0 or allowance <= 0:
        raise ConfigurationError("composite: evidence must be from 0 to 1, gate above 0, penalty not negative")

    def score(example: Any, prediction: Any) -> float:
        value = quality.score(example, prediction)
        if evidence:
            value = (1 - evidence) * value + evidence * _evidence_share(example, prediction)
        if value < gate:
            return value
        return max(gate, value - penalty * min(1.0, spent(prediction, of) / allowance))

    return Metric(score, f"{quality.__name__} with thrift in {of}", accept=gate, field=quality.field)


exact = of("exact")
f1 = of("f1", accept=0.6)
closeness = of("closeness", accept=0.75)
set_f1 = of("set_f1", accept=0.9)
abstention = of("abstention")
graded = Metric(_graded_score, "graded", accept=0.9)
evidence_precision = Metric(_evidence_share, "evidence precision")
