"""Run a batch; its budget is divided among the questions in advance.

A ledger can be shared by threads but not by processes, so each question gets its own share as its ``max_cost``. Shares
in use and spending together never exceed the total; the unused part of a share is returned.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from rlm_dspy.batch.answers_file import Answers, Row, answer_key
from rlm_dspy.batch.job import ASKED_AGAIN, Job, Program
from rlm_dspy.batch.provider_batch import ProgramInWaves, waves_path
from rlm_dspy.errors import BatchStoppedError, ConfigurationError, LMAuthError, LMUnavailableError, RLMError
from rlm_dspy.evidence.absence import is_miss
from rlm_dspy.lms.file_pace import FilePace
from rlm_dspy.lms.provider_batches import WaveJournal, Waves
from rlm_dspy.run import Usage

logger = logging.getLogger(__name__)

# Errors that would also fail the next question, and how many in a row end the batch.
_HOPELESS = {LMAuthError.__name__: 1, ConfigurationError.__name__: 1, LMUnavailableError.__name__: 3}
_POLL_SECONDS = 0.2  # seconds between checks of the stop flag
_MOST_DEATHS = 3  # broken executors with the same question in flight, or in a row without an answer in between


class CostShare:
    """Divides ``total`` US dollars (None: unlimited) among questions that cost at least ``least`` each."""

    def __init__(self, total: float | None, least: float = 0.0) -> None:
        self._left = total  # neither spent nor handed out
        self._least = least
        self._asked = 0
        self.spent = 0.0
        self.unknown = False  # whether the price of any answer is unknown

    def take(self, free: int) -> float | None:
        """Return the share of the next question, if ``free`` slots are to be filled.

        None means no limit. 0 means that the rest would not pay for a typical question: wait until questions in flight
        return money, or stop. A question started with less would cost money and give no answer.
        """
        if self._left is None:
            return None
        usual = max(self._least, self.spent / self._asked if self._asked else 0.0)
        if self._left <= 0 or self._left < usual:
            return 0.0
        # An even share, but at least twice the usual price if available: many small shares give fewer answers.
        share = min(self._left, max(self._left / free, 2 * usual))
        self._left -= share
        return share

    def cancel(self, share: float | None) -> None:
        """Take back the share of a question that was not answered and will be asked again."""
        if self._left is not None:
            self._left += share or 0.0

    def give_back(self, share: float | None, cost: float | None) -> None:
        """Record a question's cost, and take back the rest of its share."""
        self._asked += 1
        self.unknown = self.unknown or cost is None
        self.spent += cost or 0.0
        if self._left is not None:
            self._left += (share or 0.0) - (cost or 0.0)


class Answering(Protocol):
    """The protocol for answering questions. A process pool pickles it with every question: keep it small.

    It may also have a ``price``: the minimum cost of each question in US dollars.
    """

    @property
    def corpus_digest(self) -> str:
        """A digest of the texts."""

    @property
    def digest(self) -> str:
        """A digest of the program."""

    def answer(self, question: str, max_cost: float | None = None) -> dict[str, Any]:
        """Return an answer as plain data, with the ``cost`` in its ``usage``, or raise an RLMError."""


@dataclass(frozen=True)
class Progress:
    """The progress of a batch; ``reused`` answers came from the file and are included in ``answered``."""

    total: int
    answered: int
    failed: int
    reused: int
    cost: float | None

    @property
    def done(self) -> int:
        """The number of finished questions."""
        return self.answered + self.failed


@dataclass(frozen=True)
class Report:
    """One row per question, in order; a row that is not ``ok`` has an ``error`` instead of an answer.

    ``stopped_by`` is ``max_cost``, ``stop``, ``disk`` (the file could not be written), the class of a fatal error or of
    the executor's error when a worker died, or None if every question was asked. ``unsaved`` are the rows missing from
    the file, and ``disk_error`` says why; without such rows, it says why the file is not in the order of the questions.
    """

    rows: tuple[Row, ...]
    reused: int
    cost: float | None
    seconds: float
    stopped_by: str | None = None
    unsaved: tuple[Row, ...] = ()
    disk_error: str | None = None

    @property
    def not_found(self) -> int:
        """The number of answers that only say that nothing was found."""
        return sum(is_miss(row.get("answer"), row.get("evidence") or ()) for row in self.rows if row["ok"])

    @property
    def answered(self) -> int:
        """The number of questions with an answer."""
        return sum(row["ok"] for row in self.rows)

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows without an answer."""
        return tuple(row for row in self.rows if not row["ok"])

    @property
    def success_rate(self) -> float:
        """The share of questions with an answer."""
        if self.rows:
            return self.answered / len(self.rows)
        return 1.0


class Batch:
    """Asks one program many questions.

    Args:
        program: a :class:`Program` for threads, a :class:`Job` for any executor, or any :class:`Answering` object.
        out: the answers file; without one, answers are only returned.
        executor: where questions run; by default threads of this process. If it is a function that makes an executor,
            such as ``lambda: ProcessPoolExecutor(8)``, an executor that broke because a worker died is replaced, and
            the questions that it had in flight are asked again.
        concurrency: questions in flight at once; by default 4, and with ``provider_batch`` 1,000 of one call each or 32
            runs of many steps.
        max_cost: US dollars for all questions together; answers from the file cost nothing.
        on_progress: called after each question, in the calling thread.
        provider_batch: send the calls to the provider in batches, at a lower price; what is sent is written down beside
            ``out``, see :func:`waves_path`. Pass :class:`Waves` to set a deadline or to show progress; it is closed in
            the end.

    Attributes:
        stop: when set, from any thread, no further question is started; those in flight are finished.
        waves: what collects the calls for provider batches; None without.

    Raises:
        ConfigurationError: a limit is not above 0, or the program cannot use provider batches.
    """

    def __init__(
        self,
        program: Answering,
        *,
        out: Answers | None = None,
        executor: Executor | Callable[[], Executor] | None = None,
        concurrency: int | None = None,
        max_cost: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        provider_batch: bool | Waves = False,
    ) -> None:
        if concurrency is not None and concurrency < 1:
            raise ConfigurationError(f"concurrency must be at least 1, not {concurrency}")
        if max_cost is not None and not max_cost > 0:
            raise ConfigurationError(f"max_cost must be above 0, not {max_cost}")
        self.program: Answering = _prepared_job(program, executor) if isinstance(program, Job) else program
        self.waves: Waves | None = None
        if provider_batch:
            self.program = self._in_waves(provider_batch, out, executor)
            concurrency = concurrency or self.program.questions_at_once
        self.stop = threading.Event()
        self._out = out
        self._executor = executor
        self._concurrency = concurrency or 4
        self._max_cost = max_cost
        self._on_progress = on_progress

    def _in_waves(self, provider_batch: bool | Waves, out: Answers | None, executor: Any) -> ProgramInWaves:
        """Return the program with its calls in provider batches."""
        if executor is not None:
            raise ConfigurationError("provider batches are collected in this process: leave the executor out")
        if not isinstance(self.program, Program | Job):
            raise ConfigurationError("provider batches need a Program or a Job, whose models are known")
        if isinstance(provider_batch, Waves):
            self.waves = provider_batch
        else:
            self.waves = Waves(WaveJournal(waves_path(out.path) if out else None))
        try:
            return ProgramInWaves(self.program, self.waves)
        except ConfigurationError:
            self.waves.close()
            raise

    def run(self, questions: Iterable[str | Mapping[str, Any]]) -> Report:
        """Ask every question that the file does not answer yet, then rewrite and close the file.

        Args:
            questions: texts, or mappings with ``question`` and optionally ``id``, which is copied to the row.
        """
        is_answered = False
        try:
            report = self._run_questions(questions)
            is_answered = not report.failed
            return report
        finally:
            if self._out:
                self._out.close()
            if self.waves:
                self.waves.close(forget=is_answered)

    def _run_questions(self, questions: Iterable[str | Mapping[str, Any]]) -> Report:
        started = time.monotonic()
        asked = [_question_fields(item) for item in questions]
        corpus, program = self.program.corpus_digest, self.program.digest
        keys = [answer_key(item["question"], corpus, program) for item in asked]
        known = self._out.take(keys) if self._out else {}
        reused = sum(name in known for name in keys)
        waiting = {name: item["question"] for name, item in zip(keys, asked, strict=True) if name not in known}
        flight = _InFlight(self, waiting, Progress(len(keys), reused, 0, reused, 0.0), keys)
        with self._worker_pool() as pool:
            flight.run(pool)
        rows: list[Row] = []
        seen: set[str] = set()
        for name, item in zip(keys, asked, strict=True):
            row = flight.rows.get(name) or known.get(name) or _unasked_row(flight.stopped_by)
            row = {**row, "id": item.get("id"), "question": item["question"], "key": name}
            if name in seen:  # it was asked once, and paid for once
                row |= {"usage": Usage().model_dump(), "duplicate": True}
            seen.add(name)
            rows.append(row)
        disk_error = flight.disk_error
        if self._out and not flight.unsaved:
            disk_error = self._out.settle(rows)
        return Report(
            rows=tuple(rows),
            reused=reused,
            cost=None if flight.cost_share.unknown else flight.cost_share.spent,
            seconds=time.monotonic() - started,
            stopped_by=flight.stopped_by,
            unsaved=tuple(row for row in rows if row["key"] in flight.unsaved),
            disk_error=disk_error,
        )

    @contextmanager
    def _worker_pool(self) -> Iterator[_WorkerPool]:
        if self._executor is not None and not callable(self._executor):
            yield _WorkerPool(self._executor)
            return
        make = self._executor or partial(ThreadPoolExecutor, self._concurrency, thread_name_prefix="rlm-batch")
        pool = _WorkerPool(make(), make)
        try:
            yield pool
        except BaseException:
            # Do not wait for questions in flight: a resumed batch finds their finished LM calls in DSPy's cache.
            pool.executor.shutdown(wait=False, cancel_futures=True)
            raise
        pool.executor.shutdown()


def _question_fields(item: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(item, str):
        return {"question": item}
    return dict(item)


def _prepared_job(job: Job, executor: Executor | Callable[[], Executor] | None) -> Job:
    """Return the job with the digest of its texts and, if other processes answer, with a pace."""
    uses_threads = executor is None or isinstance(executor, ThreadPoolExecutor)
    if job.pace is None and not uses_threads:
        job = replace(job, pace=FilePace())
    return job.pinned()


class _WorkerPool:
    """The executor of a batch, and how to make another one if it breaks."""

    def __init__(self, executor: Executor, make: Callable[[], Executor] | None = None) -> None:
        self.executor = executor
        self._make = make
        self._deaths = 0  # in a row, without an answer in between

    @property
    def can_renew(self) -> bool:
        """Whether a broken executor can be replaced."""
        return self._make is not None and self._deaths < _MOST_DEATHS

    def renew(self) -> None:
        """Replace the broken executor."""
        if self._make is not None:
            self._deaths += 1
            self.executor.shutdown(wait=False, cancel_futures=True)
            logger.warning("a worker died; its questions are asked again by new workers")
            self.executor = self._make()

    def note_answer(self) -> None:
        """Reset the count of deaths: a question was answered, so the workers work."""
        self._deaths = 0


class _InFlight:
    """The questions of one batch: waiting, in flight, and finished."""

    def __init__(self, batch: Batch, waiting: dict[str, str], progress: Progress, keys: list[str]) -> None:
        self.batch = batch
        self.cost_share = CostShare(batch._max_cost, getattr(batch.program, "price", 0.0))
        self.rows: dict[str, Row] = {}
        self.stopped_by: str | None = None
        self.unsaved: set[str] = set()  # keys of rows missing from the file
        self.disk_error: str | None = None
        self._waiting = deque(waiting.items())
        self._flying: dict[Future[Row], tuple[str, str, float | None]] = {}  # key, question, share
        self._deaths: Counter[str] = Counter()  # executors that broke with this question in flight, by key
        self._progress = progress
        self._times = Counter(keys)
        if batch._out:
            self._unreadable = batch._out.unreadable()
        else:
            self._unreadable = frozenset()
        self._streak = ("", 0)  # the error of the last finished question, and how many in a row had it

    def run(self, pool: _WorkerPool) -> None:
        """Keep ``concurrency`` questions in flight until none is left or the batch is stopped."""
        self._report_progress()
        while True:
            self._start_questions(pool)
            if not self._flying:
                return
            done, _ = wait(self._flying, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                self._finish_question(future, pool)

    def _start_questions(self, pool: _WorkerPool) -> None:
        if self.batch.stop.is_set() and self._waiting:
            self.stopped_by = self.stopped_by or "stop"
        while self._waiting and not self.stopped_by and len(self._flying) < self.batch._concurrency:
            free = min(self.batch._concurrency - len(self._flying), len(self._waiting))
            share = self.cost_share.take(free)
            if share == 0:
                if not self._flying:
                    self.stopped_by = "max_cost"
                return
            name, question = self._waiting[0]
            try:
                future = self._submit_question(pool.executor, name, question, share)
            except BrokenExecutor as error:  # a worker died, so the executor accepts no more work
                self.cost_share.cancel(share)
                if not pool.can_renew:
                    self.stopped_by = type(error).__name__
                    return
                pool.renew()
                continue
            self._waiting.popleft()
            self._flying[future] = (name, question, share)

    def _submit_question(self, executor: Executor, name: str, question: str, share: float | None) -> Future[Row]:
        again = name in self._unreadable
        if isinstance(executor, ThreadPoolExecutor):  # its threads inherit the caller's dspy.context
            run = contextvars.copy_context().run
            return executor.submit(run, answer_question, self.batch.program, question, share, asked_again=again)
        return executor.submit(answer_question, self.batch.program, question, share, asked_again=again)

    def _finish_question(self, future: Future[Row], pool: _WorkerPool) -> None:
        name, question, share = self._flying.pop(future)
        error = CancelledError("the executor gave it up") if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor) and pool.can_renew:
            self._deaths[name] += 1
            if self._deaths[name] < _MOST_DEATHS:
                self.cost_share.cancel(share)
                # At the end, so that a question that kills its worker does not block the others.
                self._waiting.append((name, question))
                return
        # An RLMError arrives as a row; anything else is a bug or a dead worker, and loses the questions in flight.
        row = future.result() if error is None else failure_row(error)
        if row["ok"]:
            pool.note_answer()
        was_unknown = self.cost_share.unknown
        self.cost_share.give_back(share, (row.get("usage") or {"cost": 0.0})["cost"])
        if self.cost_share.unknown and not was_unknown and self.batch._max_cost is not None:
            logger.warning("a model's price is unknown, so max_cost does not cover it: limit max_tokens too")
        self.rows[name] = row
        self._stop_if_hopeless(row)
        self._save_row(name, row)
        self._report_progress(row, self._times[name])

    def _save_row(self, name: str, row: Row) -> None:
        """Write the row to disk; if that fails, start no further question and keep the row for the report."""
        if not self.batch._out:
            return
        try:
            self.batch._out.append({**row, "key": name})
        except OSError as error:
            self.stopped_by = "disk"
            self.disk_error = f"{self.batch._out.path} cannot be written: {error.strerror}"
            self.unsaved.add(name)

    def _stop_if_hopeless(self, row: Row) -> None:
        """Stop the batch once its errors show that the rest would fail in the same way."""
        kind = (row.get("error") or {}).get("type", "")
        if kind == BatchStoppedError.__name__:
            self.stopped_by = self.stopped_by or "stop"
        self._streak = (kind, self._streak[1] + 1 if kind == self._streak[0] else 1)
        if self._streak[1] >= _HOPELESS.get(kind, math.inf):
            self.stopped_by = self.stopped_by or kind

    def _report_progress(self, row: Row | None = None, times: int = 1) -> None:
        if row is not None:
            before = self._progress
            answered = times if row["ok"] else 0
            failed = times - answered
            cost = None if self.cost_share.unknown else self.cost_share.spent
            self._progress = Progress(
                before.total, before.answered + answered, before.failed + failed, before.reused, cost
            )
        if self.batch._on_progress:
            self.batch._on_progress(self._progress)


def answer_question(program: Answering, question: str, max_cost: float | None, *, asked_again: bool = False) -> Row:
    """Answer one question as a row; an RLMError becomes a row too."""
    ASKED_AGAIN.set(asked_again)
    try:
        return {"question": question, "ok": True, "error": None, **program.answer(question, max_cost)}
    except RLMError as error:
        return {"question": question, **failure_row(error)}


def failure_row(error: BaseException) -> Row:
    """Return the row of a failed question: the error, and the cost until then."""
    kind = next((base.__name__ for base in type(error).__mro__ if base.__module__ == "rlm_dspy.errors"), None)
    row: Row = {"ok": False, "error": {"type": kind or type(error).__name__, "message": str(error)}}
    if run := getattr(error, "run", None):
        row |= {"status": run.status, "stopped_by": run.stopped_by, "usage": run.usage.model_dump(), "run_id": run.id}
    return row


def _unasked_row(stopped_by: str | None) -> Row:
    message = f"the batch was stopped by {stopped_by} before this question; resume it to ask"
    return {"ok": False, "error": {"type": "NotAsked", "message": message}}
