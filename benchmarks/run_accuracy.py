"""Accuracy on the generated datasets: tasks × sizes × {direct, dspy.RLM, rlm_dspy.RLM}, with any model.

    python benchmarks/run_accuracy.py                                # offline engine, 8K, 128K and 1M tokens
    python benchmarks/run_accuracy.py -m solver                      # a script that knows how each task is solved
    python benchmarks/run_accuracy.py -m groq/openai/gpt-oss-20b --tokens 8000 32000 --count 6

Questions of the test split, levels in turns, scored as each row says. Runs that ended without an answer are told
apart. The same command goes on where it was interrupted.
"""

import argparse
import sys
import time
from pathlib import Path

import dspy

import rlm_dspy
from rlm_dspy import metrics
from rlm_dspy.report import render
from rlm_dspy.tuning import data, sides, summary, tasks
from rlm_dspy.tuning.evaluation import Evaluation, Row

sys.path.insert(0, str(Path(__file__).parent))
from solver import solver

JOURNALS = Path.home() / ".cache/rlm-dspy/accuracy"


def main() -> None:
    """Ask, and print one table of scores, and one of figures, for each size."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("-m", "--model", default="offline")
    flags.add_argument("--tokens", type=int, nargs="+", default=[8_000, 128_000, 1_000_000])
    flags.add_argument("--tasks", nargs="+", choices=list(tasks.TASKS), default=list(tasks.TASKS))
    flags.add_argument("--sides", nargs="+", choices=sides.NAMES, default=["direct", "dspy.RLM", "rlm"])
    flags.add_argument("--count", type=int, default=3, help="questions of each task and size")
    flags.add_argument("--max-iters", type=int, default=10)
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--fresh", action="store_true", help="ask everything again")
    given = flags.parse_args()
    lm = solver() if given.model == "solver" else rlm_dspy.lm(given.model)
    journal = JOURNALS / f"{given.model.replace('/', '-')}.jsonl"
    if given.fresh:
        journal.unlink(missing_ok=True)
    asked = [sides.side(name, sides.Limits(max_iters=given.max_iters)) for name in given.sides]
    print(f"model {lm.model}, dspy {dspy.__version__}, {given.count} questions of each task and size")
    for side in asked:
        if side.note:
            print(side.note)
    for tokens in given.tokens:
        started = time.perf_counter()
        with dspy.context(lm=lm):
            rows = [row for task in given.tasks for row in one(task, tokens, given, asked, journal)]
        print(f"\n{tokens:,} tokens ({time.perf_counter() - started:.0f} s)\n")
        show(rows)


def one(task: str, tokens: int, given: argparse.Namespace, asked: list[sides.Side], journal: Path) -> list[Row]:
    """Ask the questions of one task and size; its contexts are let go afterwards."""
    rows = data.generated(task, "test", range(given.count), tokens=tokens)
    examples = [data.example(row, Path(), row["id"]) for row in rows]
    identity = f"{given.model} {given.max_iters}"
    evaluation = Evaluation(examples, metrics.graded, journal=journal, threads=given.threads, identity=identity)
    return evaluation.run(asked)


def show(rows: list[Row]) -> None:
    """Print the scores by task and the figures of each side."""
    made = summary.report(rows)
    right = frozenset(range(1, len(made) + 1))
    print("\n".join(render.table(summary.task_cells(made), right=right)))
    print()
    print("\n".join(render.table(summary.cells(made, bars=False), right=right)))
    for line in summary.differences(made):
        print(line)


if __name__ == "__main__":
    main()
