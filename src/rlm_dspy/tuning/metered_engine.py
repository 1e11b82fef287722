"""The caps of an optimization: all LM calls, from any caller, are charged to one budget.

Optimizers treat any exception as a bad candidate and continue. So a reached cap is raised as :class:`CapReachedError`,
which, like ``KeyboardInterrupt``, no ``except Exception`` stops. They leave threads behind that it does not reach; so
each part of an optimization has its own :class:`BudgetPhase`, and a call of a part that is over is refused. Calls
answered from DSPy's cache never get here and cost nothing; that makes resuming free up to where the first attempt
ended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Request, Response

from rlm_dspy import safe_files
from rlm_dspy._dspy import WrappedEngine, async_engine_of
from rlm_dspy.budget import Budget, Ledger, Reservation
from rlm_dspy.counting import estimate_tokens
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.metering import Meter, response_usage
from rlm_dspy.run import Usage

# How an optimization ended; else the name of a cap.
FINISHED = "finished"
FAILURES = "failures"  # too many questions in a row failed


class CapReachedError(BaseException):
    """The optimization does not allow another call; ``cap`` names the limit, or what else ended it."""

    def __init__(self, cap: str, message: str = "") -> None:
        super().__init__(message or f"{cap} is used up")
        self.cap = cap


class SharedBudget:
    """The budget and spending of an optimization, including earlier attempts, which are read from the log.

    Args:
        max_calls: maximum LM calls in total.
        max_cost: maximum US dollars in total; calls with an unknown price are not counted.
        log: a file with one line per charged call.
    """

    def __init__(self, max_calls: int, max_cost: float | None = None, log: Path | None = None) -> None:
        self.max_calls = max_calls
        self.ledger = Ledger(Budget(max_llm_calls=max_calls, max_cost=max_cost))
        self.kept_back = 0  # calls that only the last evaluation may use
        self.kept_back_cost = 0.0  # US dollars
        self._log = log
        self._in_flight = 0
        self._highest_cost = 0.0  # of one call so far, in US dollars
        self._lock = threading.Lock()
        # An incomplete last line stands for at most one call.
        for usage in safe_files.read_rows(log, Usage.model_validate_json, repair=True) if log else ():
            self.ledger.charge(usage)
            self.ledger.sub_calls += 1
            self._note_cost(usage)

    @property
    def calls(self) -> int:
        """The admitted calls, including those of earlier attempts."""
        return self.ledger.sub_calls

    @property
    def cost(self) -> float | None:
        """US dollars so far; None if a price is unknown."""
        return self.ledger.usage.cost

    def _note_cost(self, usage: Usage) -> None:
        self._highest_cost = max(self._highest_cost, usage.cost or 0.0)

    def admit(self, size: int) -> Reservation:
        """Admit a call.

        Raises:
            CapReachedError: a cap, minus the reserve for the last evaluation, is used up.
        """
        with self._lock:
            if self.ledger.sub_calls >= self.max_calls - self.kept_back:
                raise CapReachedError("max-calls")
            # Calls in flight have no price yet; each is estimated as the most expensive call so far.
            if self.ledger.exhausted(cost=self._highest_cost * (self._in_flight + 1) + self.kept_back_cost):
                raise CapReachedError("max-cost")
            reservation = self.ledger.reserve(size, sub_call=True)
            self._in_flight += 1
            return reservation

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Charge a call and log it at once."""
        with self._lock:
            self._in_flight -= 1
            reservation.settle(usage)
            self._note_cost(usage)
            if self._log is not None:
                safe_files.append_row(self._log, usage.model_dump_json())


class BudgetPhase:
    """A part of an optimization, whose calls are charged to its budget until it is closed."""

    def __init__(self, shared_budget: SharedBudget) -> None:
        self.shared_budget = shared_budget
        self._is_closed = False

    def close(self) -> None:
        """Refuse all further calls, which only threads that an optimizer left behind can make."""
        self._is_closed = True

    def admit(self, size: int) -> Reservation:
        """Admit a call.

        Raises:
            CapReachedError: the phase is over, or a cap is used up.
        """
        if self._is_closed:
            raise CapReachedError("phase", "this part of the optimization is over")
        return self.shared_budget.admit(size)


class MeteredEngine(WrappedEngine):
    """An engine whose calls are charged to a budget; its streams are not, because tuning does not stream."""

    def __init__(self, engine: Any, phase: BudgetPhase, model: str) -> None:
        super().__init__(engine)
        self.phase = phase
        self.model = model

    def complete(self, request: Request) -> Response:
        """Answer one request, if the budget allows it."""
        with self.charge_call(request) as paid:
            response: Response = self.engine.complete(request)
            paid.append(response)
        return response

    @contextmanager
    def charge_call(self, request: Request) -> Iterator[list[Response]]:
        """Admit a call, and charge the response that its caller puts into the list."""
        reservation = self.phase.admit(sum(estimate_tokens(len(message.text or "")) for message in request.messages))
        paid: list[Response] = []
        try:
            yield paid
        finally:
            # A failed call counts as a call; providers do not bill it.
            if paid:
                usage = response_usage(request, paid[0], self.model)
            else:
                usage = Usage(calls=1)
            self.phase.shared_budget.settle(reservation, usage)


class AsyncMeteredEngine(MeteredEngine):
    """The async twin."""

    async def complete(self, request: Request) -> Response:
        """Answer one request, if the budget allows it."""
        with self.charge_call(request) as paid:
            response: Response = await self.engine.complete(request)
            paid.append(response)
        return response


def metered_lm(lm: dspy.LM, phase: BudgetPhase) -> dspy.LM:
    """Return a copy of an LM that is charged to the phase's budget and uses DSPy's cache where possible.

    Raises:
        ConfigurationError: the LM has no engine object; LMs made by ``rlm_dspy.lm`` have one.
    """
    if isinstance(lm.engine, str):
        raise ConfigurationError(f"the caps cannot be enforced for {lm.model}: use rlm_dspy.lm({lm.model!r})")
    asynchronous = async_engine_of(lm)
    return lm.copy(
        engine=MeteredEngine(lm.engine, phase, lm.model),
        async_engine=AsyncMeteredEngine(asynchronous, phase, lm.model) if asynchronous else None,
        cache=True,
    )


class PrefixMeter(Meter):
    """Counts a question's LM calls and usage, and how much of each prompt is a prefix of an earlier one."""

    def __init__(self) -> None:
        super().__init__()
        self._prompts: list[str] = []
        self._sent = 0
        self._shared = 0
        self._guard = threading.Lock()

    @property
    def prefix_share(self) -> float | None:
        """The share of prompt characters, after the first prompt, that a server may have cached."""
        if self._sent:
            return self._shared / self._sent
        return None

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Compare the prompt with those before it."""
        super().on_lm_start(call_id, instance, inputs)
        prompt = _prompt_text(inputs)
        with self._guard:
            if self._prompts:
                self._sent += len(prompt)
                self._shared += max(common_prefix_length(prompt, earlier) for earlier in self._prompts)
            # The newest prompt of a growing conversation contains all earlier ones; only branches need the others.
            self._prompts = [*(p for p in self._prompts if not prompt.startswith(p)), prompt][-32:]


def common_prefix_length(text: str, other: str) -> int:
    """Return the length of the common prefix of two texts, by bisection."""
    low, high = 0, min(len(text), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if text[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _prompt_text(inputs: dict[str, Any]) -> str:
    messages = inputs.get("messages")
    if not messages:
        return str(inputs.get("prompt") or "")
    return "".join(f"\n<{message.get('role')}>\n{message.get('content')}" for message in messages)
