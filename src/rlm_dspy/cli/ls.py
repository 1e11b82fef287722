"""``rlm-dspy ls``: what would be read, and what would not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rlm_dspy.cli.options import choosing, paths_argument
from rlm_dspy.cli.terminal import Terminal

if TYPE_CHECKING:
    from rlm_dspy.corpus import Corpus


@click.command(short_help="List what would be read, and what would not.")
@paths_argument
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@choosing
@click.pass_obj
def ls(terminal: Terminal, /, paths: tuple[str, ...], as_json: bool, **choice: Any) -> None:
    """List what would be read from each PATH (a file, folder, glob, or - for stdin), and what is skipped.

    Without a PATH the current folder is listed.
    """
    from rlm_dspy.cli.inputs import read
    from rlm_dspy.report import journal

    corpus = read(paths or (".",), choice)
    if as_json:
        terminal.answer(journal.dumps(_listing(corpus), terminal.redactor, indent=2))
    else:
        _print(corpus, terminal)


def _listing(corpus: Corpus) -> dict[str, Any]:
    from rlm_dspy.cli.inputs import tokens

    files = [
        {
            "path": document.name,
            "kind": document.kind,
            "size": document.size,
            "lines": document.lines,
            "tokens": tokens(document.chars),
            "note": document.note,
        }
        for document in corpus.documents
    ]
    return {
        "files": files,
        "skipped": [{"path": item.name, "reason": item.reason} for item in corpus.skipped],
        "totals": {
            "files": len(files),
            "size": sum(document.size for document in corpus.documents),
            "lines": sum(document.lines for document in corpus.documents),
            "characters": corpus.chars,
            "tokens": tokens(corpus.chars),
            "skipped": len(corpus.skipped),
        },
    }


def _print(corpus: Corpus, terminal: Terminal) -> None:
    from rlm_dspy.report import render

    listing = _listing(corpus)
    rows = [["kind", "bytes", "lines", "~tokens", "path"]]
    for row in listing["files"]:
        figures = [f"{row[name]:,}" for name in ("size", "lines", "tokens")]
        rows.append([row["kind"], *figures, row["path"]])
    terminal.answer("\n".join(render.table(rows, right=frozenset({1, 2, 3}))))
    noted = [[f"noted: {row['path']}", row["note"]] for row in listing["files"] if row["note"]]
    if noted:
        terminal.answer("\n" + "\n".join(render.table(noted)))
    if listing["skipped"]:
        skipped = [[f"skipped: {item['path']}", item["reason"]] for item in listing["skipped"]]
        terminal.answer("\n" + "\n".join(render.table(skipped)))
    totals = listing["totals"]
    terminal.answer(
        f"\n{render.counted(totals['files'], 'file')}, {totals['size']:,} bytes, "
        f"{render.counted(totals['lines'], 'line')}, about {totals['tokens']:,} tokens; "
        f"{totals['skipped']:,} skipped"
    )
