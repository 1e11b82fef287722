"""The command ``mcp``: check its options, read the files in the background, serve; or print a host's configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any, Literal, NoReturn

import click

from rlm_dspy.cli import exit_codes, input_paths, logs, settings
from rlm_dspy.cli.options import longest_spelling
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.counting import estimate_tokens
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.report.render import printable_text

TOKENS_VARIABLE = "RLM_DSPY_MCP_TOKENS"
STOP_SECONDS = 5.0  # seconds that the end of the server waits for best answers
START_SECONDS = 20  # what a slow disk may need for the first start
CALL_SECONDS = 600
OPTIONS_OF_PRINTING = ("print_config", "files_from", "null")  # the paths that a file lists are written out


def print_config(host: str, paths: tuple[str, ...], terminal: Terminal) -> int:
    """Print the snippet for a host, with the options of this command.

    Raises:
        ConfigurationError: a path does not exist.
    """
    check_existence(paths)
    ctx = click.get_current_context()
    written = list(terminal.arguments)
    if ctx.info_name in written:
        options = list(_written_options(ctx, written[written.index(str(ctx.info_name)) + 1 :]))
    else:
        options = []
    places = [path if "://" in path else os.path.abspath(path) for path in paths]
    terminal.answer(config_snippet(host, [*options, *places]))
    terminal.note(f"Put this into {HOSTS[host][0]}.")
    return exit_codes.ANSWERED


def _written_options(ctx: click.Context, words: Sequence[str]) -> Iterator[str]:
    """Yield the options of a command line as they were written, without those that name or list its paths."""
    given, _, _ = ctx.command.make_parser(ctx).parse_args(list(words))
    for param in ctx.command.params:
        if not isinstance(param, click.Option) or param.name not in given or param.name in OPTIONS_OF_PRINTING:
            continue
        value = given[param.name]
        if param.count:
            yield from [longest_spelling(param)] * int(value)
        elif param.is_flag:
            yield max(param.opts if value else param.secondary_opts, key=len)
        else:
            for one in value if isinstance(value, list) else [value]:
                yield from (longest_spelling(param), str(one))


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
        ConfigurationError: the package ``mcp`` is missing, a path does not exist, the address needs a token, or
            another program has its port.
    """
    try:
        from rlm_dspy.cli.mcp.files import FileTools
        from rlm_dspy.cli.mcp.questions import Questions
        from rlm_dspy.cli.mcp.server import (
            ServedFiles,
            bound_sockets,
            http_app,
            http_url,
            make_server,
            read_tokens,
            run_server,
        )
    except ImportError as error:
        raise ConfigurationError(f"the package mcp is not installed ({error}): pip install 'mcp>=2.3,<3'") from error
    check_existence(paths)
    loaded = settings.load_for(terminal, flags)
    tokens = read_tokens(os.environ.get(TOKENS_VARIABLE, ""))
    terminal.redactor.learn(tokens)
    logs.configure(terminal)
    settings.export_for(loaded, terminal)
    files = FileTools(lambda: input_paths.read(paths, choice), terminal.redactor)
    questions = Questions(loaded.settings, lambda: files.corpus, terminal.redactor)

    def estimate() -> float | None:
        return _highest_cost(files, loaded.settings)

    served = ServedFiles(paths, files, questions, terminal.redactor, estimate, confirm_above)
    with _logged_errors(terminal), _raised_interrupts():
        server = make_server(served)
        app = http_app(server, host, tokens, origins) if transport == "http" else None
        sockets = bound_sockets(host, port) if app else []
        _announce(paths, http_url(host, port) if app else "", terminal)
        try:
            run_server(server, app, sockets, lambda: questions.stop_all(STOP_SECONDS))
        except KeyboardInterrupt:
            pass
        except BaseExceptionGroup as error:  # a client that closed only one side of the connection
            terminal.crash(error)
        finally:
            _end_questions(questions, terminal)
    return exit_codes.ANSWERED


def _announce(paths: tuple[str, ...], url: str, terminal: Terminal) -> None:
    terminal.note(f"Serving {', '.join(paths)} on {url or 'stdio'}; Ctrl-C stops.")
    if not url and sys.stdin is not None and sys.stdin.isatty():
        terminal.note("An agent's host starts this command: --print-config HOST prints what it needs.")


def _end_questions(questions: Any, terminal: Terminal) -> None:
    """Wait a moment for the best answers of running questions, or until a further Ctrl-C, and say what became of them.

    A host that ends its server closes stdin, sends SIGTERM two seconds later, and kills it after that.
    """
    running = questions.running()
    with contextlib.suppress(KeyboardInterrupt):
        questions.stop_all(STOP_SECONDS)
    for one in running:
        if one.done.is_set():
            terminal.error(f"run {one.id} was stopped; `rlm-dspy trace {one.id}` shows its record.")
        else:
            terminal.error(f"run {one.id} is unfinished; `rlm-dspy trace {one.id}` shows what was recorded of it.")


@contextlib.contextmanager
def _raised_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C and at SIGTERM, which hosts send.

    With Python's own handler asyncio would cancel its tasks instead and wait for the one that reads stdin. A first
    signal is raised between two steps of tasks: asyncio would report the task that it interrupted as failed.
    """
    waiting: list[int] = []

    def raise_interrupt() -> NoReturn:
        waiting.clear()
        raise KeyboardInterrupt

    def interrupt(number: int, frame: FrameType | None) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # none runs
            raise_interrupt()
        if waiting:
            raise_interrupt()
        waiting.append(number)
        loop.call_soon_threadsafe(raise_interrupt)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _ReasonFormatter(logs.WarningFormatter):
    """One line for each record, with the reason of an error instead of its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record, with secrets masked."""
        line = super().format(record)
        if record.exc_info is None or record.exc_info[1] is None:
            return line
        error = record.exc_info[1].__cause__ or record.exc_info[1]
        reason = " ".join(str(error).split())
        return f"{line}: {printable_text(self._redactor.text(f'{type(error).__name__}: {reason}'))} (-v shows more)"


@contextlib.contextmanager
def _logged_errors(terminal: Terminal) -> Iterator[None]:
    """Print what the SDK and the HTTP server log, in a line each; only with -v with tracebacks.

    Without a handler the SDK would install one of its own, which prints tracebacks of sixty lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = logs.PlainFormatter if terminal.verbose else _ReasonFormatter
    handler.setFormatter(formatter(terminal.redactor))
    handler.setLevel(logging.ERROR if terminal.quiet else logging.WARNING)
    sdk = logging.getLogger("mcp")
    sdk.handlers, sdk.propagate = [], True
    sdk.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def check_existence(paths: tuple[str, ...]) -> None:
    """Refuse paths that do not exist.

    Raises:
        ConfigurationError: the message names the first one.
    """
    if missing := [path for path in paths if "://" not in path and not os.path.exists(path)]:
        raise ConfigurationError(f"{missing[0]} does not exist")


def _highest_cost(files: Any, values: settings.Settings) -> float | None:
    """Return the most that a usual question costs in US dollars, or None if a price is unknown."""
    from rlm_dspy.cli import model_choice
    from rlm_dspy.cli.question import estimated_facts
    from rlm_dspy.rlm.modes import first_mode

    corpus = files.corpus
    tokens = estimate_tokens(corpus.chars)
    mode = first_mode(values.mode, tokens, direct_tokens=values.direct_tokens, is_compiled=False)
    limits = {"max_iters": values.max_iters, "max_calls": values.max_calls}
    cost = estimated_facts(corpus, mode, model_choice.choose(values).name, **limits)["cost"]
    if cost is None:
        return None
    return float(max(cost))


def check_paths(paths: tuple[str, ...]) -> None:
    """Refuse a command without paths, and stdin, which belongs to the protocol.

    Raises:
        click.UsageError: there is no path, or one is ``-``.
    """
    if not paths:
        raise click.UsageError("Missing PATH: name the files or folders to serve.")
    if "-" in paths:
        raise click.UsageError("PATH '-': the protocol uses stdin, so files cannot come from it.")


def server_command(paths: Sequence[str]) -> list[str]:
    """Return the command that starts the server over absolute paths."""
    program = shutil.which("rlm-dspy")
    start = [program] if program else [sys.executable, "-m", "rlm_dspy"]
    return [*start, "mcp", *paths]


def _json_snippet(key: str, command: list[str], **more: str) -> str:
    """Return the snippet of a host that is configured in JSON."""
    server = {**more, "command": command[0], "args": command[1:]}
    return json.dumps({key: {"files": server}}, indent=2)


def _codex(command: list[str]) -> str:
    return "\n".join(
        (
            "[mcp_servers.files]",
            f"command = {json.dumps(command[0])}",
            f"args = {json.dumps(command[1:])}",
            f"startup_timeout_sec = {START_SECONDS}",
            f"tool_timeout_sec = {CALL_SECONDS}",
        )
    )


_mcp_servers_json = partial(_json_snippet, "mcpServers")

# For each host, the file that its snippet goes into, and the function that returns the snippet.
HOSTS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "claude-code": (".mcp.json of the project", partial(_json_snippet, "mcpServers", type="stdio")),
    "claude-desktop": ("claude_desktop_config.json (Settings, Developer)", _mcp_servers_json),
    "codex": ("~/.codex/config.toml", _codex),
    "cursor": (".cursor/mcp.json of the project, or ~/.cursor/mcp.json", _mcp_servers_json),
    "vs-code": (".vscode/mcp.json of the project", partial(_json_snippet, "servers", type="stdio")),
}


def config_snippet(host: str, paths: Sequence[str]) -> str:
    """Return the configuration of a host that starts the server over these absolute paths."""
    return HOSTS[host][1](server_command(paths))
