"""The command group, and how errors become one line and an exit code."""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Sequence

import click

from rlm_dspy._version import __version__
from rlm_dspy.cli import exits
from rlm_dspy.cli.ask import ask
from rlm_dspy.cli.batch import batch
from rlm_dspy.cli.chat import chat
from rlm_dspy.cli.config import config
from rlm_dspy.cli.doctor import doctor
from rlm_dspy.cli.eval import evaluate
from rlm_dspy.cli.interrupts import leave
from rlm_dspy.cli.ls import ls
from rlm_dspy.cli.make_questions import make_questions
from rlm_dspy.cli.models_command import models
from rlm_dspy.cli.optimize import optimize
from rlm_dspy.cli.runs import runs, trace
from rlm_dspy.cli.terminal import Terminal, tolerate_any_text
from rlm_dspy.errors import RLMError

# What DSPy and LiteLLM make as they load stays; looking through it for garbage takes a sixth of the time.
COLLECT = (20_000, 50, 100)
# What the system says where a disk, a quota or a file is full, or may not be written.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
KEPT = "Make room and run it again: `rlm-dspy trace last` has the run of an ask, `batch --resume` goes on."


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="rlm-dspy %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Ask questions of files far larger than a model's window.

    The model explores them by writing Python in a sandbox; the answer comes with quotes that were checked
    against the files.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (ask, batch, chat, ls, models, doctor, config, evaluate, runs, trace, make_questions, optimize):
    app.add_command(_command)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; without ``args`` it is the process's own command, and ends it."""
    if args is not None:
        return _run(args)
    gc.set_threshold(*COLLECT)
    return leave(_run(None))


def _run(args: Sequence[str] | None) -> int:
    terminal = Terminal()
    sys.excepthook = terminal.excepthook
    tolerate_any_text()
    try:
        result = app.main(args=args, prog_name="rlm-dspy", standalone_mode=False, obj=terminal)
    except click.Abort:
        terminal.error("interrupted.")
        return exits.INTERRUPTED
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "rlm-dspy"
        terminal.error(f"{error.format_message()} Try '{path} --help'.", where=path)
        return exits.USAGE
    except RLMError as error:
        terminal.crash(error)
        terminal.error(str(error))
        return exits.code(error)
    except OSError as error:
        if error.errno not in FULL:
            raise
        terminal.crash(error)
        terminal.error(f"{error.filename or 'stdout or a file'} cannot be written: {error.strerror}. {KEPT}")
        return exits.FAILED
    return result if isinstance(result, int) else exits.ANSWERED
