"""What one question costs, measured the same way for any program: by DSPy's callbacks around its LM calls."""

from __future__ import annotations

import threading
from typing import Any

from rlm_dspy.metering import Meter


class Watch(Meter):
    """Counts a question's LM calls and usage, and how much of each prompt an earlier prompt began with."""

    def __init__(self) -> None:
        super().__init__()
        self._prompts: list[str] = []
        self._sent = 0
        self._shared = 0
        self._guard = threading.Lock()

    @property
    def prefix_share(self) -> float | None:
        """The share of prompt characters, after the first prompt, that a server may keep from an earlier one."""
        return self._shared / self._sent if self._sent else None

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Compare the prompt with those before it."""
        super().on_lm_start(call_id, instance, inputs)
        prompt = _text(inputs)
        with self._guard:
            if self._prompts:
                self._sent += len(prompt)
                self._shared += max(common(prompt, earlier) for earlier in self._prompts)
            # The newest of a growing conversation begins with all before it; only branches need the others.
            self._prompts = [*(p for p in self._prompts if not prompt.startswith(p)), prompt][-32:]


def common(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _text(inputs: dict[str, Any]) -> str:
    messages = inputs.get("messages")
    if not messages:
        return str(inputs.get("prompt") or "")
    return "".join(f"\n<{message.get('role')}>\n{message.get('content')}" for message in messages)
