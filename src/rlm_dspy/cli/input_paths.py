"""Reading the user's paths, globs and stdin."""

from __future__ import annotations

import glob
import itertools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from rlm_dspy import corpus
from rlm_dspy.cli.own_outputs import outputs_below
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus.corpus import Problem
from rlm_dspy.errors import CorpusError
from rlm_dspy.report.json_output import shown_name

_FLAGS = {
    "secrets=True": "--include-secrets",
    "urls=True": "--url",
    "max_file_bytes": "--max-file-mb",
    "max_files": "--max-files",
    "max_bytes": "--max-gb",
}


def read(paths: Sequence[str], choice: Mapping[str, Any]) -> corpus.Corpus:
    """Read the paths with the options of ``options.file_options``, without what the command itself has written there.

    Raises:
        CorpusError: no file could be read.
    """
    try:
        return corpus.read(
            paths,
            include=choice["include"],
            exclude=(*choice["exclude"], *_own_patterns(paths)),
            hidden=choice["hidden"],
            ignore=not choice["no_ignore"],
            secrets=choice["include_secrets"],
            urls=choice.get("url", False),
            encoding=choice.get("encoding"),
            **_read_limits(choice),
            stdin=sys.stdin.buffer if sys.stdin else None,
        )
    except CorpusError as error:
        raise CorpusError(by_flags(str(error))) from error


def note_unused_excludes(files: corpus.Corpus, choice: Mapping[str, Any], terminal: Terminal) -> None:
    """Warn if --exclude matched nothing: if it is misspelt, files are read that the user wanted to leave out."""
    if choice["exclude"] and not any(skipped.reason == "excluded" for skipped in files.skipped):
        terminal.note(f"warning: nothing has a name like --exclude {' '.join(choice['exclude'])}, so all was read.")


def own_text(written: Sequence[Path]) -> str:
    """Return a notice of files that are not read because the command has written them."""
    names = ", ".join(os.path.relpath(place) for place in written[:3])
    more = f" and {len(written) - 3:,} more" if len(written) > 3 else ""
    return f"not read, because rlm-dspy wrote it: {names}{more} (name a file to read it)."


def _own_patterns(paths: Sequence[str]) -> list[str]:
    """Return patterns that exclude the command's own outputs, and no other file."""
    patterns = []
    for place in outputs_below(paths):
        for path in paths:
            patterns += _pattern_below(place, path, paths)
    return patterns


def _pattern_below(place: Path, path: str, paths: Sequence[str]) -> list[str]:
    """Return the pattern of a file below one of the paths, unless another path has a file of that name."""
    if "://" in path or path == "-":
        return []
    patterns = leaving_out(place, [path])
    root = Path(os.path.expanduser(path)).resolve()
    for other in paths:
        top = Path(os.path.expanduser(other)).resolve()
        if patterns and "://" not in other and top != root and place.is_relative_to(root):
            twin = top / place.relative_to(root)
            if os.path.exists(twin) and twin != place:
                return []
    return patterns


def by_flags(text: str) -> str:
    """Replace parameter names in a message by the names of the flags."""
    for name, flag in _FLAGS.items():
        text = text.replace(name, flag)
    return text


def problem_text(files: corpus.Corpus, problem: Problem) -> str:
    """Return a file's problem, with the path as the user can open it."""
    prefix = "not read: " if problem.unread else ""
    return f"{path_of(files, problem.name)}: {prefix}{by_flags(problem.reason)}"


def path_of(files: corpus.Corpus, name: str) -> str:
    """Return the path of a file, read or not, as the user can open it."""
    return shown_name(files, name)


def _read_limits(choice: Mapping[str, Any]) -> dict[str, int]:
    units = {"max_file_mb": ("max_file_bytes", 1e6), "max_files": ("max_files", 1), "max_gb": ("max_bytes", 1e9)}
    limits: dict[str, int] = {}
    for option, (limit, unit) in units.items():
        if choice.get(option) is not None:
            limits[limit] = max(1, round(choice[option] * unit))
    return limits


def leaving_out(file: Path, paths: Sequence[str]) -> list[str]:
    """Return patterns that exclude the file, one for each folder or glob among the paths that contains it."""
    file = file.resolve()
    patterns: list[str] = []
    for path in map(Path, paths):
        fixed: Iterable[str] = path.parts
        if not os.path.exists(path):
            fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
        root = Path(os.path.expanduser(Path(*fixed))).resolve()
        if root in file.parents:
            patterns.append("/" + re.sub(r"([\\*?\[\]!# ])", r"\\\1", file.relative_to(root).as_posix()))
    return patterns


def paths_or_stdin(paths: tuple[str, ...], folder: Path | None = None) -> tuple[str, ...]:
    """Return the paths; if there are none, stdin if it is a pipe, else the folder of the settings.

    Raises:
        click.UsageError: there are no paths and no folder, and stdin is a terminal.
    """
    if paths:
        return paths
    if sys.stdin is None or sys.stdin.isatty():
        if folder is not None:
            return (str(folder),)
        raise click.UsageError("Missing PATH: name files or folders to read, or pipe text to stdin.")
    return ("-",)
