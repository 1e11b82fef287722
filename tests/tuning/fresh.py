"""Score saved programs in a process that has never seen one compiled.

Each line of stdin is a kind, a count and a path; each line of stdout is the score.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from pathlib import Path

import dspy

sys.path.insert(0, str(Path(__file__).parent))
from student import examples, student

from rlm_dspy import RLM, metrics
from rlm_dspy.tuning import program

SIGNATURE = "context, question -> answer"
TEST = examples(16, seed=3)


def build(kind: str, count: int) -> dspy.Module:
    """Make the program that a saved state is loaded into."""
    rlm = RLM(SIGNATURE, max_iters=4)
    if kind == "ensemble":
        vote = functools.partial(dspy.majority, field="answer")
        return dspy.Ensemble(reduce_fn=vote).compile([RLM(SIGNATURE, max_iters=4) for _ in range(count)])
    if kind in ("best", "refine"):
        right = {example.question: example.answer for example in TEST}
        module = dspy.BestOfN if kind == "best" else dspy.Refine
        return module(
            module=rlm, N=count, reward_fn=lambda a, p: float(p.answer == right[a["question"]]), threshold=1.0
        )
    return rlm


def score(made: dspy.Module) -> float:
    """Return the share of right answers of a new student."""
    lm, _ = student()
    with dspy.context(lm=lm):
        return dspy.Evaluate(devset=TEST, metric=metrics.exact, num_threads=2)(made).score / 100


def main() -> None:
    """Load and score what is named, until nothing more is."""
    logging.disable(logging.INFO)
    for line in sys.stdin:
        kind, count, path = line.rstrip("\n").split(" ", 2)
        made = build(kind, int(count))
        program.load(made.module if kind in ("best", "refine") else made, path)
        print(json.dumps(score(made)), flush=True)


if __name__ == "__main__":
    main()
