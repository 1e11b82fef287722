"""``rlm-dspy eval``: its options; what it does is in ``evaluating``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rlm_dspy.cli.options import timeout_option, trust_option
from rlm_dspy.cli.terminal import Terminal

LIMITS = ("model", "sub_model", "timeout", "max_iters", "max_calls", "max_tokens", "max_cost", "max_seconds")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("eval", short_help="Score questions with known answers.")
@click.argument("data", type=FILE)
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option(
    "--compare",
    metavar="SIDES",
    default="rlm",
    help="What to ask, by commas: rlm (this), direct (one call), dspy.RLM (default: rlm).",
)
@click.option("--program", type=FILE, metavar="FILE", help="A compiled program for the side rlm.")
@click.option("--metric", metavar="NAME", default="graded", help="graded (as each row says), exact, f1, set_f1, …")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N questions.")
@click.option("--threads", type=click.IntRange(1, 256), default=4, metavar="N", help="Questions at once (default: 4).")
@click.option("--max-iters", type=int, metavar="N", help="Steps of a question at most (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls of a question at most (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens of a question at most.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars of a question at most.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds of a question at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: figures of each side, and every row.")
@click.option("--html", type=FILE, metavar="FILE", help="Write a page with tables and plots.")
@click.option("--journal", type=FILE, metavar="FILE", help="Keep the rows here (default: in the cache folder).")
@click.option("--fresh", is_flag=True, help="Ask everything again, whatever the journal holds.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@timeout_option
@trust_option
@click.pass_obj
def evaluate(terminal: Terminal, /, data: Path, **options: Any) -> int:
    """Put the questions of DATA (JSONL: question, answer, context) to a model, and score the answers.

    Each finished question is kept; the same command goes on where it was interrupted, asks again only what
    failed, and never asks a slow question twice. Exit code 1 if every question failed.
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    flags = {name: options.pop(name) for name in LIMITS}

    from rlm_dspy.cli.evaluating import Request, run

    return run(Request(data=data, flags=flags, **options), terminal)
