"""``rlm-dspy ask``: its options; what it does is in ``answering``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rlm_dspy.cli.options import CHOOSING, check_unicode, choosing, paths_argument, timeout_option, trust_option
from rlm_dspy.cli.terminal import Terminal

LIMITS = ("max_iters", "max_calls", "max_tokens", "max_cost", "max_seconds")
SETTINGS = ("model", "sub_model", "fallback", "mode", "timeout", *LIMITS)


@click.command(short_help="Answer a question from files, with evidence.")
@click.argument("question")
@paths_argument
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--fallback", metavar="MODEL", help="Model to ask when a provider is down or out of quota.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "rlm", "direct", "retrieve"]),
    help="rlm explores by code, direct sends the whole text in one call, retrieve the passages that fit the question "
    "best; auto goes by size and model (default: auto).",
)
@click.option(
    "--out",
    metavar="FIELDS",
    default="answer: str",
    help="Typed outputs, e.g. 'answer: str, items: list[str]'.",
)
@click.option("--max-iters", type=int, metavar="N", help="Steps at most (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls at most (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens at most, prompts and replies.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars at most.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds at most.")
@choosing
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: answer, evidence, usage, …")
@click.option(
    "--program",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A program that optimize has compiled; it explores, whatever the size.",
)
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Save the run as JSON.")
@click.option("--index", is_flag=True, help="Build or refresh the search index of the files first, and keep it.")
@click.option("--dry-run", is_flag=True, help="Tell what would be read, asked and spent; ask nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@click.option("--log-json", is_flag=True, help="Log to stderr as JSON lines.")
@timeout_option
@trust_option
@click.pass_obj
def ask(terminal: Terminal, /, question: str, paths: tuple[str, ...], **options: Any) -> int:
    """Answer QUESTION from each PATH (a file, folder, glob, or - for stdin).

    The answer goes to stdout, followed by the quotes that prove it as path:line "quote";
    everything else goes to stderr. Without a PATH, stdin is read.

    \b
    Exit codes: 0 answered, 1 failed, 2 usage, 3 stopped by a limit (best answer
    printed), 4 no model or credentials, 5 refused by the provider, 6 inputs
    unreadable or empty, 7 nothing found that answers it, 130 interrupted
    (partial run kept).
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    if terminal.verbose and terminal.quiet:
        raise click.UsageError("-q and -v exclude each other.")
    for name, value in (("QUESTION", question), ("--model", options["model"]), ("--out", options["out"])):
        check_unicode(value or "", name)
    if not question.strip():
        raise click.UsageError("QUESTION is empty. Ask something, e.g. rlm-dspy ask 'What does it do?' PATH.")
    flags = {name: options.pop(name) for name in SETTINGS}

    from rlm_dspy.cli.answering import Request, answer

    return answer(Request(question=question, paths=paths, flags=flags, **_split(options)), terminal)


def _split(options: dict[str, Any]) -> dict[str, Any]:
    """Gather the options of ``choosing`` under one name."""
    choice = {name: options.pop(name) for name in CHOOSING}
    return {**options, "choice": choice}
