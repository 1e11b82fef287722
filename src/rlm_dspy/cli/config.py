"""``rlm-dspy config``: each setting, its value and where it came from."""

from __future__ import annotations

import click

from rlm_dspy.cli.options import trust_option
from rlm_dspy.cli.terminal import Terminal


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@trust_option
@click.pass_obj
def config(terminal: Terminal, /, as_json: bool) -> None:
    """Show each setting and where it comes from.

    The order is: flag, RLM_DSPY_* variable, .env, ./rlm-dspy.toml, the user's config.toml, default.
    Secrets are masked.
    """
    from rlm_dspy.cli import settings
    from rlm_dspy.report import journal, render

    loaded = settings.load(trust_project=terminal.trusts_project)
    terminal.redactor.learn(loaded.secrets())
    rows = loaded.shown()
    places = [{"path": str(path), "exists": path.is_file()} for path in settings.files()]
    if as_json:
        terminal.answer(journal.dumps({"settings": rows, "files": places}, terminal.redactor, indent=2))
        return
    lines = render.table(
        [[name, "-" if row["value"] is None else str(row["value"]), row["source"]] for name, row in rows.items()]
    )
    terminal.answer("\n".join(lines))
    for place in places:
        terminal.note(f"{'read' if place['exists'] else 'absent'}: {place['path']}")
