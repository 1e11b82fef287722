"""The cost of the sandbox, compared with DSPy's two interpreters in the same run.

    python benchmarks/run_sandbox.py            prints a Markdown table; see RESULTS.md
    python benchmarks/run_sandbox.py --quick    skips the 1 GB context

Ratios matter, not seconds. A figure that is not available here says so.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

# Write bytecode if possible, as for any installed package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

# These read the environment on import.
from dspy.primitives.code_interpreter import CodeInterpreterError  # noqa: E402
from sides import SIDES  # noqa: E402

from rlm_dspy.sandbox import Sandbox, zygote_host  # noqa: E402

WORDS = "The quick brown fox jumps over the lazy dog near the river bank. "
WORK = """
def work(text):
    found = len(re.findall(r"quick (\\w+)", text))
    return found, len(text.split("\\n")), Counter(text.split()).most_common(1)
"""
QUICK = "--quick" in sys.argv
Row = tuple[str, str, str, str, str]


def milliseconds(action: Callable[[], Any], times: int = 1) -> float:
    """Return the median over the runs."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def text_of(megabytes: int) -> str:
    """Return a text of that size in lines."""
    line = WORDS * 3 + "\n"
    return line * ((megabytes << 20) // len(line) + 1)


def attempt(action: Callable[[], str]) -> str:
    """Return the measurement, or the reason why it failed."""
    try:
        return action()
    except (CodeInterpreterError, OSError, RuntimeError, MemoryError, ValueError) as error:
        return f"not available here ({type(error).__name__})"


def first_result(make: Callable[..., Any]) -> str:
    """Time from a cold start to the first result; anything already running is ended first."""

    def once() -> float:
        zygote_host.close_all()
        interpreter = make()
        taken = milliseconds(lambda: interpreter.execute("print(1 + 1)"))
        interpreter.shutdown()
        return taken

    once()
    return f"{statistics.median(once() for _ in range(7)):,.1f} ms"


def with_shutdown(interpreter: Any, action: Callable[[Any], Any]) -> Any:
    """Run ``action`` and end the interpreter."""
    try:
        return action(interpreter)
    finally:
        interpreter.shutdown()


def new_session(make: Callable[..., Any]) -> str:
    """Time another session with its first result."""
    keep = make()
    keep.execute("1")
    sessions = []

    def once() -> None:
        session = make()
        session.execute("1 + 1")
        sessions.append(session)

    taken = milliseconds(once, 10)
    for session in [*sessions, keep]:
        session.shutdown()
    return f"{taken:,.2f} ms"


def warm(make: Callable[..., Any], code: str, times: int = 300) -> str:
    """Return the median time of one cell in a warm session."""

    def run(interpreter: Any) -> float:
        for _ in range(10):
            interpreter.execute(code)
        return milliseconds(lambda: interpreter.execute(code), times)

    return f"{with_shutdown(make(), run):,.3f} ms"


def host_call(make: Callable[..., Any]) -> str:
    """Time one call of a host function, averaged over many inside one cell."""

    def add(a: int, b: int) -> int:
        return a + b

    code = (
        "import time\nstarted = time.perf_counter()\nfor _ in range(300): add(a=1, b=2)\n"
        "print((time.perf_counter() - started) / 300 * 1000)"
    )

    def run(interpreter: Any) -> float:
        interpreter.execute(code)
        return float(str(interpreter.execute(code)).strip())

    interpreter = make()
    interpreter.tools["add"] = add
    return f"{with_shutdown(interpreter, run):,.3f} ms"


def handover(make: Callable[..., Any], megabytes: int) -> str:
    """Time until a context is usable, and again at the next step."""
    text = text_of(megabytes)

    def run(interpreter: Any) -> tuple[float, float]:
        interpreter.execute("1")
        given = {"context": text}
        first = milliseconds(lambda: interpreter.execute("print(len(context))", given))
        return first, milliseconds(lambda: interpreter.execute("print(len(context))", given))

    first, again = with_shutdown(make(), run)
    return f"{first:,.0f} ms, then {again:,.2f} ms per step"


def text_work(make: Callable[..., Any]) -> str:
    """Return the speed of ordinary text work inside, relative to this process."""
    text = text_of(100)
    space: dict[str, Any] = {"re": re, "Counter": Counter}
    exec(WORK, space)
    code = "import time\nstarted = time.perf_counter()\nwork(context)\nprint(time.perf_counter() - started)"

    def run(interpreter: Any) -> float:
        interpreter.execute("import re\nfrom collections import Counter\n" + WORK, {"context": text})
        shares = []
        for _ in range(3):
            inside = float(str(interpreter.execute(code, {"context": text})).strip())
            shares.append(milliseconds(lambda: space["work"](text)) / 1000 / inside)
        return statistics.median(shares)

    settings = {"timeout": 120.0, "memory_mb": 4096} if make is Sandbox else {}
    return f"{with_shutdown(make(**settings), run):.2f} × bare CPython"


def megabytes(link: Any, field: str = "Private_") -> list[float]:
    """Return the memory of a session's process and of its copy: private, or the sum of another field."""
    found = []
    for process in (link.active, link.standby):
        with open(f"/proc/{process.pid}/smaps_rollup") as file:
            found.append(sum(int(line.split()[1]) for line in file if line.startswith(field)) / 1024)
    return found


def idle_memory() -> str:
    """Return the private memory of a session's two processes after its first cell."""
    with Sandbox() as other, Sandbox() as sandbox:
        other.execute("x = 1")
        sandbox.execute("x = 1")
        own, copy = megabytes(sandbox._link)
        return f"{own:.1f} MB + copy {copy:.1f} MB"


def hundred_sessions() -> str:
    """Return time and memory of a hundred sessions at once, each with a first result."""
    with Sandbox() as first:
        first.execute("1")
        started = time.perf_counter()
        sessions = [Sandbox() for _ in range(100)]
        for session in sessions:
            session.execute("x = 1")
        taken = time.perf_counter() - started
        total = sum(sum(megabytes(session._link)) for session in sessions)
        for session in sessions:
            session.shutdown()
    return f"{taken:.2f} s, {total:,.0f} MB"


def mapped_memory() -> str:
    """Return the memory per byte of a mapped text, including the private share of the worker and its copy."""
    text = text_of(100)
    with Sandbox() as sandbox:
        sandbox.execute("context.count('fox')", {"context": text})
        extra = sum(megabytes(sandbox._link, "Pss_Anon"))  # in addition to the one shared copy of the text
    return f"{1 + extra / (len(text) / 2**20):.2f} ×"


STATE = "state = [str(i) * 10 for i in range(1_000_000)]"  # 100 MB
FORK = f"""
import os, statistics, time
{STATE}
def fork():
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os._exit(0)
    taken = time.perf_counter() - began
    os.waitpid(child, 0)
    return taken
print(1000 * statistics.median(fork() for _ in range(50)))
"""


def checkpoint_cost() -> str:
    """Return the cost of a copy per cell with 100 MB of session state, compared with a bare fork."""
    taken = {}
    for policy in ("always", "never"):
        with Sandbox(checkpoint=policy, memory_mb=1024) as sandbox:
            sandbox.execute(STATE)
            taken[policy] = milliseconds(lambda sandbox=sandbox: sandbox.execute("x = 1"), 50)
    bare = subprocess.run([sys.executable, "-I", "-S", "-c", FORK], capture_output=True, text=True, check=True)
    cost = taken["always"] - taken["never"]
    return f"{cost:.2f} ms ({cost / float(bare.stdout):.1f} × a bare `os.fork` of as much state)"


def table() -> list[Row]:
    """Measure everything."""
    rows: list[Row] = []

    def row(figure: str, goal: str, measure: Callable[[Callable[..., Any]], str], *, ours_only: bool = False) -> None:
        cells = []
        for make in SIDES.values():
            if ours_only and make is not Sandbox:
                cells.append("—")
            else:
                cells.append(attempt(lambda make=make: measure(make)))
        rows.append((figure, goal, *cells))
        print(f"  {figure}: {' | '.join(cells)}", file=sys.stderr)

    row("first result, cold", "≤ 60 ms", first_result)
    row("new session, warm", "≤ 5 ms", new_session)
    row('`execute("1+1")`, warm', "≤ 0.15 ms", lambda make: warm(make, "1+1"))
    row('`execute("x = 1")`, warm', "", lambda make: warm(make, "x = 1"))
    row("host call from a cell", "≤ 0.2 ms", host_call)
    row("10 MB context", "", lambda make: handover(make, 10))
    row("100 MB context", "≤ 150 ms", lambda make: handover(make, 100))
    if not QUICK:
        row("1 GB context", "≤ 1.5 s", lambda make: handover(make, 1000), ours_only=True)
    row("text work over 100 MB", "≥ 0.95 ×", text_work)
    row("memory of a mapped context", "≤ 1.2 ×", lambda make: mapped_memory(), ours_only=True)
    row("idle session", "≤ 10 MB", lambda make: idle_memory(), ours_only=True)
    row("100 sessions at once", "≤ 1 s, ≤ 1 GB", lambda make: hundred_sessions(), ours_only=True)
    row("copy-on-write checkpoint, 100 MB state", "≤ 5 ms", lambda make: checkpoint_cost(), ours_only=True)
    return rows


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else max(soft, 4096), hard))
    print("| figure | goal | " + " | ".join(SIDES) + " |")
    print("|---|---|" + "---|" * len(SIDES))
    for cells in table():
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
