"""Generate the datasets of this folder: any size, the same bytes for the same flags on every machine.

    python datasets/make_tasks.py                                    # the committed files
    python datasets/make_tasks.py --task pairs --tokens 1000000 --count 24 --split test --out big

Contexts are not written: each row contains a recipe from which `rlm_dspy.data.load` generates its context.
"""

import argparse
from pathlib import Path

from rlm_dspy.tuning import data, tasks

HERE = Path(__file__).parent
COUNTS = {"train": 12, "dev": 12, "test": 24}


def main() -> None:
    """Write one JSONL file for each task and split, and a mixture of all tasks."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--task", choices=["all", "mixed", *tasks.TASKS], default="all")
    flags.add_argument("--split", choices=["all", *tasks.SPLITS], default="all")
    flags.add_argument("--tokens", type=int, default=8_000, help="size of each context (default 8000)")
    flags.add_argument("--count", type=int, help="questions of a split (default 12, 12, 24)")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--level", choices=tasks.LEVELS, help="one level only (default: alternating)")
    flags.add_argument("--out", type=Path, default=HERE)
    given = flags.parse_args()
    for split in tasks.SPLITS if given.split == "all" else [given.split]:
        count = given.count or COUNTS[split]
        for task in tasks.TASKS if given.task in ("all", "mixed") else [given.task]:
            rows = data.generated(task, split, range(count), tokens=given.tokens, seed=given.seed, level=given.level)
            if given.task != "mixed":
                tell(given.out / task / f"{split}.jsonl", rows)
        if given.task in ("all", "mixed"):
            tell(given.out / "mixed" / f"{split}.jsonl", mixed(given, split, count))


def mixed(given: argparse.Namespace, split: tasks.Split, count: int) -> list[dict]:
    """Alternate the tasks and, within each, the levels, with a seed different from theirs."""
    each = -(-count // len(tasks.TASKS))
    recipe = {"tokens": given.tokens, "seed": given.seed + 1, "level": given.level}
    made = [data.generated(t, split, range(n, n + each), **recipe) for n, t in enumerate(tasks.TASKS)]
    return [row for turn in zip(*made, strict=True) for row in turn]


def tell(path: Path, rows: list[dict]) -> None:
    """Write a file and report it."""
    print(f"{path}: {data.write(path, rows)} questions")


if __name__ == "__main__":
    main()
