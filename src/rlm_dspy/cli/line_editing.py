"""Editing, history and completion of the lines of a conversation, by Python's readline where it exists."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlm_dspy import safe_files

try:
    import readline
except ImportError:  # a Python without it reads plain lines
    readline = None  # type: ignore[assignment]

MAX_LINES = 1_000  # of the history
PATH_COMMANDS = ("/add ", "/save ")  # commands whose argument is a path


@contextlib.contextmanager
def line_editing(history: Path, commands: Sequence[str]) -> Iterator[None]:
    """Let ``input`` edit lines, remember them in a file, and complete commands and paths with Tab."""
    if readline is None:
        yield
        return
    readline.clear_history()
    with contextlib.suppress(OSError):  # the first conversation has no history
        readline.read_history_file(history)
    readline.set_history_length(MAX_LINES)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda text, state: _nth_completion(text, state, commands))
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with contextlib.suppress(OSError):  # a home that cannot be written loses the history, not the answers
            safe_files.make_private(history.parent)
            os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
            readline.write_history_file(history)


def completions(line: str, word: str, commands: Sequence[str]) -> list[str]:
    """Return the completions of the last ``word`` of ``line``: commands at its start, paths after some commands."""
    if line.startswith(PATH_COMMANDS):
        paths = sorted(glob.glob(glob.escape(os.path.expanduser(word)) + "*"))
        for number, path in enumerate(paths):
            if os.path.isdir(path):
                paths[number] = f"{path}/"
        return paths
    if line == word and word.startswith("/"):
        return [f"{command} " for command in commands if command.startswith(word)]
    return []


def _nth_completion(word: str, state: int, commands: Sequence[str]) -> str | None:
    choices = completions(readline.get_line_buffer()[: readline.get_endidx()], word, commands)
    if state < len(choices):
        return choices[state]
    return None
