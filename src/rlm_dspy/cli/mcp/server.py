"""The MCP server: its tools and resources, over stdio or HTTP."""

# Without postponed annotations: the server reads those of its tools, which name local functions.
import errno
import hmac
import ipaddress
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Annotated, Any, TypeVar

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.mcpserver import Context, Elicit, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.message import SessionMessage
from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    CallToolResult,
    ErrorData,
    InputRequiredResult,
    JSONRPCError,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, Field, ValidationError

from rlm_dspy._version import __version__
from rlm_dspy.cli.mcp.files import Excerpt, FileList, FileTools, FoundPassages, Outline, Table
from rlm_dspy.cli.mcp.questions import QuestionResult, Questions, RunningQuestion, saved_json, wait_for
from rlm_dspy.errors import ConfigurationError, RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.run import Run

PROGRESS_SECONDS = 10.0  # seconds between two reports of progress, when nothing happens
MAX_WAIT_SECONDS = 600.0  # seconds of one call
STOP_SECONDS = 5.0  # seconds that a cancelled call and the end of the server wait for a best answer
REPLY_SECONDS = 0.3  # seconds for the last replies over HTTP to be sent
MIN_TOKEN_CHARS = 16
MAX_THREADS = 4  # blocking calls of one owner at the same time; further ones wait for these

Result = TypeVar("Result", bound=BaseModel)
Made = TypeVar("Made")

INSTRUCTIONS = """Ask questions about files that are too large to read: {roots}.
Use `ask` when the answer needs more than a look-up: it explores all of the files with a model and quotes its evidence.
It returns at once if the answer takes longer than wait_seconds; then call `result` with the run_id until the state is
not "running". `search`, `read`, `outline`, `ls` and `table` look at the files without a model and cost nothing."""

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
SPENDS = ToolAnnotations(read_only_hint=True, open_world_hint=True)

PathArgument = Annotated[str, Field(description="a path as `ls` shows it, or absolute")]
Folder = Annotated[str, Field(description="only this file or the files below this folder; all if empty")]
Limit = Annotated[int, Field(ge=1, le=1_000)]
Offset = Annotated[int, Field(ge=0)]
Wait = Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, description="seconds to wait for the answer")]


class ShownError(ToolError, ResourceError):
    """An error whose message reaches the client, from a tool or a resource."""


class StrictServer(MCPServer):
    """Refuses arguments that a tool does not have, which the SDK ignores: a limit with a wrong name would not hold."""

    async def list_tools(self) -> list[Tool]:
        """Return the tools with closed schemas."""
        tools = await super().list_tools()
        closed = {"additionalProperties": False}
        return [tool.model_copy(update={"input_schema": {**tool.input_schema, **closed}}) for tool in tools]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool.

        Raises:
            ToolError: it has no such argument, or it fails.
        """
        for tool in await super().list_tools():
            known = list(tool.input_schema.get("properties", {}))
            if tool.name == name and (unknown := [one for one in arguments if one not in known]):
                raise ToolError(f"{name} has no argument {unknown[0][:100]!r}; its arguments are {', '.join(known)}")
        return await super().call_tool(name, arguments, context)

    async def run_stdio_async(self) -> None:
        """Serve over stdio; answer a line that is not a message with an error, where the SDK is silent."""
        sender, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        async with stdio_server() as (lines, replies), messages, anyio.create_task_group() as tasks:
            tasks.start_soon(_forward_messages, lines, sender, replies)
            options = self._lowlevel_server.create_initialization_options()
            await self._lowlevel_server.run(messages, replies, options)


async def _forward_messages(lines: Any, sender: Any, replies: Any) -> None:
    """Forward what a client sends, and refuse what is not a message."""
    async with sender, lines:
        async for item in lines:
            if not isinstance(item, Exception):
                await sender.send(item)
                continue
            is_json = isinstance(item, ValidationError) and all(one["type"] != "json_invalid" for one in item.errors())
            if is_json:
                text = "the line is not a message of JSON-RPC 2.0"
            else:
                text = "the line is not valid JSON"
            fault = ErrorData(code=INVALID_REQUEST if is_json else PARSE_ERROR, message=text)
            await replies.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=None, error=fault)))


class Consent(BaseModel):
    """Whether a question may be asked."""

    proceed: bool = Field(description="ask the question at this cost")


@dataclass(frozen=True)
class ServedFiles:
    """What a server serves.

    Args:
        roots: the paths given at the start, for the description.
        files: the tools that need no model.
        questions: the questions about them.
        redactor: masks secrets in what is returned.
        estimate: returns the most that a usual question costs in US dollars, None if unknown.
        confirm_above: ask the user first if a question may cost more than so many US dollars.
        threads: how many threads the calls of each owner may still take.
    """

    roots: tuple[str, ...]
    files: FileTools
    questions: Questions
    redactor: Redactor
    estimate: Callable[[], float | None]
    confirm_above: float | None = None
    threads: dict[str, anyio.CapacityLimiter] = field(default_factory=dict)


def make_server(served: ServedFiles) -> MCPServer:
    """Return the server with its tools and resources."""
    instructions = INSTRUCTIONS.format(roots=", ".join(served.roots))
    server = StrictServer("rlm-dspy", instructions=instructions, version=__version__, log_level="WARNING")
    _add_file_tools(server, served)
    _add_question_tools(server, served)
    _add_resources(server, served)
    return server


def _add_file_tools(server: MCPServer, served: ServedFiles) -> None:
    files = served.files

    @server.tool(annotations=READS)
    async def ls(ctx: Context, pattern: str = "", limit: Limit = 100, offset: Offset = 0) -> FileList:
        """List the files whose path matches a glob or contains the pattern, with kind, lines and characters."""
        return await masked_result(served, ctx, lambda: files.list_files(pattern, limit, offset))

    @server.tool(annotations=READS)
    async def search(
        ctx: Context, query: str, path: Folder = "", limit: Annotated[int, Field(ge=1, le=50)] = 8
    ) -> FoundPassages:
        """Rank passages by the words of a query, best first; no model is asked."""
        return await masked_result(served, ctx, lambda: files.search_files(query, path, limit))

    @server.tool(annotations=READS)
    async def read(
        ctx: Context,
        path: PathArgument,
        lines: Annotated[str, Field(description='such as "40-80"; as many as fit if empty')] = "",
    ) -> Excerpt:
        """Read lines of a file; documents such as PDF, Word and Excel are read as text."""
        return await masked_result(served, ctx, lambda: files.read_lines(path, lines))

    @server.tool(annotations=READS)
    async def outline(ctx: Context, path: Folder = "") -> Outline:
        """Show headings and top-level definitions, each with its line."""
        return await masked_result(served, ctx, lambda: files.outline_files(path))

    @server.tool(annotations=READS)
    async def table(
        ctx: Context,
        path: PathArgument,
        columns: Annotated[list[str] | None, Field(description="all if not given")] = None,
        where: Annotated[dict[str, str] | None, Field(description="texts that columns must contain")] = None,
        limit: Limit = 50,
        offset: Offset = 0,
    ) -> Table:
        """Show rows of a CSV, TSV, JSON or JSONL file or a workbook, by column."""
        return await masked_result(
            served, ctx, lambda: files.table_rows(path, columns or [], where or {}, limit, offset)
        )


def _add_question_tools(server: MCPServer, served: ServedFiles) -> None:
    questions = served.questions

    async def consent(question: str, ctx: Context) -> Consent | Elicit[Consent]:
        limit = served.confirm_above
        if limit is None:
            return Consent(proceed=True)
        cost = await in_thread(served, ctx, served.estimate)
        if cost is not None and cost <= limit:
            return Consent(proceed=True)
        if cost is None:
            amount = "an unknown amount"
        else:
            amount = f"up to about ${cost:.2f}"
        if not can_ask_user(ctx):
            raise ShownError(
                f"the question was not asked: it may cost {amount}, questions above ${limit:.2f} need the user's "
                "consent, and this client cannot ask its user (it has no elicitation); start `rlm-dspy mcp` with a "
                "higher --confirm-above, or without it"
            )
        return Elicit(f"This question may cost {amount} (asked above ${limit:.2f}): {question[:200]}", Consent)

    @server.tool(annotations=SPENDS)
    async def ask(
        question: str,
        consent: Annotated[Consent, Resolve(consent)],
        ctx: Context,
        max_cost_usd: Annotated[float | None, Field(gt=0, description="US dollars at most")] = None,
        wait_seconds: Wait = 45,
    ) -> QuestionResult:
        """Answer a question about all of the files, with quotes as evidence.

        If the answer takes longer than wait_seconds, the state is "running": call `result` with the run_id.
        """
        if not consent.proceed:
            raise ToolError("the question was not asked: its cost was declined")
        asked = shown_error(served, lambda: questions.start(question, max_cost_usd, owner_of(ctx)))
        return await waited_result(served, asked, wait_seconds, ctx)

    @server.tool(annotations=READS)
    async def result(
        ctx: Context,
        run_id: Annotated[str, Field(description="the question asked last if empty")] = "",
        wait_seconds: Wait = 45,
    ) -> QuestionResult:
        """Return the answer of a question, or how far it is after wait_seconds."""
        owner = owner_of(ctx)
        asked = shown_error(served, lambda: questions.find(run_id, owner) if run_id else questions.newest(owner))
        return await waited_result(served, asked, wait_seconds, ctx)

    @server.tool(annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False))
    async def cancel(run_id: str, ctx: Context) -> QuestionResult:
        """Stop a question and return its best answer so far."""
        asked = shown_error(served, lambda: questions.find(run_id, owner_of(ctx)))
        asked.stop.set()
        return await waited_result(served, asked, STOP_SECONDS, ctx)


def _add_resources(server: MCPServer, served: ServedFiles) -> None:
    @server.resource("rlm://runs/{run_id}.json", mime_type="application/json")
    def run_json(run_id: str, ctx: Context) -> str:
        """The whole record of a finished run."""
        return saved_json(_finished_run(served, run_id, ctx), served.redactor)

    @server.resource("rlm://runs/{run_id}.html", mime_type="text/html")
    async def run_page(run_id: str, ctx: Context) -> str:
        """A finished run as one page for a browser."""
        from rlm_dspy.report.viewer.page import html_page

        run = _finished_run(served, run_id, ctx)
        return await in_thread(served, ctx, lambda: html_page([run], served.redactor))

    @server.resource("rlm://files/{+path}", mime_type="text/plain")
    async def file(path: str, ctx: Context) -> str:
        """The text of a file, of a document its text as it was read."""
        text = await in_thread(served, ctx, lambda: served.files.document(path).text)
        return served.redactor.text(text)


def can_ask_user(ctx: Context) -> bool:
    """Return whether the client can show its user a form; bare `elicitation: {}` means that it can."""
    if ctx.client_capabilities is not None:
        elicitation = ctx.client_capabilities.elicitation
    else:
        elicitation = None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _finished_run(served: ServedFiles, run_id: str, ctx: Context) -> Run:
    asked = shown_error(served, lambda: served.questions.find(run_id, owner_of(ctx)))
    if asked.run is None:
        raise ShownError(f"run {run_id} has no record yet; `result` waits for it")
    return asked.run


async def waited_result(served: ServedFiles, asked: RunningQuestion, seconds: float, ctx: Context) -> QuestionResult:
    """Return a question's result once it has ended or the seconds are over; a cancelled call stops it."""

    async def report(number: int, message: str) -> None:
        await ctx.report_progress(number, message=served.redactor.text(message))

    try:
        await report(0, f"run {asked.id}")  # a client that cuts the call can still ask for its result
        await wait_for(asked, seconds, report, PROGRESS_SECONDS)
    except anyio.get_cancelled_exc_class():
        asked.stop.set()
        raise
    return QuestionResult.model_validate(served.redactor.value(asked.result().model_dump()))


async def in_thread(served: ServedFiles, ctx: Context, work: Callable[[], Made]) -> Made:
    """Do blocking work in one of the caller's threads; an error of ours becomes one that the client shows."""
    share = served.threads.setdefault(owner_of(ctx), anyio.CapacityLimiter(MAX_THREADS))
    return await anyio.to_thread.run_sync(lambda: shown_error(served, work), limiter=share)


async def masked_result(served: ServedFiles, ctx: Context, work: Callable[[], Result]) -> Result:
    """Return what blocking work returns, without secrets."""
    result = await in_thread(served, ctx, work)
    return type(result).model_validate(served.redactor.value(result.model_dump()))


def shown_error(served: ServedFiles, work: Callable[[], Made]) -> Made:
    """Return what ``work`` returns; an error of ours becomes one that the client shows."""
    try:
        return work()
    except RLMError as error:
        raise ShownError(served.redactor.text(str(error))) from None


# --- HTTP ----------------------------------------------------------------------------------------------------------

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def owner_of(ctx: Context) -> str:
    """Return who calls: the name of the token, or "" over stdio and without tokens."""
    return (ctx.headers or {}).get(OWNER_HEADER, "")


OWNER_HEADER = "x-rlm-dspy-owner"  # set by `TokenCheck`, which removes what a client sends


class TokenCheck:
    """Lets only requests with a known bearer token through, and names their owner to the tools.

    Args:
        app: the server.
        tokens: the owner of each token; without any, every request passes, which only loopback may allow.
    """

    def __init__(self, app: App, tokens: Mapping[str, str]) -> None:
        self._app = app
        self._tokens = dict(tokens)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != OWNER_HEADER.encode()]
        header = dict(headers).get(b"authorization", b"").decode("latin-1")
        owner = self._owner_of(header)
        if owner is None:
            await _refuse(send)
            return
        scope = {**scope, "headers": [*headers, (OWNER_HEADER.encode(), owner.encode())]}
        if owner:  # the SDK ties a session to the user who opened it
            scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=owner, scopes=[]))
        await self._app(scope, receive, send)

    def _owner_of(self, header: str) -> str | None:
        if not self._tokens:
            return ""
        scheme, _, token = header.partition(" ")
        owners = [owner for known, owner in self._tokens.items() if hmac.compare_digest(known.encode(), token.encode())]
        if owners and scheme.lower() == "bearer":
            return owners[0]
        return None


async def _refuse(send: Any) -> None:
    body = json.dumps({"error": "invalid_token", "error_description": "a known bearer token is required"}).encode()
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def http_app(server: MCPServer, host: str, tokens: Mapping[str, str], origins: tuple[str, ...]) -> App:
    """Return the ASGI application.

    Raises:
        ConfigurationError: the address is not loopback and there is no token.
    """
    if not tokens and not only_here(host):
        raise ConfigurationError(
            f"--host {host} can be reached by others, so it needs tokens: set RLM_DSPY_MCP_TOKENS to name:token pairs"
        )
    local = ["127.0.0.1:*", "localhost:*", "[::1]:*"]
    named = [f"{host}:*", *(one.partition("://")[2] for one in origins)]
    hosts = local if only_here(host) else [*local, *named]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=host not in ("0.0.0.0", "::"),
        allowed_hosts=hosts,
        allowed_origins=[*(f"http://{one}" for one in local), *origins],
    )
    return TokenCheck(server.streamable_http_app(host=host, transport_security=security), tokens)


def only_here(host: str) -> bool:
    """Return whether only this machine can connect to a server on this address; 0.0.0.0 means every address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_tokens(text: str) -> dict[str, str]:
    """Return the owner of each token in ``name:token`` pairs, separated by commas, spaces or lines.

    Raises:
        ConfigurationError: a pair is malformed, a token is short, or a name or token stands twice.
    """
    tokens: dict[str, str] = {}
    for pair in text.replace(",", " ").split():
        name, colon, token = pair.partition(":")
        if not name or not colon:
            raise ConfigurationError("RLM_DSPY_MCP_TOKENS must hold name:token pairs, separated by commas")
        if len(token) < MIN_TOKEN_CHARS:
            raise ConfigurationError(f"the token of {name!r} is shorter than {MIN_TOKEN_CHARS} characters")
        if token in tokens or name in tokens.values():
            raise ConfigurationError(f"RLM_DSPY_MCP_TOKENS names {name!r} or its token twice")
        tokens[token] = name
    return tokens


def http_url(host: str, port: int) -> str:
    """Return where clients connect."""
    bare = host.strip("[]")
    return f"http://{f'[{bare}]' if ':' in bare else bare}:{port}/mcp"


def bound_sockets(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets, one for each address of a host.

    Raises:
        ConfigurationError: the host is unknown, or the port is taken.
    """
    bound: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((one[0], one[4]) for one in addresses):
            try:
                bound.append(socket.create_server(address, family=family))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or len(addresses) == 1:
                    raise  # localhost may have an address of a family that this machine does not use
    except (OSError, UnicodeError) as error:
        for one in bound:
            one.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"--host {host} --port {port} cannot be served: {reason}") from None
    if not bound:
        raise ConfigurationError(f"--host {host} --port {port} cannot be served: no address of it is of this machine")
    return bound


def run_server(server: MCPServer, app: App | None, sockets: list[socket.socket], on_exit: Callable[[], None]) -> None:
    """Serve an HTTP application on these sockets, or without one over stdio, until the client or the user ends it.

    Args:
        server: what is served over stdio.
        app: what is served over HTTP.
        sockets: where the application listens.
        on_exit: called at a first signal, before it ends the HTTP server; it makes waiting calls return.
    """
    if app is None:
        anyio.run(server.run_stdio_async)
        return
    import uvicorn

    class StoppableServer(uvicorn.Server):
        """Lets calls return their best answers first, because a signal would cut their streams at once."""

        is_ending = False

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.is_ending:
                super().handle_exit(sig, frame)
                return
            self.is_ending = True
            threading.Thread(target=self._end_calls, args=(sig, frame), daemon=True).start()

        def _end_calls(self, sig: int, frame: FrameType | None) -> None:
            on_exit()
            time.sleep(REPLY_SECONDS)
            super().handle_exit(sig, frame)

    limit = int(STOP_SECONDS)
    config = uvicorn.Config(app, log_level="warning", log_config=None, timeout_graceful_shutdown=limit)
    StoppableServer(config).run(sockets)
