"""What ``rlm-dspy trace`` makes of runs: a tree, JSON, a page for a browser, a trace for Perfetto."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from rlm_dspy import safe_files
from rlm_dspy.cli.options import check_writable
from rlm_dspy.cli.own_outputs import check_replaceable, remember_output
from rlm_dspy.cli.terminal import Terminal, columns_of
from rlm_dspy.errors import RLMError
from rlm_dspy.report import json_output, tree
from rlm_dspy.report.render import jsonable
from rlm_dspy.report.resumed_run import can_be_resumed
from rlm_dspy.report.run_log import KILLED, RUNNING
from rlm_dspy.report.run_store import RunStore, StoredRun, load_run
from rlm_dspy.report.viewer import chrome_trace, page
from rlm_dspy.run import Run

MAX_PAGES = 20  # kept in the folder of pages that --open makes

_OUTPUTS = {"as_json": "--json", "html": "--html", "opened": "--open", "chrome": "--chrome"}


def check_options(other: str | None, options: Mapping[str, Any]) -> None:
    """Refuse options that exclude each other, before anything is read.

    Raises:
        click.UsageError: two forms of output are requested, or a second run without a page.
    """
    wanted = [flag for name, flag in _OUTPUTS.items() if options[name]]
    if len(wanted) > 1:
        raise click.UsageError(f"{wanted[0]} and {wanted[1]} are mutually exclusive.")
    if wanted and options["full"]:
        raise click.UsageError(f"--full does nothing with {wanted[0]}, which has the whole run.")
    if other is not None and not (options["html"] or options["opened"]):
        raise click.UsageError("two runs are shown side by side only on a page; add --html FILE or --open.")
    for flag in ("html", "chrome"):
        if options[flag] and options[flag] != "-":
            check_writable(Path(options[flag]), f"--{flag}")


def show(terminal: Terminal, store: RunStore, stored: Sequence[StoredRun], options: Mapping[str, Any]) -> None:
    """Print or write the runs as the options request."""
    run, redactor = stored[0].run, terminal.redactor
    target = options["html"] or options["chrome"]
    if target and target != "-":
        _refuse_records(Path(target), store, stored)
        check_replaceable(Path(target), "--html" if options["html"] else "--chrome")
    if options["as_json"]:
        terminal.answer(json_output.redacted_json(jsonable(run.model_dump()), redactor, indent=2))
    elif options["opened"]:
        _open_page(terminal, store, stored)
    elif options["html"]:
        _write_text(terminal, options["html"], page.html_page([one.run for one in stored], redactor))
    elif options["chrome"]:
        _write_text(terminal, options["chrome"], chrome_trace.chrome_trace(run, redactor))
    else:
        print_tree(terminal, run, whole=options["full"])
        if can_be_resumed(stored[0]):
            terminal.note(f"What is paid for is kept: `rlm-dspy ask --resume {run.id}` continues the run.")
    if options["opened"] or target:
        _note_unfinished(terminal, [one.run for one in stored])


def _note_unfinished(terminal: Terminal, runs: Sequence[Run]) -> None:
    """Note that unfinished runs are shown up to their last event; the tree already says so."""
    states = {RUNNING: "is running", KILLED: "was killed"}
    for run in runs:
        if state := states.get(str(run.stopped_by)):
            terminal.note(f"The run {run.id} is unfinished: it {state}. This shows what its record holds so far.")


def print_tree(terminal: Terminal, run: Run, *, whole: bool = False) -> None:
    """Print the tree of a run; in a terminal its lines are cut where the rails can go on."""
    text = terminal.printable_text("\n".join(tree.tree_lines(run, whole=whole)))
    if columns := columns_of(sys.stdout):
        text = "\n".join(tree.fitted_lines(text.split("\n"), columns))
    terminal.answer(text)


def _refuse_records(target: Path, store: RunStore, stored: Sequence[StoredRun]) -> None:
    """Refuse to overwrite a run's record with its own page or trace."""
    own = any(os.path.exists(target) and target.samefile(one.path) for one in stored)
    if own or store.holds_file(target) or _is_record(target):
        raise RLMError(f"{target} is the record of a run, which would be lost. Choose another file.")


def _is_record(path: Path) -> bool:
    if path.suffix not in {".json", ".jsonl"} or not os.path.isfile(path):
        return False
    try:
        load_run(path)
    except RLMError:
        return False
    return True


def _write_text(terminal: Terminal, target: str, text: str) -> None:
    if target == "-":
        terminal.masked(text)
        return
    path = _write_file(Path(target), text)
    remember_output(path)
    terminal.note(f"Written to {target}.")


def _write_file(path: Path, text: str) -> Path:
    try:
        return safe_files.write_private(path, text)
    except OSError as error:
        raise RLMError(f"{path} cannot be written: {error.strerror}. Choose another file.") from error


def _open_page(terminal: Terminal, store: RunStore, stored: Sequence[StoredRun]) -> None:
    """Write the page to the folder of pages, which keeps the newest, and open it in the browser."""
    folder = store.folder.parent / "pages"
    text = page.html_page([one.run for one in stored], terminal.redactor)
    try:
        safe_files.make_private(folder)
    except OSError as error:
        raise RLMError(f"{folder} cannot be made: {error.strerror}. Use --html FILE.") from error
    path = _write_file(folder / f"{stored[0].path.stem}{'-compared' if len(stored) > 1 else ''}.html", text)
    _drop_old_pages(folder)
    try:
        opened = webbrowser.open(path.as_uri())
    except webbrowser.Error:
        opened = False
    terminal.answer(str(path))
    if not opened:
        terminal.note("No browser could be opened here; open this file in one.")


def _drop_old_pages(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process may clean up, too
        pages = sorted(folder.glob("*.html"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in pages[MAX_PAGES:]:
            path.unlink()
