"""Generated tasks: any size, exact answers, splits without shared names, deterministic for a seed on any machine."""

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
        index: the question's index in the split; levels alternate if none is given.
        seed: a different seed makes a different dataset.
        tokens: the size of the context, at four characters each.
        level: ``easy``, ``medium`` or ``hard``.

    Raises:
        ConfigurationError: the task, split, level or size is invalid.
    """
    if task not in TASKS:
        raise ConfigurationError(f"{task!r} is not a task; choose from {', '.join(TASKS)}")
    if split not in SPLITS or (level is not None and level not in LEVELS):
        raise ConfigurationError(f"split must be one of {', '.join(SPLITS)}, level one of {', '.join(LEVELS)}")
    if not SMALLEST <= tokens <= LARGEST:
        raise ConfigurationError(f"tokens must be from {SMALLEST:,} to {LARGEST:,}, not {tokens:,}")
    chosen = level or LEVELS[index % len(LEVELS)]
    return TASKS[task](Draw(task, split=split, seed=seed, index=index, tokens=tokens, level=chosen))


__all__ = ["LARGEST", "LEVELS", "SMALLEST", "SPLITS", "TASKS", "Item", "Level", "Split", "make"]
