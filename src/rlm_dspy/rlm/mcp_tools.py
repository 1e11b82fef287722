"""The tools of MCP servers as DSPy tools, for an RLM's REPL or any other DSPy program."""

from __future__ import annotations

import builtins
import contextlib
import json
import keyword
import logging
import os
import re
import shlex
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import dspy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlm_dspy.errors import ConfigurationError, McpToolError
from rlm_dspy.redact import Redactor, is_secret_name
from rlm_dspy.rlm.signatures import is_reserved
from rlm_dspy.sandbox.toolkit import Toolkit

logger = logging.getLogger(__name__)

MAX_DESCRIPTION_CHARS = 2_000  # characters of a tool's description
_SECRET = re.compile(r"(?i)(?:key|token|secret|password|authorization)\s*[=:]\s*(?:(?:bearer|basic)\s+)?(.+)", re.S)
_SECRET_FLAG = re.compile(r"(?i)--?[\w-]*(?:key|token|secret|password|passwd|credentials?|auth)")
MAX_RESULT_CHARS = 200_000  # characters of a result
START_SECONDS = 30.0  # seconds for a server to start and to list its tools
CALL_SECONDS = 120.0  # seconds for one call
MAX_TOOLS = 1_000  # tools of one server
MAX_SCHEMA_PARTS = 2_000  # objects and lists in the schema of one argument, with its references in place
MAX_NESTED_REFERENCES = 4
MAX_LAST_LINES = 5  # of a server's stderr, shown when it does not start
MAX_LINE_CHARS = 10_000  # of a line of a server's stderr; a longer one is left out
_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
_PORTAL_ENDED = "This portal is not running"  # what anyio says after the block of `mcp_tools`
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
            return cls._of_command_line(given)
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        except (TypeError, ValueError):
            reason = f"give a command line, a URL or a mapping, not {type(given).__name__}"
        if isinstance(given, Mapping) and given.get("name"):
            raise ConfigurationError(f"the MCP server {given['name']} is not described right: {reason}")
        raise ConfigurationError(f"an MCP server is not described right: {reason}")

    @classmethod
    def _of_command_line(cls, line: str) -> McpServer:
        try:
            words = shlex.split(line)
        except ValueError as error:
            reason = f"its command line cannot be split ({error})"
            raise ConfigurationError(f"an MCP server is not described right: {reason}") from None
        if not words:
            raise ConfigurationError("an MCP server is not described right: its command line is empty")
        return cls(command=words[0], args=tuple(words[1:]))

    @property
    def label(self) -> str:
        """The name of the server in messages, without arguments, headers and credentials."""
        address = re.sub(r"//[^/@]*@", "//", (self.url or "").partition("?")[0])
        return self.name or address or str(self.command)

    def secrets(self) -> dict[str, str]:
        """Return the values that must never reach a model's code, by name."""
        named = {name: value for name, value in self.env.items() if is_secret_name(name)}
        sent = {f"{name}_TOKEN": value.rpartition(" ")[2] for name, value in self.headers.items()}
        # Of addresses, the password is a secret.
        addresses = {"URL": self.url or "", **{f"ARGUMENT_{at}": word for at, word in enumerate(self.args)}}
        return {**named, **sent, **self._secret_words(), **addresses}

    def _secret_words(self) -> dict[str, str]:
        """Return the secrets among the arguments and in the query of the address."""
        words = [match[1] for argument in self.args if (match := _SECRET.search(argument))]
        words += [word for flag, word in zip(self.args, self.args[1:], strict=False) if _SECRET_FLAG.fullmatch(flag)]
        query = parse_qsl(urlsplit(self.url or "").query)
        words += [value for name, value in query if _SECRET.search(f"{name}={value}")]
        return {f"WORD_{at}_TOKEN": word for at, word in enumerate(words)}

    def redactor(self) -> Redactor:
        """Return what masks the secrets of this server."""
        return Redactor({**self.env, **self.secrets()})


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
    with start_blocking_portal() as portal, _quiet_sdk(portal.call(threading.get_ident), described):
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


class _SdkLog(logging.Filter):
    """Keeps what the SDK logs of one connection from its handlers: it quotes lines that may hold keys."""

    def __init__(self, thread: int, servers: list[McpServer]) -> None:
        super().__init__()
        self._thread = thread
        self._redactors = [server.redactor() for server in servers]

    def filter(self, record: logging.LogRecord) -> bool:
        """Log the SDK's message as one of ours, without its arguments and its traceback."""
        if record.thread != self._thread:
            return True
        if record.levelno >= logging.WARNING:
            text = str(record.msg)
            for redactor in self._redactors:
                text = redactor.text(text)
            logger.info("the MCP SDK reports: %s", text)
        return False


@contextlib.contextmanager
def _quiet_sdk(thread: int, servers: list[McpServer]) -> Iterator[None]:
    """Filter the SDK's log of the connections that this thread serves."""
    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith("mcp.")]
    sdk_loggers = [logging.getLogger(name) for name in names]
    sdk_filter = _SdkLog(thread, servers)
    for sdk_logger in sdk_loggers:
        sdk_logger.addFilter(sdk_filter)
    try:
        yield
    finally:
        for sdk_logger in sdk_loggers:
            sdk_logger.removeFilter(sdk_filter)


class _ServerErrors:
    """Reads what a server writes to its stderr: each line goes to our log, masked, and the last ones are kept."""

    def __init__(self, server: McpServer) -> None:
        self.last: deque[str] = deque(maxlen=MAX_LAST_LINES)
        source, target = os.pipe()
        self.file = os.fdopen(target, "w")
        self._label, self._redactor = server.label, server.redactor()
        self._thread = threading.Thread(target=self._read_lines, args=(source,), daemon=True, name="rlm-mcp-stderr")
        self._thread.start()

    def _read_lines(self, source: int) -> None:
        is_rest = False  # of a line whose beginning was left out: a key may be cut in two there
        with os.fdopen(source, "rb") as pipe:
            while part := pipe.readline(MAX_LINE_CHARS):
                is_whole = part.endswith(b"\n") or len(part) < MAX_LINE_CHARS
                if is_whole and not is_rest:
                    self._keep_line(part.decode(errors="replace"))
                is_rest = not is_whole

    def _keep_line(self, line: str) -> None:
        shown = "".join(char if char.isprintable() else " " for char in self._redactor.text(line)).strip()
        if shown:
            self.last.append(shown)
            logger.debug("%s writes: %s", self._label, shown)

    def last_lines(self) -> str:
        """Return the last lines as one, once the server has ended."""
        self.file.close()
        self._thread.join(1)
        return " / ".join(self.last)[-500:]


def _connected_tools(
    stack: contextlib.ExitStack, portal: Any, client_class: Any, servers: list[McpServer]
) -> list[dspy.Tool]:
    tools: list[tuple[McpServer, Any, Any]] = []
    for server in servers:
        client = _connected_client(stack, portal, client_class, server)
        own = server.model_copy(update={"name": server.name or _server_name(client)})
        tools += [(own, client, tool) for tool in _listed_tools(portal, client, server)]
    names = unique_names([(server.name, tool.name) for server, _, tool in tools], prefixed=len(servers) > 1)
    return [
        _as_dspy_tool(portal, client, server, tool, name)
        for (server, client, tool), name in zip(tools, names, strict=True)
    ]


def unique_names(tools: list[tuple[str, str]], *, prefixed: bool) -> list[str]:
    """Return a name for each (server, tool) that is an identifier, is not taken in the REPL, and occurs once."""
    names: list[str] = []
    for server, tool in tools:
        plain = _as_identifier(tool)
        is_taken = is_reserved(plain) or plain in OWN_NAMES or hasattr(builtins, plain)
        if prefixed or is_taken:
            name = _as_identifier(f"{server}_{plain}")
        else:
            name = plain
        unique = name
        for number in count(2):
            if unique not in names:
                break
            unique = f"{name}_{number}"
        names.append(unique)
    return names


def _as_identifier(text: str) -> str:
    identifier = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "tool"
    if identifier.isidentifier() and not keyword.iskeyword(identifier):
        return identifier
    return f"tool_{identifier}"


def _connected_client(stack: contextlib.ExitStack, portal: Any, client_class: Any, server: McpServer) -> Any:
    """Return a connected client that ``stack`` closes."""
    from mcp.client.stdio import StdioServerParameters, stdio_client

    errors: _ServerErrors | None = None
    if server.cwd is not None and not os.path.isdir(server.cwd):
        raise ConfigurationError(f"the MCP server {server.label} could not be started: there is no folder {server.cwd}")
    if server.command is not None:
        errors = _ServerErrors(server)
        started = StdioServerParameters(
            command=server.command, args=list(server.args), env=server.env or None, cwd=server.cwd
        )
        target: Any = stdio_client(started, errlog=errors.file)
    else:
        target = _http_transport(server)
    client = client_class(target, read_timeout_seconds=START_SECONDS)
    try:
        return stack.enter_context(portal.wrap_async_context_manager(client))
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        reason = _plain_reason(error, server)
        if errors is not None and (written := errors.last_lines()):
            reason += f"; it wrote: {written}"
        raise ConfigurationError(f"the MCP server {server.label} could not be started: {reason}") from None
    finally:
        if errors is not None:
            errors.file.close()


def _http_transport(server: McpServer) -> Any:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    http = httpx2.AsyncClient(headers=server.headers, timeout=server.timeout)
    return streamable_http_client(str(server.url), http_client=http)


def _server_name(client: Any) -> str:
    info = client.server_info
    if info is not None:
        return str(info.name)
    return "mcp"


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
    if cursor or len(tools) > MAX_TOOLS:
        logger.warning("%s lists more tools than are read: the first %d are used", server.label, len(tools[:MAX_TOOLS]))
    return tools[:MAX_TOOLS]


def _as_dspy_tool(portal: Any, client: Any, server: McpServer, tool: Any, name: str) -> dspy.Tool:
    redactor = server.redactor()
    args, types, descriptions = tool_arguments(redactor.value(tool.input_schema))
    takes_any = _takes_any_argument(tool.input_schema)

    def call_server(**arguments: Any) -> Any:
        unknown = [argument for argument in arguments if argument not in args]
        if unknown and not takes_any:  # most servers silently ignore an unknown argument
            raise TypeError(f"{name}() has no argument {', '.join(unknown)}; it takes {', '.join(args) or 'none'}")
        done = _answered(
            portal, server, lambda: client.call_tool(tool.name, arguments, read_timeout_seconds=server.timeout)
        )
        value = bounded_result(done, tool.name, redactor)
        if done.is_error:
            raise McpToolError(str(value)[:2_000] or f"{tool.name} failed and gave no reason")
        return value

    shown = redactor.text(tool.description or name)[:MAX_DESCRIPTION_CHARS]
    return dspy.Tool(call_server, name=name, desc=shown, args=args, arg_types=types, arg_desc=descriptions)


def _takes_any_argument(schema: Any) -> bool:
    """Return whether a tool takes arguments beyond those it lists, or does not list any under ``properties``."""
    if not isinstance(schema, Mapping):
        return True
    more = schema.get("additionalProperties")
    return bool(more) or isinstance(more, Mapping) or not isinstance(schema.get("properties"), Mapping)


def tool_arguments(schema: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return the schemas of the arguments, their types and their descriptions, as DSPy reads them.

    An argument whose schema cannot be read may be anything. One that may be left out has ``"optional"``.
    """
    args: dict[str, Any] = {}
    types: dict[str, Any] = {}
    descriptions: dict[str, str] = {}
    whole = schema if isinstance(schema, Mapping) else {}
    properties, required = whole.get("properties"), whole.get("required")
    needed = required if isinstance(required, list) else []
    for name, part in properties.items() if isinstance(properties, Mapping) else ():
        argument = _argument_schema(part, whole)
        if name not in needed:
            argument["optional"] = True
        if isinstance(described := argument.get("description"), str):
            descriptions[name] = argument["description"] = described[:MAX_DESCRIPTION_CHARS]
        kind = argument.get("type")
        types[name] = _TYPES.get(kind, Any) if isinstance(kind, str) else Any
        args[name] = argument
    return args, types, descriptions


def _argument_schema(part: Any, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an argument with what it refers to in place; {} if it cannot be read."""
    try:
        plain = _without_references(part, whole, iter(range(MAX_SCHEMA_PARTS)), 0)
    except (ValueError, TypeError, RecursionError):
        plain = {}
    if isinstance(plain, Mapping):
        return dict(plain)
    return {}


def _without_references(part: Any, whole: Mapping[str, Any], room: Iterator[int], nested: int) -> Any:
    """Return a part of a schema with its references resolved; those nested too deep become {}, which is anything.

    Raises:
        ValueError: it is too large.
        TypeError: it refers to something that is missing.
    """
    if not isinstance(part, (dict, list)):
        return part
    if next(room, None) is None:
        raise ValueError("the schema is too large")
    if isinstance(part, list):
        return [_without_references(item, whole, room, nested) for item in part]
    where = part.get("$ref")
    if not isinstance(where, str):
        return {name: _without_references(item, whole, room, nested) for name, item in part.items()}
    if nested == MAX_NESTED_REFERENCES:
        return {}
    definition: Any = whole
    for step in where.removeprefix("#/").split("/"):
        if isinstance(definition, Mapping) and step in definition:
            definition = definition[step]
        else:
            definition = None
    if not isinstance(definition, dict):
        raise TypeError(f"there is no definition {where}")
    beside = {name: item for name, item in part.items() if name != "$ref"}
    return _without_references({**definition, **beside}, whole, room, nested + 1)


def bounded_result(done: Any, name: str, redactor: Redactor) -> Any:
    """Return what a tool answered, masked: its structured content, else its texts; what is too long is cut.

    A structured result that is too long becomes the beginning of its JSON.
    """
    text = redactor.text("\n".join(map(_part_text, done.content)))
    structured = getattr(done, "structured_content", None)
    if structured is not None and not (done.is_error and text):
        is_wrapped = isinstance(structured, Mapping) and set(structured) == {"result"}
        value = redactor.value(structured["result"] if is_wrapped else structured)
        if isinstance(value, str):
            text = value
        else:
            text = json.dumps(value, ensure_ascii=False, default=str)
        if len(text) <= MAX_RESULT_CHARS:
            return value
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]}\n[{name}: cut here, the result has {len(text):,} characters]"


def _part_text(part: Any) -> str:
    """Return a part of a result as text; for a part without text, its kind, name and size."""
    resource = getattr(part, "resource", part)
    text = getattr(resource, "text", None)
    if isinstance(text, str):
        return text
    facts = [getattr(resource, name, None) for name in ("name", "uri", "mime_type")]
    encoded = getattr(resource, "blob", None) or getattr(resource, "data", None)
    size = len(encoded) * 3 // 4 if isinstance(encoded, str) else getattr(resource, "size", None)
    facts.append(None if size is None else f"{size:,} bytes")
    kind = str(getattr(part, "type", "content")).replace("_", " ")
    return f"[{kind}: {', '.join(str(fact) for fact in facts if fact)}]"


def _answered(portal: Any, server: McpServer, call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a server answers.

    Raises:
        McpToolError: it refuses, is too slow, or has ended.
    """
    try:
        return portal.call(call)
    except Exception as error:  # whatever the server, its transport or the SDK raises is a failed call
        if str(error) == _PORTAL_ENDED:
            ended = "the connection is closed; call the tool within the block of `mcp_tools`"
            raise McpToolError(f"{server.label}: {ended}") from None
        raise McpToolError(f"{server.label}: {_plain_reason(error, server)}") from None


def _plain_reason(error: BaseException, server: McpServer) -> str:
    """Return the innermost reason in one line, without the server's secrets."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split()) or type(error).__name__
    return server.redactor().text(text)[:500]
