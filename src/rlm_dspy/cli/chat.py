"""``rlm-dspy chat``: its options; what it does is in ``chatting``."""

from __future__ import annotations

from typing import Any

import click

from rlm_dspy.cli.ask import SETTINGS
from rlm_dspy.cli.options import check_unicode, choosing, paths_argument, timeout_option, trust_option
from rlm_dspy.cli.terminal import Terminal


@click.command(short_help="Ask question after question of the same files.")
@paths_argument
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--fallback", metavar="MODEL", help="Model to ask when a provider is down or out of quota.")
@click.option("--mode", type=click.Choice(["auto", "rlm", "direct", "retrieve"]), help="As for ask (default: auto).")
@click.option("--max-iters", type=int, metavar="N", help="Steps of a question at most (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls of a question at most (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens of a question at most.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars of a question at most.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds of a question at most.")
@choosing
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@timeout_option
@trust_option
@click.pass_obj
def chat(terminal: Terminal, /, paths: tuple[str, ...], **options: Any) -> int:
    """Ask question after question of each PATH (a file, folder or glob), one a line.

    The files are read once, the sandbox keeps what earlier questions left in it, and each question
    knows the earlier ones with their answers. Works in a terminal and over pipes.

    \b
    /add PATH…  read more files      /files   list them
    /cost       what was spent       /trace   show the last run step by step
    /quit       end (or Ctrl-D)      /help    this list
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    if terminal.verbose and terminal.quiet:
        raise click.UsageError("-q and -v exclude each other.")
    if not paths:
        raise click.UsageError("Missing PATH: name files or folders to talk about.")
    if "-" in paths:
        raise click.UsageError("PATH '-': questions are read from stdin, so files cannot be.")
    check_unicode(options["model"] or "", "--model")
    flags = {name: options.pop(name, None) for name in SETTINGS}
    as_json = options.pop("as_json")

    from rlm_dspy.cli.chatting import Chat

    return Chat(terminal, paths, flags, options, as_json=as_json).run()
