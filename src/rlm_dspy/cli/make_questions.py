"""``rlm-dspy make-questions``: a dataset from the user's own files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rlm_dspy.cli import exits
from rlm_dspy.cli.terminal import Terminal


@click.command("make-questions", short_help="Make questions with answers from your own files.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-n", "--count", type=click.IntRange(1, 10_000), default=40, metavar="N", help="Questions (default: 40).")
@click.option("--seed", type=int, default=0, metavar="N", help="Another seed asks other questions (default: 0).")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("questions.jsonl"),
    metavar="FILE",
    help="Where to write them (default: questions.jsonl).",
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.pass_obj
def make_questions(terminal: Terminal, /, paths: tuple[str, ...], count: int, seed: int, out: Path, force: bool) -> int:
    """Make questions about PATH... (files, folders) whose answers are computed by code, not by a model.

    Counts, look-ups, first and last, definitions, joins, and some without an answer: a dataset for
    rlm-dspy eval and rlm-dspy optimize.
    """
    if out.exists() and not force:
        raise click.UsageError(f"{out} is there already. Name another --out, or give --force.")
    if out.resolve() in [Path(path).resolve() for path in paths]:
        raise click.UsageError(f"{out} cannot be asked about: the questions are written there. Name another --out.")
    if "-" in paths:
        raise click.UsageError("questions are about files that stay where they are: stdin cannot be asked about later.")

    from rlm_dspy.cli.inputs import leaving_out
    from rlm_dspy.report import render
    from rlm_dspy.tuning import data, questions

    folder = out.resolve().parent
    context = {"files": [os.path.relpath(Path(path).resolve(), folder) for path in paths]}
    # The questions, and what optimize makes of them by default, are not among the files that they are about.
    if leave := [*leaving_out(out, paths), *(f"{made}-*/" for made in leaving_out(out.with_suffix(""), paths))]:
        context["exclude"] = leave
    made = questions.make(data.context(context, folder), count, seed=seed)
    rows = [question.row(number, context) for number, question in enumerate(made)]
    data.write(out, rows)
    kinds = sorted({row["task"] for row in rows})
    terminal.answer(f"{out}: {render.counted(len(rows), 'question')} ({', '.join(kinds)})")
    if len(rows) < count:
        terminal.note(f"only {len(rows)} of {count}: there is no more in these files that code can ask about.")
    return exits.ANSWERED
