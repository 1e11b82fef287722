"""Compile an RLM with random search over bootstrapped demos: good runs become worked examples.

    python optimizers/run_bootstrap.py datasets/mixed -m groq/openai/gpt-oss-20b

FOLDER contains train.jsonl, dev.jsonl and test.jsonl; the score is measured on test, which the optimizer never sees.
"""

import argparse
from pathlib import Path

import dspy

import rlm_dspy
from rlm_dspy import metrics
from rlm_dspy.metering import Meter
from rlm_dspy.tuning import Tunable, check_leaks, contenders, program


def main() -> None:
    """Compile, measure before and after, save."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path)
    flags.add_argument("-m", "--model", default="offline")
    flags.add_argument("--limit", type=int, help="maximum number of questions of each file")
    flags.add_argument("--candidates", type=int, default=4, help="programs to try, in addition to three baselines")
    flags.add_argument("--max-iters", type=int, default=10)
    flags.add_argument("--threads", type=int, default=4)
    flags.add_argument("--out", type=Path, default=Path(__file__).parent / "compiled/bootstrap.json")
    given = flags.parse_args()

    meter = Meter()
    dspy.configure(lm=rlm_dspy.lm(given.model), callbacks=[meter])
    train, dev, test = (
        rlm_dspy.data.load(given.folder / f"{part}.jsonl", limit=given.limit) for part in ("train", "dev", "test")
    )
    rlm = Tunable(contenders.signature(), max_iters=given.max_iters)
    judge = dspy.Evaluate(devset=test, metric=metrics.graded, num_threads=given.threads)
    before = judge(rlm).score

    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=metrics.graded,
        max_bootstrapped_demos=3,
        max_labeled_demos=4,
        num_candidate_programs=given.candidates,
        num_threads=given.threads,
    )
    compiled = optimizer.compile(rlm, trainset=train, valset=dev)
    check_leaks(compiled, test, known=[*train, *dev], base=rlm)
    after = judge(compiled).score
    program.save(compiled, given.out)
    print(
        f"bootstrap on {given.model}: {before:.1f} -> {after:.1f}, {meter.usage.calls} calls, cost {meter.usage.cost}"
    )


if __name__ == "__main__":
    main()
