"""Questions that run in the background: start one, wait for its answer, stop it with the best answer so far."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from rlm_dspy.cli import settings
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.replay import RUN_ID, new_run_id
from rlm_dspy.report import json_output, render
from rlm_dspy.report.run_log import RunLog
from rlm_dspy.report.run_store import RunStore
from rlm_dspy.run import Event, Run, Span, cut_text
from rlm_dspy.safe_files import entry_error
from rlm_dspy.spans import listening

if TYPE_CHECKING:
    from rlm_dspy.rlm.answerer import Answer

MAX_ANSWER_CHARS = 14_000  # characters of an answer in a result
MAX_QUOTE_CHARS = 600  # characters of a quote
MAX_QUOTES = 10
MAX_WARNINGS = 10
MAX_KEPT = 200  # finished questions of one owner kept in memory
POLL_SECONDS = 0.05  # seconds between two looks at a running question
MAX_AT_ONCE = 8  # questions of one owner that run at the same time
MAX_OF_ALL = 32  # questions of all owners

State = Literal["running", "done", "stopped"]


class Quote(BaseModel):
    """A passage that backs the answer, checked word for word."""

    quote: str
    path: str | None
    line: int | None
    weak: bool = Field(default=False, description="it neither holds the answer nor says much")


class QuestionResult(BaseModel):
    """A question: its answer, or how far it is."""

    run_id: str = Field(description="for `result` and `cancel`")
    state: State = Field(description="running: call `result`; stopped: a limit or `cancel` ended it early")
    answer: str | None = Field(default=None, description="the best answer so far if the state is stopped")
    evidence: list[Quote] = []
    cost: float | None = Field(default=None, description="US dollars; null if a price is unknown")
    model: str = ""
    steps: int = 0
    seconds: float = 0.0
    progress: str = Field(default="", description="what it is doing, while it runs")
    warnings: list[str] = []
    error: str | None = None


@dataclass
class RunningQuestion:
    """A question that runs or has ended; its thread writes, others read."""

    owner: str
    id: str = field(default_factory=new_run_id)
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.monotonic)
    progress: list[str] = field(default_factory=lambda: ["starting"])
    event: Event | None = None
    run: Run | None = None
    answer: Any = None
    error: str | None = None

    def __call__(self, event: Event) -> None:
        """Take an event of the run."""
        from rlm_dspy.report.live import status_line

        self.event = event
        self.progress.append(status_line(event, time.monotonic() - self.started))

    def result(self) -> QuestionResult:
        """Return what is known by now."""
        run = self.run
        if not self.done.is_set() or run is None:
            state: State = "stopped" if self.done.is_set() else "running"
            usage = self.event.usage if self.event else None
            return QuestionResult(
                run_id=self.id,
                state=state,
                cost=usage.cost if usage else 0.0,
                seconds=round(time.monotonic() - self.started, 1),
                progress="" if self.done.is_set() else self.progress[-1],
                error=self.error,
            )
        found = [item for item in run.evidence if item.get("match")]
        return QuestionResult(
            run_id=self.id,
            state="done" if run.status == "submitted" else "stopped",
            answer=None if self.answer is None else cut_text(str(self.answer), MAX_ANSWER_CHARS),
            evidence=[self._quote(item) for item in found[:MAX_QUOTES]],
            cost=run.usage.cost,
            model=run.model,
            steps=len(run.steps),
            seconds=round(run.seconds, 1),
            warnings=self._shown_warnings(run, len(found)),
            error=self.error,
        )

    def _quote(self, item: Mapping[str, Any]) -> Quote:
        quote = cut_text(str(item.get("quote", "")), MAX_QUOTE_CHARS)
        return Quote(quote=quote, path=item.get("source"), line=item.get("line"), weak=bool(item.get("weak")))

    def _shown_warnings(self, run: Run, quotes: int) -> list[str]:
        """Return the first warnings of a run, and how many quotes and warnings are only in its record."""
        shown = [cut_text(warning, 300) for warning in run.warnings[:MAX_WARNINGS]]
        for noun, left_out in (("quote", quotes - MAX_QUOTES), ("warning", len(run.warnings) - MAX_WARNINGS)):
            if left_out > 0:
                shown.append(f"{counted_noun(left_out, f'more {noun}')} in the record, rlm://runs/{self.id}.json")
        return shown


class QuestionLog(RunLog):
    """Writes the runs of one question while they go on, under the id that its client knows.

    A question may take two runs: one call that does not fit the model's window, then an exploration.
    """

    def __init__(self, folder: Path, redactor: Redactor, run_id: str) -> None:
        super().__init__(folder, redactor)
        self._run_id = run_id

    def started(self, span: Span, record: Run | None) -> None:
        """Write the start of a span; a second run is appended as a resumed one is."""
        if record is not None and span.parent is None:
            self.resumed = (self._run_id,) if self.path else ()
        super().started(span, record)


class Questions:
    """Answers questions about the files, each in a thread; one owner's are unknown to others."""

    def __init__(self, values: settings.Settings, corpus: Callable[[], Corpus], redactor: Redactor) -> None:
        self._values = values
        self._corpus = corpus
        self._redactor = redactor
        self._questions: dict[str, RunningQuestion] = {}
        self._lock = threading.Lock()
        self.store = RunStore(values.home / "runs")

    def start(self, question: str, max_cost: float | None, owner: str) -> RunningQuestion:
        """Start a question; its own limit of dollars cannot exceed the server's.

        Raises:
            RLMError: it is empty, or too many run already.
        """
        if not question.strip():
            raise RLMError("the question is empty")
        with self._lock:
            own = [one for one in self._questions.values() if one.owner == owner]
            running = sum(not one.done.is_set() for one in own)
            if running >= MAX_AT_ONCE:
                raise RLMError(f"{running} questions are running already; wait for one with `result`")
            if sum(not one.done.is_set() for one in self._questions.values()) >= MAX_OF_ALL:
                raise RLMError("the server is busy with the questions of others; try again in a minute")
            asked = RunningQuestion(owner=owner)
            self._questions[asked.id] = asked
            for old in [one for one in own if one.done.is_set()][:-MAX_KEPT]:
                del self._questions[old.id]
        work = partial(self._answer, asked, question, max_cost)
        threading.Thread(target=work, daemon=True, name=f"rlm-mcp-{asked.id}").start()
        return asked

    def find(self, run_id: str, owner: str) -> RunningQuestion:
        """Return a question of this owner.

        Raises:
            RLMError: there is none.
        """
        question = self._questions.get(run_id)
        if question is None or question.owner != owner:
            raise RLMError(f"there is no run {run_id!r}; `ask` returns the run_id of a question")
        return question

    def newest(self, owner: str) -> RunningQuestion:
        """Return the question that this owner asked last.

        Raises:
            RLMError: there is none.
        """
        own = [one for one in list(self._questions.values()) if one.owner == owner]
        if not own:
            raise RLMError("no question was asked yet; `ask` asks one")
        return own[-1]

    def running(self) -> list[RunningQuestion]:
        """Return the questions that have not ended."""
        return [one for one in list(self._questions.values()) if not one.done.is_set()]

    def stop_all(self, seconds: float) -> None:
        """Ask all questions for their best answer, and wait a moment for it."""
        running = self.running()
        for one in running:
            one.stop.set()
        until = time.monotonic() + seconds
        for one in running:
            one.done.wait(max(0.0, until - time.monotonic()))

    def _answer(self, asked: RunningQuestion, question: str, max_cost: float | None) -> None:
        RUN_ID.set(asked.id)  # of this thread's own context
        log = QuestionLog(self.store.folder, self._redactor, asked.id)
        try:
            with listening(log) if entry_error(self._values.home) is None else nullcontext():
                answered = self._find_answer(asked, question, max_cost)
            answer = answered.prediction.get("answer")
            if answer is not None:
                asked.answer = self._redactor.text(str(answer))
            asked.run = answered.run
        except RLMError as error:
            asked.error = self._redactor.text(str(error))
            if error.run is not None:
                asked.run = error.run
        except Exception as error:  # nothing else would report it to those who wait for the question
            asked.error = self._redactor.text(f"{type(error).__name__}: {error}")
        finally:
            if asked.run is not None:
                self._save_run(asked, asked.run, log)
            asked.done.set()

    def _find_answer(self, asked: RunningQuestion, question: str, max_cost: float | None) -> Answer:
        # Imported here: it takes seconds, and the server answers its first requests meanwhile.
        from rlm_dspy.cli import model_choice
        from rlm_dspy.cli.out_option import ask_signature
        from rlm_dspy.rlm.answerer import Answerer

        limits = [limit for limit in (max_cost, self._values.max_cost) if limit is not None]
        budget = self._values.budget.model_copy(update={"max_cost": min(limits, default=None)})
        corpus, chosen = self._corpus(), model_choice.choose(self._values)
        answerer = Answerer(
            ask_signature("answer: str"),
            mode=self._values.mode,
            budget=budget,
            sub_lm=chosen.sub_lm,
            direct_tokens=self._values.direct_tokens,
            stop=asked.stop,
            on_event=asked,
        )
        with chosen.active():
            return answerer.answer(corpus, question)

    def _save_run(self, asked: RunningQuestion, run: Run, log: RunLog) -> None:
        if settings.has_told_unsaved(self._values.home):
            return
        try:
            self.store.put(run, self._redactor)
            log.discard()
        except OSError as error:
            asked.error = f"the run could not be saved: {error.strerror}"


async def wait_for(asked: RunningQuestion, seconds: float, report: Callable[[int, str], Any], every: float) -> None:
    """Wait for a question's end, at most so many seconds; report its progress at each event and every few seconds."""
    until = time.monotonic() + seconds
    reported, shown = len(asked.progress) - 1, time.monotonic()
    while True:
        is_over = asked.done.is_set() or time.monotonic() >= until
        if reported == len(asked.progress) and time.monotonic() - shown >= every:
            reported -= 1  # nothing happens: say again what it is doing
        while reported < len(asked.progress):
            reported, shown = reported + 1, time.monotonic()
            await report(reported, asked.progress[reported - 1])
        if is_over:
            return
        await asyncio.sleep(POLL_SECONDS)


def saved_json(run: Run, redactor: Redactor) -> str:
    """Return the record of a run as JSON."""
    return json_output.redacted_json(render.jsonable(run.model_dump()), redactor)
