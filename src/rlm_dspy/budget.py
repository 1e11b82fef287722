"""The limits of a run (a frozen value) and the ledger for a whole tree of runs.

A call is reserved before it is made and settled afterwards, so that concurrent calls cannot overshoot by more than
what is already in flight. A child's ledger charges every ancestor, root first.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.run import Usage

logger = logging.getLogger(__name__)


class Budget(BaseModel):
    """The limits of one run; ``None`` means unlimited.

    Attributes:
        max_iters: steps of one RLM (each child has the same limit).
        max_llm_calls: sub-LM calls of the whole tree: plain, typed, and every call made by a child.
        max_tokens: prompt and completion tokens of the whole tree.
        max_cost: US dollars of the whole tree; calls with an unknown price are not counted, with one warning.
        max_seconds: wall-clock seconds of the whole run.
        max_depth: levels of children below the root.
        max_concurrency: sub-calls in flight at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_iters: int = Field(default=20, ge=1)
    max_llm_calls: int = Field(default=50, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    max_seconds: float | None = Field(default=None, gt=0)
    max_depth: int = Field(default=1, ge=0, le=50)
    max_concurrency: int = Field(default=8, ge=1, le=256)

    @field_validator("max_cost", "max_seconds")
    @classmethod
    def _read_infinity(cls, value: float | None) -> float | None:
        if value == math.inf:
            return None
        return value

    @field_validator("max_depth")
    @classmethod
    def _warn_deep(cls, value: int) -> int:
        if value > 20:
            logger.warning("High recursion depth: %d", value)
        return value


_USED_FORMS = {
    "max_llm_calls": "{used:,} of {most:,} sub-calls",
    "max_tokens": "{used:,} of {most:,} tokens",
    "max_cost": "${used:.4f} of ${most:.4f}",
    "max_seconds": "{used:.1f} of {most:g} s",
}


def used_text(limit: str, used: float, most: float) -> str:
    """Return how much of a limit was used, such as "412 of 500 tokens"."""
    return _USED_FORMS[limit].format(used=used, most=most)


class Reservation:
    """One admitted call; settle it with its actual usage, or with empty usage if it failed."""

    def __init__(self, ledger: Ledger, tokens: int, cost: float) -> None:
        self._ledger = ledger
        self._tokens = tokens
        self._cost = cost
        self._open = True

    def settle(self, usage: Usage) -> None:
        """Replace the estimate by the actual usage; a second settlement is ignored."""
        if self._close():
            self._ledger._settle_call(usage, self._tokens, self._cost)

    def cancel(self) -> None:
        """Release a sub-call that was never made."""
        if self._close():
            self._ledger._settle_call(Usage(), self._tokens, self._cost, sub_calls=1)

    def _close(self) -> bool:
        """Close the reservation and return whether it was open: both the call and the end of its run may settle it."""
        with self._ledger._lock:
            was_open, self._open = self._open, False
        return was_open


class Ledger:
    """The reserved and spent amounts of a run and its ancestors. Thread-safe.

    Args:
        budget: its limits.
        parent: the ledger that is charged too.
        clock: returns seconds.
        is_turn: whether this ledger is for one turn of the conversation that the parent is for, at the same depth.
    """

    def __init__(
        self,
        budget: Budget,
        parent: Ledger | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_turn: bool = False,
    ) -> None:
        self.budget = budget
        self.parent = parent
        self.depth: int = parent.depth + (not is_turn) if parent else 0
        self.usage = Usage()
        self.known_cost = 0.0  # US dollars of the calls with a known price; usage.cost may be None
        self.sub_calls = 0
        self._reserved_tokens = 0
        self._reserved_cost = 0.0
        self._clock = clock
        self._started = clock()
        self._lock: threading.RLock = parent._lock if parent else threading.RLock()
        # Sub-calls in flight in the whole tree; a child holds no slot while it waits for its own sub-calls.
        self.slots: threading.BoundedSemaphore = (
            parent.slots if parent else threading.BoundedSemaphore(budget.max_concurrency)
        )
        self._warned_cost = False

    def _chain_from_root(self) -> list[Ledger]:
        chain: list[Ledger] = []
        node: Ledger | None = self
        while node:
            chain.append(node)
            node = node.parent
        return chain[::-1]

    @property
    def root(self) -> Ledger:
        """The ledger of the whole tree."""
        if self.parent:
            return self.parent.root
        return self

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since this ledger was opened."""
        return self._clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the earliest ``max_seconds`` in the chain, never negative; None without a limit."""
        left = [
            node.budget.max_seconds - node.seconds
            for node in self._chain_from_root()
            if node.budget.max_seconds is not None
        ]
        if left:
            return max(0.0, min(left))
        return None

    @property
    def calls_left(self) -> int:
        """Sub-calls that this ledger and its ancestors still allow."""
        with self._lock:
            return max(0, min(node.budget.max_llm_calls - node.sub_calls for node in self._chain_from_root()))

    def exhausted(self, *, tokens: int = 0, cost: float = 0.0, share: float = 1.0) -> str | None:
        """Return the limit that a step of this size would exceed, or None; it may use ``share`` of the time."""
        with self._lock:
            for node in self._chain_from_root():
                if limit := node._spent_limit(tokens, cost, share):
                    return limit
        return None

    def _spent_limit(self, tokens: int = 0, cost: float = 0.0, share: float = 1.0) -> str | None:
        budget = self.budget
        used = self.usage.total_tokens + self._reserved_tokens
        if budget.max_seconds is not None and self.seconds >= share * budget.max_seconds:
            return "max_seconds"
        if budget.max_tokens is not None and used + tokens >= budget.max_tokens:
            return "max_tokens"
        if self._has_spent_cost(cost):
            return "max_cost"
        return None

    @property
    def is_overspent(self) -> bool:
        """Whether this ledger or an ancestor has spent its ``max_cost``."""
        with self._lock:
            return any(node._has_spent_cost() for node in self._chain_from_root())

    def _has_spent_cost(self, cost: float = 0.0) -> bool:
        limit = self.budget.max_cost
        return limit is not None and self.known_cost + self._reserved_cost + cost >= limit

    def charge(self, usage: Usage) -> None:
        """Charge a call that no limit may refuse, i.e. the final extract."""
        self._settle_call(usage)

    def reserve(self, tokens: int, *, sub_call: bool, cost: float = 0.0) -> Reservation:
        """Admit a call estimated at ``tokens`` and ``cost`` (US dollars), or refuse it.

        Raises:
            BudgetExceededError: the call would exceed a limit of this ledger or an ancestor.
        """
        with self._lock:
            chain = self._chain_from_root()
            for node in chain:
                if sub_call and node.sub_calls >= node.budget.max_llm_calls:
                    raise BudgetExceededError(
                        f"LLM call limit exceeded: {node.sub_calls} + 1 > {node.budget.max_llm_calls}. "
                        "Use Python code for aggregation, or SUBMIT what you have.",
                        limit="max_llm_calls",
                    )
                if sub_call:
                    limit = node._spent_limit(tokens, cost)
                else:
                    limit = node._spent_limit()
                if limit:
                    raise BudgetExceededError(
                        f"The run's {limit} is used up. SUBMIT the best answer that you have now.", limit=limit
                    )
            for node in chain:
                node._reserved_tokens += tokens
                node._reserved_cost += cost
                node.sub_calls += int(sub_call)
        return Reservation(self, tokens, cost)

    def _settle_call(self, usage: Usage, tokens: int = 0, cost: float = 0.0, sub_calls: int = 0) -> None:
        with self._lock:
            for node in self._chain_from_root():
                node._reserved_tokens -= tokens
                node._reserved_cost -= cost
                node.sub_calls -= sub_calls
                node.usage = node.usage + usage
                node.known_cost += usage.cost or 0.0
            root = self.root
            if usage.cost is None and root.budget.max_cost is not None and not root._warned_cost:
                root._warned_cost = True
                logger.warning("a model's price is unknown, so max_cost does not cover it: limit max_tokens too")

    def used_text(self, limit: str) -> str:
        """Return how much of a limit is used, in the ledger with the least left; "" for a limit without a figure."""
        if limit not in _USED_FORMS:
            return ""
        with self._lock:
            nodes = self._chain_from_root()
            shares = [(node._used(limit), getattr(node.budget, limit)) for node in nodes]
        figures = [(used, most) for used, most in shares if most is not None]
        if figures:
            return used_text(limit, *min(figures, key=lambda pair: pair[1] - pair[0]))
        return ""

    def _used(self, limit: str) -> float:
        if limit == "max_llm_calls":
            return self.sub_calls
        if limit == "max_tokens":
            return self.usage.total_tokens
        if limit == "max_cost":
            return self.known_cost
        return self.seconds

    def counters(self) -> str:
        """Return the used part of the call limit, for prompts; time or tokens would defeat the cache on a rerun."""
        return f"sub-calls {self.sub_calls}/{self.budget.max_llm_calls}"
