"""The result of a call: a ``dspy.Prediction`` with the record of its run and a short repr."""

from __future__ import annotations

from typing import Any

import dspy

from rlm_dspy.run import Run, html_table, one_line


class RLMPrediction(dspy.Prediction):  # type: ignore[misc]
    """The outputs, plus the fields that DSPy's RLM adds; the record is available as ``run``.

    An output of the signature called ``run`` or ``history`` takes precedence; ``rlm_run`` is always the record.
    """

    _run: Run | None = None
    _history: dspy.History | None = None

    @classmethod
    def of(
        cls, outputs: dict[str, Any], run: Run | None, history: dspy.History | None = None, **about: Any
    ) -> RLMPrediction:
        """Return a prediction with these outputs."""
        prediction = cls({**outputs, **about})
        prediction._run = run
        prediction._history = history
        return prediction

    @property
    def rlm_run(self) -> Run | None:
        """The full record of the call."""
        return self._run

    @property
    def run(self) -> Any:
        """The full record of the call, or the caller's own output of this name."""
        return self._store.get("run", self._run)

    @property
    def history(self) -> Any:
        """The conversation with this turn, for the next call, or the caller's own output of this name.

        Raises:
            AttributeError: the signature has neither.
        """
        found = self._store.get("history", self._history)
        if found is None and "history" not in self._store:
            raise AttributeError("the signature has no dspy.History, so the prediction has no history")
        return found

    @history.setter
    def history(self, value: Any) -> None:
        self._store["history"] = value

    @property
    def next_history(self) -> dspy.History | None:
        """The conversation with this turn, even if an output is named `history`; None without a history."""
        return self._history

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}={one_line(repr(value))}" for name, value in self._signature_outputs().items())
        return f"Prediction({outputs})\n# {self._run!r}"

    def __str__(self) -> str:
        """Return the outputs as DSPy does; with the run's seconds in it, a prompt would always miss DSPy's cache."""
        return f"{dspy.Prediction(self._signature_outputs())}"

    def copy(self, **changes: Any) -> RLMPrediction:
        """Return a copy with some outputs changed and the same record."""
        return self.of({**self._store, **changes}, self._run, self._history)

    def without(self, *names: str) -> RLMPrediction:
        """Return a copy without some outputs and with the same record."""
        kept = {name: value for name, value in self._store.items() if name not in names}
        return self.of(kept, self._run, self._history)

    def _repr_html_(self) -> str:
        return html_table(self._signature_outputs().items())

    def _signature_outputs(self) -> dict[str, Any]:
        return {name: value for name, value in self.items() if name not in ("trajectory", "final_reasoning")}


def run_of(prediction: Any) -> Run | None:
    """Return the run record of a prediction, or None."""
    for name in ("rlm_run", "run"):
        run = getattr(prediction, name, None)
        if isinstance(run, Run):
            return run
    return None
