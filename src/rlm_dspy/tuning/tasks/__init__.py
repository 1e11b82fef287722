"""Generated tasks: any size, exact answers, splits that share no names, the same for the same seed everywhere."""

from __future__ import annotations

from collections.abc import Callable

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.tuning.tasks import generators
from rlm_dspy.tuning.tasks.generators import LEVELS, SPLITS, Draw, Item, Level, Split

TASKS: dict[str, Callable[[Draw], Item]] = {
    "needle": generators.needle,
    "variables": generators.variables,
    "multihop": generators.multihop,
    "counting": generators.counting,
    "pairs": generators.pairs,
    "logs": generators.logs,
    "code": generators.code,
    "synthesis": generators.synthesis,
}
SMALLEST = 500
LARGEST = 4_000_000


def make(
    task: str, *, split: Split = "train", index: int = 0, seed: int = 0, tokens: int = 8_000, level: Level | None = None
) -> Item:
    """Generate one question with its context.

    Args:
        task: one of ``TASKS``.
        split: ``train``, ``dev`` or ``test``; names never occur in two splits.
        index: which question of the split; levels take turns when none is given.
        seed: another seed makes another dataset.
        tokens: the size of the context, at four characters each.
        level: ``easy``, ``medium`` or ``hard``.

    Raises:
        ConfigurationError: there is no such task, split, level or size.
    """
    if task not in TASKS:
        raise ConfigurationError(f"there is no task {task!r}; there are {', '.join(TASKS)}")
    if split not in SPLITS or (level is not None and level not in LEVELS):
        raise ConfigurationError(f"a split is one of {', '.join(SPLITS)}, a level one of {', '.join(LEVELS)}")
    if not SMALLEST <= tokens <= LARGEST:
        raise ConfigurationError(f"tokens must be from {SMALLEST:,} to {LARGEST:,}, not {tokens:,}")
    chosen = level or LEVELS[index % len(LEVELS)]
    return TASKS[task](Draw(task, split=split, seed=seed, index=index, tokens=tokens, level=chosen))


__all__ = ["LARGEST", "LEVELS", "SMALLEST", "SPLITS", "TASKS", "Item", "Level", "Split", "make"]
