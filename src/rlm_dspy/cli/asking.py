"""One question on its way to an answer: the model, the mode, the run, and what is printed and kept of it."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlm_dspy import windows
from rlm_dspy.cli import estimating, exits, inputs, models, outs, settings
from rlm_dspy.cli.answering import Request, mode
from rlm_dspy.cli.interrupts import Interrupts
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus import Corpus
from rlm_dspy.direct import NO_PASSAGE, PASSAGES, Direct
from rlm_dspy.errors import ActionError, BudgetExceededError, LMContextWindowError
from rlm_dspy.module import RLM
from rlm_dspy.record import Event, Run, Usage
from rlm_dspy.report import journal, live, render
from rlm_dspy.report.shelf import Shelf
from rlm_dspy.tuning import program, scoring

logger = logging.getLogger(__name__)

# A question for all of the text, not for a place in it.
_COUNTS = re.compile(
    r"\b(?:how (?:many|much|often)|number of|count|totals?|sum|average|mean|most|least|fewest|highest|lowest|largest|"
    r"smallest|all|each|every|list|compare|first|last)\b",
    re.IGNORECASE,
)
_MISS_CHARS = 120  # of an answer that says nothing but that there is none


class Asking:
    """One question on its way to an answer."""

    def __init__(self, request: Request, terminal: Terminal, values: settings.Settings, corpus: Corpus) -> None:
        self.request = request
        self.terminal = terminal
        self.values = values
        self.corpus = corpus
        self.mode = mode(request, values, corpus)
        self.signature = outs.signature(request.out)
        self.interpreter_factory: Callable[[], Any] | None = None
        self.result: Run | None = None
        self.earlier: Usage | None = None  # what an attempt from a few passages used

    def run(self) -> int:
        """Ask, print, and return the exit code."""
        chosen = models.choose(self.values)
        if chosen.notice:
            self.terminal.note(chosen.notice)
        if self.request.dry_run:
            self._preview(chosen)
            return exits.ANSWERED
        return self.answer(chosen)

    def answer(self, chosen: models.Chosen) -> int:
        """Ask a chosen model, print, keep the run as ``result``, and return the exit code."""
        if self.request.index and not self.corpus.index.build():
            self.terminal.note("The search index could not be built; -v tells why.")
        logger.info(
            "asking",
            extra={"model": chosen.name, "mode": self.mode, "files": len(self.corpus), "characters": self.corpus.chars},
        )
        with chosen.active(), self._keeping(), self._watching() as watch:
            prediction = self._ask(watch, chosen)
        run: Run = prediction.run
        if self.earlier is not None:
            run = run.model_copy(update={"usage": self.earlier + run.usage})
        self.result = run
        filed = self._filed(run)
        values = {name: prediction.get(name) for name in self.signature.output_fields if name != outs.EVIDENCE}
        self._print(run, values)
        if not filed:
            return exits.FAILED
        if self._is_miss(run, values):
            self._tell_missed()
            return exits.NOT_FOUND
        return exits.BUDGET if run.status == "extracted" else exits.ANSWERED

    def _is_miss(self, run: Run, values: Mapping[str, Any]) -> bool:
        """Tell whether the run says that nothing answers the question: in so many words, and without a quote."""
        answer = next(iter(values.values()), None) if len(values) == 1 else None
        if not isinstance(answer, str) or any(row.get("match") for row in run.evidence):
            return False
        return len(answer) <= _MISS_CHARS and scoring.absent(answer)

    def _tell_missed(self) -> None:
        """Say which files could hold an answer that was not found, because they were not read."""
        missed = [problem for problem in self.corpus.problems if problem.unread]
        if not missed:
            return
        kinds = Counter(Path(problem.name).suffix.lower() or "other" for problem in missed)
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5))
        files = render.counted(len(missed), "file")
        first = inputs.told(self.corpus, missed[0])
        self.terminal.note(f"warning: it could be in {files} not read ({told}), such as {first}")

    def _ask(self, watch: Callable[[Event], None], chosen: models.Chosen) -> Any:
        given = self.given()
        if self.mode == "retrieve":
            return self._direct(watch, passages=PASSAGES)(**given)
        if self.mode == "rlm" and self._may_retrieve(chosen):
            prediction = self._retrieved(watch, given)
            if prediction is not None:
                self.mode = "retrieve"
                return prediction
            self.terminal.note("The passages that fit best do not hold the answer, so the text is explored.")
        if self.mode == "direct":
            try:
                return self._direct(watch)(**given)
            except LMContextWindowError:
                if self.values.mode == "direct":
                    raise
                self.mode = "rlm"
                self.terminal.note("The text does not fit the model's window, so it is explored instead.")
        return self._explore(self._rlm(watch, chosen), given, watch)

    def _may_retrieve(self, chosen: models.Chosen) -> bool:
        """Tell whether a few passages may do: a tiny model is asked for something that stands in one place.

        On such a model that won over exploring, but lost where a table had to be computed (benchmarks/ACCURACY.md).
        """
        if self.values.mode != "auto" or self.request.program or not windows.is_tiny(chosen.lm):
            return False
        tables = any(document.kind in ("csv", "tsv", "xlsx") for document in self.corpus.documents)
        return not tables and not _COUNTS.search(self.request.question)

    def _retrieved(self, watch: Callable[[Event], None], given: Mapping[str, Any]) -> Any:
        """Return the answer from the passages that fit best, or None where they gave none; what it cost is kept."""
        try:
            prediction = self._direct(watch, passages=PASSAGES)(**given)
        except (ActionError, LMContextWindowError) as error:
            self.earlier = error.run.usage if error.run else None
            return None
        if not self._is_doubtful(prediction):
            return prediction
        self.earlier = prediction.run.usage
        return None

    def _is_doubtful(self, prediction: Any) -> bool:
        answer = prediction.get(next(iter(self.signature.output_fields)))
        warnings = prediction.run.warnings
        made_up = any(one.startswith("unseen numbers") or NO_PASSAGE in one for one in warnings)
        return made_up or scoring.absent(answer)

    def given(self) -> dict[str, Any]:
        """Return the inputs of the question."""
        return {"context": self.corpus, "question": self.request.question}

    def _explore(self, rlm: RLM, given: Mapping[str, Any], watch: Callable[[Event], None]) -> Any:
        """Run the RLM; the first Ctrl-C asks it for the best answer so far, the second ends it.

        Raises:
            KeyboardInterrupt: with the run; Ctrl-C came twice, or before there was anything to answer from.
        """
        note = watch.note if isinstance(watch, live.StatusLine) else self.terminal.note
        rlm.stop = threading.Event()
        with Interrupts(rlm.stop, lambda: note("Asking for the best answer so far; Ctrl-C again stops at once.")):
            try:
                return rlm(**given)
            except BudgetExceededError as error:
                if error.limit != "stop":
                    raise
                interrupt = KeyboardInterrupt()
                interrupt.run = error.run  # type: ignore[attr-defined]
                raise interrupt from error

    def _direct(self, watch: Callable[[Event], None], passages: int | None = None) -> Direct:
        values = self.values
        return Direct(
            self.signature,
            passages=passages,
            max_tokens=values.max_tokens,
            max_cost=values.max_cost,
            max_seconds=values.max_seconds,
            on_event=watch,
        )

    def _rlm(self, watch: Callable[[Event], None], chosen: models.Chosen) -> RLM:
        values = self.values
        rlm = RLM(
            self.signature,
            max_iters=values.max_iters,
            max_llm_calls=values.max_calls,
            sub_lm=chosen.sub_lm,
            interpreter_factory=self.interpreter_factory,
            max_tokens=values.max_tokens,
            max_cost=values.max_cost,
            max_seconds=values.max_seconds,
        )
        if self.request.program:
            program.load(rlm, self.request.program)
        rlm.on_event = watch  # loading copies the program, and a watcher cannot be copied
        return rlm

    @contextmanager
    def _watching(self) -> Iterator[Callable[[Event], None]]:
        """Show the live line, unless logs or ``-q`` want the terminal for themselves."""
        if self.terminal.quiet or self.terminal.verbose or self.request.log_json:
            yield _log
            return
        with live.StatusLine() as line:
            yield line

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Save the partial run of whatever ends the run early, Ctrl-C included."""
        try:
            yield
        finally:
            error = sys.exc_info()[1]
            run: Run | None = getattr(error, "run", None)
            # A run that failed before anything came of it is not worth a file, unless one was asked for.
            if run and (self.request.trace or isinstance(error, KeyboardInterrupt) or run.steps):
                self._keep(run)

    def _keep(self, run: Run) -> None:
        try:
            place = self._save(run)
        except OSError as error:
            self.terminal.error(f"the partial run could not be saved: {error}")
            return
        if not self.request.trace or not self.terminal.quiet:
            self.terminal.error(f"the partial run is in {place}")

    def _filed(self, run: Run) -> bool:
        """Save a finished run, and tell whether that was done where it was asked for."""
        try:
            self._save(run)
        except OSError as error:
            if not self.request.trace:
                folder = self.values.home / "runs"
                why = f"{folder}: {error.strerror}. Set RLM_DSPY_HOME."
                self.terminal.note(f"warning: the run could not be kept in {why}")
            else:
                self.terminal.error(f"the run could not be saved in {self.request.trace}: {error.strerror}")
                return False
        return True

    def _save(self, run: Run) -> Path:
        if self.request.trace:
            return journal.save(run, self.request.trace, self.terminal.redactor)
        return Shelf(self.values.home / "runs").put(run, self.terminal.redactor)

    def _preview(self, chosen: models.Chosen) -> None:
        limits = {"max_iters": self.values.max_iters, "max_calls": self.values.max_calls}
        facts = estimating.facts(self.corpus, self.mode, chosen.name, **limits)
        if self.request.as_json:
            self.terminal.answer(journal.dumps(facts, self.terminal.redactor))
        else:
            self.terminal.answer(estimating.told(facts))

    def _print(self, run: Run, values: Mapping[str, Any]) -> None:
        terminal = self.terminal
        if self.request.as_json:
            told = journal.summary(run, values, mode=self.mode, corpus=self.corpus)
            terminal.answer(journal.dumps(told, terminal.redactor))
        else:
            terminal.answer(render.outputs(values))
            rows = [journal.evidence_row(item, self.corpus) for item in run.evidence]
            rows = [row for row in rows if row["verified"]]
            if rows:
                lines = [render.evidence_line(journal.where(row), row) for row in rows]
                terminal.answer("\n" + "\n".join(lines))
        if self.values.fallback and (others := set(run.usage_by_model) - {run.model, run.sub_model}):
            terminal.note(f"{run.model} could not answer; {', '.join(sorted(others))} did.")
        for warning in run.warnings:
            terminal.note(f"warning: {' '.join(warning.split())}")
        if run.status == "extracted":
            reasons = {"stop": "Ctrl-C", "repeats": "a step that the model repeated"}
            reason = reasons.get(str(run.stopped_by), run.stopped_by)
            terminal.note(f"Stopped by {reason}; this is the best answer so far.")
        if sys.stderr.isatty() or terminal.verbose:
            terminal.note(_spent(run, self.mode))


def _log(event: Event) -> None:
    """Log an event: the figures at INFO, what it is about at DEBUG."""
    facts = {"step": event.step, "depth": event.depth, "sub_calls": event.sub_calls, "usage": event.usage.model_dump()}
    logger.info("%s", event.kind, extra=facts)
    if event.text:
        logger.debug("%s of step %d:\n%s", event.kind, event.step, event.text)


def _spent(run: Run, mode: str) -> str:
    parts = [f"{run.model} ({mode})", render.counted(len(run.steps), "step")]
    parts.append(render.counted(run.sub_calls, "sub-call"))
    parts.append(render.counted(run.usage.total_tokens, "token"))
    return " · ".join([*parts, render.money(run.usage.cost), f"{run.seconds:.1f} s"])
