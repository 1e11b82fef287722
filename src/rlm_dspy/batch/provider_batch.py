"""Questions whose calls go to the provider in batches: a program for :class:`Batch`, and a list of examples."""

from __future__ import annotations

import contextvars
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from rlm_dspy.batch.job import Job, Program
from rlm_dspy.dspy_errors import translated_errors
from rlm_dspy.errors import ActionError, ConfigurationError
from rlm_dspy.lms.provider_batches import WaveJournal, Waves, batched_lm
from rlm_dspy.metering import batch_share
from rlm_dspy.rlm.subcalls import explain_unread

CALLS_AT_ONCE = 1_000  # questions of one call each
RUNS_AT_ONCE = 32  # runs of many steps; each has a sandbox
SUB_CALLS_AT_ONCE = 256  # of one run


def waves_path(answers: Path) -> Path:
    """Return the place of the journal of provider batches that belongs to a file of answers."""
    return answers.with_name(f"{answers.name}.waves")


class ProgramInWaves:
    """A program whose calls go to the provider in batches; it answers like the program itself.

    Raises:
        ConfigurationError: the model has no batches, or the program has a ``max_seconds``.
    """

    def __init__(self, program: Program | Job, waves: Waves) -> None:
        self._waves = waves
        plain = program.program() if isinstance(program, Job) else program
        if plain.budget.max_seconds is not None:
            raise ConfigurationError("max_seconds ends a question before a provider batch does; set a deadline instead")
        self.plain = plain
        lm = plain.lm or dspy.settings.lm
        self._batched = replace(
            plain,
            lm=batched_lm(lm, waves),
            sub_lm=batched_lm(plain.sub_lm, waves) if plain.sub_lm else None,
            budget=plain.budget.model_copy(update={"max_concurrency": SUB_CALLS_AT_ONCE}),
        )
        self.price = plain.price * batch_share(str(getattr(lm, "model", "")))

    @property
    def corpus_digest(self) -> str:
        """The digest of the texts."""
        return self.plain.corpus_digest

    @property
    def digest(self) -> str:
        """A digest of the program, the same as without batches, because the answers are interchangeable."""
        return self.plain.digest

    @property
    def questions_at_once(self) -> int:
        """How many questions are asked at once, unless the caller says otherwise."""
        if self.plain.explores:
            return RUNS_AT_ONCE
        return CALLS_AT_ONCE

    def answer(self, question: str, max_cost: float | None = None) -> dict[str, Any]:
        """Answer one question; its calls wait for those of the others."""
        with self._waves.asking(question):
            return self._batched.answer(question, max_cost)


@dataclass(frozen=True)
class PredictedBatch:
    """One row for each example, in order: a ``dspy.Prediction``, or the error that was raised instead."""

    rows: tuple[dspy.Prediction | Exception, ...]

    @property
    def failed(self) -> tuple[Exception, ...]:
        """The errors: an ``ActionError`` for a reply that cannot be read, or what the module itself raised."""
        return tuple(row for row in self.rows if isinstance(row, Exception))

    @property
    def success_rate(self) -> float:
        """The share of examples with a prediction."""
        if self.rows:
            return 1 - len(self.failed) / len(self.rows)
        return 1.0


def predict_batch(
    predictor: dspy.Module,
    examples: Iterable[dspy.Example],
    *,
    journal: Path | None = None,
    waves: Waves | None = None,
) -> PredictedBatch:
    """Call a predictor, or any other module, for each example, with all calls in provider batches.

    Args:
        predictor: a ``dspy.Predict`` or another module; it is copied, and its LMs are replaced in the copy.
        examples: their inputs are passed to it.
        journal: a file from which a killed process is resumed without paying twice; call this again with it.
        waves: to set a deadline or to show progress; it has its own journal, and is not closed.

    Raises:
        ConfigurationError: the LM was not made by :func:`rlm_dspy.lm`, or its provider has no batches; or ``journal``
            and ``waves`` are both given.

    Example:
        >>> predict_batch(dspy.Predict("text -> label"), examples, journal=Path("labels.waves"))  # doctest: +SKIP
    """
    if journal is not None and waves is not None:
        raise ConfigurationError("journal and waves cannot be used together: waves has a journal of its own")
    mine = waves or Waves(WaveJournal(journal))
    try:
        return _predict_rows(predictor, list(examples), mine)
    finally:
        if waves is None:
            mine.close()


def _predict_rows(predictor: dspy.Module, examples: list[dspy.Example], waves: Waves) -> PredictedBatch:
    copied = predictor.deepcopy()
    for _, one in copied.named_predictors():
        if one.lm is not None:
            one.lm = batched_lm(one.lm, waves)
    lm = dspy.settings.lm
    batched = lm and batched_lm(lm, waves)
    if not examples:
        return PredictedBatch(())

    def predict_row(example: dspy.Example) -> dspy.Prediction | Exception:
        try:
            with waves.asking(str(dict(example.inputs()))), dspy.context(lm=batched), translated_errors():
                return copied(**example.inputs())
        except AdapterParseError as error:
            return ActionError(f"the model's reply cannot be read: {explain_unread(error)}")
        except Exception as error:  # the module may raise anything; one failed row must not lose the paid ones
            return error

    with ThreadPoolExecutor(min(len(examples), CALLS_AT_ONCE), thread_name_prefix="rlm-predict") as pool:
        futures = [pool.submit(contextvars.copy_context().run, predict_row, example) for example in examples]
        return PredictedBatch(tuple(future.result() for future in futures))
