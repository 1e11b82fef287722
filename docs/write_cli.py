"""Write docs/cli.md from ``rlm-dspy --help``; a test fails when the page is stale.

python docs/write_cli.py
"""

import textwrap
from pathlib import Path

import click

from rlm_dspy.cli import exit_codes
from rlm_dspy.cli.commands import app

PAGE = Path(__file__).with_name("cli.md")

INTRO = """# The command `rlm-dspy`

Written by `python docs/write_cli.py` from `--help`; edit the command, not this page.

Answers go to stdout, everything else to stderr. Each setting is looked for in this order: flag, `RLM_DSPY_*`
variable, `.env`, `./rlm-dspy.toml`, the user's `config.toml`, default; `rlm-dspy config` shows what was found where.
"""


def block(text: str) -> str:
    """Return the text as a fenced block."""
    return f"```text\n{text.rstrip()}\n```\n"


def page() -> str:
    """Return the whole page."""
    group = click.Context(app, info_name="rlm-dspy", terminal_width=100, help_option_names=["-h", "--help"])
    parts = [INTRO, "## rlm-dspy\n", block(app.get_help(group))]
    for name, command in sorted(app.commands.items()):
        context = click.Context(command, info_name=name, parent=group, terminal_width=100)
        parts += [f"## rlm-dspy {name}\n", block(command.get_help(context))]
    parts += ["## Exit codes\n", block(textwrap.dedent(str(exit_codes.__doc__).partition("\n\n")[2]))]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
