"""After a killed ``ask`` is restarted, finished calls come from DSPy's cache and are not paid for twice."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy.testing import action
from servers.openai import OpenAIServer
from warm import warm_python

STEPS = 8
KEY = "sk-test-key-0000"


class Stepping(OpenAIServer):
    """Plays a run of ``STEPS`` steps, and keeps the number of each step that it answered."""

    def __init__(self) -> None:
        super().__init__(key=KEY, models=("x",), headers={})
        self.answered: list[int] = []
        self._more = threading.Condition()

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        step = int(body["messages"][-1]["content"].rsplit("[step ", 1)[1].split("/")[0])
        code = f"print({step})" if step < STEPS else "SUBMIT(answer='end', evidence=[])"
        self.turns = [(action(code), "stop")]
        super().answer(handler, path, body)
        with self._more:
            self.answered.append(step)
            self._more.notify_all()

    def wait_for(self, count: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: len(self.answered) >= count, timeout=60)


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_API_BASE": url, "RLM_DSPY_MODEL": "openai/x"}


@pytest.mark.slow
def test_a_killed_ask_replays_what_was_paid_for(home: Path, write: Callable) -> None:
    write("notes.md", "One and one is two.\n")
    command = [*warm_python(), "-m", "rlm_dspy", "ask", "what?", ".", "--mode", "rlm"]
    with Stepping() as server:
        first = subprocess.Popen(command, env=environment(server.url), stderr=subprocess.PIPE)
        server.wait_for(5)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        paid = list(server.answered)
        again = subprocess.run(
            command, env=environment(server.url), capture_output=True, text=True, timeout=60, check=False
        )
    assert (again.returncode, again.stdout) == (0, "end\n"), again.stderr
    assert "Warning" not in again.stderr
    # The call in flight when the process died was answered, but its answer was never received.
    assert not set(server.answered[len(paid) :]) & set(paid[:-1])
    assert set(server.answered) == set(range(1, STEPS + 1))
