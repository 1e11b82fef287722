"""``rlm-dspy runs export``: the saved runs as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_dspy import safe_files
from rlm_dspy.cli.options import check_writable, find_metric
from rlm_dspy.cli.own_outputs import check_replaceable, remember_output
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import RLMError
from rlm_dspy.report import json_output, render
from rlm_dspy.tuning import data
from rlm_dspy.tuning.run_export import RunExport, expected_answers, note_skipped

if TYPE_CHECKING:
    from rlm_dspy.cli.terminal import Terminal
    from rlm_dspy.report.run_store import RunStore


def write_rows(terminal: Terminal, store: RunStore, out: Path | None, options: dict[str, Any]) -> None:
    """Write the rows to a file or stdout, and say on stderr what was left out.

    Raises:
        RLMError: the file cannot be written.
    """
    check_writable(out, "--out")
    check_replaceable(out, "--out")
    answers = options["answers"]
    export = RunExport(
        form=options["form"],
        metric=find_metric(options["metric"]),
        answers=expected_answers(data.rows(answers) if answers else ()),
        statuses=frozenset(options["statuses"]),
        model=options["model"],
        marked=options["marked"] or "",
        min_score=options["min_score"],
    )
    lines = [json_output.redacted_json(render.jsonable(row), terminal.redactor) for row in export.rows(store)]
    note_skipped(export, terminal.note)
    if out is None:
        for line in lines:
            terminal.masked(f"{line}\n")
    else:
        try:
            safe_files.write_private(out, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise RLMError(f"{out} cannot be written: {error.strerror}") from error
        remember_output(out)
    if not lines:
        terminal.note("No run matches: nothing was exported.")
        return
    place = f" to {out}" if out else ""
    terminal.note(f"{counted_noun(len(lines), 'row')} written{place}.")
