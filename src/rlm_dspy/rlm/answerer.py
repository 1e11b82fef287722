"""The one way to answer a question about a corpus: in one call, from its best passages, or by exploring it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from rlm_dspy.budget import Budget, used_text
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import estimate_tokens
from rlm_dspy.errors import ActionError, BudgetExceededError, LMContextWindowError, RLMError
from rlm_dspy.evidence.absence import is_absent
from rlm_dspy.lms import windows
from rlm_dspy.rlm.direct import NO_PASSAGE, SHOWN_PASSAGES, Direct
from rlm_dspy.rlm.modes import DIRECT_TOKENS, asks_about_all, first_mode
from rlm_dspy.rlm.module import RLM
from rlm_dspy.run import Event, Run, add_usage


@dataclass(frozen=True)
class Answer:
    """A prediction, the run of it with the usage of every attempt, and the mode that gave it."""

    prediction: dspy.Prediction
    run: Run
    mode: str


def _explore(rlm: RLM, inputs: Mapping[str, Any]) -> dspy.Prediction:
    return rlm(**inputs)


@dataclass(frozen=True)
class Answerer:
    """Answers questions about a corpus in the mode that fits.

    Args:
        signature: with the inputs ``context`` and ``question``.
        mode: "auto" begins with one call if the corpus is small, explores it if that does not fit the window, and
            tries the best passages first for a tiny model that is asked about one place.
        budget: the limits of each question, over all its attempts.
        sub_lm: the LM of sub-calls.
        direct_tokens: the size up to which "auto" sends the whole text in one call.
        tools: functions for the cells; with any, "auto" explores.
        compile_rlm: returns the RLM with its compiled state; None where there is none.
        interpreter_factory: as for :class:`~rlm_dspy.RLM`.
        explore: calls the RLM.
        stop: set it to end the question with the best answer so far.
        on_event: called with each event.
        on_note: called with a line when the mode changes.
    """

    signature: Any
    mode: str = "auto"
    budget: Budget = field(default_factory=Budget)
    sub_lm: Any = None
    direct_tokens: int = DIRECT_TOKENS
    tools: Sequence[Callable[..., Any]] = ()
    compile_rlm: Callable[[RLM], RLM] | None = None
    interpreter_factory: Callable[[], Any] | None = None
    explore: Callable[[RLM, Mapping[str, Any]], Any] = _explore
    stop: threading.Event | None = None
    on_event: Callable[[Event], None] | None = None
    on_note: Callable[[str], None] | None = None

    def answer(self, corpus: Corpus, question: str, **inputs: Any) -> Answer:
        """Answer one question; further inputs of the signature are passed on.

        Raises:
            RLMError: with the partial run.
        """
        values = {"context": corpus, "question": question, **inputs}
        tokens = estimate_tokens(corpus.chars)
        must_explore = self.compile_rlm is not None or bool(self.tools)
        mode = first_mode(self.mode, tokens, direct_tokens=self.direct_tokens, is_compiled=must_explore)
        if mode == "retrieve":
            return _as_answer(self._direct(SHOWN_PASSAGES)(**values), mode)
        earlier: Run | None = None
        if mode == "rlm" and self._may_retrieve(corpus, question):
            found, earlier = self._answer_from_passages(values)
            if found is not None:
                return found
            self._note("The best-matching passages do not contain the answer; exploring the whole text.")
        if mode == "direct":
            try:
                return _as_answer(self._direct()(**values), mode)
            except LMContextWindowError as error:
                if self.mode == "direct":
                    raise
                earlier = error.run
                self._note("The text does not fit in the model's window; exploring it instead.")
        return self._explore_after(earlier, values)

    def _explore_after(self, earlier: Run | None, values: Mapping[str, Any]) -> Answer:
        """Explore with what an earlier attempt left of the budget, and add its usage to the run."""
        try:
            prediction = self.explore(self.make_rlm(_rest_of(self.budget, earlier)), values)
        except RLMError as error:
            if error.run is not None:
                error.run = _with_usage_of(earlier, error.run)
            raise
        return _as_answer(prediction, "rlm", earlier)

    def make_rlm(self, budget: Budget | None = None) -> RLM:
        """Return the RLM that explores, with this budget or the answerer's.

        Raises:
            ConfigurationError: the signature or the compiled state cannot work.
        """
        rlm = RLM(
            self.signature,
            tools=list(self.tools),
            sub_lm=self.sub_lm,
            interpreter_factory=self.interpreter_factory,
            budget=budget or self.budget,
        )
        if self.compile_rlm is not None:
            rlm = self.compile_rlm(rlm)
        rlm.stop = self.stop
        rlm.on_event = self.on_event  # afterwards: loading a state copies the program, and a watcher cannot be copied
        return rlm

    def _direct(self, passages: int | None = None) -> Direct:
        direct = Direct(self.signature, passages=passages, budget=self.budget, on_event=self.on_event)
        direct.stop = self.stop
        return direct

    def _may_retrieve(self, corpus: Corpus, question: str) -> bool:
        """Return whether to try a few passages first: a tiny model is asked about one place.

        On such models this beat exploring, except where a table had to be computed (benchmarks/ACCURACY.md).
        """
        if self.mode != "auto" or self.compile_rlm is not None or self.tools or not windows.is_tiny(dspy.settings.lm):
            return False
        has_tables = any(document.kind in ("csv", "tsv", "xlsx") for document in corpus.documents)
        return not has_tables and not asks_about_all(question)

    def _answer_from_passages(self, values: Mapping[str, Any]) -> tuple[Answer | None, Run | None]:
        """Return the answer from the best passages, or None if they gave none, and the run of the attempt."""
        try:
            prediction = self._direct(SHOWN_PASSAGES)(**values)
        except (ActionError, LMContextWindowError) as error:
            return None, error.run
        answer = _as_answer(prediction, "retrieve")
        if self._is_doubtful(answer):
            return None, answer.run
        return answer, answer.run

    def _is_doubtful(self, answer: Answer) -> bool:
        first = answer.prediction.get(next(iter(self.signature.output_fields)))
        warnings = answer.run.warnings
        return is_absent(first) or any(
            warning.startswith("unseen numbers") or NO_PASSAGE in warning for warning in warnings
        )

    def _note(self, line: str) -> None:
        if self.on_note:
            self.on_note(line)


def _as_answer(prediction: Any, mode: str, earlier: Run | None = None) -> Answer:
    return Answer(prediction, _with_usage_of(earlier, prediction.rlm_run), mode)


def _with_usage_of(earlier: Run | None, run: Run) -> Run:
    """Return the run with the usage of an earlier attempt added to its own."""
    if earlier is None:
        return run
    by_model = dict(run.usage_by_model)
    add_usage(by_model, earlier.usage_by_model)
    return run.model_copy(update={"usage": earlier.usage + run.usage, "usage_by_model": by_model})


def _rest_of(budget: Budget, earlier: Run | None) -> Budget:
    """Return what an earlier attempt left of a budget.

    Raises:
        BudgetExceededError: it left nothing.
    """
    if earlier is None:
        return budget
    used = {"max_tokens": earlier.usage.total_tokens, "max_cost": earlier.usage.cost, "max_seconds": earlier.seconds}
    rest: dict[str, Any] = {}
    for name, amount in used.items():
        limit = getattr(budget, name)
        if limit is not None and amount:
            rest[name] = limit - amount
            if rest[name] <= 0:
                message = f"{name} was used up by the first attempt ({used_text(name, amount, limit)}); raise it"
                raise BudgetExceededError(message, limit=name)
    return budget.model_copy(update=rest)
