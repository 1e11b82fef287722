"""Records the timed parts of a tree of runs as they start and end, and notifies listeners at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, Protocol

from rlm_dspy.replay import REPLAY, RecordedReply
from rlm_dspy.run import (
    Content,
    Message,
    Run,
    Span,
    SpanKind,
    Step,
    SubCall,
    cut_content,
    cut_text,
    replace_surrogates,
    shortened,
)

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARS = 200_000  # of a message of a prompt: a run's are shorter, a direct call's may hold a whole context

Record = Run | Step | SubCall


class Listener(Protocol):
    """Receives spans as they start and end, from any thread."""

    def started(self, span: Span, record: Run | None) -> None:
        """Handle the start of a span; ``record`` is the run that starts with it, as far as it is known."""
        ...

    def ended(self, span: Span, record: Record | None) -> None:
        """Handle the end of a span; ``record`` is the finished run, step or sub-call."""
        ...


# The listeners of runs in this context, and those of every run of this process.
LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("rlm_dspy_listeners", default=())
everywhere: list[Listener] = []
_ids = count(1)  # unique in this process, because a tool may start a run of its own


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Notify a listener of the spans of all runs that start in this context."""
    token = LISTENERS.set((*LISTENERS.get(), listener))
    try:
        yield
    finally:
        LISTENERS.reset(token)


class Recorder:
    """The spans of a tree of runs; thread-safe.

    A listener that fails is dropped, and ``problems`` says so; the run goes on.

    Args:
        content: how much of each text is kept and handed to listeners.
    """

    def __init__(self, content: Content = "full") -> None:
        self.content: Content = content
        self.problems: list[str] = []
        self.replay = REPLAY.get()
        self._listeners: list[Listener] = [*LISTENERS.get(), *everywhere]
        self._spans: dict[int, Span] = {}
        self._clocks: dict[int, float] = {}  # when each open span started
        # The last span and its prompt, by run and by whether sub-calls made them.
        self._last_prompts: dict[tuple[str, bool], tuple[int, list[tuple[str, str]]]] = {}
        self._lock = threading.RLock()

    @property
    def spans(self) -> tuple[Span, ...]:
        """All spans so far, in the order of their start."""
        with self._lock:
            return tuple(self._spans.values())

    def start(
        self, kind: SpanKind, name: str = "", parent: int | None = None, record: Run | None = None, **facts: Any
    ) -> int:
        """Start a span and return its id; it belongs to the run and step of its parent unless ``facts`` say more."""
        with self._lock:
            if parent is not None:
                above = self._spans[parent]
                facts = {"run": above.run, "step": above.step, "depth": above.depth, **facts}
            number = next(_ids)
            facts = self._cut(facts)
            span = Span.model_construct(
                id=number, kind=kind, name=name, parent=parent, started=time.time(), seconds=None, **facts
            )
            self._spans[number] = span
            self._clocks[number] = time.perf_counter()
            self._notify("started", span, record and shortened(record, self.content))
        return number

    def end(self, number: int, record: Record | None = None, **facts: Any) -> None:
        """End a span; ending it again changes nothing."""
        with self._lock:
            clock = self._clocks.pop(number, None)
            if clock is None:
                return
            facts = {"seconds": time.perf_counter() - clock, **self._cut(facts)}
            span = self._spans[number] = self._spans[number].model_copy(update=facts)
            self._notify("ended", span, record and shortened(record, self.content))

    def end_open(self, top: int, error: str) -> None:
        """End everything that is still open below a span, innermost first."""
        with self._lock:
            for number in sorted(self._clocks, reverse=True):
                if number != top and self._is_below(number, top):
                    self.end(number, error=error)

    def start_prompt(self, model: str, parent: int, prompt: Sequence[tuple[str, str]]) -> int:
        """Start the span of a call of a model; of its prompt, only what differs from the previous one is kept.

        Args:
            model: its name.
            parent: the span of the step or sub-call that makes it.
            prompt: role and text of each message.
        """
        with self._lock:
            above = self._spans[parent]
            chain = (above.run, above.kind == "sub_call")
            previous, last = self._last_prompts.get(chain, (None, []))
            same = 0
            while same < min(len(last), len(prompt)) and last[same] == prompt[same]:
                same += 1
            kept = tuple(self._kept_message(role, text) for role, text in prompt[same:])
            facts: dict[str, Any] = {"previous": previous if same else None, "same_messages": same, "messages": kept}
            number = self.start("lm", model, parent, **facts)
            self._last_prompts[chain] = number, list(prompt)
        return number

    def _kept_message(self, role: str, text: str) -> Message:
        return Message.model_construct(role=role, content=kept_text(text, self.content))

    def recorded_reply(self, parent: int, prompt: Sequence[tuple[str, str]]) -> RecordedReply | None:
        """Return the recorded reply to a call below a span; None if no record is replayed, or it has no such call."""
        if self.replay is None:
            return None
        with self._lock:
            above = self._spans[parent]
            step = root_step(above, self._spans)
        return self.replay.take_reply(step, above.input, prompt, is_sub_call=is_sub_call(above))

    def _is_below(self, number: int, top: int) -> bool:
        above: int | None = number
        while above is not None and above != top:
            above = self._spans[above].parent
        return above == top

    def _cut(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        cut = dict(facts)
        for name in ("input", "output", "error"):
            if name in cut:
                cut[name] = cut_content(replace_surrogates(cut[name]), self.content)
        return cut

    def _notify(self, method: str, span: Span, record: Record | None) -> None:
        for listener in list(self._listeners):
            try:
                getattr(listener, method)(span, record)
            except Exception as error:  # a watcher must not end the run that it watches
                self._listeners.remove(listener)
                name = getattr(listener, "label", type(listener).__name__)
                self.problems.append(f"{name} failed and missed the rest of this run: {error}")
                logger.warning("%s failed and misses the rest of this run", name, exc_info=error)


def kept_text(text: str, content: Content = "full") -> str:
    """Return a text of a prompt as a record keeps it."""
    return cut_text(cut_content(replace_surrogates(text), content), MAX_MESSAGE_CHARS)


def is_sub_call(span: Span) -> bool:
    """Return whether a call of a model below this span is made by code, in this run or a child."""
    return span.kind == "sub_call" or span.depth > 0


def root_step(span: Span, spans: Mapping[int, Span]) -> int:
    """Return the step of the root run that a span belongs to."""
    while span.depth and span.parent is not None:
        span = spans[span.parent]
    return span.step
