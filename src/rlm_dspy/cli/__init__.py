"""The command ``rlm-dspy``. Heavy modules are imported inside the commands, so that ``--help`` is instant."""

from rlm_dspy.cli.commands import main

__all__ = ["main"]
