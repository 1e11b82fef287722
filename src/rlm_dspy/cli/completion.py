"""What the shell completes: models and runs. Nothing heavy is imported, and no server is asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from rlm_dspy.cli.home_files import home_folder, read_home_texts, write_home_json

MODEL_NAMES = "models.json"  # in the home: the names that `models` has listed last
MAX_NAMES = 5_000
MAX_RUNS = 50  # the newest
# The beginnings of names; a test compares them with the table of providers, which takes long to import.
PREFIXES = (
    "ollama_chat/", "groq/", "openai/", "anthropic/", "openrouter/", "gemini/", "mistral/", "deepseek/", "hosted_vllm/",
    "lm_studio/", "llamafile/", "together_ai/",
)  # fmt: skip


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the models that ``models`` has listed last and the prefixes of providers."""
    names = ["offline", *read_home_texts(MODEL_NAMES)]
    names += [prefix for prefix in PREFIXES if not incomplete.startswith(prefix)]
    return [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(incomplete)]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return ``last`` and the ids of the newest runs."""
    items = []
    with contextlib.suppress(OSError), os.scandir(home_folder() / "runs") as entries:
        for entry in entries:
            name, dot, suffix = entry.name.partition(".")
            if dot and suffix in {"json", "jsonl"}:
                items.append((-entry.stat().st_mtime, name))
    ids = [name for _, name in sorted(items)][:MAX_RUNS]
    return [CompletionItem(name) for name in ("last", *ids) if name.startswith(incomplete)]


def complete_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete files and folders."""
    return [CompletionItem(incomplete, type="file")]


def keep_names(home: Path, names: Iterable[str]) -> None:
    """Keep the names of models for the next completion, if the folder can be written."""
    write_home_json(home, MODEL_NAMES, list(names)[:MAX_NAMES])
