"""Other packages on the questions of run_accuracy.py, each in an environment of its own.

    python -m venv /tmp/rlms && /tmp/rlms/bin/pip install rlms==0.1.3
    python benchmarks/run_packages.py rlms /tmp/rlms/bin/python -m qwen2.5-coder-1.5b \\
        --api-base http://127.0.0.1:8401/v1 --max-iters 4

The packages run the model's code unconfined: name a script that enters a container instead of the interpreter.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import dspy

from rlm_dspy import metrics
from rlm_dspy.context import Context
from rlm_dspy.corpus import Corpus
from rlm_dspy.tuning import contenders, data, tasks

CHILD = Path(__file__).with_name("ask_package.py")
MOST_SECONDS = 900  # for one question
SOLVED = 0.5


def main() -> None:
    """Ask the first questions of each task and print a line for each."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("package", choices=["rlms", "predict-rlm"])
    flags.add_argument("python", help="the interpreter of the environment where it is installed")
    flags.add_argument("-m", "--model", required=True)
    flags.add_argument("--api-base", required=True)
    flags.add_argument("--split", default="dev")
    flags.add_argument("--tokens", type=int, default=8_000)
    flags.add_argument("--tasks", nargs="+", default=list(tasks.TASKS))
    flags.add_argument("--count", type=int, default=1)
    flags.add_argument("--max-iters", type=int, default=4)
    given = flags.parse_args()
    told = []
    for task in given.tasks:
        for row in data.generated(task, given.split, range(given.count), tokens=given.tokens):
            example = data.example(row, Path(), row["id"])
            answer = package_answer(given, example)
            score = metrics.graded(example, dspy.Prediction(answer=answer.get("answer", "")))
            told.append({**answer, "solved": float(score) >= SOLVED})
            print(row["id"], json.dumps(told[-1]), f"for {str(row['answer'])[:100]!r}", flush=True)
    print(f"solved {sum(one['solved'] for one in told)} of {len(told)}")
    for name in ("calls", "prompt_tokens", "reply_tokens", "seconds"):
        print(f"{name} {sum(one.get(name, 0) for one in told):,.0f}")


def plain_text(context: Context | Corpus) -> str:
    """Return a context as one text; the others take no folders."""
    if isinstance(context, Context):
        return context.text
    return "\n".join(f"=== {name} ===\n{text}" for name, text in context.items())


def package_answer(given: argparse.Namespace, example: dspy.Example) -> dict:
    """Return what the package answered, or its error."""
    asked = {
        "package": given.package,
        "model": given.model,
        "base": given.api_base,
        "max_iters": given.max_iters,
        "context": plain_text(example.context),
        "question": example.question,
        "instructions": contenders.signature(evidence=False).instructions,
    }
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                [given.python, str(CHILD)],
                input=json.dumps(asked),
                cwd=home,
                env={"HOME": home, "PATH": "/usr/bin:/bin", "DSPY_CACHEDIR": home},
                text=True,
                capture_output=True,
                timeout=MOST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"no answer within {MOST_SECONDS} s", "seconds": MOST_SECONDS}
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else {"error": done.stderr[-300:]}


if __name__ == "__main__":
    main()
