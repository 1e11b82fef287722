"""Compile an RLM with dspy.SIMBA: good and bad runs of the same question become rules and demos.

    python optimizers/run_simba.py datasets/mixed -m groq/openai/gpt-oss-20b

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
    flags.add_argument("--prompt-model", help="model that proposes instructions (default: MODEL)")
    flags.add_argument("--limit", type=int, help="maximum number of questions of each file")
    flags.add_argument("--threads", type=int, default=4)
    flags.add_argument("--out", type=Path, default=Path(__file__).parent / "compiled/simba.json")
    given = flags.parse_args()

    meter = Meter()
    dspy.configure(lm=rlm_dspy.lm(given.model), callbacks=[meter])
    train, dev, test = (
        rlm_dspy.data.load(given.folder / f"{part}.jsonl", limit=given.limit) for part in ("train", "dev", "test")
    )
    rlm = Tunable(contenders.signature(), max_iters=10)
    judge = dspy.Evaluate(devset=test, metric=metrics.graded, num_threads=given.threads)
    before = judge(rlm).score

    optimizer = dspy.SIMBA(
        metric=metrics.graded.explained,  # its rules are written from the feedback
        bsize=min(8, len(train)),
        num_candidates=3,
        max_steps=4,
        max_demos=2,
        prompt_model=rlm_dspy.lm(given.prompt_model or given.model),
        num_threads=given.threads,
    )
    compiled = optimizer.compile(rlm, trainset=[*train, *dev])
    check_leaks(compiled, test, known=[*train, *dev], base=rlm)
    after = judge(compiled).score
    program.save(compiled, given.out)
    print(f"simba on {given.model}: {before:.1f} -> {after:.1f}, {meter.usage.calls} calls, cost {meter.usage.cost}")


if __name__ == "__main__":
    main()
