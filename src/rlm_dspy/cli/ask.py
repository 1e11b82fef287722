"""The command ``ask``: check the arguments and read the files; nothing here imports a model library."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from rlm_dspy.cli import input_paths, logs, out_option, resume, settings
from rlm_dspy.cli.ask_request import AskRequest
from rlm_dspy.cli.home_files import user_toml
from rlm_dspy.cli.notices import note_daily
from rlm_dspy.cli.options import check_writable
from rlm_dspy.cli.own_outputs import check_replaceable, outputs_below
from rlm_dspy.cli.question_arguments import is_path
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError, RLMError
from rlm_dspy.garbage_pause import paused_garbage_collection

_MAX_NAMED_FILES = 3  # files over a limit to list
_MAX_NAMED_PROBLEMS = 50  # explicitly named files with problems to list


def answer(request: AskRequest, terminal: Terminal) -> int:
    """Answer the request and return the exit code."""
    loaded = settings.load_for(terminal, request.flags)
    if request.resume is not None:
        request = _find_resumed(request, loaded.settings.home / "runs")
        loaded = settings.load_for(terminal, request.flags)
    logs.configure(terminal, request.log_json)
    out_option.output_names(request.out)
    if unknown := [name for name in request.mcp if name not in loaded.settings.mcp]:
        raise ConfigurationError(
            f"--mcp {unknown[0]}: no such server is set; write [mcp.{unknown[0]}] with a command or a url in "
            f"{user_toml()}"
        )
    check_writable(request.trace, "--trace")
    check_replaceable(request.trace, "--trace")
    if request.program is not None:
        request = _with_program(request, loaded.settings.home, terminal)
    # Report every error in the command and its files before importing a model library.
    may_be_path = " " not in request.question or os.path.lexists(os.path.expanduser(request.question))
    if not request.paths and may_be_path and is_path(request.question):
        raise click.UsageError(f"{request.question!r} is something to read: the question is missing.")
    paths = input_paths.paths_or_stdin(request.paths, loaded.settings.folder)
    if not request.paths and paths != ("-",):
        terminal.note(f"reading {paths[0]} (the setting folder, {loaded.origins['folder']})")
        request = replace(request, paths=paths)
    corpus = input_paths.read(paths, request.choice)
    input_paths.note_unused_excludes(corpus, request.choice, terminal)
    if written := outputs_below(paths):
        note_daily(terminal, loaded.settings.home, input_paths.own_text(written), paths)
    _note_problems(corpus, terminal)
    _note_skipped(corpus, paths, loaded.settings.home, terminal)
    if request.resumed is not None:
        resume.check_unchanged(request, corpus, terminal)
        resume.note_resumed(request.resumed, terminal)
    settings.export_for(loaded, terminal)
    with paused_garbage_collection():
        if not request.dry_run and request.first_mode(loaded.settings, corpus) == "rlm":
            _warm_sandbox()
        from rlm_dspy.cli.question import Asking

    # Again, because DSPy configures logging on import.
    logs.configure(terminal, request.log_json)
    return Asking(request, terminal, loaded.settings, corpus).run()


def _warm_sandbox() -> None:
    """Start the sandbox during the imports; its first user waits for it, and sees the error if it failed."""
    from rlm_dspy.sandbox import Sandbox, default_factory, prewarm

    def start() -> None:
        with contextlib.suppress(RLMError, OSError):
            prewarm()

    if default_factory() is Sandbox:
        threading.Thread(target=start, name="sandbox-start", daemon=True).start()


def _with_program(request: AskRequest, home: Path, terminal: Terminal) -> AskRequest:
    """Return the request with the file of its program, which is shown before its first use."""
    from rlm_dspy.cli.program_source import find_program  # only here, because it imports DSPy

    return replace(request, program=find_program(str(request.program), home, terminal, request.out))


def _find_resumed(request: AskRequest, folder: Path) -> AskRequest:
    """Return the request of the run that is to be resumed."""
    from rlm_dspy.report.resumed_run import read_resumed  # only here, because it imports DSPy
    from rlm_dspy.report.run_store import RunStore

    return resume.resumed_request(request, read_resumed(RunStore(folder).find(str(request.resume))))


def _note_problems(corpus: Corpus, terminal: Terminal) -> None:
    named = [problem for problem in corpus.problems if problem.given]
    for problem in named[:_MAX_NAMED_PROBLEMS]:
        terminal.note(f"warning: {input_paths.problem_text(corpus, problem)}")
    if len(named) > _MAX_NAMED_PROBLEMS:
        terminal.note(f"warning: problems in {counted_noun(len(named) - _MAX_NAMED_PROBLEMS, 'more named file')}.")
    others = [problem for problem in corpus.problems if not problem.given and not problem.unread]
    if others:
        terminal.note(
            f"{counted_noun(len(others), 'file')} read in part or with a guessed encoding "
            "(`rlm-dspy ls` with the same paths and options lists them)."
        )
    # A user who named a large file or folder expects it to be read; other exclusions are normal.
    limited = [one for one in corpus.skipped if one.limited]
    for one in limited[:_MAX_NAMED_FILES]:
        terminal.note(f"warning: {input_paths.path_of(corpus, one.name)} is {input_paths.by_flags(one.reason)}.")
    if len(limited) > _MAX_NAMED_FILES:
        terminal.note(f"warning: limits left out {counted_noun(len(limited) - _MAX_NAMED_FILES, 'more file')}.")


def _note_skipped(corpus: Corpus, paths: Sequence[str], home: Path, terminal: Terminal) -> None:
    if corpus.skipped:
        counted = (
            f"{counted_noun(len(corpus), 'file')} read, {len(corpus.skipped):,} skipped "
            "(`rlm-dspy ls` with the same paths and options shows why)."
        )
        note_daily(terminal, home, counted, paths)
