"""``rlm-dspy mcp`` where something goes wrong: a host that leaves, a wrong argument, a taken port, a bad line."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

import anyio
import dspy
import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

import rlm_dspy
from rlm_dspy.cli.mcp.questions import QuestionLog
from rlm_dspy.cli.mcp.server import http_url
from rlm_dspy.redact import Redactor
from rlm_dspy.replay import RUN_ID
from rlm_dspy.report.run_store import load_run
from rlm_dspy.spans import listening
from rlm_dspy.testing import action, scripted
from servers.slow_model import slow_program
from servers.wire import free_port
from warm import warm_python

BROKEN = """
from rlm_dspy.cli.mcp import files
def broken(self, path):
    raise ZeroDivisionError("a bug with sk-mine-000000000")
files.FileTools.outline_files = broken
"""


class Wire:
    """A server over stdio, and what it writes, line by line."""

    def __init__(self, folder: Path, *args: str, seconds: float = 0, extract: float = 0, patch: str = "") -> None:
        program = slow_program(seconds=seconds, extract=extract, patch=patch)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RLM_DSPY_HOME": str(folder.parent / "own")}
        self.runs = folder.parent / "own" / "runs"
        self.process = subprocess.Popen(
            [*warm_python(), "-c", program, "mcp", str(folder), "--mode", "rlm", *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**env, "MY_API_KEY": "sk-mine-000000000"}, cwd=folder.parent,
        )  # fmt: skip
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._asked = folder.parent / "asked"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, method: str, params: Any = None, number: int | None = None) -> None:
        head = {} if number is None else {"id": number}
        self.write(json.dumps({"jsonrpc": "2.0", **head, "method": method, "params": params or {}}).encode())

    def next(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._lines.get(timeout=30))
        return found

    def start(self) -> Wire:
        info = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        self.send("initialize", info, 0)
        self.next()
        self.send("notifications/initialized")
        return self

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        self.send("tools/call", {"name": name, "arguments": arguments}, 1)
        found: dict[str, Any] = self.next()["result"]
        return found

    def ask_slowly(self) -> str:
        """Ask, wait until the second step's model is asked, and return the run id."""
        run_id = str(self.call("ask", question="What is the code?", wait_seconds=0)["structuredContent"]["run_id"])
        until = time.monotonic() + 30
        while not self._asked.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        return run_id

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self) -> str:
        """Wait for the end, and return what stands on stderr."""
        assert self.process.stderr is not None
        self.process.wait(20)
        shown = self.process.stderr.read().decode()
        self.kill()
        return shown

    def kill(self) -> None:
        """End the process, and close what belongs to it."""
        self.process.kill()
        self.process.wait(20)
        self._reader.join(20)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


Start = Callable[..., Wire]


@pytest.fixture
def served(home: Path) -> Path:
    docs = home / "docs"
    docs.mkdir()
    (docs / "notes.md").write_text("# Codes\n\nthe code is 4711\n")
    return docs


@pytest.fixture
def wire(served: Path) -> Iterator[Start]:
    started: list[Wire] = []

    def start(*args: str, **options: Any) -> Wire:
        started.append(Wire(served, *args, **options))
        return started[-1] if "--transport" in args else started[-1].start()

    yield start
    for one in started:
        one.kill()


# --- a host that leaves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["stdin", "SIGTERM", "SIGINT"])
def test_a_host_that_leaves_gets_the_best_answer_on_record(wire: Start, ending: str) -> None:
    server = wire(seconds=120)
    run_id = server.ask_slowly()
    if ending == "stdin":
        server.close_stdin()
    else:
        server.process.send_signal(getattr(signal, ending))
    shown = server.end()
    assert f"run {run_id} was stopped; `rlm-dspy trace {run_id}` shows its record." in shown
    assert "Traceback" not in shown
    run = load_run(server.runs / f"{run_id}.json").run
    assert (run.outputs["answer"], len(run.steps)) == ("best so far", 1)
    assert not list(server.runs.glob("*.jsonl"))


def test_a_host_that_cannot_wait_finds_the_record_up_to_its_last_line(wire: Start) -> None:
    server = wire(seconds=120, extract=120)
    run_id = server.ask_slowly()
    server.close_stdin()
    time.sleep(0.5)
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    shown = server.end()
    assert time.monotonic() - started < 4.3  # 5 s after stdin was closed it would end anyway
    assert f"run {run_id} is unfinished; `rlm-dspy trace {run_id}` shows what was recorded of it." in shown
    run = load_run(server.runs / f"{run_id}.jsonl").run
    assert (run.id, run.stopped_by, len(run.steps)) == (run_id, "killed", 1)


def test_a_server_that_is_killed_leaves_its_record(wire: Start) -> None:
    server = wire(seconds=120)
    run_id = server.ask_slowly()
    server.process.kill()
    server.end()
    assert load_run(server.runs / f"{run_id}.jsonl").run.steps[0].reasoning == "Look at it."


def test_two_runs_of_one_question_share_its_record(tmp_path: Path) -> None:
    log = QuestionLog(tmp_path, Redactor({}), "0123456789ab")
    lm, _ = scripted(action("SUBMIT(answer='a')"), action("SUBMIT(answer='b')"))
    named = RUN_ID.set("0123456789ab")
    try:
        with listening(log), dspy.context(lm=lm):
            for _ in range(2):
                rlm_dspy.RLM("context, question -> answer")(context="c", question="q")
    finally:
        RUN_ID.reset(named)
    run = load_run(tmp_path / "0123456789ab.jsonl").run
    assert (run.id, run.outputs, len(run.steps)) == ("0123456789ab", {"answer": "b"}, 1)
    log.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "url"), [("::1", "http://[::1]:80/mcp"), ("[::1]", "http://[::1]:80/mcp"), ("a.b", "http://a.b:80/mcp")]
)
def test_the_address_is_one_that_clients_can_use(host: str, url: str) -> None:
    assert http_url(host, 80) == url


def until_reached(url: str) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            assert httpx2.get(url, timeout=5).status_code in (400, 406)
            return
        except httpx2.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


SIGNALLED = """
import anyio, os, signal
from rlm_dspy.cli.mcp.server import StrictServer
async def call_tool(self, *_):
    os.kill(os.getpid(), signal.{name})
    await anyio.sleep(60)
StrictServer.call_tool = call_tool
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_the_server_is_at_work_ends_it_in_order(wire: Start, served: Path, name: str) -> None:
    server = wire(patch=SIGNALLED.format(name=name)).start()
    server.send("tools/call", {"name": "ls", "arguments": {}}, 1)
    assert server.end() == f"Serving {served} on stdio; Ctrl-C stops.\n"
    assert server.process.returncode == 0


def test_a_server_over_http_ends_in_order_at_sigterm(wire: Start, served: Path) -> None:
    port = free_port()
    server = wire("--transport", "http", "--port", str(port))
    until_reached(f"http://127.0.0.1:{port}/mcp")
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == f"Serving {served} on http://127.0.0.1:{port}/mcp; Ctrl-C stops.\n"
    assert server.process.returncode == 0


async def test_a_call_over_http_gets_the_best_answer_at_sigterm(wire: Start, served: Path) -> None:
    port = free_port()
    server = wire("--transport", "http", "--port", str(port), seconds=120)
    url = f"http://127.0.0.1:{port}/mcp"
    until_reached(url)

    async def terminate() -> None:
        while not (served.parent / "asked").exists():
            await anyio.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)

    found: list[Any] = []
    with contextlib.suppress(BaseExceptionGroup):  # the server is gone when the client says goodbye
        async with Client(streamable_http_client(url)) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(terminate)
            done = await client.call_tool("ask", {"question": "What is the code?", "wait_seconds": 60})
            found.append(done.structured_content)
    assert (found[0]["state"], found[0]["answer"]) == ("stopped", "best so far")
    assert server.end() == f"Serving {served} on {url}; Ctrl-C stops.\n"
    assert load_run(server.runs / f"{found[0]['run_id']}.json").run.steps


# --- what a client is shown ----------------------------------------------------------------------------------------


def test_a_cut_question_is_found_again(wire: Start) -> None:
    server = wire(seconds=120)
    arguments = {"name": "ask", "arguments": {"question": "What is the code?"}, "_meta": {"progressToken": "p"}}
    server.send("tools/call", arguments, 5)
    first = server.next()["params"]["message"]
    server.send("notifications/cancelled", {"requestId": 5})
    server.send("tools/call", {"name": "result", "arguments": {"wait_seconds": 20}}, 6)
    while (reply := server.next()).get("id") != 6:
        pass
    found = reply["result"]["structuredContent"]
    assert first == f"run {found['run_id']}"
    assert found["state"] == "stopped"


def test_the_newest_question_is_the_one_without_an_id(wire: Start) -> None:
    server = wire()
    assert "no question was asked yet" in str(server.call("result"))
    first, second = (server.call("ask", question=one)["structuredContent"]["run_id"] for one in ("a?", "b?"))
    assert first != second
    assert server.call("result")["structuredContent"]["run_id"] == second
    assert server.call("result", run_id=first)["structuredContent"]["run_id"] == first


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("rlm://files/none.md", "there is no file 'none.md' among those read"),
        ("rlm://runs/zz.json", "there is no run 'zz'"),
        ("rlm://runs/zz.html", "there is no run 'zz'"),
    ],
)
def test_a_resource_that_is_missing_says_why(wire: Start, uri: str, reason: str) -> None:
    server = wire()
    server.send("resources/read", {"uri": uri}, 3)
    assert reason in server.next()["error"]["message"]
    server.close_stdin()
    assert server.end().count("\n") == 1  # "Serving …"


@pytest.mark.parametrize(("args", "lines"), [((), 2), (("-v",), 10)])
def test_an_unexpected_error_is_one_line_without_v(wire: Start, args: tuple[str, ...], lines: int) -> None:
    server = wire(*args, patch=BROKEN)
    assert server.call("outline")["isError"]
    server.close_stdin()
    shown = server.end()
    assert "ZeroDivisionError: a bug with ********" in shown
    assert "sk-mine" not in shown
    assert ("Traceback" in shown) == bool(args)
    assert (shown.count("\n") >= lines) if args else (shown.count("\n") == lines)


def test_an_argument_that_a_tool_does_not_have_is_refused(wire: Start) -> None:
    server = wire()
    shown = str(server.call("ask", question="What is the code?", max_cost=0.01))
    assert "ask has no argument 'max_cost'; its arguments are question, max_cost_usd, wait_seconds" in shown
    assert "ask has no argument 'consent'" in str(server.call("ask", question="x", consent={"proceed": True}))
    assert "Unknown tool" in str(server.call("asks", question="x"))
    server.send("tools/list", {}, 2)
    tools = server.next()["result"]["tools"]
    assert len(tools) == 8
    assert all(tool["inputSchema"]["additionalProperties"] is False for tool in tools)


def test_a_client_that_cannot_ask_its_user_reads_what_to_do(wire: Start) -> None:
    done = wire("--confirm-above", "0.5").call("ask", question="What is the code?")
    assert done["isError"]
    shown = done["content"][0]["text"]
    assert "the question was not asked: it may cost an unknown amount" in shown
    assert "start `rlm-dspy mcp` with a higher --confirm-above, or without it" in shown


def test_a_line_that_is_not_json_gets_an_answer(wire: Start) -> None:
    server = wire()
    for line in (b"hello", b'{"jsonrpc": "2.0", "id": 7, "method": "ping\xff', b"[1"):
        server.write(line)
        found = server.next()
        assert (found["id"], found["error"]["code"]) == (None, -32700)
    server.write(b'{"id": 11}')
    assert server.next()["error"]["code"] == -32600
    assert server.call("ls")["structuredContent"]["total"] == 1


# --- HTTP ----------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_refused_before_anything_is_announced(run: Callable, served: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("mcp", str(served), "--transport", "http", "--port", str(port))
    assert result.code == 2
    assert f"--host 127.0.0.1 --port {port} cannot be served: Address already in use" in result.err
    assert "Serving" not in result.err


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.7"])
def test_a_host_that_is_not_here_is_refused(
    run: Callable, served: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLM_DSPY_MCP_TOKENS", "ada:token-of-ada-000000")
    result = run("mcp", str(served), "--transport", "http", "--host", host)
    assert result.code == 2
    assert f"--host {host} --port 8000 cannot be served" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_every_address_of_a_name_is_served(wire: Start) -> None:
    port = free_port()
    server = wire("--transport", "http", "--port", str(port), "--host", "localhost")
    url = f"http://localhost:{port}/mcp"
    until_reached(url)
    server.process.send_signal(signal.SIGTERM)
    assert url in server.end()
