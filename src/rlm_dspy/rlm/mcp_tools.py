"""The tools of MCP servers as DSPy tools, for an RLM's REPL or any other DSPy program."""

from __future__ import annotations

import builtins
import contextlib
import keyword
import logging
import re
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any, Self

import dspy
from dspy.adapters.types.tool import convert_input_schema_to_tool_args
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlm_dspy.errors import ConfigurationError, McpToolError
from rlm_dspy.redact import Redactor, is_secret_name
from rlm_dspy.rlm.signatures import is_reserved
from rlm_dspy.sandbox.toolkit import Toolkit

logger = logging.getLogger(__name__)

MAX_DESCRIPTION_CHARS = 2_000  # characters of a tool's description
_SECRET = re.compile(r"(?i)(?:key|token|secret|password)=(.+)", re.S)
MAX_RESULT_CHARS = 200_000  # characters of a result
START_SECONDS = 30.0  # seconds for a server to start and to list its tools
CALL_SECONDS = 120.0  # seconds for one call
MAX_TOOLS = 1_000  # tools of one server
# What a cell calls anyway: a tool of the same name gets its server's prefix.
OWN_NAMES = frozenset(name for name in vars(Toolkit) if not name.startswith("_")) | frozenset(
    {"P", "context", "question", "predict", "predict_batched", "subcall", "subcall_batched", "past_steps"}
)


class McpServer(BaseModel):
    """How to reach an MCP server: a command that speaks over its stdin and stdout, or the URL of an HTTP server.

    Args:
        command: the program.
        args: its arguments.
        env: environment variables for it; it sees no others but a few harmless ones such as PATH and HOME.
        cwd: the folder it starts in.
        url: the address, instead of a command.
        headers: HTTP headers for it, e.g. ``Authorization``.
        name: the prefix of its tools, if they need one; by default the server's own name.
        timeout: seconds for one call.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    name: str = ""
    timeout: float = Field(default=CALL_SECONDS, gt=0)

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give a command or a url")
        return self

    @classmethod
    def of(cls, given: Any) -> McpServer:
        """Return the server that a text (a command line or a URL), a mapping or a server describes.

        Raises:
            ConfigurationError: it is something else, or a field is wrong.
        """
        if isinstance(given, McpServer):
            return given
        if isinstance(given, str):
            if given.startswith(("http://", "https://")):
                return cls(url=given)
            start, *rest = shlex.split(given) or [""]
            return cls(command=start, args=tuple(rest))
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        except (TypeError, ValueError):
            reason = f"give a command line, a URL or a mapping, not {type(given).__name__}"
        raise ConfigurationError(f"an MCP server is not described right: {reason}")

    @property
    def label(self) -> str:
        """What messages call it; no argument, header or credential is in it."""
        address = re.sub(r"//[^/@]*@", "//", (self.url or "").partition("?")[0])
        return self.name or address or str(self.command)

    def secrets(self) -> dict[str, str]:
        """Return the values that must never reach a model's code, by name."""
        named = {name: value for name, value in self.env.items() if is_secret_name(name)}
        sent = {f"{name}_TOKEN": value.rpartition(" ")[2] for name, value in self.headers.items()}
        given = {f"ARGUMENT_{at}_TOKEN": found[1] for at, one in enumerate(self.args) if (found := _SECRET.search(one))}
        return {**named, **sent, **given}


@contextlib.contextmanager
def mcp_tools(*servers: Any) -> Iterator[list[dspy.Tool]]:
    """Connect to MCP servers and yield their tools; at the end the connections are closed and the programs ended.

    Calls block until the server answers, run on the host, and may come from any thread, in sync and async programs.
    A failed call raises in the cell that made it. With several servers, each name begins with its server's.

    Args:
        *servers: a command line, a URL, or a mapping with the fields of :class:`McpServer`.

    Raises:
        ConfigurationError: a server is not described right or does not start, or the package ``mcp`` is missing.

    Example:
        >>> with rlm_dspy.mcp_tools("python weather_server.py") as tools:
        ...     rlm_dspy.RLM("context, question -> answer", tools=tools)(context=text, question="…")
    """
    try:
        from anyio.from_thread import start_blocking_portal
        from mcp.client.client import Client
    except ImportError as error:
        raise ConfigurationError(f"the package mcp is not installed ({error}): pip install 'mcp>=2.3,<3'") from error
    described = [McpServer.of(server) for server in servers]
    failure: BaseException | None = None
    with start_blocking_portal() as portal:
        stack = contextlib.ExitStack()
        try:
            yield _connected_tools(stack, portal, Client, described)
        except BaseException as error:  # raised again below: a client that sees it would wrap it in a group
            failure = error
        try:
            stack.close()
        except Exception:  # a server that is gone cannot be closed properly
            logger.debug("an MCP connection did not end properly", exc_info=True)
    if failure is not None:
        raise failure


def _connected_tools(
    stack: contextlib.ExitStack, portal: Any, client_class: Any, servers: list[McpServer]
) -> list[dspy.Tool]:
    found: list[tuple[McpServer, Any, Any]] = []
    for server in servers:
        client = _connected_client(stack, portal, client_class, server)
        own = McpServer.model_copy(server, update={"name": server.name or _server_name(client)})
        found += [(own, client, tool) for tool in _listed_tools(portal, client, server)]
    names = unique_names([(server.name, tool.name) for server, _, tool in found], prefixed=len(servers) > 1)
    return [
        _as_dspy_tool(portal, client, server, tool, name)
        for (server, client, tool), name in zip(found, names, strict=True)
    ]


def unique_names(tools: list[tuple[str, str]], *, prefixed: bool) -> list[str]:
    """Return a name for each (server, tool) that is an identifier, is not taken in the REPL, and occurs once."""
    names: list[str] = []
    for server, tool in tools:
        plain = _as_identifier(tool)
        is_taken = is_reserved(plain) or plain in OWN_NAMES or hasattr(builtins, plain)
        name = _as_identifier(f"{server}_{plain}") if prefixed or is_taken else plain
        unique = name
        for number in count(2):
            if unique not in names:
                break
            unique = f"{name}_{number}"
        names.append(unique)
    return names


def _as_identifier(text: str) -> str:
    made = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "tool"
    return made if made.isidentifier() and not keyword.iskeyword(made) else f"tool_{made}"


def _connected_client(stack: contextlib.ExitStack, portal: Any, client_class: Any, server: McpServer) -> Any:
    """Return a connected client that ``stack`` closes."""
    from mcp.client.stdio import StdioServerParameters

    if server.command is not None:
        target: Any = StdioServerParameters(
            command=server.command, args=list(server.args), env=server.env or None, cwd=server.cwd
        )
    else:
        target = _http_transport(server)
    client = client_class(target, read_timeout_seconds=START_SECONDS)
    try:
        return stack.enter_context(portal.wrap_async_context_manager(client))
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = _plain_reason(error, server)
        raise ConfigurationError(f"the MCP server {server.label} could not be started: {reason}") from None


def _http_transport(server: McpServer) -> Any:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    http = httpx2.AsyncClient(headers=server.headers, timeout=server.timeout)
    return streamable_http_client(str(server.url), http_client=http)


def _server_name(client: Any) -> str:
    info = client.server_info
    return str(info.name) if info is not None else "mcp"


def _listed_tools(portal: Any, client: Any, server: McpServer) -> list[Any]:
    """Return all tools of a server, page by page."""
    tools: list[Any] = []
    cursor: str | None = None
    until = time.monotonic() + START_SECONDS
    while len(tools) < MAX_TOOLS and time.monotonic() < until:
        page = _answered(portal, server, partial(client.list_tools, cursor=cursor))
        tools += page.tools
        cursor = page.next_cursor
        if not cursor or not page.tools:
            break
    return tools[:MAX_TOOLS]


def _as_dspy_tool(portal: Any, client: Any, server: McpServer, tool: Any, name: str) -> dspy.Tool:
    args, types, descriptions = tool_arguments(tool.input_schema)
    redactor = Redactor(server.secrets())

    def call_server(**arguments: Any) -> Any:
        done = _answered(
            portal, server, lambda: client.call_tool(tool.name, arguments, read_timeout_seconds=server.timeout)
        )
        value = redactor.value(bounded_result(done, tool.name))
        if done.is_error:
            raise McpToolError(str(value)[:2_000])
        return value

    shown = (tool.description or name)[:MAX_DESCRIPTION_CHARS]
    return dspy.Tool(call_server, name=name, desc=shown, args=args, arg_types=types, arg_desc=descriptions)


def tool_arguments(schema: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return the arguments, their types and their descriptions, as DSPy reads them; else without types."""
    try:
        args, types, descriptions = convert_input_schema_to_tool_args(schema)
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError):
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        named = properties if isinstance(properties, Mapping) else {}
        return {str(name): {} for name in named}, {str(name): Any for name in named}, {}
    return args, types, descriptions


def bounded_result(done: Any, name: str) -> Any:
    """Return what a tool answered: its structured content, else its texts; a long result is cut, and says so."""
    structured = getattr(done, "structured_content", None)
    if structured is not None and not done.is_error:
        value = structured["result"] if set(structured) == {"result"} else structured
        size = len(value) if isinstance(value, str) else len(str(value))
        if size <= MAX_RESULT_CHARS:
            return value
    text = "\n".join(map(_part_text, done.content))
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]}\n[{name}: cut here, the result has {len(text):,} characters]"


def _part_text(part: Any) -> str:
    """Return a part of a result as text; of an image or a file only its kind."""
    text: str = part.text if hasattr(part, "text") else f"[{getattr(part, 'type', 'content')}]"
    return text


def _answered(portal: Any, server: McpServer, call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a server answers.

    Raises:
        McpToolError: it refuses, is too slow, or has ended.
    """

    async def perform() -> Any:
        return await call()

    try:
        return portal.call(perform)
    except Exception as error:  # whatever the server, its transport or the SDK raises is a failed call
        raise McpToolError(f"{server.label}: {_plain_reason(error, server)}") from None


def _plain_reason(error: BaseException, server: McpServer) -> str:
    """Return the innermost reason in one line, without the server's secrets."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split()) or type(error).__name__
    return Redactor(server.secrets()).text(text)[:500]
