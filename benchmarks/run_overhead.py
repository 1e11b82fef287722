"""The cost of the machinery, compared with DSPy's in the same run.

    python benchmarks/run_overhead.py            prints a Markdown table; see RESULTS.md

Ratios matter, not seconds. "n/a" means that the other side cannot do it (PythonInterpreter needs Deno on PATH).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import dspy

import rlm_dspy
from rlm_dspy.testing import action, scripted, texts

sys.path.insert(0, str(Path(__file__).parent))
from sides import SIDES

MB = 1_000_000


def seconds(call: Callable[[], Any]) -> float:
    """Time one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def cold(factory: str) -> float:
    """Time the first result of a new interpreter in a new process, excluding imports."""
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r}); from sides import SIDES; "
        f"make = SIDES[{factory!r}]; t = time.perf_counter(); i = make(); "
        "i.execute('print(1)'); print(time.perf_counter() - t); i.shutdown()"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(5)]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def warm(factory: Callable[[], Any]) -> float:
    """Time one execute of a started interpreter."""
    interpreter = factory()
    interpreter.execute("1+1")
    times = [seconds(lambda: interpreter.execute("1+1")) for _ in range(200)]
    interpreter.shutdown()
    return statistics.median(times)


def hand_over(factory: Callable[[], Any], size: int, steps: int = 3) -> float:
    """Time the hand-over of ``size`` characters, plus ``steps`` cells as an RLM runs them."""
    text = ("0123456789abcde\n" * (size // 16 + 1))[:size]
    ours = factory is rlm_dspy.Sandbox
    interpreter = factory()
    interpreter.execute("print(1)")

    def work() -> None:
        for step in range(steps):
            # dspy.RLM passes the inputs at every step, ours only at the first.
            given = {"context": text} if step == 0 or not ours else {}
            interpreter.execute("print(len(context))", given)

    spent = seconds(work)
    interpreter.shutdown()
    return spent


def per_step(module: Callable[..., Any], factory: Callable[[], Any], steps: int = 20) -> float:
    """Return CPU seconds of this process per step, with a model that answers at once."""
    replies = [*(action(f"print({number})") for number in range(steps)), action("SUBMIT(answer='x')")]
    lm, _ = scripted(*replies)
    program = module("context, question -> answer", max_iters=steps + 1, interpreter_factory=factory)
    with dspy.context(lm=lm):
        program(context="c", question="q")
        lm, _ = scripted(*replies)
    with dspy.context(lm=lm):
        started = time.process_time()
        program(context="c", question="q")
    return (time.process_time() - started) / (steps + 1)


def prefix_share(module: Callable[..., Any], factory: Callable[[], Any]) -> float:
    """Return the share of each prompt's messages that begin the next one, byte for byte; mean of ten."""
    lm, script = scripted(*[action(f"print('{i}' * 2000)") for i in range(9)], action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        module("context, question -> answer", interpreter_factory=factory)(context="c" * 5000, question="q")
    shares = []
    prompts = [texts(request) for request in script.requests]
    for earlier, later in pairwise(prompts):
        same = 0
        for left, right in zip(earlier, later, strict=False):
            if left != right:
                break
            same += len(left)
        shares.append(same / sum(map(len, earlier)))
    return statistics.mean(shares)


def attempt(call: Callable[[], float], form: Callable[[float], str]) -> str:
    """Run one cell of the table."""
    try:
        return form(call())
    except (dspy.DSPyError, RuntimeError, OSError, IndexError, ValueError, MemoryError) as error:
        return f"n/a ({type(error).__name__})"


def milliseconds(value: float) -> str:
    return f"{value * 1000:,.2f} ms"


def percent(value: float) -> str:
    return f"{value:.1%}"


def rows() -> list[list[str]]:
    """Measure everything."""
    names = list(SIDES)
    table = [["figure", "goal", *names]]
    local = [f"{name}" for name in names]
    table.append(["first result, new process", "≤ 60 ms", *(attempt(lambda n=n: cold(n), milliseconds) for n in local)])
    table.append(["`execute`, warm", "≤ 0.5 ms", *(attempt(lambda f=f: warm(f), milliseconds) for f in SIDES.values())])
    for size in (10, 100):
        cells = (attempt(lambda f=f, s=size: hand_over(f, s * MB), milliseconds) for f in SIDES.values())
        table.append([f"{size} MB transferred, 3 steps", "≤ 300 ms" if size == 100 else "", *cells])
    modules = {"rlm_dspy.Sandbox": rlm_dspy.RLM, "dspy.PythonInterpreter": dspy.RLM, "dspy.LocalInterpreter": dspy.RLM}
    for title, goal, measure, form in (
        ("host CPU per step, `RLM`", "≤ 5 ms", per_step, milliseconds),
        ("prompt prefix kept, `RLM`", "≥ 99 %", prefix_share, percent),
    ):
        cells = (attempt(lambda n=n, m=measure: m(modules[n], SIDES[n]), form) for n in names)
        table.append([title, goal, *cells])
    command = [sys.executable, "-m", "rlm_dspy", "--help"]
    runs = [seconds(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(7)]
    table.append(["`rlm-dspy --help`", "≤ 200 ms", milliseconds(statistics.median(runs)), "", ""])
    return table


if __name__ == "__main__":
    measured = rows()
    measured.insert(1, ["---"] * len(measured[0]))
    print("\n".join("| " + " | ".join(row) + " |" for row in measured))
