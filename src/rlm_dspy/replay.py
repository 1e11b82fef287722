"""The finished calls of a killed run, reused when the run is resumed.

Cells are run again, because that rebuilds the state of the sandbox; a model is called again only for what the record
does not hold. A call is recognised by its prompt, byte for byte, and by what a sub-call was asked (the record names an
image by its hash there).
"""

from __future__ import annotations

import itertools
import re
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from rlm_dspy.run import Usage

LIMITS_IN_PROMPT = re.compile(
    r"(?<=\[step )(\d+)/\d+( · sub-calls \d+)/\d+"
    r"|(?<=At most )\d+(?= sub-calls in all)|(?<=; at most )\d+(?= times)"
)


@dataclass(frozen=True)
class RecordedReply:
    """A model's reply as it was received, and what it cost then."""

    text: str
    thinking: str
    finish: str
    usage: Usage


@dataclass(frozen=True)
class CallPlace:
    """Where in an ``ask`` a call is made: its root run (0 for the first) and step, and what a sub-call was asked."""

    attempt: int
    step: int
    is_sub_call: bool
    asked: str = ""


@dataclass(frozen=True)
class RecordedCall:
    """A call of a model in a record; ``reply`` is None if it did not end, failed, or held a secret."""

    place: CallPlace
    prompt: tuple[tuple[str, str], ...]
    reply: RecordedReply | None


class Replay:
    """Answers calls from a record; thread-safe.

    Args:
        calls: the calls of the record, in their order.
        run_ids: the ids of its root runs, in their order; resumed runs reuse them.
        kept_text: returns a text of a prompt as the record keeps it.
        limits_changed: whether limits named in prompts may differ from those of the record.
        on_end: called with a line if a prompt differs from the record, which ends the replay.
    """

    def __init__(
        self,
        calls: Sequence[RecordedCall],
        run_ids: Iterable[str],
        kept_text: Callable[[str], str],
        *,
        limits_changed: bool = False,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self.replayed = 0  # calls answered so far
        self.on_end = on_end
        self._kept_text = kept_text
        self._limits_changed = limits_changed
        self._run_ids = deque(run_ids)
        self._started_runs = 0
        self._waiting: dict[object, deque[RecordedCall]] = defaultdict(deque)
        self._dropped: tuple[RecordedCall, ...] = ()  # those that waited when the replay ended
        self._unanswered = {self._key(call.place, call.prompt) for call in calls if call.reply is None}
        for call in calls:
            if call.reply is not None:
                self._waiting[self._key(call.place, call.prompt)].append(call)
        self._lock = threading.Lock()

    def next_run_id(self) -> str:
        """Return the id of a root run that starts now: that of the record, or a new one."""
        with self._lock:
            self._started_runs += 1
            if self._run_ids:
                return self._run_ids.popleft()
            return new_run_id()

    def take_reply(
        self, step: int, asked: str, prompt: Sequence[tuple[str, str]], *, is_sub_call: bool
    ) -> RecordedReply | None:
        """Return the recorded reply to a call, which is then used up; None if the model has to be asked."""
        with self._lock:
            place = CallPlace(self._started_runs - 1, step, is_sub_call, asked)
            key = self._key(place, prompt)
            if replies := self._waiting.get(key):
                self.replayed += 1
                return replies.popleft().reply
            if key in self._unanswered or not self._goes_beyond(place):
                return None
            left = sum(map(len, self._waiting.values()))
            self._drop_waiting()
        self._warn(step, left)
        return None

    def unused_usage(self) -> Usage:
        """Return the cost of recorded calls that were not reused; it was paid too."""
        calls = itertools.chain(*self._waiting.values(), self._dropped)
        return sum((call.reply.usage for call in calls if call.reply), Usage())

    def _drop_waiting(self) -> None:
        self._dropped = tuple(itertools.chain(*self._waiting.values()))
        self._waiting.clear()

    def _goes_beyond(self, place: CallPlace) -> bool:
        """Return whether the record has calls that could only follow this one, so that it differs from the record."""
        for waiting in self._waiting.values():
            for call in waiting:
                there, here = (call.place.attempt, call.place.step), (place.attempt, place.step)
                if there > here or (there == here and not place.is_sub_call and not call.place.is_sub_call):
                    return True
        return False

    def _warn(self, step: int, left: int) -> None:
        where = f"step {step}" if step else "this call"
        message = (
            f"the prompt of {where} differs from the record: from {where} on, calls are paid again "
            f"({left} recorded calls are not used)"
        )
        self.warnings.append(message)
        if self.on_end:
            self.on_end(message)

    def _key(self, place: CallPlace, prompt: Sequence[tuple[str, str]]) -> object:
        shown = tuple((role, self._kept_text(text)) for role, text in prompt)
        if self._limits_changed:
            shown = tuple((role, LIMITS_IN_PROMPT.sub(r"\1\2", text)) for role, text in shown)
        return self._kept_text(place.asked), shown


REPLAY: ContextVar[Replay | None] = ContextVar("rlm_dspy_replay", default=None)
# The reply to the call that is being made in this context.
REPLY: ContextVar[RecordedReply | None] = ContextVar("rlm_dspy_recorded_reply", default=None)


# The id that the root runs of a question get, because its client knows it already; None elsewhere.
RUN_ID: ContextVar[str | None] = ContextVar("rlm_dspy_run_id", default=None)


def new_run_id() -> str:
    """Return an id for a run."""
    return uuid.uuid4().hex[:12]


def root_run_id() -> str:
    """Return the id of a root run that starts in this context."""
    if run_id := RUN_ID.get():
        return run_id
    replay = REPLAY.get()
    if replay:
        return replay.next_run_id()
    return new_run_id()
