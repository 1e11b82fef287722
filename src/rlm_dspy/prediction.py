"""What a call of an RLM returns: a ``dspy.Prediction`` that shows itself in a few lines."""

from __future__ import annotations

import html
from typing import Any

import dspy

SHOWN = 200  # characters of a value that are shown


class RLMPrediction(dspy.Prediction):  # type: ignore[misc]
    """The outputs, ``trajectory``, ``final_reasoning`` and ``run``, the full record."""

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name}={shortened(value)}" for name, value in self._outputs().items())
        run = self.get("rlm_run", self.get("run"))
        state = f"{run.status} after {len(run.steps)} steps, {run.usage.calls} calls" if run is not None else "no run"
        return f"Prediction({outputs})\n# {state}"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{_cell(name)}</th><td>{_cell(value)}</td></tr>" for name, value in self._outputs().items())
        return f"<table>{''.join(rows)}</table>"

    def _outputs(self) -> dict[str, Any]:
        hidden = {"trajectory", "final_reasoning", "rlm_run"}
        run = self.get("rlm_run", self.get("run"))
        return {name: value for name, value in self.items() if name not in hidden and value is not run}


def shortened(value: Any) -> str:
    """Return a value's repr, cut to ``SHOWN`` characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _cell(value: Any) -> str:
    return html.escape(value if isinstance(value, str) and len(value) <= SHOWN else shortened(value))
