"""``rlm-dspy ls``: the files that would be read or skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from rlm_dspy.cli.options import file_options, json_option, paths_argument
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.counting import counted_noun, estimate_tokens

if TYPE_CHECKING:
    from rlm_dspy.corpus import Corpus


_Row = list[str]
_AT_ONCE = 5000  # rows; a million in one string would take more memory than the files


@click.command(short_help="List the files that would be read or skipped.")
@paths_argument
@json_option("the list")
@file_options
@click.pass_obj
def ls(terminal: Terminal, /, paths: tuple[str, ...], as_json: bool, **choice: Any) -> None:
    """List the files that would be read from each PATH or skipped.

    A PATH is a file, folder, glob, an address such as s3://bucket/folder, or - for stdin.

    Without a PATH, list the current folder.
    """
    from rlm_dspy.cli.input_paths import note_unused_excludes, own_text, read
    from rlm_dspy.cli.own_outputs import outputs_below

    paths = paths or (".",)
    corpus = read(paths, choice)
    note_unused_excludes(corpus, choice, terminal)
    if written := outputs_below(paths):
        terminal.note(own_text(written))
    if as_json:
        terminal.answer_json(_listing_facts(corpus))
    else:
        _print_listing(corpus, terminal)


def _listing_facts(corpus: Corpus) -> dict[str, Any]:
    return {
        "files": list(_file_rows(corpus)),
        "skipped": list(_skipped_rows(corpus)),
        "totals": _corpus_totals(corpus),
    }


def _file_rows(corpus: Corpus) -> Iterator[dict[str, Any]]:
    from rlm_dspy.cli.input_paths import path_of

    for document in corpus.documents:
        yield {
            "path": path_of(corpus, document.name),
            "kind": document.kind,
            "size": document.size,
            "lines": document.lines,
            "tokens": estimate_tokens(document.chars),
            "note": document.note,
        }


def _skipped_rows(corpus: Corpus) -> Iterator[dict[str, str]]:
    from rlm_dspy.cli.input_paths import by_flags, path_of

    return ({"path": path_of(corpus, item.name), "reason": by_flags(item.reason)} for item in corpus.skipped)


def _corpus_totals(corpus: Corpus) -> dict[str, int]:
    return {
        "files": len(corpus),
        "size": sum(document.size for document in corpus.documents),
        "lines": corpus.lines,
        "characters": corpus.chars,
        "tokens": estimate_tokens(corpus.chars),
        "skipped": len(corpus.skipped),
    }


def _print_listing(corpus: Corpus, terminal: Terminal) -> None:
    def files() -> Iterator[_Row]:
        yield ["kind", "bytes", "lines", "~tokens", "path"]
        for row in _file_rows(corpus):
            yield [row["kind"], *(f"{row[name]:,}" for name in ("size", "lines", "tokens")), row["path"]]

    def noted() -> Iterator[_Row]:
        return ([f"noted: {row['path']}", row["note"]] for row in _file_rows(corpus) if row["note"])

    def skipped() -> Iterator[_Row]:
        return ([f"skipped: {item['path']}", item["reason"]] for item in _skipped_rows(corpus))

    for rows, right in ((files, frozenset({1, 2, 3})), (noted, frozenset[int]()), (skipped, frozenset[int]())):
        _print_table(rows, right, terminal)
    totals = _corpus_totals(corpus)
    terminal.answer(
        f"{counted_noun(totals['files'], 'file')}, {totals['size']:,} bytes, "
        f"{counted_noun(totals['lines'], 'line')}, about {totals['tokens']:,} tokens; "
        f"{totals['skipped']:,} skipped"
    )


def _print_table(rows: Callable[[], Iterable[_Row]], right: frozenset[int], terminal: Terminal) -> None:
    """Print rows as a table with an empty line below it, or nothing if there are none."""
    from rlm_dspy.report.render import table_lines

    widths: list[int] = []
    for row in rows():
        widths = [max(pair) for pair in zip(widths or [0] * len(row), map(len, row), strict=True)]
    widest = ["x" * width for width in widths]  # gives each part the same widths, and is not printed
    left = iter(rows())
    while some := list(islice(left, _AT_ONCE)):
        terminal.answer("\n".join(table_lines([widest, *some], right)[1:]))
    if widths:
        terminal.answer("")
