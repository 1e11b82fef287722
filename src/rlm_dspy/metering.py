"""What LM calls used, read from DSPy's own records of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from rlm_dspy.record import Usage

CHARS_PER_TOKEN = 4
NOTICEABLE = 1.0  # seconds; shorter waits are counted, not announced


def tokens(text: str) -> int:
    """Estimate the tokens of ``text``, at four characters each."""
    return len(text) // CHARS_PER_TOKEN + 1


class Meter(BaseCallback):  # type: ignore[misc]
    """Collects the usage of every LM call made in the context that has it among its callbacks.

    ``on_wait`` is told of a provider and the seconds that a call is about to wait for it.
    """

    def __init__(self, on_wait: Callable[[str, float], None] | None = None) -> None:
        self.on_wait = on_wait
        self.by_model: dict[str, Usage] = {}
        self._lms: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """The sum over all models."""
        with self._lock:
            return sum(self.by_model.values(), Usage())

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Remember which LM a call belongs to."""
        self._lms[call_id] = instance

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Add the usage of a finished call; a failed one counts as a call."""
        lm = self._lms.pop(call_id, None)
        # DSPy hands over the very list that the history entry holds, so identity finds it among concurrent calls.
        entry = next((e for e in reversed(getattr(lm, "history", [])[-256:]) if e["outputs"] is outputs), None)
        usage = _usage(entry) if entry and exception is None else Usage(calls=1, cost=0.0 if exception else None)
        data = getattr(entry["response"], "provider_data", None) if entry else None
        answered_by = data.get("answered_by") if isinstance(data, dict) else None
        self.add(str(answered_by or getattr(lm, "model", "unknown")), usage)

    def add(self, model: str, usage: Usage) -> None:
        """Add to what a model used."""
        with self._lock:
            self.by_model[model] = self.by_model.get(model, Usage()) + usage


@contextmanager
def waiting(model: str, provider: str, seconds: float, *, retry: bool) -> Iterator[None]:
    """Tell every meter of the current context that a call waits now, and count how long it did."""
    meters = [callback for callback in dspy.settings.callbacks if isinstance(callback, Meter)]
    for meter in meters:
        if meter.on_wait and seconds >= NOTICEABLE:
            meter.on_wait(provider, seconds)
    started = time.monotonic()
    try:
        yield
    finally:
        waited = round(time.monotonic() - started, 3)
        for meter in meters:
            meter.add(model, Usage(retries=int(retry), waited_seconds=waited))


def _usage(entry: dict[str, Any]) -> Usage:
    reported = entry["usage"] or {}
    if not reported:
        return _estimate(entry)
    cost = entry.get("cost")
    data = getattr(entry["response"], "provider_data", None)
    if cost is None and isinstance(data, dict):
        cost = data.get("cost")
    details = reported.get("prompt_tokens_details") or {}
    return Usage(
        calls=1,
        prompt_tokens=reported.get("prompt_tokens") or 0,
        completion_tokens=reported.get("completion_tokens") or 0,
        cached_tokens=(details.get("cached_tokens") if isinstance(details, dict) else 0) or 0,
        cost=cost,
    )


def _estimate(entry: dict[str, Any]) -> Usage:
    """Return nothing spent for a call that DSPy's cache served, and an estimate where the engine reports no usage."""
    given = getattr(getattr(entry["response"], "usage", None), "input_tokens", None)
    if given is not None:  # the cached response has its usage, the entry has none
        return Usage(calls=1)
    sent = sum(len(str(message.get("content") or "")) for message in entry["messages"] or ())
    sent = sent or len(str(entry["prompt"] or ""))
    got = sum(len(str(output)) for output in entry["outputs"])
    return Usage(calls=1, prompt_tokens=sent // CHARS_PER_TOKEN, completion_tokens=got // CHARS_PER_TOKEN, cost=None)
