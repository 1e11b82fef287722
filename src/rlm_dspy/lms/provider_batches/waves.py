"""Waves: requests of many questions that go to a provider together, as one batch.

A request waits until every question that is being answered waits too, and nothing has arrived for a short time; then
all of them are sent as one batch. So direct calls make one wave, the sub-calls of a cell make one, and RLM runs move in
lock step, one wave for each step, without knowing it.

Holds: what was sent is in the journal before it is sent, with the batch's id before the first poll, so that a killed
process is resumed without paying twice. After a failure in which the provider may have created the batch without saying
so, it is looked for before it is created again.
Does not hold: a provider that lists a new batch late may be given it twice after such a failure.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any

from dspy import lm15

from rlm_dspy.errors import BatchStoppedError, ConfigurationError
from rlm_dspy.lms import errors
from rlm_dspy.lms.provider_batches.journal import WaveJournal, WaveRecord
from rlm_dspy.lms.provider_batches.pending import AskedQuestion, Lane, OpenWave, PendingCall, WavePace, WaveProgress
from rlm_dspy.lms.provider_batches.protocol import BatchCall, BatchProtocol, BatchState, RowResult
from rlm_dspy.lms.providers import Route
from rlm_dspy.lms.rate_limits import PASSING_ERRORS

logger = logging.getLogger(__name__)

FALL_BACK = object()  # the result of a request that is to be made as an ordinary call

_CLOSED_STATUSES = frozenset({"expired", "cancelled", "ended", "lost"})  # what has no result was not processed
_MOST_CALLS = 10_000  # in one batch
_MOST_BATCH_BYTES = 64 << 20
_MOST_TRIES = 3  # batches that one request is part of, if it expires or fails in passing
_MOST_FAILURES = 20  # polls that fail in a row, and attempts to create or to read a batch
_LONGEST_BATCH = 26 * 3_600.0  # seconds; providers end a batch after 24 hours
_CANCELLING_SECONDS = 600.0  # how long a cancelled batch is waited for
_TICK_SECONDS = 0.05
_CLOSING_SECONDS = 5.0
_QUESTION_CHARS = 500  # of a question in the journal


_question: contextvars.ContextVar[AskedQuestion | None] = contextvars.ContextVar("asked_question", default=None)


class Waves:
    """Collects requests into waves, sends them as provider batches, and hands out the replies. Thread-safe.

    Args:
        journal: where everything is written down; by default only in memory, and a killed process cannot be resumed.
        deadline: seconds from now after which batches are cancelled and ordinary calls are made.
        pace: how long to wait.
        on_progress: called after each poll, in the batch's own thread.
    """

    def __init__(
        self,
        journal: WaveJournal | None = None,
        *,
        deadline: float | None = None,
        pace: WavePace | None = None,
        on_progress: Callable[[WaveProgress], None] | None = None,
    ) -> None:
        if deadline is not None and not deadline > 0:
            raise ConfigurationError(f"deadline must be above 0, not {deadline}")
        self.journal = journal or WaveJournal()
        self.pace = pace or WavePace()
        self.counts: Counter[str] = Counter()  # of waves, requests, failed rows, rows asked again, fallen back
        self._until = None if deadline is None else time.monotonic() + deadline
        self._on_progress = on_progress
        self._lanes: dict[str, Lane] = {}
        self._questions: set[AskedQuestion] = set()
        self._waiting: list[PendingCall] = []
        self._open: dict[str, OpenWave] = {}
        self._in_wave: dict[str, tuple[OpenWave, str]] = {}  # by key: the wave of an earlier process, and the id in it
        self._occurrences: Counter[str] = Counter()
        self._first_arrival = self._last_arrival = 0.0
        self._is_late = False  # the deadline has passed
        self._stopped: str | None = None  # why no caller is waiting
        self._wake = threading.Event()  # cuts pauses short
        self._changed = threading.Condition()
        self._collector: threading.Thread | None = None

    # --- for the caller -------------------------------------------------------------------------------------------

    @contextmanager
    def asking(self, question: str) -> Iterator[None]:
        """Count what is done inside as one question: no wave is sent while it does anything but wait."""
        asked = AskedQuestion(question[:_QUESTION_CHARS])
        with self._changed:
            self._questions.add(asked)
        token = _question.set(asked)
        try:
            yield
        finally:
            _question.reset(token)
            with self._changed:
                self._questions.discard(asked)
                self._changed.notify_all()

    @property
    def open_batches(self) -> list[str]:
        """The ids of the batches that are not finished."""
        with self._changed:
            return [wave.record.batch_id for wave in self._open.values() if wave.record.batch_id]

    def leave(self, advice: str = "resume to get its results") -> None:
        """Stop waiting, and leave the batches running."""
        names = ", ".join(self.open_batches) or "none was created yet"
        self._stop(f"The provider batch was left running ({names}); {advice}.")

    def cancel(self) -> None:
        """Stop waiting, and cancel the batches; what the provider has already answered is billed."""
        names = self._cancel_waves()
        self._stop(f"The provider batch was cancelled ({', '.join(names) or 'none was created yet'}).")

    @property
    def strange_batches(self) -> list[str]:
        """The batches that an earlier process left open and for whose model there is no LM here."""
        return [record.batch_id or record.wave_id for record in self.journal.open_waves.values()]

    def close(self, *, forget: bool = False) -> None:
        """End the threads and close the journal.

        Args:
            forget: delete the journal, unless a batch in it is open.
        """
        with self._changed:
            # A wave is closed in the journal a moment after its last reply was handed out.
            self._changed.wait_for(lambda: not self._is_reading(), _CLOSING_SECONDS)
            is_done = not self._open and not self.strange_batches
        self._stop("The provider batch is closed.")
        if self._collector is not None:
            self._collector.join(1.0)
        for lane in self._lanes.values():
            lane.protocol.connection.close()
        if forget and is_done and self.journal.path is not None:
            self.journal.path.unlink(missing_ok=True)
        self.journal.close()

    # --- for the engine -------------------------------------------------------------------------------------------

    def open_lane(self, route: Route, base: str, protocol: BatchProtocol) -> Lane:
        """Return the lane of a model, and resume the waves that an earlier process sent there."""
        name = hashlib.sha256(json.dumps([route.model, base]).encode()).hexdigest()[:16]
        with self._changed:
            lane = self._lanes.setdefault(name, Lane(name, route, protocol))
            if lane.protocol is not protocol:
                protocol.connection.close()
            known = [record for record in self.journal.open_waves.values() if record.lane == name]
            for record in known:
                del self.journal.open_waves[record.wave_id]
                wave = OpenWave(record, lane, {}, is_new=False)
                self._in_wave.update({key: (wave, custom_id) for custom_id, key in record.keys.items()})
                self._start_wave(wave)
            if self._collector is None:
                self._collector = threading.Thread(target=self._collect, daemon=True, name="rlm-waves")
                self._collector.start()
        return lane

    def ask(self, lane: Lane, body: dict[str, Any]) -> Future[Any]:
        """Return the future of a reply's body, which may be ``FALL_BACK``.

        Raises:
            BatchStoppedError: no caller is waiting.
        """
        text = json.dumps(body, sort_keys=True)
        asked = _question.get()
        with self._changed:
            if self._stopped is not None:
                raise BatchStoppedError(self._stopped)
            digest = hashlib.sha256(f"{lane.name}\n{text}".encode()).hexdigest()
            key = f"{digest[:40]}-{self._occurrences[digest]}"
            self._occurrences[digest] += 1
            call = PendingCall(key, text, lane, asked.text if asked else "")
            if key in self.journal.replies:
                call.future.set_result(self.journal.replies[key])
                return call.future
            if self._is_late:
                call.future.set_result(FALL_BACK)
                return call.future
            if asked is not None:
                asked.waiting += 1
                call.future.add_done_callback(lambda _: self._resume_question(asked))
            if key in self._in_wave:
                wave, custom_id = self._in_wave[key]
                if wave.error is None:
                    wave.calls[custom_id] = call
                else:
                    _finish_call(call, wave.error)
            else:
                self._enqueue(call)
            return call.future

    def _resume_question(self, asked: AskedQuestion) -> None:
        with self._changed:
            asked.waiting -= 1

    def _enqueue(self, call: PendingCall) -> None:
        self._last_arrival = time.monotonic()
        if not self._waiting:
            self._first_arrival = self._last_arrival
        self._waiting.append(call)
        self._changed.notify_all()

    # --- collecting -----------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Send a wave whenever one is due, until no caller is waiting."""
        while self._stopped is None:
            with self._changed:
                self._changed.wait(_TICK_SECONDS)
                late = self._until is not None and time.monotonic() >= self._until and not self._is_late
                if self._is_due():
                    calls, self._waiting = self._waiting, []
                    for wave in self._make_waves([call for call in calls if not call.future.cancelled()]):
                        self._start_wave(wave)
            if late:
                self._pass_deadline()

    def _is_due(self) -> bool:
        now = time.monotonic()
        if not self._waiting or self._stopped is not None or now - self._last_arrival < self.pace.quiet:
            return False
        if now - self._first_arrival >= self.pace.linger:
            return True
        return not self._is_reading() and all(asked.waiting for asked in self._questions)

    def _is_reading(self) -> bool:
        return any(wave.is_being_read for wave in self._open.values())

    def _make_waves(self, calls: list[PendingCall]) -> Iterator[OpenWave]:
        """Yield waves of one lane each that are not too large for a batch."""
        for lane in self._lanes.values():
            part: list[PendingCall] = []
            size = 0
            for call in calls:
                if call.lane is not lane:
                    continue
                if part and (len(part) == _MOST_CALLS or size + len(call.body) > _MOST_BATCH_BYTES):
                    yield self._make_wave(lane, part)
                    part, size = [], 0
                part.append(call)
                size += len(call.body)
            if part:
                yield self._make_wave(lane, part)

    def _make_wave(self, lane: Lane, calls: list[PendingCall]) -> OpenWave:
        wave_id = f"w{secrets.token_hex(6)}"
        numbered = {f"{wave_id}-{number}": call for number, call in enumerate(calls)}
        keys = {custom_id: call.key for custom_id, call in numbered.items()}
        questions = {custom_id: call.question for custom_id, call in numbered.items()}
        record = WaveRecord(wave_id, lane.name, time.time(), keys, len(keys), questions=questions)
        return OpenWave(record, lane, numbered, is_new=True)

    def _start_wave(self, wave: OpenWave) -> None:
        self._open[wave.record.wave_id] = wave
        threading.Thread(target=self._run_wave, args=(wave,), daemon=True, name="rlm-wave").start()

    # --- one wave -------------------------------------------------------------------------------------------------

    def _run_wave(self, wave: OpenWave) -> None:
        """Send a wave and hand out its replies; an unexpected failure fails its waiting callers."""
        try:
            self._perform_wave(wave)
        except (lm15.LM15Error, OSError) as error:
            self._fail_calls(wave, error)
        except BaseException as error:
            self._fail_calls(wave, error)
            raise
        finally:
            with self._changed:
                self._open.pop(wave.record.wave_id, None)
                self._changed.notify_all()

    def _perform_wave(self, wave: OpenWave) -> None:
        record = wave.record
        if wave.is_new:
            self._journal_wave(wave)
            self._create_batch(wave)
        elif record.batch_id is None and not self._find_batch(wave):
            self._give_up_wave(wave, "never created")
            return
        state = self._await_end(wave)
        if state is not None:
            wave.is_being_read = True
            self._read_batch(wave, state)
            self._settle_rest(wave, state)

    def _journal_wave(self, wave: OpenWave) -> None:
        record = wave.record
        calls = {
            custom_id: {"key": key, "question": record.questions[custom_id]} for custom_id, key in record.keys.items()
        }
        self.journal.append({"wave": record.wave_id, "lane": record.lane, "time": record.time, "calls": calls})
        self.counts.update(waves=1, requests=len(calls))

    def _create_batch(self, wave: OpenWave) -> None:
        """Create the batch; after a failure in which it may have been created, look for it first."""
        record, protocol = wave.record, wave.lane.protocol
        calls = [BatchCall(custom_id, call.body) for custom_id, call in wave.calls.items()]
        for pause in self._pauses():
            try:
                if record.file_id is None and (file_id := protocol.upload(record.wave_id, calls)):
                    record.file_id = file_id
                    self.journal.append({"wave": record.wave_id, "file": file_id})
                record.batch_id = protocol.create_batch(record.wave_id, record.file_id, calls)
                self.journal.append({"wave": record.wave_id, "batch": record.batch_id})
                return
            except PASSING_ERRORS as error:
                if pause is None or getattr(error, "final", False):
                    raise
                logger.warning("%s It is tried again.", error)
                pause = max(pause, min(getattr(error, "retry_after", None) or 0.0, self.pace.longest_poll))
            self._sleep(pause)
            if self._stopped is not None:
                raise BatchStoppedError(self._stopped)
            if self._find_batch(wave):
                return

    def _find_batch(self, wave: OpenWave) -> bool:
        """Look for a batch that was created without our knowing its id, and return whether it was found."""
        record, protocol = wave.record, wave.lane.protocol
        for batch_id in protocol.find_batches(record.wave_id, record.file_id, record.size, record.time):
            record.batch_id = batch_id
            if protocol.is_labelled or self._holds_wave(wave):
                self.journal.append({"wave": record.wave_id, "batch": batch_id})
                return True
        record.batch_id = None
        return False

    def _holds_wave(self, wave: OpenWave) -> bool:
        """Return whether a batch without a label is this wave's, which its results show as soon as it has ended."""
        state = self._await_end(wave)
        if state is None:
            return False
        first = next(_results_of(wave, state), None)
        return first is not None and first.custom_id in wave.record.keys

    def _await_end(self, wave: OpenWave) -> BatchState | None:
        """Poll until the batch has ended, and return its state; None if no caller is waiting or it is gone."""
        started, pause, failures = time.monotonic(), self.pace.first_poll, 0
        while self._stopped is None:
            if self._is_late and wave.cancelled_at is None:
                self._cancel_wave(wave)
            try:
                state = wave.lane.protocol.fetch_state(str(wave.record.batch_id))
            except PASSING_ERRORS as error:
                failures += 1
                if failures > _MOST_FAILURES:
                    raise
                logger.warning("%s The batch is asked about again.", error)
                state = None
            except lm15.LM15Error as error:
                if getattr(error, "status", None) != 404:
                    raise
                self._give_up_wave(wave, "lost")
                return None
            seconds = time.monotonic() - started
            if state is not None:
                failures = 0
                if state.has_ended:
                    self._report_progress(state, seconds, 0.0)
                    return state
                wait = self._next_pause(state, pause, wave)
                self._report_progress(state, seconds, wait)
            else:
                wait = pause
            self._check_age(wave, seconds)
            self._sleep(wait)
            pause = min(pause * 1.5, self.pace.longest_poll)
        return None

    def _next_pause(self, state: BatchState, pause: float, wave: OpenWave) -> float:
        if wave.cancelled_at is not None:
            pause = min(pause, self.pace.first_poll)
        if state.retry_after is not None:
            pause = min(max(state.retry_after, 2 * _TICK_SECONDS), self.pace.longest_poll)
        return pause

    def _check_age(self, wave: OpenWave, seconds: float) -> None:
        """End the wait for a batch that does not end.

        Raises:
            lm15.ServerError: it is older than any provider lets it become, or is not cancelled in time.
        """
        if wave.cancelled_at is None:
            cancelling = 0.0
        else:
            cancelling = time.monotonic() - wave.cancelled_at
        if cancelling > _CANCELLING_SECONDS and self._is_late:
            logger.warning("batch %s is not cancelled yet; ordinary calls are made now", wave.record.batch_id)
            self._fall_back([*wave.calls.values()])
            wave.calls.clear()
        elif seconds > _LONGEST_BATCH:
            raise errors.no_result(wave.lane.route, f"batch {wave.record.batch_id} does not end")

    def _report_progress(self, state: BatchState, seconds: float, next_poll: float) -> None:
        logger.info("batch %s: %s, %d of %d", state.batch_id, state.status, state.done, state.total)
        if self._on_progress is not None:
            self._on_progress(WaveProgress(state.batch_id, state.status, state.done, state.total, seconds, next_poll))

    def _read_batch(self, wave: OpenWave, state: BatchState) -> None:
        """Hand out the results while they arrive; if reading fails, read again."""
        strange = 0
        for pause in self._pauses():
            try:
                strange = 0
                for row in _results_of(wave, state):
                    if not self._settle_row(wave, row):
                        strange += 1
                break
            except PASSING_ERRORS as error:
                if pause is None:
                    raise
                logger.warning("%s The results are read again.", error)
            self._sleep(pause)
        if strange:
            logger.warning("batch %s has %d results that nobody asked for, or twice", state.batch_id, strange)

    def _settle_row(self, wave: OpenWave, row: RowResult) -> bool:
        """Keep one result and hand it out; return whether it is one that was asked for."""
        record = wave.record
        key = record.keys.get(row.custom_id)
        if key is None:
            return False
        if row.reply is not None:
            self.journal.append({"wave": record.wave_id, "id": row.custom_id, "reply": row.reply})
            with self._changed:
                del record.keys[row.custom_id]
                self._in_wave.pop(key, None)
                self.journal.replies[key] = row.reply
                call = wave.calls.pop(row.custom_id, None)
            if call is not None:
                _finish_call(call, row.reply)
        elif row.status is not None:
            error = errors.row_error(wave.lane.route, row.status, row.problem)
            self._settle_failure(wave, row.custom_id, error, again=isinstance(error, PASSING_ERRORS))
        return True

    def _settle_rest(self, wave: OpenWave, state: BatchState) -> None:
        """Settle the requests without a result, and close the wave."""
        # A batch that somebody else has cancelled while we wait for it is not sent again.
        is_foreign = state.status == "cancelled" and wave.is_new and wave.cancelled_at is None
        again = state.status in _CLOSED_STATUSES and not is_foreign
        for custom_id in list(wave.record.keys):
            if state.problem is not None and state.status == "failed":
                error = errors.row_error(wave.lane.route, _status_of(state.problem), state.problem)
                self._settle_failure(wave, custom_id, error, again=False)
            else:
                error = errors.no_result(wave.lane.route, f"batch {state.batch_id} is {state.status or 'over'}")
                self._settle_failure(wave, custom_id, error, again=again)
        if wave.asked_again:
            progress = (state.batch_id, wave.asked_again, wave.record.size)
            logger.warning("batch %s did not answer %d of %d requests; they are asked again", *progress)
        self.journal.append({"wave": wave.record.wave_id, "closed": state.status})

    def _settle_failure(self, wave: OpenWave, custom_id: str, error: Exception, *, again: bool) -> None:
        """End a request that was not answered, or put it into the next wave."""
        with self._changed:
            self._in_wave.pop(wave.record.keys.pop(custom_id), None)
            call = wave.calls.pop(custom_id, None)
            if call is None:
                return
            call.tries += 1
            if again and call.tries < _MOST_TRIES and not self._is_late:
                self.counts["asked_again"] += 1
                wave.asked_again += 1
                self._enqueue(call)
                return
        if again and self._is_late:
            self._fall_back([call])
        else:
            self.counts["failed"] += 1
            _finish_call(call, error)

    def _give_up_wave(self, wave: OpenWave, why: str) -> None:
        """Send the requests of a wave again, because its batch does not exist."""
        logger.info("the batch of wave %s was %s; its requests are sent again", wave.record.wave_id, why)
        self.journal.append({"wave": wave.record.wave_id, "closed": why})
        for custom_id in list(wave.record.keys):
            error = errors.no_result(wave.lane.route, f"its batch was {why}")
            self._settle_failure(wave, custom_id, error, again=True)

    def _fail_calls(self, wave: OpenWave, error: BaseException) -> None:
        with self._changed:
            wave.error = error
            calls, wave.calls = wave.calls, {}
        for call in calls.values():
            self.counts["failed"] += 1
            _finish_call(call, error)

    # --- ending ---------------------------------------------------------------------------------------------------

    def _pass_deadline(self) -> None:
        """Cancel the batches, and make ordinary calls of what waits and of what they have not answered."""
        with self._changed:
            self._is_late = True
            calls, self._waiting = self._waiting, []
        names = self._cancel_waves()
        logger.warning(
            "the deadline has passed: %s; the remaining requests are made as ordinary calls at the full price",
            f"batch {', '.join(names)} is cancelled" if names else "no batch is open",
        )
        self._fall_back(calls)

    def _fall_back(self, calls: list[PendingCall]) -> None:
        for call in calls:
            self.counts["fallen_back"] += 1
            _finish_call(call, FALL_BACK)

    def _cancel_waves(self) -> list[str]:
        with self._changed:
            waves = [wave for wave in self._open.values() if wave.record.batch_id]
        names = [str(wave.record.batch_id) for wave in waves if self._cancel_wave(wave)]
        self._wake.set()
        return names

    def _cancel_wave(self, wave: OpenWave) -> bool:
        """Ask the provider to cancel a wave's batch, once, and return whether it agreed."""
        if wave.cancelled_at is not None:
            return False
        wave.cancelled_at = time.monotonic()
        try:
            wave.lane.protocol.cancel_batch(str(wave.record.batch_id))
        except lm15.LM15Error as error:
            logger.warning("batch %s could not be cancelled: %s", wave.record.batch_id, error)
            return False
        return True

    def _stop(self, why: str) -> None:
        with self._changed:
            self._stopped = self._stopped or why
            calls, self._waiting = self._waiting, []
            for wave in self._open.values():
                calls += wave.calls.values()
            self._changed.notify_all()
        self._wake.set()
        for call in calls:
            _finish_call(call, BatchStoppedError(self._stopped))

    def _pauses(self) -> Iterator[float | None]:
        """Yield the pause after each attempt, and None after the last one."""
        pause = min(1.0, self.pace.first_poll)
        for _ in range(_MOST_FAILURES):
            yield pause
            pause = min(2 * pause, self.pace.longest_poll)
        yield None

    def _sleep(self, seconds: float | None) -> None:
        """Sleep for this long, unless the threads are woken because the waves are stopped or cancelled."""
        if self._wake.wait(seconds):
            time.sleep(_TICK_SECONDS)
            if self._stopped is None:
                self._wake.clear()


def _results_of(wave: OpenWave, state: BatchState) -> Iterator[RowResult]:
    """Return the results of a batch that has ended, in any order, while they arrive."""
    protocol = wave.lane.protocol
    return map(protocol.parse_row, protocol.connection.stream_rows(state.result_paths, state.total))


def _finish_call(call: PendingCall, outcome: Any) -> None:
    """Give a call its result or exception, unless its caller has gone or it has one."""
    with suppress(InvalidStateError):  # it is done: its caller was cancelled, or told to stop meanwhile
        if isinstance(outcome, BaseException):
            call.future.set_exception(outcome)
        else:
            call.future.set_result(outcome)


def _status_of(problem: Any) -> int:
    """Return the HTTP status that a whole batch's failure stands for."""
    if "limit" in json.dumps(problem):
        return 429
    return 400
