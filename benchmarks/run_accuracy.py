"""Accuracy on the generated datasets: tasks × sizes × {direct, retrieve, dspy.RLM, rlm}, with any model.

    python benchmarks/run_accuracy.py                                # offline engine, 8K, 128K and 1M tokens
    python benchmarks/run_accuracy.py -m solver                      # a script that knows how to solve each task
    python benchmarks/run_accuracy.py -m groq/openai/gpt-oss-20b --tokens 8000 32000 --count 6
    python benchmarks/run_accuracy.py -m openai/qwen2.5-coder-1.5b --api-base http://127.0.0.1:8401/v1 \\
        --split dev --tokens 8000 32000 128000 --count 2 --max-iters 4 --short --temperature 0 --max-reply 400

Questions of one split with alternating levels, scored by each row's scorer; a score of 0.5 counts as solved. Runs that
ended without an answer are listed separately. Repeating the command resumes an interrupted one.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import dspy

import rlm_dspy
from rlm_dspy import metrics
from rlm_dspy.budget import Budget
from rlm_dspy.report import render
from rlm_dspy.tuning import contenders, data, tasks
from rlm_dspy.tuning.evaluation import Evaluation, Row
from rlm_dspy.tuning.report import figure_tables, figures

sys.path.insert(0, str(Path(__file__).parent))
from solver import solver

JOURNALS = Path.home() / ".cache/rlm-dspy/accuracy"
SOLVED = 0.5


def main() -> None:
    """Ask, and print a table of scores and a table of figures for each size and for all."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("-m", "--model", default="offline")
    flags.add_argument("--api-base", help="address of an OpenAI-compatible server")
    flags.add_argument("--temperature", type=float)
    flags.add_argument("--max-reply", type=int, help="tokens of a reply")
    flags.add_argument("--body", type=json.loads, help="JSON to add to each request, such as a grammar of llama.cpp")
    flags.add_argument("--json", action="store_true", help="let DSPy's JSONAdapter ask for JSON")
    flags.add_argument("--split", choices=["train", "dev", "test"], default="test")
    flags.add_argument("--tokens", type=int, nargs="+", default=[8_000, 128_000, 1_000_000])
    flags.add_argument("--tasks", nargs="+", choices=list(tasks.TASKS), default=list(tasks.TASKS))
    flags.add_argument("--sides", nargs="+", choices=contenders.CONTENDER_NAMES, default=["direct", "dspy.RLM", "rlm"])
    flags.add_argument("--count", type=int, default=3, help="questions of each task and size")
    flags.add_argument("--first", type=int, default=0, help="number of the first question")
    flags.add_argument("--short", action="store_true", help="ask for the answer only, without evidence")
    flags.add_argument("--program", type=Path, help="a saved program for the side rlm")
    flags.add_argument("--runs", type=Path, help="folder for the record of each run of ours (rlm-dspy trace FILE)")
    flags.add_argument("--max-iters", type=int, default=10)
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--label", default="", help="separate journal entries, to compare versions of the code")
    flags.add_argument("--fresh", action="store_true", help="ask everything again")
    given = flags.parse_args()
    lm = model(given)
    journal = JOURNALS / f"{given.model.replace('/', '-')}.jsonl"
    if given.fresh:
        journal.unlink(missing_ok=True)
    budget = Budget(max_iters=given.max_iters)
    made = {"path": given.program, "evidence": not given.short}
    asked = [contenders.make_contender(name, budget, **made) for name in given.sides]
    print(f"model {lm.model}, dspy {dspy.__version__}, {given.count} questions of each task and size")
    for side in asked:
        if side.note:
            print(side.note)
    everything: list[Row] = []
    for tokens in given.tokens:
        started = time.perf_counter()
        with dspy.context(lm=lm, adapter=dspy.JSONAdapter() if given.json else None):
            rows = [row for task in given.tasks for row in one(task, tokens, given, asked, journal)]
        print(f"\n{tokens:,} tokens ({time.perf_counter() - started:.0f} s)\n")
        show(rows)
        everything += rows
    if len(given.tokens) > 1:
        print("\nall sizes\n")
        show(everything)


def model(given: argparse.Namespace) -> dspy.LM:
    """Return the model to ask."""
    if given.model == "solver":
        return solver()
    options = {"temperature": given.temperature, "max_tokens": given.max_reply, "extra_body": given.body}
    options = {name: value for name, value in options.items() if value is not None}
    if given.api_base:
        return dspy.LM(given.model, api_base=given.api_base, api_key="none", cache=False, **options)
    return rlm_dspy.lm(given.model, **options)


def one(
    task: str, tokens: int, given: argparse.Namespace, asked: list[contenders.Contender], journal: Path
) -> list[Row]:
    """Ask the questions of one task and size, and free their contexts afterwards."""
    indices = range(given.first, given.first + given.count)
    rows = data.generated(task, given.split, indices, tokens=tokens)
    examples = [data.example(row, Path(), row["id"]) for row in rows]
    identity = f"{given.model} {given.max_iters} {given.short} {given.max_reply} {given.label}".strip()
    if given.program:
        identity += f" {hashlib.sha256(given.program.read_bytes()).hexdigest()[:12]}"
    options = {"journal": journal, "threads": given.threads, "runs": given.runs}
    evaluation = Evaluation(examples, metrics.graded, identity=identity, on_row=tell, **options)
    return evaluation.run(asked)


def tell(row: Row) -> None:
    """Print a row as soon as it is complete."""
    solved = "solved" if row.score >= SOLVED else "lost"
    told = f"{row.side} {row.id}: {solved}, {row.status}, {row.steps} steps, {row.tokens:,} tokens, {row.seconds:.0f} s"
    print(
        f"{told}: {(row.answer or '')[:500]!r} for {row.expected[:200]!r} {row.error or ''}",
        file=sys.stderr,
        flush=True,
    )


def show(rows: list[Row]) -> None:
    """Print the scores by task and the figures of each side."""
    made = figures.compare_sides(rows)
    right = frozenset(range(1, len(made) + 1))
    print("\n".join(render.table_lines(figure_tables.task_cells(made), right=right)))
    print()
    print("\n".join(render.table_lines([*figure_tables.figure_cells(made, bars=False), *counted(rows)], right=right)))
    for line in figure_tables.differences(made):
        print(line)


def counted(rows: list[Row]) -> list[list[str]]:
    """Return solved questions and total steps, tokens and seconds of each side, as table rows."""
    grouped = figures.rows_by_side(rows).values()
    lines = [["solved", *(f"{sum(row.score >= SOLVED for row in own)} of {len(own)}" for own in grouped)]]
    for name in ("steps", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds"):
        lines.append([name.replace("_", " "), *(f"{sum(getattr(row, name) for row in own):,.0f}" for own in grouped)])
    return lines


if __name__ == "__main__":
    main()
