"""Tools of real MCP servers in the REPL: several at once, typed, bounded, and never the end of a run."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

pytest.importorskip("mcp")

import rlm_dspy
from rlm_dspy.errors import ConfigurationError, McpToolError
from rlm_dspy.rlm.mcp_tools import McpServer, unique_names
from rlm_dspy.testing import action, scripted, texts
from servers.wire import free_port
from warm import warm_python

SERVER = '''
import os, sys, time
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

server = MCPServer("weather station")

class Weather(BaseModel):
    city: str
    degrees: float

@server.tool()
def weather(city: str, days: int = 1) -> Weather:
    """Return the weather of a city."""
    return Weather(city=city, degrees=20.0 + days)

@server.tool()
def search(query: str) -> str:
    """Search the station's log."""
    return f"log of {query}"

@server.tool()
def fails(reason: str) -> str:
    """Refuse."""
    raise ToolError(f"no: {reason} {os.environ.get('STATION_API_KEY')}")

@server.tool()
def key() -> str:
    """Return the key."""
    return str(os.environ.get("STATION_API_KEY")) + " " + str(os.environ.get("MY_API_KEY"))

@server.tool()
def long(size: int) -> str:
    """Return a long text."""
    return "x" * size

@server.tool()
def slow(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "late"

@server.tool(name="get-value.v2")
def odd() -> list[int]:
    """Return numbers."""
    return [1, 2, 3]

@server.tool()
def die() -> str:
    """End."""
    os._exit(3)

if len(sys.argv) > 1:
    server.run("streamable-http", port=int(sys.argv[1]))
else:
    server.run()
'''
SIGNATURE = "context, question -> answer"


@pytest.fixture
def station(tmp_path: Path) -> dict[str, Any]:
    """How to start the server."""
    script = tmp_path / "station.py"
    script.write_text(SERVER)
    command, *arguments = warm_python()
    return {"command": command, "args": [*arguments, str(script)], "env": {"STATION_API_KEY": "sk-station-000000"}}


def named(tools: list[dspy.Tool]) -> dict[str, dspy.Tool]:
    return {tool.name: tool for tool in tools}


def test_cells_call_the_tools_of_a_server(station: dict[str, Any]) -> None:
    code = "w = weather(city='Oslo', days=3)\nprint(w['degrees'], get_value_v2(), weather_station_search(query='rain'))"
    lm, script = scripted(action(code), action("SUBMIT(answer=str(w['degrees']))"))
    with rlm_dspy.mcp_tools(station) as tools, dspy.context(lm=lm):
        done = rlm_dspy.RLM(SIGNATURE, tools=tools)(context="c", question="q")
    assert done.answer == "23.0"
    assert "23.0 [1, 2, 3] log of rain" in done.run.steps[0].output
    assert "Return the weather of a city." in texts(script.requests[0])[0]
    assert "days" in texts(script.requests[0])[0]


def test_a_command_line_is_enough(station: dict[str, Any]) -> None:
    with rlm_dspy.mcp_tools(shlex.join([station["command"], *station["args"]])) as tools:
        assert named(tools)["weather"](city="Oslo") == {"city": "Oslo", "degrees": 21.0}


def test_several_servers_at_once_have_prefixes(station: dict[str, Any]) -> None:
    with rlm_dspy.mcp_tools({**station, "name": "north"}, {**station, "name": "south"}, station) as tools:
        found = named(tools)
        assert {"north_weather", "south_weather", "weather_station_weather"} <= found.keys()
        assert found["south_weather"](city="Lima")["city"] == "Lima"


def test_an_awaited_program_calls_them_too(station: dict[str, Any]) -> None:
    lm, _ = scripted(action("print(weather(city='Oslo'))"), action("SUBMIT(answer='x')"))

    async def ask() -> Any:
        with dspy.context(lm=lm):
            return await rlm_dspy.RLM(SIGNATURE, tools=tools).acall(context="c", question="q")

    with rlm_dspy.mcp_tools(station) as tools:
        assert "21.0" in asyncio.run(ask()).run.steps[0].output


def test_dspys_own_programs_take_them(station: dict[str, Any]) -> None:
    with rlm_dspy.mcp_tools(station) as tools:
        assert dspy.ReAct("question -> answer", tools=tools).tools["weather"].args["city"]["type"] == "string"


def test_a_failed_call_is_an_exception_in_its_cell(station: dict[str, Any]) -> None:
    lm, _ = scripted(action("fails(reason='closed')"), action("SUBMIT(answer='x')"))
    with rlm_dspy.mcp_tools(station) as tools, dspy.context(lm=lm):
        done = rlm_dspy.RLM(SIGNATURE, tools=tools)(context="c", question="q")
    assert done.answer == "x"
    assert "no: closed" in done.run.steps[0].output


def test_a_dead_server_is_a_failed_call_and_not_a_lost_run(station: dict[str, Any]) -> None:
    lm, _ = scripted(action("die()"), action("print(weather(city='Oslo'))"), action("SUBMIT(answer='x')"))
    with rlm_dspy.mcp_tools({**station, "timeout": 5}) as tools, dspy.context(lm=lm):
        started = time.monotonic()
        done = rlm_dspy.RLM(SIGNATURE, tools=tools)(context="c", question="q")
    assert done.answer == "x"
    assert all(step.error for step in done.run.steps[:2])
    assert "station" in done.run.steps[1].output or sys.executable in done.run.steps[1].output
    assert time.monotonic() - started < 30


def test_a_slow_call_ends_at_its_limit_and_the_next_is_answered(station: dict[str, Any]) -> None:
    with rlm_dspy.mcp_tools({**station, "timeout": 1}) as tools:
        with pytest.raises(McpToolError, match=r"(?i)timed? ?out"):
            named(tools)["slow"](seconds=3)
        time.sleep(2.5)
        assert named(tools)["weather"](city="Oslo")["city"] == "Oslo"


def test_long_results_are_cut_and_say_so(station: dict[str, Any]) -> None:
    with rlm_dspy.mcp_tools(station) as tools:
        shown = named(tools)["long"](size=1_000_000)
    assert len(shown) < 201_000
    assert shown.endswith("[long: cut here, the result has 1,000,000 characters]")


def test_the_secrets_of_a_server_never_reach_the_cells(
    station: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "sk-mine-000000000")
    lm, script = scripted(action("print(key())\nfails(reason='x')"), action("SUBMIT(answer='x')"))
    with rlm_dspy.mcp_tools(station) as tools, dspy.context(lm=lm):
        done = rlm_dspy.RLM(SIGNATURE, tools=tools)(context="c", question="q")
    assert "******** None" in done.run.steps[0].output  # the server does not see the caller's own keys
    shown = done.run.model_dump_json() + str([texts(request) for request in script.requests])
    assert "sk-station" not in shown
    assert "sk-mine" not in shown


def test_calls_from_many_threads_are_answered(station: dict[str, Any]) -> None:
    found: list[float] = []
    with rlm_dspy.mcp_tools(station) as tools:
        weather = named(tools)["weather"]
        threads = [
            threading.Thread(target=lambda days=days: found.append(weather(city="Oslo", days=days)["degrees"]))
            for days in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == [20.0 + days for days in range(20)]


@pytest.fixture
def address(station: dict[str, Any]) -> Iterator[str]:
    import socket
    import subprocess

    port = free_port()
    command = [station["command"], *station["args"], str(port)]
    with subprocess.Popen(command, env={**os.environ, **station["env"]}, stderr=subprocess.DEVNULL) as process:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


def test_an_address_is_enough(address: str) -> None:
    with rlm_dspy.mcp_tools(address) as tools:
        assert named(tools)["weather"](city="Oslo") == {"city": "Oslo", "degrees": 21.0}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("no-such-program-anywhere", "could not be started"),
        (f"{sys.executable} -c 'raise SystemExit(3)'", "could not be started"),
        ("http://127.0.0.1:9/mcp", "could not be started"),
        ({"command": "x", "url": "http://x"}, "give a command or a url"),
        ({}, "give a command or a url"),
        ({"comand": "x"}, "comand"),
        (3, "not described right"),
    ],
)
def test_a_server_that_cannot_be_reached_is_one_clear_line(given: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught, rlm_dspy.mcp_tools(given):
        pass
    assert "\n" not in str(caught.value)


def test_names_are_identifiers_that_occur_once() -> None:
    tools = [("a b", "x"), ("a b", "print"), ("a b", "search"), ("a b", "x"), ("a b", "1-2"), ("é", "ü")]
    assert unique_names(tools, prefixed=False) == ["x", "a_b_print", "a_b_search", "x_2", "tool_1_2", "tool"]
    assert unique_names([("s", "x"), ("s", "x"), ("s", "x")], prefixed=True) == ["s_x", "s_x_2", "s_x_3"]


def test_a_label_holds_no_credentials() -> None:
    server = McpServer(url="https://ada:sk-secret@box.example/mcp?key=sk-secret", headers={"Authorization": "Bearer t"})
    assert server.label == "https://box.example/mcp"


def test_an_error_in_the_block_is_itself(station: dict[str, Any]) -> None:
    with pytest.raises(KeyError), rlm_dspy.mcp_tools(station):
        raise KeyError("x")


HOSTILE = """
import json, sys

def answer(request, result):
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)

for line in sys.stdin:
    request = json.loads(line)
    if request.get("method") == "initialize":
        info = {"name": "hostile", "version": "1"}
        answer(request, {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info})
    elif request.get("method") == "tools/list":
        answer(request, json.loads(sys.argv[1]))
    elif "id" in request:
        error = {"code": -32601, "message": "no"}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}), flush=True)
"""


def hostile(tmp_path: Path, listed: dict[str, Any]) -> dict[str, Any]:
    script = tmp_path / "hostile.py"
    script.write_text(HOSTILE)
    return {"command": sys.executable, "args": [str(script), json.dumps(listed)]}


def test_a_list_of_tools_that_never_ends_is_left(tmp_path: Path) -> None:
    with rlm_dspy.mcp_tools(hostile(tmp_path, {"tools": [], "nextCursor": "n"})) as tools:
        assert tools == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"x": {"description": "d" * 10_000_000}}},
    ],
)
def test_an_odd_schema_costs_types_and_not_the_tools(tmp_path: Path, schema: dict[str, Any]) -> None:
    if len(json.dumps(schema)) > 100_000:  # longer than an argument of a program may be
        schema["properties"]["x"]["description"] = "d" * 50_000
    plain = {"type": "object", "properties": {"y": {"type": "string"}}}
    listed = [
        {"name": "odd", "description": "d" * 50_000, "inputSchema": schema},
        {"name": "plain", "inputSchema": plain},
    ]
    with rlm_dspy.mcp_tools(hostile(tmp_path, {"tools": listed})) as tools:
        found = named(tools)
        assert found.keys() == {"odd", "plain"}
        assert "x" in found["odd"].args
        assert len(found["odd"].desc) <= 2_000


def test_names_that_a_cell_has_already_get_a_prefix() -> None:
    tools = [("s", name) for name in ("a_2", "a", "a", "import", "open", "context", "SUBMIT", "__import__")]
    names = unique_names(tools, prefixed=False)
    assert names == ["a_2", "a", "a_3", "tool_import", "s_open", "s_context", "s_SUBMIT", "tool_import_2"]
