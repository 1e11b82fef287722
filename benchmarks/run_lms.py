"""The cost of the LM layer, compared with bare LiteLLM in the same run, against the fake servers of the tests.

    python benchmarks/run_lms.py            prints a Markdown table; see RESULTS.md

Ratios matter, not seconds. The limit per minute is simulated: no time passes.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import litellm

from rlm_dspy.lms import lm, rate_limits
from rlm_dspy.testing import action
from servers.ollama import OllamaServer
from servers.openai import OpenAIServer

CALLS = 150
PROMPT = "word " * 2_000
IMPORTS = "import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'; import dspy, litellm; litellm.completion"


def interleaved(*calls: Callable[[], Any]) -> list[float]:
    """Time calls alternately, so that other load affects all equally; return the medians.

    LiteLLM keeps logging in a thread after it answered; the pause lets it finish, as between real calls.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number in range(CALLS + 10):
        for place in random.sample(range(len(calls)), len(calls)):
            time.sleep(0.01)
            started = time.perf_counter()
            calls[place]()
            if number >= 10:
                times[place].append(time.perf_counter() - started)
    return [statistics.median(kept) for kept in times]


def overhead_openai() -> list[float]:
    """Time a call through ``dspy.LM`` with our engine, through DSPy's LiteLLM engine, and through bare LiteLLM."""
    import dspy

    message = [{"role": "user", "content": PROMPT}]
    with OpenAIServer(models=("m",)) as server:
        options = {"api_base": server.url, "api_key": server.key}
        made = lm("openai/m", cache=False, **options)
        stock = dspy.LM("openai/m", engine="litellm", cache=False, **options)

        def bare() -> Any:
            return litellm.completion(model="openai/m", messages=message, num_retries=0, max_retries=0, **options)

        return interleaved(lambda: made(PROMPT), lambda: stock(PROMPT), bare)


def overhead_ollama() -> list[float]:
    """Time the same with Ollama's API, without DSPy's engine, which does not send the fields Ollama needs."""
    message = [{"role": "user", "content": PROMPT}]
    with OllamaServer() as server:
        made = lm("ollama_chat/qwen3:8b", cache=False, api_base=server.url)

        def bare() -> Any:
            return litellm.completion(
                model="ollama_chat/qwen3:8b", messages=message, api_base=server.url, num_ctx=32768, num_retries=0
            )

        return interleaved(lambda: made(PROMPT), bare)


def simulated(calls: int = 200, per_minute: int = 30, seconds_each: float = 0.5) -> tuple[float, int]:
    """Return the minutes that the calls take under a limit, and the maximum number of calls in any minute."""
    now = [0.0]
    limit = rate_limits.RateLimiter(per_minute, clock=lambda: now[0])
    starts: list[float] = []
    for _ in range(calls):
        now[0] += limit.reserve()
        starts.append(now[0])
        now[0] += seconds_each
    most = max(sum(1 for other in starts if start <= other < start + 60) for start in starts)
    return now[0] / 60, most


def first_request() -> tuple[float, float]:
    """Time ``ask`` from start to its first request, and the bare imports of dspy and litellm."""
    asks, imports = [], []
    for _ in range(5):
        with OllamaServer() as server:
            env = {**os.environ, "OLLAMA_HOST": server.url, "RLM_DSPY_MODEL": "ollama_chat/qwen3:8b"}
            started = time.perf_counter()
            command = [sys.executable, "-m", "rlm_dspy", "ask", "--mode", "rlm", "what is it?", str(Path(__file__))]
            process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not any(seen.path == "/api/chat" for seen in server.seen) and process.poll() is None:
                time.sleep(0.005)
            asks.append(time.perf_counter() - started)
            process.kill()
            process.wait()
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        imports.append(time.perf_counter() - started)
    return statistics.median(asks), statistics.median(imports)


def last_seconds() -> float:
    """Time ``ask`` from its answer to its end."""
    ends = []
    for _ in range(5):
        with OpenAIServer(models=("m",)) as server:
            server.turns = [(action("SUBMIT(answer='42', evidence=[])"), "stop")]
            env = {**os.environ, "OPENAI_API_BASE": server.url, "OPENAI_API_KEY": server.key}
            command = [sys.executable, "-m", "rlm_dspy", "ask", "-q", "-m", "openai/m", "--mode", "rlm", "what is it?"]
            with subprocess.Popen([*command, str(Path(__file__))], env=env, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                answered = time.perf_counter()
            ends.append(time.perf_counter() - answered)
    return statistics.median(ends)


def main() -> None:
    """Print the table."""
    ours, theirs, bare = overhead_openai()
    local, bare_local = overhead_ollama()
    minutes, most = simulated()
    ask, imports = first_request()
    end = last_seconds()
    print("| what | rlm_dspy | DSPy's engine | bare LiteLLM | ratio | goal |\n|---|---|---|---|---|---|")
    print(
        f"| one call, OpenAI wire, ms | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | {bare * 1e3:.2f} "
        f"| {ours / bare:.2f} | ≤ 1.1 |"
    )
    more = local / bare_local
    print(f"| one call, Ollama wire, ms | {local * 1e3:.2f} | | {bare_local * 1e3:.2f} | {more:.2f} | ≤ 1.1 |")
    print(f"| 200 calls at 30/min, simulated | {minutes:.1f} min, at most {most} in any minute | | | | ≤ 30 |")
    print(f"| `ask` to its first request, s | {ask:.2f} | | {imports:.2f} (imports) | {ask / imports:.2f} | ≤ 1.15 |")
    print(f"| `ask` from its answer to its end, s | {end:.2f} | | | | |")


if __name__ == "__main__":
    main()
