"""The questions and requests that wait, and the waves that carry them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rlm_dspy.lms.provider_batches.journal import WaveRecord
from rlm_dspy.lms.provider_batches.protocol import BatchProtocol
from rlm_dspy.lms.providers import Route


@dataclass(frozen=True)
class WavePace:
    """How long to wait, in seconds.

    Args:
        first_poll: between the first and the second poll; each later pause is 1.5 times as long as the one before.
        longest_poll: the maximum between two polls.
        quiet: how long no new request may arrive before a wave is sent.
        linger: how long a wave waits at most for questions in progress that have no request in it.
    """

    first_poll: float = 10.0
    longest_poll: float = 300.0
    quiet: float = 0.5
    linger: float = 60.0


@dataclass(frozen=True)
class WaveProgress:
    """One poll of a batch: the provider's word, finished and all requests, seconds so far and to the next poll."""

    batch_id: str
    status: str
    done: int
    total: int
    seconds: float
    next_poll: float


@dataclass(eq=False)
class AskedQuestion:
    """A question that is being answered, and how many of its requests wait."""

    text: str
    waiting: int = 0


@dataclass(eq=False)
class Lane:
    """One model at one address: its requests go into the same batches."""

    name: str
    route: Route
    protocol: BatchProtocol


@dataclass(eq=False)
class PendingCall:
    """A request that has no reply yet."""

    key: str
    body: str
    lane: Lane
    question: str
    future: Future[Any] = field(default_factory=Future)
    tries: int = 0


@dataclass(eq=False)
class OpenWave:
    """A wave that was sent, or is about to be; ``calls`` are those that somebody waits for, by their id."""

    record: WaveRecord
    lane: Lane
    calls: dict[str, PendingCall]
    is_new: bool
    is_being_read: bool = False
    cancelled_at: float | None = None
    asked_again: int = 0  # of its requests
    error: BaseException | None = None  # what ended it, so that its state at the provider is unknown
