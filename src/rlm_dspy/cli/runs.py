"""``rlm-dspy runs`` and ``rlm-dspy trace``: list the saved runs, and show one step by step."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlm_dspy.cli.completion import complete_run
from rlm_dspy.cli.options import FILE_PATH, given_options, json_option, longest_spelling, trust_option
from rlm_dspy.cli.terminal import Terminal

if TYPE_CHECKING:
    from rlm_dspy.report.run_store import Judgement, RunStore, StoredRun
    from rlm_dspy.run import Run

MIN_WIDTH_OF_ALL = 110  # columns of a terminal that shows all of a run's facts


@click.group(invoke_without_command=True, short_help="List the saved runs, mark them, export them.")
@click.option("-n", "--number", type=click.IntRange(1), default=20, metavar="N", help="Maximum runs (default: 20).")
@click.option(
    "-s", "--search", metavar="TEXT", default="", help="Only runs whose inputs, answer, model or id have TEXT."
)
@json_option("the runs")
@trust_option
@click.pass_context
def runs(ctx: click.Context, /, number: int, search: str, as_json: bool) -> None:
    """List the saved runs, newest first.

    Every ask saves its run in the folder `runs` of the setting `home`, which keeps the last 200.
    One that is `running` or was `killed` is there as far as it went. `ask --resume` continues one
    that was killed, interrupted or failed.
    """
    if ctx.invoked_subcommand is None:
        _list_runs(ctx.obj, number, search, as_json)
    elif ignored := given_options(ctx):
        raise click.UsageError(_misplaced_text(ignored[0], ctx.invoked_subcommand))


def _misplaced_text(option: str, name: str) -> str:
    own = {longest_spelling(param) for param in runs.commands[name].params if isinstance(param, click.Option)}
    if option in own:
        return f"Options come after the command: rlm-dspy runs {name} {option} …"
    return f"{option} lists runs and does nothing for `runs {name}`, which has {', '.join(sorted(own))}."


def _list_runs(terminal: Terminal, number: int, search: str, as_json: bool) -> None:
    from rlm_dspy.report import render

    store = _open_store(terminal)
    matching = (item for item in store.runs() if _has_text(item.run, search))
    kept = list(itertools.islice(matching, min(number, sys.maxsize)))
    for path in store.damaged:
        terminal.note(f"warning: {path} is not a readable run; delete it.")
    if as_json:
        terminal.answer_json(
            {"runs": [{**_run_facts(item), "mark": _mark_text(store, item.run, terminal)} for item in kept]}
        )
        return
    if not kept:
        terminal.note(f"No run has {search!r}." if search else f"There are no runs in {store.folder} yet.")
        return
    rows = [["id", "when", "ended", "steps", "tokens", "cost", "model", "question"], *map(_table_row, kept)]
    if sys.stdout.isatty():
        rows = _fitted_rows(rows, shutil.get_terminal_size().columns)
    numbers = frozenset(rows[0].index(name) for name in ("steps", "tokens", "cost") if name in rows[0])
    terminal.answer("\n".join(render.table_lines(rows, right=numbers)))


@runs.command(short_help="Mark an answer as right or wrong.")
@click.argument("name", metavar="RUN", shell_complete=complete_run)
@click.argument("judgement", metavar="right|wrong", type=click.Choice(["right", "wrong"]))
@click.option("--note", metavar="TEXT", default="", help="Why; kept with the mark.")
@trust_option
@click.pass_obj
def mark(terminal: Terminal, /, name: str, judgement: Judgement, note: str) -> None:
    """Mark RUN (an id, its beginning, or last) right or wrong, for `runs export` and `rlm_dspy.data.from_runs`.

    A marked run stays when the oldest runs are deleted. A later mark replaces an earlier one.
    """
    from rlm_dspy.errors import RLMError

    store = _open_store(terminal)
    stored = store.find(name)
    if not store.holds_file(stored.path):
        raise click.UsageError(f"{stored.path} is not in the folder of runs, {store.folder}: give the id of a run.")
    try:
        store.put_mark(stored.run.id, judgement, note, terminal.redactor)
    except OSError as error:
        raise RLMError(f"the mark cannot be saved in {store.folder}: {error.strerror}") from error
    terminal.answer(f"{stored.run.id} is marked {judgement}")


@runs.command("export", short_help="Write the saved runs as training data.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["sft", "rl", "dspy"]),
    required=True,
    help="sft: a chat a run; rl: a row a step, with its reward; dspy: rows for rlm_dspy.data.load.",
)
@click.option("--out", type=FILE_PATH, metavar="FILE", help="File to write (default: stdout).")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(["submitted", "extracted", "stopped"]),
    multiple=True,
    default=("submitted",),
    help="Only runs with this status; repeatable (default: submitted).",
)
@click.option("-m", "--model", metavar="MODEL", default="", help="Only runs of this model.")
@click.option("--marked", type=click.Choice(["right", "wrong"]), help="Only runs with this mark.")
@click.option("--answers", type=FILE_PATH, metavar="FILE", help="Expected answers (JSONL: question, answer).")
@click.option("--metric", metavar="NAME", default="exact", help="exact, f1, set_f1, … (default: exact).")
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="X", help="Only runs with at least this score.")
@trust_option
@click.pass_obj
def export_runs(terminal: Terminal, /, out: Path | None, **options: Any) -> None:
    """Write the saved runs as JSON lines to train or tune a model on.

    A run is scored by --metric against its expected answer in --answers, or else by its mark: right is 1, wrong is 0.
    The files of a question are named by hash and size; the conversation contains only what the model saw of them.
    Secrets are masked. Runs that cannot be exported are counted on stderr, with the reason.
    """
    if options["answers"] is None and (ignored := given_options(click.get_current_context(), ["metric"])):
        raise click.UsageError(f"{ignored[0]} belongs to --answers: without it, a run is scored by its mark.")
    from rlm_dspy.cli import runs_export

    runs_export.write_rows(terminal, _open_store(terminal), out, options)


@click.command(short_help="Show one run, or two side by side.")
@click.argument("name", metavar="[RUN]", default="last", shell_complete=complete_run)
@click.argument("other", metavar="[OTHER]", required=False, shell_complete=complete_run)
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
    from rlm_dspy.cli import trace

    trace.check_options(other, options)
    store = _open_store(terminal)
    stored = [store.find(one) for one in (name, other) if one is not None]
    trace.show(terminal, store, stored, options)


def _open_store(terminal: Terminal) -> RunStore:
    from rlm_dspy.cli import settings
    from rlm_dspy.report.run_store import RunStore

    loaded = settings.load_for(terminal)
    return RunStore(loaded.settings.home / "runs")


def _mark_text(store: RunStore, run: Run, terminal: Terminal) -> str | None:
    from rlm_dspy.errors import RLMError

    try:
        mark = store.mark_of(run.id)
    except RLMError as error:
        terminal.note(f"warning: {error}.")
        return None
    if mark:
        return mark.mark
    return None


def _has_text(run: Run, search: str) -> bool:
    """Whether a run's inputs, outputs, model or id have a text, in any case."""
    texts = [run.id, run.model, *run.inputs.values(), *map(str, run.outputs.values())]
    return any(search.casefold() in text.casefold() for text in texts)


def _fitted_rows(rows: list[list[str]], width: int) -> list[list[str]]:
    """Return the rows cut to the columns of a terminal; a narrow one shows neither steps nor model."""
    if width < MIN_WIDTH_OF_ALL:
        rows = [[*row[:2], _cut_cell(row[2], 10), *row[4:6], row[7]] for row in rows]
    *columns, _ = zip(*rows, strict=True)
    fixed = sum(max(map(len, column)) + 2 for column in columns)
    return [[*row[:-1], _cut_cell(row[-1], max(16, width - fixed))] for row in rows]


def _cut_cell(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return f"{text[: width - 1]}…"


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
