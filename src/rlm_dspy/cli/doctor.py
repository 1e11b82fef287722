"""``rlm-dspy doctor``: its options; the checks are in ``diagnosing``."""

from __future__ import annotations

import click

from rlm_dspy.cli.options import trust_option
from rlm_dspy.cli.terminal import Terminal


@click.command(short_help="Check that everything works, and say how to fix what does not.")
@click.option("-m", "--model", metavar="MODEL", help="Model to check (default: the one that ask would use).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@trust_option
@click.pass_obj
def doctor(terminal: Terminal, /, model: str | None, as_json: bool) -> int:
    """Check versions, sandbox, cache, providers and the model, and say how to fix what does not work.

    The model is asked a word or two; on Ollama also a few short prompts at once, which show how many it serves in
    parallel, and one longer prompt that proves its window.

    \b
    Exit codes: 0 the model would work (the offline engine counts), 4 it would
    not, 1 something else is broken.
    """
    from rlm_dspy.cli import diagnosing

    return diagnosing.diagnose(terminal, model, as_json=as_json)
