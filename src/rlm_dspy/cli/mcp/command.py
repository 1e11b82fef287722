"""The command ``mcp``: check its options, read the files in the background, serve."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import click

from rlm_dspy.cli import exit_codes, logs, reading, settings
from rlm_dspy.cli.mcp import hosts
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.counting import estimate_tokens
from rlm_dspy.errors import ConfigurationError

TOKENS_VARIABLE = "RLM_DSPY_MCP_TOKENS"


def print_config(host: str, paths: tuple[str, ...], terminal: Terminal) -> int:
    """Print the snippet for a host, with the options of this command.

    Raises:
        ConfigurationError: a path does not exist.
    """
    check_existence(paths)
    given = list(terminal.arguments)
    given = given[given.index("mcp") + 1 :] if "mcp" in given else list(paths)
    for place, argument in enumerate(given):
        if argument == "--print-config":
            given[place : place + 2] = ["", ""]
    kept = [one for one in given if one and not one.startswith("--print-config=")]
    for place, argument in enumerate(kept):
        if argument in paths and "://" not in argument:
            kept[place] = os.path.abspath(argument)
    terminal.answer(hosts.config_snippet(host, kept))
    terminal.note(f"Put this into {hosts.HOSTS[host][0]}.")
    return exit_codes.ANSWERED


def serve_files(
    paths: tuple[str, ...],
    flags: Mapping[str, Any],
    choice: Mapping[str, Any],
    terminal: Terminal,
    *,
    transport: Literal["stdio", "http"],
    host: str,
    port: int,
    origins: tuple[str, ...],
    confirm_above: float | None,
) -> int:
    """Serve until the client or the user ends it.

    Raises:
        ConfigurationError: the package ``mcp`` is missing, a path does not exist, or the address needs a token.
    """
    try:
        from rlm_dspy.cli.mcp.files import FileTools
        from rlm_dspy.cli.mcp.questions import Questions
        from rlm_dspy.cli.mcp.server import STOP_SECONDS, ServedFiles, http_app, make_server, read_tokens, run_server
    except ImportError as error:
        raise ConfigurationError(f"the package mcp is not installed ({error}): pip install 'mcp>=2.3,<3'") from error
    check_existence(paths)
    loaded = settings.load(flags, trust_project=terminal.trusts_project)
    terminal.redactor.learn(loaded.secrets())
    tokens = read_tokens(os.environ.get(TOKENS_VARIABLE, ""))
    terminal.redactor.learn(tokens)
    logs.configure(terminal.verbose, False, terminal.redactor, quiet=terminal.quiet)
    terminal.redactor.learn(settings.export_credentials(loaded, os.environ))
    files = FileTools(lambda: reading.read(paths, choice), terminal.redactor)
    questions = Questions(loaded.settings, lambda: files.corpus, terminal.redactor)

    def estimate() -> float | None:
        return _highest_cost(files, loaded.settings)

    served = ServedFiles(paths, files, questions, terminal.redactor, estimate, confirm_above)
    server = make_server(served)
    app = http_app(server, host, tokens, origins) if transport == "http" else None
    where = f"http://{host}:{port}/mcp" if transport == "http" else "stdio"
    terminal.note(f"Serving {', '.join(paths)} on {where}; Ctrl-C stops.")
    if transport == "stdio" and sys.stdin is not None and sys.stdin.isatty():
        terminal.note("An agent's host starts this command: --print-config HOST prints what it needs.")
    try:
        run_server(server, transport, host, port, app)
    except KeyboardInterrupt:
        pass
    except BaseExceptionGroup as error:  # a client that closed only one side of the connection
        terminal.crash(error)
    finally:
        questions.stop_all(STOP_SECONDS)
    return exit_codes.ANSWERED


def check_existence(paths: tuple[str, ...]) -> None:
    """Refuse a path that does not exist.

    Raises:
        ConfigurationError: see above.
    """
    if missing := [path for path in paths if "://" not in path and not os.path.exists(path)]:
        raise ConfigurationError(f"{missing[0]} does not exist")


def _highest_cost(files: Any, values: settings.Settings) -> float | None:
    """Return the most that a usual question costs in US dollars, or None if a price is unknown."""
    from rlm_dspy.cli import models
    from rlm_dspy.cli.question import estimated_facts
    from rlm_dspy.rlm.modes import first_mode

    corpus = files.corpus
    tokens = estimate_tokens(corpus.chars)
    mode = first_mode(values.mode, tokens, direct_tokens=values.direct_tokens, is_compiled=False)
    limits = {"max_iters": values.max_iters, "max_calls": values.max_calls}
    cost = estimated_facts(corpus, mode, models.choose(values).name, **limits)["cost"]
    return None if cost is None else float(max(cost))


def check_paths(paths: tuple[str, ...]) -> None:
    """Refuse a command without paths, and stdin, which belongs to the protocol.

    Raises:
        click.UsageError: see above.
    """
    if not paths:
        raise click.UsageError("Missing PATH: name the files or folders to serve.")
    if "-" in paths:
        raise click.UsageError("PATH '-': the protocol uses stdin, so files cannot come from it.")
