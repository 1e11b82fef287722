"""``rlm-dspy optimize``: its options; what it does is in ``optimizing``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rlm_dspy.cli.options import timeout_option, trust_option
from rlm_dspy.cli.terminal import Terminal

LIMITS = ("model", "sub_model", "timeout", "max_iters")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Tune the prompts on questions with known answers.")
@click.argument("data", type=FILE)
@click.option(
    "--optimizer",
    type=click.Choice(["gepa", "mipro", "bootstrap", "simba"]),
    default="gepa",
    help="dspy.GEPA, MIPROv2, BootstrapFewShotWithRandomSearch or SIMBA (default: gepa).",
)
@click.option("--max-calls", type=click.IntRange(min=1), required=True, metavar="N", help="LM calls in all, at most.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars in all, at most.")
@click.option("--val", type=FILE, metavar="FILE", help="Questions to choose by (default: 30% of DATA).")
@click.option("--test", type=FILE, metavar="FILE", help="Questions to judge by (default: 30% of DATA).")
@click.option("--limit", type=click.IntRange(min=3), metavar="N", help="Only the first N questions of each file.")
@click.option("-m", "--model", metavar="MODEL", help="Model that is tuned, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--prompt-model", metavar="MODEL", help="Model that proposes instructions (default: the same).")
@click.option("--metric", metavar="NAME", default="graded", help="graded (as each row says), exact, f1, set_f1, …")
@click.option("--max-iters", type=int, metavar="N", help="Steps of a question at most (default: 20).")
@click.option("--threads", type=click.IntRange(1, 256), default=4, metavar="N", help="Questions at once (default: 4).")
@click.option("--seed", type=int, default=0, metavar="N", help="For all that is drawn (default: 0).")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Folder (default: DATA-OPTIMIZER)."
)
@click.option("--resume", is_flag=True, help="Go on with what the folder holds; nothing is paid twice.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before spending.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@timeout_option
@trust_option
@click.pass_obj
def optimize(terminal: Terminal, /, data: Path, **options: Any) -> int:
    """Tune the RLM's prompts on the questions of DATA (JSONL: question, answer, context).

    The score is measured before and after on questions that the optimizer never sees. The folder gets
    program.json (for ask --program, eval --program or RLM.load), report.md, report.json and log.txt.
    Exit code 3 if a cap ended it; the best program so far is kept.
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    flags = {name: options.pop(name) for name in LIMITS}

    from rlm_dspy.cli.optimizing import Request, run

    return run(Request(data=data, flags=flags, **options), terminal)
