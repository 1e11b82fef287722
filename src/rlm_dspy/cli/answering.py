"""What ``ask`` does before a model is needed: settings, checks, reading. The rest is in ``asking``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_dspy.cli import inputs, logs, outs, settings
from rlm_dspy.cli.options import check_writable
from rlm_dspy.cli.starting import warm_sandbox
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus import Corpus
from rlm_dspy.report import render
from rlm_dspy.waiting import importing

_TOLD = 3  # files beyond a limit that are named
_TOLD_GIVEN = 50  # files that were named and not read as they are


@dataclass(frozen=True)
class Request:
    """What the user asked for, as the command line gave it."""

    question: str
    paths: tuple[str, ...]
    flags: Mapping[str, Any]
    choice: Mapping[str, Any]
    out: str
    as_json: bool
    trace: Path | None
    dry_run: bool
    log_json: bool
    program: Path | None = None
    index: bool = False


def answer(request: Request, terminal: Terminal) -> int:
    """Answer the request and return the exit code."""
    loaded = settings.load(request.flags, trust_project=terminal.trusts_project)
    terminal.redactor.learn(loaded.secrets())
    logs.configure(terminal.verbose, request.log_json, terminal.redactor, quiet=terminal.quiet)
    outs.names(request.out)
    check_writable(request.trace, "--trace")
    # Everything that can be wrong with the command and its files is told before a model library is imported.
    corpus = inputs.read(inputs.paths_or_stdin(request.paths), request.choice)
    _tell_skipped(corpus, terminal)
    terminal.redactor.learn(settings.export_credentials(loaded, os.environ))
    with importing():
        if not request.dry_run and mode(request, loaded.settings, corpus) == "rlm":
            warm_sandbox()
        from rlm_dspy.cli.asking import Asking

    # DSPy set up its own on import.
    logs.configure(terminal.verbose, request.log_json, terminal.redactor, quiet=terminal.quiet)
    return Asking(request, terminal, loaded.settings, corpus).run()


def mode(request: Request, values: settings.Settings, corpus: Corpus) -> str:
    """Return how the question will be put: to a model that explores, or with the whole text in one call."""
    if request.program or values.mode == "rlm":
        return "rlm"
    if values.mode == "retrieve":
        return "retrieve"
    fits = inputs.tokens(corpus.chars) <= values.direct_tokens
    return "direct" if values.mode == "direct" or fits else "rlm"


def _tell_skipped(corpus: Corpus, terminal: Terminal) -> None:
    given = [problem for problem in corpus.problems if problem.given]
    for problem in given[:_TOLD_GIVEN]:
        terminal.note(f"warning: {inputs.told(corpus, problem)}")
    if len(given) > _TOLD_GIVEN:
        terminal.note(f"warning: {len(given) - _TOLD_GIVEN:,} more files that were named were not read as they are.")
    others = [problem for problem in corpus.problems if not problem.given and not problem.unread]
    if others:
        terminal.note(
            f"{render.counted(len(others), 'file')} read in part or by a guess (`rlm-dspy ls` with the same paths and "
            "options tells which)."
        )
    if not corpus.skipped:
        return
    terminal.note(
        f"{render.counted(len(corpus), 'file')} read, {len(corpus.skipped):,} skipped (`rlm-dspy ls` with the same "
        "paths and options tells why)."
    )
    # Whoever named a large file or folder expects it to be read; the rest is left out as always.
    limited = [one for one in corpus.skipped if one.limited]
    for one in limited[:_TOLD]:
        terminal.note(f"warning: {one.name} is {inputs.by_flags(one.reason)}.")
    if len(limited) > _TOLD:
        terminal.note(f"warning: {len(limited) - _TOLD:,} more are beyond a limit.")
