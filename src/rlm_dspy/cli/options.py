"""Options that several commands share, and checks of what arrives as arguments."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

CHOOSING = (
    "include", "exclude", "hidden", "no_ignore", "url", "include_secrets", "encoding", "max_file_mb", "max_files",
    "max_gb",
)  # fmt: skip

_MORE = click.FloatRange(0, min_open=True)

Command = TypeVar("Command", bound=Callable[..., Any])


def choosing(command: Command) -> Command:
    """Add the options that choose which files are read."""
    options = [
        click.option("--include", multiple=True, metavar="GLOB", help="Read only files that match (repeatable)."),
        click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out files that match (repeatable)."),
        click.option("--hidden", is_flag=True, help="Read hidden files and folders too."),
        click.option("--no-ignore", is_flag=True, help="Read what .gitignore leaves out."),
        click.option("--url", is_flag=True, help="Fetch a PATH that begins with https:// or http://."),
        click.option("--include-secrets", is_flag=True, help="Read .env files, keys and the like."),
        click.option("--encoding", metavar="NAME", help="What texts are in that are not UTF-8, e.g. cp1252."),
        click.option("--max-file-mb", type=_MORE, metavar="N", help="Leave out larger files (default: 200)."),
        click.option("--max-files", type=click.IntRange(1), metavar="N", help="Read no more files (default: 500,000)."),
        click.option("--max-gb", type=_MORE, metavar="N", help="Read no more text in all (default: 8)."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _trust_project(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.obj.trusts_project = value


trust_option = click.option(
    "--trust-project",
    is_flag=True,
    envvar="RLM_DSPY_TRUST_PROJECT",
    expose_value=False,
    callback=_trust_project,
    help="Let .env and rlm-dspy.toml of this folder set keys, addresses and folders.",
)


timeout_option = click.option(
    "--timeout",
    type=_MORE,
    metavar="S",
    help="Seconds that a model may take for one try, or a stream be silent (default: 120).",
)


def paths_argument(command: Command) -> Command:
    """Add ``[PATH]...``: files, folders, globs, or ``-`` for stdin; a list of more may be given too."""

    @functools.wraps(command)
    def with_listed(*args: Any, paths: tuple[str, ...], files_from: str | None, null: bool, **options: Any) -> Any:
        listed = listed_paths(files_from, null=null)
        if files_from == "-" and "-" in (*paths, *listed):
            raise click.UsageError("stdin cannot be both the list of --files-from and a text.")
        return command(*args, paths=(*paths, *listed), **options)

    help_of_list = "Read the paths too that FILE (or - for stdin) lists, one a line."
    help_of_null = "The paths of --files-from end with NUL, as find -print0 writes them."
    decorators = [
        click.argument("paths", nargs=-1, metavar="[PATH]..."),
        click.option("--files-from", metavar="FILE", help=help_of_list),
        click.option("-0", "--null", is_flag=True, help=help_of_null),
    ]
    decorated: Any = with_listed
    for decorate in reversed(decorators):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


def listed_paths(source: str | None, *, null: bool) -> tuple[str, ...]:
    """Return the paths that a file or stdin lists, one a line or each before a NUL.

    Raises:
        click.UsageError: the list cannot be read or is empty, or there is none to end with NUL.
    """
    if source is None:
        if null:
            raise click.UsageError("-0 belongs to --files-from.")
        return ()
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).expanduser().read_bytes()
    except OSError as error:
        raise click.UsageError(f"--files-from {source} cannot be read: {error.strerror}.") from None
    paths = data.split(b"\0") if null else data.splitlines()
    found = tuple(os.fsdecode(path) for path in paths if path.strip())
    if not found:
        raise click.UsageError(f"--files-from {source} lists no paths.")
    return found


def check_writable(path: Path | None, name: str) -> None:
    """Refuse an output file that could not be written, before anything is spent.

    Raises:
        click.UsageError: the path is a folder, or its folder is missing or may not be written.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise click.UsageError(f"{name} {path} cannot be written: {folder} is not a folder that you may write to.")


def check_unicode(value: str, name: str) -> None:
    """Refuse an argument whose bytes were not text in the terminal's encoding.

    Raises:
        click.UsageError: the argument has bytes that are not valid UTF-8.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.UsageError(
            f"{name} is not valid UTF-8 (at character {error.start + 1}). Type it again in a UTF-8 terminal."
        ) from error
