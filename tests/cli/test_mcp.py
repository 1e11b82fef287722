"""The MCP server, used through the SDK's own client: over stdio and HTTP, by the old and the new protocol."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", minversion=None)

import anyio
import httpx2
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult

from rlm_dspy.cli.mcp import files as files_module
from rlm_dspy.cli.mcp.command import HOSTS
from rlm_dspy.cli.mcp.files import FileTools
from rlm_dspy.cli.mcp.questions import RunningQuestion
from rlm_dspy.cli.mcp.server import only_here, read_tokens
from rlm_dspy.cli.options import MCP_HOSTS
from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import ConfigurationError, RLMError
from rlm_dspy.run import Run
from servers.slow_model import slow_program
from servers.wire import free_port
from warm import warm_python

SLOW_OUTLINE = """
from pathlib import Path
from rlm_dspy.cli.mcp import files

def waiting_outline(self, path):
    (Path(sys.argv[2]) / "waits").touch()
    while not (Path(sys.argv[2]) / "go").exists():
        time.sleep(0.05)
    return files.Outline(text="")

files.FileTools.outline_files = waiting_outline
"""
MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])


@pytest.fixture
def served(home: Path) -> Path:
    """A folder with a text, a table and a file of keys beside it."""
    return write_files(home)


def write_files(home: Path) -> Path:
    docs = home / "docs"
    docs.mkdir()
    (docs / "notes.md").write_text("# Codes\n\nthe code is 4711\n\n## Ports\n\nthe port is 8080\n" + "x\n" * 500)
    (docs / "people.csv").write_text("name,age\nAda,36\nGrace,85\nAlan,41\n")
    (docs / "long.txt").write_text("word " * 100_000)
    (home / "secret.txt").write_text("nobody may read this")
    return docs


def command(folder: Path, *args: str, seconds: float = 0.0, patch: str = "") -> list[str]:
    program = slow_program(seconds=seconds, patch=patch)
    return [*warm_python(), "-c", program, "mcp", str(folder), "--mode", "rlm", *args]


def environ(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


@asynccontextmanager
async def connected(folder: Path, *args: str, seconds: float = 0.0, **options: Any) -> AsyncIterator[Client]:
    start, *rest = command(folder, *args, seconds=seconds)
    async with Client(StdioServerParameters(command=start, args=rest, env=environ()), **options) as client:
        yield client


async def call(client: Client, name: str, **arguments: Any) -> Any:
    done = await client.call_tool(name, arguments)
    assert not done.is_error, done.content
    return done.structured_content


async def failure(client: Client, name: str, **arguments: Any) -> str:
    done = await client.call_tool(name, arguments)
    assert done.is_error
    return str(done.content[0].text)


async def until_asked(served: Path) -> None:
    """Wait until a step is done and the model is asked for the second."""
    while not (served.parent / "asked").exists():
        await anyio.sleep(0.02)


@MODES
async def test_an_agent_asks_and_gets_the_answer_with_its_evidence(served: Path, mode: str) -> None:
    seen: list[Any] = []

    async def progress(number: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    async with connected(served, mode=mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "rlm-dspy"
        assert str(served) in str(client.instructions)
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == [
            *("ls", "search", "read", "outline", "table"),
            *("ask", "result", "cancel"),
        ]
        assert all(tool.description and tool.output_schema for tool in tools)
        assert "consent" not in json.dumps(tools[5].input_schema)
        done = await client.call_tool("ask", {"question": "What is the code?"}, progress_callback=progress)
        found = done.structured_content
        assert (found["state"], found["answer"], found["steps"]) == ("done", "4711", 2)
        assert found["evidence"] == [{"quote": "the code is 4711", "path": "notes.md", "line": 3, "weak": False}]
        assert any("step 1/20" in str(message) for message in seen)
        record = await client.read_resource(f"rlm://runs/{found['run_id']}.json")
        assert json.loads(record.contents[0].text)["outputs"]["answer"] == "4711"
        page = await client.read_resource(f"rlm://runs/{found['run_id']}.html")
        assert "Content-Security-Policy" in page.contents[0].text


async def test_a_long_answer_is_fetched_later(served: Path) -> None:
    async with connected(served, seconds=1.5) as client:
        started = await call(client, "ask", question="What is the code?", wait_seconds=0.2)
        assert started["state"] == "running"
        assert started["answer"] is None
        found = await call(client, "result", run_id=started["run_id"], wait_seconds=30)
        assert (found["state"], found["answer"]) == ("done", "4711")
        again = await call(client, "result", run_id=started["run_id"], wait_seconds=0)
        assert again == found


async def test_cancel_returns_the_best_answer_so_far(served: Path) -> None:
    async with connected(served, seconds=120) as client:
        started = await call(client, "ask", question="What is the code?", wait_seconds=0)
        await until_asked(served)
        found = await call(client, "cancel", run_id=started["run_id"])
        assert (found["state"], found["answer"]) == ("stopped", "best so far")


async def test_a_call_that_the_host_cuts_stops_its_run_and_keeps_the_best_answer(served: Path) -> None:
    async with connected(served, seconds=120) as client:
        started = await call(client, "ask", question="What is the code?", wait_seconds=0)
        await until_asked(served)
        with pytest.raises(Exception, match=r"(?i)timed? ?out"):
            await client.call_tool("result", {"run_id": started["run_id"], "wait_seconds": 60}, read_timeout_seconds=1)
        found = await call(client, "result", run_id=started["run_id"], wait_seconds=20)
        assert (found["state"], found["answer"]) == ("stopped", "best so far")


@pytest.mark.integration
@pytest.mark.skipif("RLM_DSPY_MINUTES" not in os.environ, reason="takes two minutes: set RLM_DSPY_MINUTES=1")
@pytest.mark.parametrize("reports", [False, True])
async def test_a_host_that_cuts_calls_after_a_minute(served: Path, reports: bool) -> None:
    """A host ends a call 60 seconds after it was made, or after its last report of progress if it heeds those."""
    seen: list[float] = []
    async with connected(served, seconds=75) as client:
        with anyio.move_on_after(60) as host:

            async def progress(number: float, total: float | None, message: str | None) -> None:
                seen.append(number)
                if reports:
                    host.deadline = anyio.current_time() + 60

            arguments = {"question": "What is the code?", "wait_seconds": 120}
            done = await client.call_tool("ask", arguments, progress_callback=progress)
        assert host.cancelled_caught != reports
        assert len(seen) >= 5
        if reports:
            assert done.structured_content["answer"] == "4711"
        listed = await call(client, "ls")  # the server goes on
        assert listed["total"] > 0


@pytest.mark.parametrize(("mode", "agrees"), [("legacy", True), ("auto", False), ("auto", True)])
async def test_a_cost_above_the_limit_is_asked_about(served: Path, mode: str, agrees: bool) -> None:
    asked: list[str] = []

    async def elicit(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"proceed": agrees})

    async with connected(served, "--confirm-above", "0.5", mode=mode, elicitation_callback=elicit) as client:
        done = await client.call_tool("ask", {"question": "What is the code?"})
        assert done.is_error != agrees
        if not agrees:
            assert "its cost was declined" in str(done.content)
    assert len(asked) == 1
    assert "may cost an unknown amount (asked above $0.50): What is the code?" in asked[0]


async def test_files_are_looked_at_without_a_model(files_server: tuple[str, Path]) -> None:
    async with reached(files_server[0], None) as client:
        listing = await call(client, "ls", pattern="*.md")
        assert [(row["path"], row["kind"]) for row in listing["files"]] == [("notes.md", "markdown")]
        first = (await call(client, "search", query="port number"))["passages"][0]
        assert (first["path"], "8080" in first["text"]) == ("notes.md", True)
        part = await call(client, "read", path="notes.md", lines="3-4")
        assert (part["text"], part["next_line"]) == ("the code is 4711\n", 5)
        assert "3: " not in (await call(client, "outline", path="notes.md"))["text"].splitlines()[0]
        table = await call(client, "table", path="people.csv", where={"name": "a"}, columns=["age"], limit=2)
        assert (table["rows"], table["total_rows"], table["next_offset"]) == ([{"age": "36"}, {"age": "85"}], 3, 2)
        text = await client.read_resource("rlm://files/people.csv")
        assert text.contents[0].text.startswith("name,age")


async def test_no_path_reaches_beyond_the_roots(files_server: tuple[str, Path]) -> None:
    url, docs = files_server
    outside = docs.parent / "secret.txt"
    async with reached(url, None) as client:
        for path in ("../secret.txt", str(outside), "/etc/passwd", "", "notes.md/../../secret.txt", "\x00"):
            assert "no file" in await failure(client, "read", path=path)
            with pytest.raises(Exception, match=r"."):
                await client.read_resource(f"rlm://files/{path}")
        assert (await call(client, "ls", pattern="secret"))["total"] == 0


async def test_wrong_calls_are_told_what_to_do(files_server: tuple[str, Path]) -> None:
    async with reached(files_server[0], None) as client:
        assert "did you mean notes.md?" in await failure(client, "read", path="note.md")
        assert "write it like 40-80" in await failure(client, "read", path="notes.md", lines="all")
        assert "the file has 507 lines" in await failure(client, "read", path="notes.md", lines="9999")
        assert "no column 'nme'; did you mean name?" in await failure(
            client, "table", path="people.csv", columns=["nme"]
        )
        assert "is not a table" in await failure(client, "table", path="notes.md")
        assert "the query is empty" in await failure(client, "search", query=" ")
        assert "the question is empty" in await failure(client, "ask", question="")
        assert "there is no run 'x'" in await failure(client, "result", run_id="x")


async def test_results_stay_below_the_size_that_hosts_take(files_server: tuple[str, Path]) -> None:
    async with reached(files_server[0], None) as client:
        for name, arguments in (
            ("read", {"path": "long.txt"}),
            ("read", {"path": "notes.md"}),
            ("search", {"query": "word code port", "limit": 50}),
            ("outline", {}),
        ):
            done = await client.call_tool(name, arguments)
            assert not done.is_error
            assert len(json.dumps(done.structured_content)) < 25_000
        part = await call(client, "read", path="long.txt")
        assert "(500,000 characters)" in part["text"]


# --- HTTP ----------------------------------------------------------------------------------------------------------

TOKENS = {"ada": "token-of-ada-000000", "grace": "token-of-grace-00000"}


Start = Callable[..., str]


@contextmanager
def http_servers(folder: Path, **variables: str) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, tokens: bool = True, seconds: float = 0.0, patch: str = "") -> str:
        pairs = ",".join(f"{name}:{token}" for name, token in TOKENS.items())
        more = {"RLM_DSPY_MCP_TOKENS": pairs} if tokens else {}
        port = free_port()
        process = subprocess.Popen(
            command(folder, "--transport", "http", "--port", str(port), *args, seconds=seconds, patch=patch),
            env=environ(**more, **variables), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        url = f"http://127.0.0.1:{port}/mcp"
        for _ in range(400):
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                httpx2.get(url, timeout=1)
                return url
            except httpx2.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server did not start")

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def http_server(served: Path) -> Iterator[Start]:
    with http_servers(served) as start:
        yield start


@pytest.fixture(scope="module")
def files_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server that only shows its files, and their folder."""
    home = tmp_path_factory.mktemp("home")
    folders = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "DSPY_CACHEDIR"), str(home / "own"))
    with http_servers(write_files(home), **folders) as start:
        yield start(tokens=False), home / "docs"


@asynccontextmanager
async def reached(url: str, token: str | None, **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    http = httpx2.AsyncClient(headers=headers, timeout=60)
    async with http, Client(streamable_http_client(url, http_client=http), **options) as client:
        yield client


@MODES
async def test_over_http_the_same_answers_arrive(http_server: Start, mode: str) -> None:
    seen: list[Any] = []

    async def progress(number: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    async with reached(http_server(tokens=False), None, mode=mode) as client:
        done = await client.call_tool("ask", {"question": "What is the code?"}, progress_callback=progress)
        assert done.structured_content["answer"] == "4711"
    assert seen


async def test_one_users_runs_are_unknown_to_another(http_server: Start) -> None:
    url = http_server()
    async with reached(url, TOKENS["ada"]) as ada, reached(url, TOKENS["grace"]) as grace:
        run_id = (await call(ada, "ask", question="What is the code?"))["run_id"]
        assert (await call(ada, "result", run_id=run_id))["answer"] == "4711"
        for name in ("result", "cancel"):
            assert f"there is no run '{run_id}'" in await failure(grace, name, run_id=run_id)
        with pytest.raises(Exception, match=r"."):
            await grace.read_resource(f"rlm://runs/{run_id}.json")
        assert (await ada.read_resource(f"rlm://runs/{run_id}.json")).contents


def test_a_session_belongs_to_the_token_that_opened_it(http_server: Start) -> None:
    url = http_server()
    accept = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}
    start = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start}
    ada = {**accept, "Authorization": f"Bearer {TOKENS['ada']}"}
    opened = httpx2.post(url, json=hello, headers=ada, timeout=20)
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    tools = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    grace = {**accept, "Authorization": f"Bearer {TOKENS['grace']}"}
    assert httpx2.post(url, json=tools, headers={**grace, **session}, timeout=20).status_code == 404
    assert httpx2.post(url, json=tools, headers={**ada, **session}, timeout=20).status_code == 200


async def test_slow_calls_of_one_user_leave_room_for_another(http_server: Start, served: Path) -> None:
    url = http_server(patch=SLOW_OUTLINE)
    async with (
        reached(url, TOKENS["ada"]) as ada,
        reached(url, TOKENS["grace"]) as grace,
        anyio.create_task_group() as calls,
    ):
        for _ in range(45):
            calls.start_soon(partial(call, ada, "outline"))
        while not (served / "waits").exists():
            await anyio.sleep(0.02)
        await anyio.sleep(1)  # the others arrive meanwhile
        with anyio.fail_after(30):
            assert (await call(grace, "ls"))["total"] > 0
        (served / "go").touch()


def test_without_a_known_token_nothing_is_answered(http_server: Start) -> None:
    url = http_server()
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for headers in (
        {},
        {"Authorization": "Bearer wrong-token-0000000"},
        {"Authorization": f"Basic {TOKENS['ada']}"},
        {"X-Rlm-Dspy-Owner": "ada"},
    ):
        reply = httpx2.post(url, json=body, headers=headers, timeout=20)
        assert reply.status_code == 401
        assert "bearer token" in reply.text


def test_foreign_pages_and_hosts_are_refused(http_server: Start) -> None:
    url = http_server(tokens=False)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"Accept": "application/json, text/event-stream"}
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        assert httpx2.post(url, json=body, headers={**accept, **headers}, timeout=20).status_code in (403, 421)


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box.example", "localhost.example"])
def test_an_address_that_others_reach_needs_tokens(run: Callable, served: Path, host: str) -> None:
    result = run("mcp", str(served), "--transport", "http", "--host", host)
    assert result.code == 2
    assert f"--host {host} can be reached by others, so it needs tokens" in result.err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "[::1]", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert only_here(host)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ada", "name:token"),
        (":x", "name:token"),
        ("ada:short", "shorter than 16"),
        (f"a:{'x' * 20} b:{'x' * 20}", "twice"),
    ],
)
def test_malformed_tokens_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        read_tokens(text)


@pytest.mark.parametrize(
    ("args", "problem"),
    [((), "Missing PATH"), (("-",), "the protocol uses stdin"), (("no/such/folder",), "no/such/folder does not exist")],
)
def test_wrong_commands_are_refused_in_one_line(run: Callable, home: Path, args: tuple[str, ...], problem: str) -> None:
    result = run("mcp", *args)
    assert result.code == 2
    assert problem in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_without_the_package_it_says_what_to_install(
    run: Callable, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == "mcp" or name.startswith(("mcp.", "rlm_dspy.cli.mcp.server"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    result = run("mcp", str(served))
    assert result.code == 2
    assert "the package mcp is not installed" in result.err


@pytest.mark.parametrize("host", MCP_HOSTS)
def test_each_snippet_starts_the_server(run: Callable, served: Path, host: str) -> None:
    result = run("mcp", "docs", "--print-config", host)
    assert result.code == 0
    read = tomllib.loads(result.out) if host == "codex" else json.loads(result.out)
    (servers,) = read.values()
    started = servers["files"]
    assert os.access(started["command"], os.X_OK)
    assert str(served) in started["args"]
    assert "Put this into" in result.err
    if host == "codex":
        assert started["startup_timeout_sec"] >= 10
    done = subprocess.run(
        [started["command"], *started["args"][:-1], "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Serve each PATH" in done.stdout


def test_the_names_of_hosts_are_those_that_have_a_snippet() -> None:
    assert tuple(HOSTS) == MCP_HOSTS


def test_the_plugin_for_claude_code_is_valid() -> None:
    folder = Path(__file__).parents[2] / "plugins" / "claude-code"
    manifest = json.loads((folder / ".claude-plugin" / "plugin.json").read_text())
    assert re.fullmatch(r"[a-z-]+", manifest["name"])
    started = json.loads((folder / ".mcp.json").read_text())["mcpServers"]["files"]
    assert (started["command"], started["args"][0]) == ("rlm-dspy", "mcp")
    (skill,) = folder.glob("skills/*/SKILL.md")
    head = skill.read_text().split("---")[1]
    assert f"name: {skill.parent.name}" in head
    assert "description: " in head


def test_a_corpus_that_cannot_be_read_is_told_to_the_caller() -> None:
    def fail() -> Corpus:
        raise RLMError("the folder is gone")

    with pytest.raises(RLMError, match="the folder is gone"):
        FileTools(fail).list_files("", 10, 0)


@pytest.mark.parametrize("rows", [0, 1, 3_000])
@pytest.mark.parametrize("width", [1, 400])
def test_pages_of_a_table_cover_it(rows: int, width: int) -> None:
    text = "name,value\n" + "".join(f"{number},{'x' * width}\n" for number in range(rows))
    tools = FileTools(lambda: Corpus.from_texts({"t.csv": text}))
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        page = tools.table_rows("t.csv", [], {}, 1_000, offset)
        assert len(page.model_dump_json()) < 25_000
        seen += [row["name"] for row in page.rows]
        offset = page.next_offset
    assert seen == [str(number) for number in range(rows)]


@pytest.mark.parametrize("lines", [0, 1, 20, 5_000])
def test_pages_of_a_text_cover_it(lines: int) -> None:
    text = "\n".join(f"line {number} " + "y" * 50 for number in range(lines))
    tools = FileTools(lambda: Corpus.from_texts({"t.txt": text}))
    seen: list[str] = []
    first: int | None = 1
    while first is not None:
        page = tools.read_lines("t.txt", f"{first}-999999" if first > 1 else "")
        assert len(page.text) <= files_module.MAX_CHARS
        seen += page.text.split("\n")
        first = page.next_line
    assert "\n".join(seen) == text


def test_a_table_says_which_columns_it_leaves_out() -> None:
    text = ",".join(f"column_{number}" for number in range(2_000)) + "\n" + ",".join("1" * 2_000) + "\n"
    tools = FileTools(lambda: Corpus.from_texts({"t.csv": text}))
    page = tools.table_rows("t.csv", [], {}, 10, 0)
    assert page.total_columns == 2_000
    assert page.note == f"{len(page.columns)} of 2,000 columns fit here; name those that you need in `columns`"
    assert tools.table_rows("t.csv", ["column_1999"], {}, 10, 0).rows == [{"column_1999": "1"}]
    with pytest.raises(RLMError, match="too many for one result: ask for fewer"):
        tools.table_rows("t.csv", [f"column_{number}" for number in range(1_500)], {}, 10, 0)


def test_a_column_may_begin_late() -> None:
    rows = [{"id": number} | ({"status": "failed"} if number > 1_200 else {}) for number in range(1_300)]
    tools = FileTools(lambda: Corpus.from_texts({"t.jsonl": "\n".join(map(json.dumps, rows))}))
    assert tools.table_rows("t.jsonl", [], {"status": "failed"}, 10, 0).total_rows == 99


def test_a_snippet_starts_the_same_server_from_any_folder(run: Callable, served: Path, home: Path) -> None:
    (home / "list.txt").write_text("docs\nsecret.txt\n")
    words = ("--files-from", "list.txt", "-q", "--exclude", "docs", "--max-cost=0.5", "--no-ignore")
    result = run("mcp", *words, "--print-config", "cursor")
    assert result.code == 0
    arguments = json.loads(result.out)["mcpServers"]["files"]["args"]
    options = arguments[arguments.index("mcp") + 1 :]
    assert options[-2:] == [str(home / "docs"), str(home / "secret.txt")]
    assert sorted(options[:-2]) == sorted(["--quiet", "--exclude", "docs", "--max-cost", "0.5", "--no-ignore"])


def test_a_result_says_what_it_leaves_out_and_which_quotes_are_weak() -> None:
    found = [{"quote": f"quote {number}", "source": "a.md", "line": 1, "match": "exact"} for number in range(30)]
    asked = RunningQuestion(owner="ann")
    quotes = ({**found[0], "weak": True}, *found[1:])
    asked.run = Run(id=asked.id, status="submitted", evidence=quotes, warnings=("w",) * 14)
    asked.done.set()
    result = asked.result()
    assert (len(result.evidence), result.evidence[0].weak, result.evidence[1].weak) == (10, True, False)
    left_out = [warning.partition(" in the record")[0] for warning in result.warnings[10:]]
    assert left_out == ["20 more quotes", "4 more warnings"]
