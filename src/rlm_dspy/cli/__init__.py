"""The command ``rlm-dspy``. Everything heavy is imported inside the commands: ``--help`` has to be instant."""

from rlm_dspy.cli.commands import main

__all__ = ["main"]
