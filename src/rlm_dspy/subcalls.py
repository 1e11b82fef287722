"""The calls that REPL code makes to a sub-model, charged to the ledger and recorded under the step that made them."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy.budget import Ledger
from rlm_dspy.errors import BudgetExceededError
from rlm_dspy.record import SubCall, Usage

CHARS_PER_TOKEN = 4
RENDERED = 500


@dataclass(frozen=True)
class CallError:
    """What stands in a batch's slot whose call failed: never a string that could be taken for an answer."""

    error: str
    kind: str
    ok: bool = False


def tokens(text: str) -> int:
    """Estimate the tokens of ``text``, at four characters each."""
    return len(text) // CHARS_PER_TOKEN + 1


def short(text: str, limit: int = RENDERED) -> str:
    """Shorten ``text`` to a rendering for the record."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


class Meter(BaseCallback):  # type: ignore[misc]
    """Collects the usage of every LM call made in the context that has it among its callbacks."""

    def __init__(self) -> None:
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
        with self._lock:
            model = getattr(lm, "model", "unknown")
            self.by_model[model] = self.by_model.get(model, Usage()) + usage


def _usage(entry: dict[str, Any]) -> Usage:
    reported = entry["usage"] or {}
    if not reported:  # served from DSPy's cache: nothing was spent
        return Usage(calls=1)
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


class SubCalls:
    """The sub-model functions of one run."""

    def __init__(self, lm: Any, ledger: Ledger, on_usage: Callable[[Meter], None]) -> None:
        self.lm = lm
        self.ledger = ledger
        self._on_usage = on_usage
        self._made: list[SubCall] = []
        self._lock = threading.Lock()

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions to install in the REPL, by name."""
        return {"llm_query": self.llm_query, "llm_query_batched": self.llm_query_batched}

    def taken(self) -> tuple[SubCall, ...]:
        """Return the sub-calls made since the last time, and forget them."""
        with self._lock:
            made, self._made = tuple(self._made), []
        return made

    def llm_query(self, prompt: str) -> str:
        """Ask the sub-model one prompt, of which it sees nothing else."""
        answer = self._ask(_prompt(prompt))
        if isinstance(answer, CallError):
            raise RuntimeError(f"{answer.kind}: {answer.error}")
        return answer

    def llm_query_batched(self, prompts: list[str]) -> list[str | CallError]:
        """Ask many prompts at once; answers keep the order, and a failed one is an object with ``.ok == False``."""
        if isinstance(prompts, str) or not isinstance(prompts, (list, tuple)):
            raise TypeError("llm_query_batched takes a list of prompts")
        texts = [_prompt(prompt) for prompt in prompts]
        if not texts:
            return []
        left = self.ledger.budget.max_llm_calls - self.ledger.sub_calls
        if len(texts) > left:
            raise BudgetExceededError(
                f"LLM call limit exceeded: {len(texts)} prompts, {left} calls left. Send fewer, larger prompts, "
                "or use Python code.",
                limit="max_llm_calls",
            )
        workers = min(len(texts), self.ledger.budget.max_concurrency)
        with ThreadPoolExecutor(workers, thread_name_prefix="rlm-subcall") as pool:
            futures = [pool.submit(contextvars.copy_context().run, self._ask, text) for text in texts]
            return [future.result() for future in futures]

    def _ask(self, prompt: str) -> str | CallError:
        """Make one plain call within the budget; the provider's failure is a value, a refused budget is raised."""
        lm = self.lm or dspy.settings.lm
        if lm is None:
            raise dspy.LMNotConfiguredError("No LM configured. Use dspy.configure(lm=...) or pass sub_lm to RLM.")
        reservation = self.ledger.reserve(tokens(prompt), sub_call=True)
        meter, started = Meter(), time.perf_counter()
        answer: str | CallError
        try:
            # A raw thread has no portal to stream through, and sub-calls are not the streamed program's output.
            with dspy.context(send_stream=None, callbacks=[*dspy.settings.callbacks, meter]):
                answer = _text(lm(prompt))
        except DSPyLMError as error:
            answer = CallError(error=str(error), kind=type(error).__name__)
        finally:
            reservation.settle(meter.usage)
        failed = isinstance(answer, CallError)
        self._note(
            SubCall(
                kind="plain",
                prompt=short(prompt),
                output="" if failed else short(str(answer)),
                error=answer.error if isinstance(answer, CallError) else None,
                model=lm.model,
                usage=meter.usage,
                seconds=time.perf_counter() - started,
            ),
            meter,
        )
        return answer

    def _note(self, call: SubCall, meter: Meter) -> None:
        with self._lock:
            self._made.append(call)
        self._on_usage(meter)


def _prompt(prompt: Any) -> str:
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt must be a str, not {type(prompt).__name__}")
    if not prompt.strip():
        raise ValueError("prompt cannot be empty")
    return prompt.encode("utf-8", "replace").decode()


def _text(outputs: Any) -> str:
    """Return the text of an LM call's outputs, whichever of DSPy's shapes they have."""
    if isinstance(outputs, list) and outputs:
        first = outputs[0]
        text = first.get("text") if isinstance(first, dict) else first
    else:
        text = getattr(outputs, "text", None)
    if not isinstance(text, str):
        raise TypeError(f"the sub-model's reply has no text ({type(outputs).__name__})")
    return text
