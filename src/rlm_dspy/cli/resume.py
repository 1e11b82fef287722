"""``ask --resume``: go on with a run that has no answer yet, with the same question, files, model and options."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlm_dspy.cli import settings
from rlm_dspy.cli.ask_request import AskRequest
from rlm_dspy.cli.options import longest_spelling
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import CorpusError, RLMError

if TYPE_CHECKING:
    from rlm_dspy.cli.terminal import Terminal
    from rlm_dspy.report.resumed_run import ResumedRun

LIMITS = ("max_iters", "max_calls", "max_tokens", "max_cost", "max_seconds")
KEPT_SETTINGS = ("model", "sub_model", "fallback", "temperature", "mode", "direct_tokens", "num_ctx", *LIMITS)
GIVEN_AGAIN = frozenset({*LIMITS, "timeout", "resume", "force", "trace", "as_json", "events", "log_json"})
MAX_HASHED_CHARS = 200_000_000  # of a larger corpus only the names and sizes are compared
MAX_NOTED_FILES = 2_000  # beyond this the record has one digest of all files
MAX_NAMED_FILES = 3  # files that changed, listed in an error


def check_options(ctx: click.Context, options: Mapping[str, Any]) -> None:
    """Refuse what the record of the run decides: only limits and forms of output may be given again.

    Raises:
        click.UsageError: another option is given, or ``--force`` without ``--resume``.
    """
    if options["resume"] is None:
        if options["force"]:
            raise click.UsageError("--force belongs to --resume.")
        return
    for param in ctx.command.params:
        if not param.expose_value or param.name in GIVEN_AGAIN:
            continue
        if ctx.get_parameter_source(str(param.name)) == click.core.ParameterSource.COMMANDLINE:
            name = longest_spelling(param)
            raise click.UsageError(
                f"{name} and --resume cannot be used together: the question, the files, the model and the options come "
                "from the run. Only limits may be given again, such as --max-iters."
            )


def recorded_facts(request: AskRequest, values: settings.Settings, corpus: Corpus, model: str) -> dict[str, Any]:
    """Return what the record says of an ``ask``, so that it can be resumed."""
    kept = {name: getattr(values, name) for name in KEPT_SETTINGS}
    if request.program:
        program = str(Path(request.program).absolute())
    else:
        program = None
    return {
        "question": request.question,
        "paths": list(request.paths),
        "folder": _current_folder(),
        "choice": dict(request.choice),
        "out": request.out,
        "mcp": list(request.mcp),
        "index": request.index,
        "program": program,
        "program_digest": _file_digest(request.program),
        "settings": {**kept, "model": values.model or model},
        "digest": corpus_digest(corpus),
        "chars": corpus.chars,
        "texts": corpus.texts_digest if corpus.chars <= MAX_HASHED_CHARS else None,
        "files": file_digests(corpus),
    }


def _current_folder() -> str:
    """Return the current folder, or "" if it was deleted: absolute paths can still be read."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def corpus_digest(corpus: Corpus) -> str:
    """Return a digest of the names and texts of a corpus, of a very large one only of the names and sizes."""
    total = hashlib.sha256()
    for document in corpus.documents:
        total.update(f"{document.name}\0{document.size}\n".encode("utf-8", "surrogatepass"))
        if corpus.chars <= MAX_HASHED_CHARS:
            total.update(document.body.digest())
    return total.hexdigest()


def file_digests(corpus: Corpus) -> dict[str, str]:
    """Return a short digest of each file by its name; empty if there are very many."""
    if len(corpus) > MAX_NOTED_FILES or corpus.chars > MAX_HASHED_CHARS:
        return {}
    return {document.name: document.body.digest().hex()[:16] for document in corpus.documents}


def resumable_log(path: Path | None) -> Path | None:
    """Return the log of a run if ``ask --resume`` can go on with it."""
    from rlm_dspy.report.resumed_run import can_be_resumed  # only here, because they import DSPy
    from rlm_dspy.report.run_store import load_run

    if path is None or not os.path.isfile(path):
        return None
    try:
        stored = load_run(path)
    except RLMError:  # the disk is full, for example
        return None
    if can_be_resumed(stored):
        return path
    return None


def resumed_flags(asked: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with the limits that are given again."""
    again = {name: value for name, value in flags.items() if value is not None}
    return {**asked["settings"], **again}


def resumed_request(request: AskRequest, resumed: ResumedRun) -> AskRequest:
    """Return the request of a run to resume, in the form of output that is asked for now.

    Raises:
        RLMError: it has to be resumed in another folder.
    """
    asked = resumed.asked
    relative = [path for path in asked["paths"] if path != "-" and not os.path.isabs(path) and "://" not in path]
    if relative and _current_folder() != asked["folder"]:
        raise RLMError(f"the run {resumed.run.id} was asked in {asked['folder']}: resume it there (cd to it first)")
    choice = dict(asked["choice"])
    for name, value in choice.items():
        if isinstance(value, list):
            choice[name] = tuple(value)
    return replace(
        request,
        question=asked["question"],
        paths=tuple(asked["paths"]),
        flags=resumed_flags(asked, request.flags),
        choice=choice,
        out=asked["out"],
        dry_run=False,
        program=asked["program"] or None,
        index=asked["index"],
        mcp=tuple(asked["mcp"]),
        limits_changed=any(request.flags.get(name) is not None for name in LIMITS),
        resumed=resumed,
    )


def check_unchanged(request: AskRequest, corpus: Corpus, terminal: Terminal) -> None:
    """Refuse to go on if the files or the program are not those of the run, unless the user insists.

    Raises:
        CorpusError: they changed, and ``--force`` is not given; the message names what changed.
    """
    assert request.resumed is not None
    asked = request.resumed.asked
    changes = []
    if corpus_digest(corpus) != asked["digest"]:
        changes.append(_changed_files(asked["files"], file_digests(corpus)))
    if _file_digest(request.program) != asked["program_digest"]:
        changes.append(f"the program {request.program} changed")
    if not changes:
        return
    message = "; ".join(changes)
    if not request.force:
        raise CorpusError(
            f"the run {request.resumed.run.id} cannot go on, because {message} since it was asked. Ask again from the "
            "start, or use --force to go on with what is there now."
        )
    terminal.note(f"warning: {message} since the run was asked.")


def note_resumed(resumed: ResumedRun, terminal: Terminal) -> None:
    """Say what is replayed, and what is done again."""
    finished = len(resumed.calls) - resumed.in_flight
    terminal.note(
        f"Resuming the run {resumed.run.id}: its record has {counted_noun(finished, 'finished call')} of models, which "
        "cost nothing again; its cells are run again."
    )
    if resumed.in_flight:
        terminal.note(
            f"{counted_noun(resumed.in_flight, 'call')} without a usable reply: made again; the "
            "provider may have billed this."
        )
    if resumed.asked["mcp"]:
        names = ", ".join(resumed.asked["mcp"])
        terminal.note(f"warning: cells call the tools of {names} again, with all that these change.")


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if not before or not now:
        return "the files changed"
    changed = [f"{name} changed" for name in before if name in now and before[name] != now[name]]
    gone = [f"{name} is missing" for name in before if name not in now]
    new = [f"{name} is new" for name in now if name not in before]
    return _named_some([*changed, *gone, *new]) or "the order of the files changed"


def _named_some(names: Sequence[str]) -> str:
    more = ""
    if len(names) > MAX_NAMED_FILES:
        more = f" and {counted_noun(len(names) - MAX_NAMED_FILES, 'more file')}"
    return ", ".join(names[:MAX_NAMED_FILES]) + more


def _file_digest(path: str | Path | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:  # loading it says why
        return None
