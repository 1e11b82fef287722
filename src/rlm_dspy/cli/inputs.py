"""Reading what the user named: paths, globs, stdin."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from rlm_dspy import corpus
from rlm_dspy.errors import CorpusError

CHARS_PER_TOKEN = 4


def tokens(chars: int) -> int:
    """Estimate tokens from characters; good enough to choose a mode, not to bill by."""
    return -(-chars // CHARS_PER_TOKEN)


def read(paths: Sequence[str], choice: Mapping[str, Any]) -> corpus.Corpus:
    """Read the paths with the options of ``options.choosing``.

    Raises:
        CorpusError: nothing there could be read.
    """
    try:
        return corpus.read(
            paths,
            include=choice["include"],
            exclude=choice["exclude"],
            hidden=choice["hidden"],
            ignore=not choice["no_ignore"],
            secrets=choice["include_secrets"],
            urls=choice.get("url", False),
            stdin=sys.stdin.buffer if sys.stdin else None,
        )
    except CorpusError as error:
        # The reader speaks to programmers; whoever types a command needs the flag's name.
        told = str(error).replace("secrets=True", "--include-secrets").replace("urls=True", "--url")
        raise CorpusError(told) from error


def paths_or_stdin(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths, or stdin if none was given and something is piped in.

    Raises:
        click.UsageError: no path, and stdin is a terminal.
    """
    if paths:
        return paths
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("Missing PATH: name files or folders to read, or pipe a text in.")
    return ("-",)
