"""Understand what was meant: a question without ``ask``, before or after its paths, or without quotation marks."""

from __future__ import annotations

import difflib
import glob
import os
import re
import shlex
from collections.abc import Iterable, Sequence

import click

from rlm_dspy.cli.terminal import Terminal

MIN_WORDS = 3  # of a question without quotation marks; two words may be a question and a misspelled path
_PLAIN_WORD = re.compile(r"[^\s./\\*\[\]~:-][^\s/\\*\[\]]*")
_FILE_NAME = re.compile(r".*\.\w{1,8}")


class QuestionGroup(click.Group):
    """The group of commands, where a question without a command is asked."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the group's own options; with others before it, a question is for ``ask``.

        Raises:
            click.UsageError: options stand before a command.
        """
        own = {spelling for param in self.get_params(ctx) for spelling in param.opts}
        if args and args[0].startswith("-") and args[0] not in own and not ctx.resilient_parsing:
            self._check_leading_options(ctx, args)
            args = ["ask", *args]
        return super().parse_args(ctx, args)

    def _check_leading_options(self, ctx: click.Context, args: list[str]) -> None:
        ask = self.commands["ask"]
        options, _, _ = ask.make_parser(click.Context(ask, info_name="ask", parent=ctx)).parse_args(list(args))
        if (command := options["question"]) in self.commands:
            raise click.UsageError(f"Options come after the command: rlm-dspy {command} {args[0]} …", ctx=ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the arguments: the one that is named, or ``ask`` if they hold a question.

        Raises:
            click.UsageError: the first argument is neither a command nor part of a question.
        """
        first = args[0]
        if ctx.resilient_parsing or first.startswith("-") or self.get_command(ctx, first) is not None:
            return super().resolve_command(ctx, args)
        if not _is_asked(first, args[1:], self.commands):
            raise click.UsageError(_unknown_command(args, self.commands), ctx=ctx)
        ctx.obj.guessed_command = not is_question(first)
        return "ask", self.commands["ask"], args


def _is_asked(first: str, others: Sequence[str], commands: Iterable[str]) -> bool:
    """Return whether these arguments are a question and its paths rather than a mistyped command."""
    if is_question(first):
        return True
    if is_path(first):
        return any(map(is_question, others))
    if difflib.get_close_matches(first, ["ask"]):
        return False
    if _joined_arguments(first, tuple(others)):  # "what is …" is near chat
        return True
    return not difflib.get_close_matches(first, commands) and any(map(is_path, others))


def _unknown_command(args: Sequence[str], commands: Iterable[str]) -> str:
    first = args[0]
    if is_path(first):
        paths = shlex.join(filter(is_path, args))
        return f'{first!r} is something to read, not a question. Did you mean `rlm-dspy ask "…" {paths}`?'
    near = difflib.get_close_matches(first, commands, n=1)
    if near:
        return f"No such command {first!r}. Did you mean {near[0]!r}?"
    return f"No such command {first!r}. Did you mean to ask? Write rlm-dspy ask {shlex.quote(first + '?')} PATH."


def usage_text(error: click.UsageError) -> str:
    """Return what is wrong with the arguments, and for ``--offline``, which is not an option, how to write it."""
    is_offline = isinstance(error, click.NoSuchOption) and error.option_name == "--offline"
    params = error.ctx.command.params if error.ctx else []
    if is_offline and any(param.name == "model" for param in params):
        return "No such option '--offline'. The offline engine is a model: -m offline."
    return error.format_message()


def is_path(word: str) -> bool:
    """Return whether an argument names something to read: a path that exists, stdin or an address."""
    if word == "-" or "://" in word:
        return True
    if os.path.lexists(os.path.expanduser(word)):
        return True
    return glob.has_magic(word) and not word.endswith("?") and any(glob.iglob(word))


def is_question(word: str) -> bool:
    """Whether an argument reads like a question: words with blanks or a question mark, and no path that exists."""
    has_sign = bool(re.search(r"\s", word.strip())) or word.endswith("?")
    return has_sign and not is_path(word)


def understood_arguments(
    question: str | None, paths: tuple[str, ...], terminal: Terminal
) -> tuple[str | None, tuple[str, ...]]:
    """Return the question and the paths that were meant; a note on stderr says what was understood differently."""
    if question is None:
        return None, paths
    meant = _swapped_arguments(question, paths) or _joined_arguments(question, paths)
    if meant is None and not terminal.guessed_command:
        return question, paths
    asked, read = meant or (question, paths)
    terminal.note(f"understood as: {shlex.join(['rlm-dspy', 'ask', asked, *read])}")
    return asked, read


def _swapped_arguments(question: str, paths: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """Return question and paths where paths came first, None if they did not."""
    if not is_path(question):
        return None
    words = [path for path in paths if not is_path(path)]
    swapped = (question, *(path for path in paths if is_path(path)))
    if len(words) == 1 and is_question(words[0]):
        return words[0], swapped
    if _are_words(words):
        return " ".join(words), swapped
    return None


def _joined_arguments(question: str, paths: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """Return question and paths where the question's words came one by one, None if they did not."""
    words = [question]
    for path in paths:
        if is_path(path):
            break
        words.append(path)
    others = paths[len(words) - 1 :]
    if not others or not _are_words(words):
        return None
    return " ".join(words), others


def _are_words(words: Sequence[str]) -> bool:
    """Return whether arguments are the words of a question rather than paths that are missing."""
    if len(words) < MIN_WORDS and not (len(words) == MIN_WORDS - 1 and words[-1].endswith("?")):
        return False
    return all(_PLAIN_WORD.fullmatch(word) and not _FILE_NAME.fullmatch(word) for word in words)
