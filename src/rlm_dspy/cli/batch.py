"""``rlm-dspy batch``: its options; what it does is in ``batching``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rlm_dspy.cli.options import check_unicode, choosing, paths_argument, timeout_option, trust_option
from rlm_dspy.cli.terminal import Terminal

SETTINGS = ("model", "sub_model", "mode", "timeout", "max_iters", "max_calls", "max_tokens", "max_cost", "max_seconds")

OWN = ("answers", "resume", "concurrency", "fields", "as_json", "log_json")


@click.command(short_help="Answer many questions of the same files; a killed batch can be resumed.")
@click.argument("questions", metavar="QUESTIONS.jsonl")
@paths_argument
@click.option(
    "--out",
    "answers",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="ANSWERS.jsonl",
    help="Where the answers go, one JSON object a line.",
)
@click.option("--resume", is_flag=True, help="Ask only what ANSWERS.jsonl does not answer yet.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=4, metavar="N", help="Questions at once (4).")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars at most, for all questions together.")
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--mode", type=click.Choice(["auto", "rlm", "direct", "retrieve"]), help="As for ask (default: auto).")
@click.option(
    "--fields",
    metavar="FIELDS",
    default="answer: str",
    help="Typed outputs of each question, e.g. 'answer: str, items: list[str]'.",
)
@click.option("--max-iters", type=int, metavar="N", help="Steps at most, per question (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls at most, per question (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens at most, per question.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds at most, per question.")
@choosing
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@click.option("--log-json", is_flag=True, help="Log to stderr as JSON lines.")
@timeout_option
@trust_option
@click.pass_obj
def batch(terminal: Terminal, /, questions: str, paths: tuple[str, ...], **options: Any) -> int:
    """Answer the questions of QUESTIONS.jsonl from each PATH (a file, folder or glob).

    A line of QUESTIONS.jsonl is a JSON object with "question" and perhaps "id", or a JSON string; - reads stdin.
    A line of ANSWERS.jsonl has the id, the question, what ask --json prints, "ok" and "error". It is on the disk
    before the next question is begun. Questions that failed are asked again by --resume; answered ones are not,
    as long as the files, the model and the limits are the same.

    Ctrl-C finishes the questions in flight and begins no other; a second one stops at once.

    \b
    Exit codes: 0 all answered, 1 some failed, 2 usage, 3 stopped by --max-cost,
    4 no model or credentials, 5 refused by the provider, 6 inputs unreadable or
    empty, 130 interrupted (finished answers kept).
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    if terminal.verbose and terminal.quiet:
        raise click.UsageError("-q and -v exclude each other.")
    for name, value in (("--model", options["model"]), ("--fields", options["fields"])):
        check_unicode(value or "", name)
    flags = {name: options.pop(name) for name in SETTINGS}
    own = {name: options.pop(name) for name in OWN}  # what is left chooses files

    from rlm_dspy.cli.batching import Request, answer_all

    return answer_all(Request(questions=questions, paths=paths, flags=flags, choice=options, **own), terminal)
