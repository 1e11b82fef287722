"""``rlm-dspy runs`` and ``rlm-dspy trace``: list the saved runs, and show one step by step."""

from __future__ import annotations

import itertools
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click

from rlm_dspy.cli.options import json_option, trust_option
from rlm_dspy.cli.terminal import Terminal

if TYPE_CHECKING:
    from rlm_dspy.report.run_store import RunStore, StoredRun
    from rlm_dspy.run import Run

MIN_WIDTH_OF_ALL = 110  # columns of a terminal that shows all of a run's facts


@click.command(short_help="List the saved runs.")
@click.option("-n", "--number", type=click.IntRange(1), default=20, metavar="N", help="Maximum runs (default: 20).")
@click.option("-s", "--search", metavar="TEXT", default="", help="Only runs whose question or answer has TEXT.")
@json_option("the runs")
@trust_option
@click.pass_obj
def runs(terminal: Terminal, /, number: int, search: str, as_json: bool) -> None:
    """List the saved runs, newest first.

    Every ask saves its run in the folder `runs` of the setting `home`, which keeps the last 200.
    One that is `running` or was `killed` is there as far as it went.
    """
    from rlm_dspy.report import journal, render

    store = _open_store(terminal)
    found = (item for item in store.runs() if _has_text(item.run, search))
    kept = list(itertools.islice(found, number))
    for path in store.damaged:
        terminal.note(f"warning: {path} is not a readable run; delete it.")
    if as_json:
        terminal.answer(journal.redacted_json([_run_facts(item) for item in kept], terminal.redactor, indent=2))
        return
    if not kept:
        terminal.note(f"No run has {search!r}." if search else f"There are no runs in {store.folder} yet.")
        return
    rows = [["id", "when", "ended", "steps", "tokens", "cost", "model", "question"], *map(_table_row, kept)]
    if sys.stdout.isatty():
        rows = _fitted_rows(rows, shutil.get_terminal_size().columns)
    numbers = frozenset(rows[0].index(name) for name in ("steps", "tokens", "cost") if name in rows[0])
    terminal.answer("\n".join(render.table_lines(rows, right=numbers)))


@click.command(short_help="Show one run, or two side by side.")
@click.argument("name", metavar="[RUN]", default="last")
@click.argument("other", metavar="[OTHER]", required=False)
@click.option("--full", is_flag=True, help="Show everything in full.")
@json_option("the whole run")
@click.option("--html", metavar="FILE", help="Write a page that shows the whole run in a browser (- for stdout).")
@click.option("--open", "opened", is_flag=True, help="Make that page and open it in the browser.")
@click.option("--chrome", metavar="FILE", help="Write a trace for Perfetto, ui.perfetto.dev (- for stdout).")
@trust_option
@click.pass_obj
def trace(terminal: Terminal, /, name: str, other: str | None, **options: Any) -> None:
    """Show a run as a tree: its steps, the sub-calls under the step that made them, and the usage of each.

    RUN and OTHER are ids from `rlm-dspy runs` or their beginnings, files written by `ask --trace`, or `last`. With
    --html or --open, OTHER is shown beside RUN, step by step.
    """
    from rlm_dspy.cli import viewing

    viewing.check_options(other, options)
    store = _open_store(terminal)
    found = [store.find(one) for one in (name, other) if one is not None]
    viewing.show(terminal, store, found, options)


def _open_store(terminal: Terminal) -> RunStore:
    from rlm_dspy.cli import settings
    from rlm_dspy.report.run_store import RunStore

    loaded = settings.load(trust_project=terminal.trusts_project)
    terminal.redactor.learn(loaded.secrets())
    return RunStore(loaded.settings.home / "runs")


def _has_text(run: Run, search: str) -> bool:
    """Whether a run's question, model or outputs have a text, in any case."""
    texts = [run.id, run.model, *run.inputs.values(), *map(str, run.outputs.values())]
    return any(search.casefold() in text.casefold() for text in texts)


def _fitted_rows(rows: list[list[str]], width: int) -> list[list[str]]:
    """Return the rows cut to the columns of a terminal; a narrow one shows neither steps nor model."""
    if width < MIN_WIDTH_OF_ALL:
        rows = [[*row[:2], _cut_cell(row[2], 10), *row[4:6], row[7]] for row in rows]
    fixed = sum(max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1))
    return [[*row[:-1], _cut_cell(row[-1], max(16, width - fixed))] for row in rows]


def _cut_cell(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _run_facts(item: StoredRun) -> dict[str, Any]:
    run = item.run
    return {
        "id": run.id,
        "when": item.when.isoformat(timespec="seconds"),
        "status": run.status,
        "stopped_by": run.stopped_by,
        "model": run.model,
        "question": run.inputs.get("question", ""),
        "steps": len(run.steps),
        "sub_calls": run.sub_calls,
        "usage": run.usage.model_dump(),
        "seconds": round(run.seconds, 3),
        "path": str(item.path),
    }


def _table_row(item: StoredRun) -> list[str]:
    from rlm_dspy.report import render

    run = item.run
    figures = [f"{len(run.steps):,}", f"{run.usage.total_tokens:,}", render.cost_text(run.usage.cost)]
    question = render.quoted_line(run.inputs.get("question", ""), 60)
    return [run.id, f"{item.when:%m-%d %H:%M}", run.stopped_by or run.status, *figures, run.model, question]
