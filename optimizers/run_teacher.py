"""Compile a small model's RLM from a capable model's runs, with dspy.BootstrapFewShot: no search, a few teacher calls.

    python optimizers/run_teacher.py datasets/variables datasets/pairs -m ollama_chat/qwen2.5-coder:1.5b \\
        --teacher groq/openai/gpt-oss-120b --rows 1

Each FOLDER contains train.jsonl and test.jsonl; the score is measured on test, which the teacher never sees.
"""

import argparse
from pathlib import Path

import dspy

import rlm_dspy
from rlm_dspy import metrics
from rlm_dspy.lms import windows
from rlm_dspy.metering import Meter
from rlm_dspy.tuning import Tunable, check_leaks, contenders, program


def main() -> None:
    """Compile, measure before and after, save."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folders", type=Path, nargs="+")
    flags.add_argument("-m", "--model", required=True)
    flags.add_argument("--teacher", required=True)
    flags.add_argument("--rows", type=int, nargs="+", default=[0, 1], help="rows of each train file (default: 0 1)")
    flags.add_argument("--limit", type=int, help="rows of each test file; 0 does not measure")
    flags.add_argument("--max-iters", type=int, default=4)
    flags.add_argument("--out", type=Path, default=Path(__file__).parent / "compiled/teacher.json")
    given = flags.parse_args()

    meter = Meter()
    student, teacher = rlm_dspy.lm(given.model, temperature=0.0), rlm_dspy.lm(given.teacher)
    dspy.configure(lm=student, callbacks=[meter])
    train, test = (
        [rlm_dspy.data.load(folder / f"{part}.jsonl") for folder in given.folders] for part in ("train", "test")
    )
    taught = [rows[number] for number in given.rows for rows in train]
    test, judged = ([row for rows in test for row in rows[:most]] for most in (None, given.limit))
    # Demos are shown with the prompts they were made with, so those must have the student's form.
    profile = "small" if windows.is_small(student) else "standard"
    rlm = Tunable(contenders.signature(), max_iters=given.max_iters, profile=profile)
    judge = dspy.Evaluate(devset=judged, metric=metrics.graded, num_threads=1)
    optimizer = dspy.BootstrapFewShot(
        metrics.graded,
        teacher_settings={"lm": teacher},
        max_bootstrapped_demos=len(taught),
        max_labeled_demos=0,  # they would tell the teacher answers
    )
    compiled = optimizer.compile(rlm, trainset=taught)
    check_leaks(compiled, test, known=taught, base=rlm)
    program.save(compiled, given.out)
    if judged:
        print(f"teacher for {given.model}: {judge(rlm).score:.1f} -> {judge(compiled).score:.1f}")
    print(f"{program.demos(compiled)} demos, {meter.usage.calls} calls, cost {meter.usage.cost}")


if __name__ == "__main__":
    main()
