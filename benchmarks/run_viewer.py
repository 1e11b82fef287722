"""The viewer with a run of 10,000 steps: time to build its page, size, time to open, and frames while scrolling.

python benchmarks/run_viewer.py [--steps 10000] [--chromium /usr/bin/chromium]

Needs ``pip install playwright`` and a Chromium. The run is made up: a step has a call of a model and a cell, each fifth
a sub-call; prompts are append-only, as in real runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm_dspy.redact import Redactor
from rlm_dspy.report.viewer.page import html_page
from rlm_dspy.run import Message, Run, Span, Step, SubCall, Usage

BROWSER_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
SCROLLED_FRAMES = 300

# Scrolls by `step` pixels a frame, or to the end in equal parts, and returns how long each frame took.
SCROLL = """([frames, step]) => new Promise((done) => {
  const tree = document.querySelector(".tree");
  const part = step || (tree.scrollHeight - tree.clientHeight) / frames;
  const times = [];
  let before = performance.now();
  const next = (now) => {
    times.push(now - before);
    before = now;
    if (times.length >= frames) { done(times); return; }
    tree.scrollTop += part;
    requestAnimationFrame(next);
  };
  requestAnimationFrame((now) => { before = now; tree.scrollTop = 0; requestAnimationFrame(next); });
})"""

# How long the script takes for each press of j: the row, its details and the timeline.
KEYS = """(count) => Array.from({ length: count }, () => {
  const before = performance.now();
  document.querySelector(".tree").dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }));
  return performance.now() - before;
})"""

# Resolves two frames after the rows are there, when they have been painted.
PAINTED = """() => new Promise((done) => {
  const wait = () => document.querySelector(".tree .row")
    ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))
    : requestAnimationFrame(wait);
  wait();
})"""


def make_run(steps: int) -> Run:
    """Return a made-up run of so many steps."""
    made, spans, last = [], [Span(id=1, kind="run", started=0.0, seconds=2.0 * steps, name="context -> answer")], None
    for number in range(1, steps + 1):
        call = step_spans(spans, number, last)
        last = call[1].id
        spans += call
        span, cell = call[0], call[2]
        calls = tuple(SubCall(kind="plain", prompt=one.input, output="yes", span=one.id) for one in call[3:])
        facts: dict[str, Any] = {"usage": call[1].usage, "sub_calls": calls, "span": span.id, "error": cell.error}
        made.append(Step(index=number, reasoning=f"Look at piece {number}.", code=cell.input, output=cell.output,
                         seconds=1.9, **facts))  # fmt: skip
    usage = Usage(calls=steps, prompt_tokens=2_000 * steps, completion_tokens=100 * steps, cached_tokens=1_500 * steps,
                  cost=0.0001 * steps)  # fmt: skip
    facts = {
        "usage": usage,
        "seconds": 2.0 * steps,
        "spans": tuple(spans),
        "steps": tuple(made),
        "sub_calls": steps // 5,
    }
    texts: dict[str, Any] = {"inputs": {"question": "Which pieces?"}, "outputs": {"answer": "all"}}
    return Run(id="0" * 12, started=1.8e9, status="submitted", model="made/up", **texts, **facts)


def step_spans(spans: list[Span], step: int, previous: int | None) -> list[Span]:
    """Return the spans of one step: the step, the call of the model, the cell, and at times a sub-call."""
    first, start = len(spans) + 1, 2.0 * step
    code = f"piece = context[{step * 500}:{step * 500 + 500}]\nfor line in piece.splitlines():\n    print(line)"
    output = "\n".join(f"{step * 10 + line} a line of the output of this step" for line in range(10))
    error = "KeyError: 'x'" if step % 100 == 0 else None
    usage = Usage(calls=1, prompt_tokens=2_000, completion_tokens=100, cached_tokens=1_500, cost=0.0001)
    messages = (Message(role="assistant", content=code), Message(role="user", content=output))
    facts: dict[str, Any] = {"step": step, "run": "0" * 12}
    made = [
        Span(id=first, kind="step", name="step", started=start, seconds=1.9, parent=1, error=error, **facts),
        Span(id=first + 1, kind="lm", name="made/up", started=start, seconds=1.0 + step % 7 / 10, parent=first,
             usage=usage, finish="stop", output=code, previous=previous, messages=messages,
             same_messages=2 * (step - 1) if previous else 0, **facts),
        Span(id=first + 2, kind="cell", started=start + 1.7, seconds=0.2, parent=first, input=code, output=output,
             error=error, **facts),
    ]  # fmt: skip
    if step % 5 == 0:
        made.append(Span(id=first + 3, kind="sub_call", name="plain", started=start + 1.75, seconds=0.1,
                         parent=first + 2, input=f"Read piece {step}", output="yes", **facts))  # fmt: skip
    return made


def browser_figures(path: Path, chromium: str) -> Iterator[tuple[str, str]]:
    """Yield what a browser needs to open the page and to scroll through it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(BROWSER_FLAGS))
        opened = []
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(path.as_uri(), wait_until="commit")
            opened.append(page.evaluate(PAINTED))
            if len(opened) < 5:
                page.close()
        yield "opening, navigation to first rows painted, 5 times", " ".join(f"{ms:,.0f}" for ms in opened) + " ms"
        page.locator(".tools button", has_text="open all").click()
        yield "frames, 300 of 120 pixels each, p50 / p95 / max", scroll_figures(page, 120)
        yield "frames, 300 over all rows opened, p50 / p95 / max", scroll_figures(page, 0)
        keys = sorted(page.evaluate(KEYS, 200))
        yield "200 times the key j, p50 / p95 / max", f"{keys[100]:.1f} / {keys[190]:.1f} / {keys[-1]:.1f} ms"
        yield "rows in the page at the end", f"{page.locator('.tree .row').count()}"
        browser.close()


def scroll_figures(page: Any, step: int) -> str:
    """Return how long the frames take while the page scrolls."""
    frames = page.evaluate(SCROLL, [SCROLLED_FRAMES, step])
    cuts = statistics.quantiles(frames, n=20)
    return f"{cuts[9]:.1f} / {cuts[18]:.1f} / {max(frames):.1f} ms"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    run = make_run(given.steps)
    started = time.perf_counter()
    page = html_page([run], Redactor())
    built = time.perf_counter() - started
    print(f"| steps, spans | {len(run.steps):,}, {len(run.spans):,} |")
    print(f"| building the page | {built:.2f} s |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.html"
        path.write_text(page, encoding="utf-8")
        print(f"| size | {path.stat().st_size / 1e6:.1f} MB |")
        for name, figure in browser_figures(path, given.chromium):
            print(f"| {name} | {figure} |")


if __name__ == "__main__":
    main()
