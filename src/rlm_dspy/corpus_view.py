"""What a model is shown of a corpus before it looks: its shape, like files together, and a few beginnings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

ALONE = 20  # files up to this number are each listed
ALIKE = 4  # of more, so many files of one folder and kind stand on one line
ROWS = 40  # of the list
HEADS = 3  # files whose beginnings are shown, each of another kind
HEAD_LINES = 4
HEAD_CHARS = 120  # of each of these lines
PROBLEMS = 5  # files that were not read as they are, which are named
PROBLEM_CHARS = 200
READ_CHARS = 2_000_000  # of a file whose beginning is shown; a larger one is read when the model asks

TABLES = frozenset({".csv", ".tsv", ".xlsx", ".jsonl"})

File = Mapping[str, Any]  # name, chars, lines


def corpus_view(corpus: Any) -> str:
    """Return the files of a corpus with their lines, like ones on one line, and the beginnings of a few kinds."""
    files = corpus.sandbox_index()["files"]
    return "\n".join([*_rows(files), *_beginnings(corpus, files), *_problems(corpus)])


def _problems(corpus: Any) -> list[str]:
    """Return what was not read, or not as it is, so that nobody takes what is missing for absent."""
    problems = getattr(corpus, "problems", ())
    told = [f"Not as it is: {problem}"[:PROBLEM_CHARS] for problem in problems[:PROBLEMS]]
    return told if len(problems) <= PROBLEMS else [*told, f"… and {len(problems) - PROBLEMS:,} more such files"]


def _rows(files: Sequence[File]) -> list[str]:
    groups = _groups(files) if len(files) > ALONE else [[file] for file in files]
    rows = [_row(group) for group in groups[:ROWS]]
    left = sum(len(group) for group in groups[ROWS:])
    if left:
        rows.append(f"… and {left:,} more files")
    return rows


def _groups(files: Sequence[File]) -> list[list[File]]:
    """Put files of one folder and kind together where there are several, in the order in which the first stands."""
    by_kind: dict[tuple[str, str], list[File]] = {}
    for file in files:
        path = PurePosixPath(file["name"])
        by_kind.setdefault((str(path.parent), path.suffix), []).append(file)
    groups: list[list[File]] = []
    for group in by_kind.values():
        if len(group) >= ALIKE:
            groups.append(group)
        else:
            groups += [[file] for file in group]
    return groups


def _row(group: Sequence[File]) -> str:
    lines = sum(file["lines"] for file in group)
    first = PurePosixPath(group[0]["name"])
    if len(group) == 1:
        return f"{first} ({lines:,} lines)"
    last = PurePosixPath(group[-1]["name"])
    folder = "" if str(first.parent) == "." else f"{first.parent}/: "
    return f"{folder}{len(group):,} files {first.name} … {last.name} ({lines:,} lines)"


def _beginnings(corpus: Any, files: Sequence[File]) -> list[str]:
    """Return the first lines of a few files: of tables, whose header they hold, and of the kinds that most have."""
    by_kind: dict[str, list[File]] = {}
    for file in files:
        if file["chars"] <= READ_CHARS:
            by_kind.setdefault(PurePosixPath(file["name"]).suffix, []).append(file)
    kinds = sorted(by_kind, key=lambda kind: (kind not in TABLES, -len(by_kind[kind])))
    shown = []
    for group in [by_kind[kind] for kind in kinds[:HEADS]]:
        name = group[0]["name"]
        lines = [line for line in re.split(r"\r?\n", corpus[name][: HEAD_LINES * HEAD_CHARS * 4]) if line.strip()]
        if lines:
            shown.append(f"{name} begins:")
            shown += [f"  {line[:HEAD_CHARS]}{'…' if len(line) > HEAD_CHARS else ''}" for line in lines[:HEAD_LINES]]
    return shown
