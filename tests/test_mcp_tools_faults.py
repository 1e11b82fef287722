"""What an MCP server may answer, say and print: nothing of it is lost in silence, and no key of its settings shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dspy
import pytest

pytest.importorskip("mcp")

import rlm_dspy
from rlm_dspy.errors import ConfigurationError, McpToolError
from rlm_dspy.rlm.mcp_tools import McpServer, tool_arguments
from rlm_dspy.rlm.prompts import tool_line
from rlm_dspy.testing import action, scripted, texts
from warm import warm_python

KEY = "sk-station-0123456789"
SERVER = """
import json, os, sys

def write(value):
    print(json.dumps(value), flush=True)

given = json.loads(open(sys.argv[1]).read().replace("$KEY", os.environ.get("STATION_TOKEN", "none")))
if given.get("stray"):
    print(given["stray"], flush=True)
if given.get("errors"):
    print(given["errors"], file=sys.stderr, flush=True)
if given.get("ends"):
    sys.exit(3)
for line in sys.stdin:
    request = json.loads(line)
    head = {"jsonrpc": "2.0", "id": request.get("id")}
    if request.get("method") == "initialize":
        info = {"name": "raw", "version": "1"}
        started = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
        write({**head, "result": started})
    elif request.get("method") == "tools/list":
        write({**head, "result": {"tools": given["tools"]}})
    elif request.get("method") == "tools/call":
        name = request["params"]["name"]
        if name == "words":
            write({**head, "result": {"content": [{"type": "text", "text": " ".join(sys.argv)}]}})
        else:
            write({**head, "result": given["calls"][name]})
    elif "id" in request:
        write({**head, "error": {"code": -32601, "message": "no"}})
"""


def raw_server(folder: Path, *words: str, **given: Any) -> dict[str, Any]:
    """How to start a server that lists and answers what is given; $KEY in it stands for its key."""
    script, facts = folder / "raw.py", folder / "given.json"
    script.write_text(SERVER)
    calls = given.get("calls", {})
    names = [*calls, "words"]
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
    facts.write_text(json.dumps({"tools": tools, **given}))
    env = {"STATION_TOKEN": KEY}
    return {"command": sys.executable, "args": [str(script), str(facts), *words], "env": env}


def call(folder: Path, result: dict[str, Any]) -> Any:
    with rlm_dspy.mcp_tools(raw_server(folder, calls={"give": result})) as tools:
        return tools[0]()


# --- results -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [[], [{"type": "text", "text": "a short summary"}]])
def test_a_structured_result_that_is_too_long_is_cut_and_says_so(tmp_path: Path, content: list[Any]) -> None:
    rows = [{"city": "Oslo", "degrees": at} for at in range(20_000)]
    shown = call(tmp_path, {"content": content, "structuredContent": {"rows": rows}})
    assert shown.startswith('{"rows": [{"city": "Oslo"')
    assert 200_000 < len(shown) < 200_100
    assert shown.endswith(f"[give: cut here, the result has {len(json.dumps({'rows': rows})):,} characters]")


def test_a_structured_list_arrives_as_it_is(tmp_path: Path) -> None:
    assert call(tmp_path, {"content": [], "structuredContent": {"result": [{"a": 1}]}}) == [{"a": 1}]


def test_the_text_of_an_embedded_resource_arrives(tmp_path: Path) -> None:
    resource = {"uri": "file:///log.txt", "mimeType": "text/plain", "text": "the code is 4711"}
    content = [{"type": "text", "text": "found:"}, {"type": "resource", "resource": resource}]
    assert call(tmp_path, {"content": content}) == "found:\nthe code is 4711"


def test_what_has_no_text_is_described(tmp_path: Path) -> None:
    blob = {"uri": "file:///a.zip", "mimeType": "application/zip", "blob": "AAAA" * 1_000}
    link = {"type": "resource_link", "uri": "file:///b.csv", "name": "b", "mimeType": "text/csv", "size": 12_345}
    image = {"type": "image", "data": "AAAA" * 10, "mimeType": "image/png"}
    shown = call(tmp_path, {"content": [{"type": "resource", "resource": blob}, link, image]})
    assert shown.splitlines() == [
        "[resource: file:///a.zip, application/zip, 3,000 bytes]",
        "[resource link: b, file:///b.csv, text/csv, 12,345 bytes]",
        "[image: image/png, 30 bytes]",
    ]


@pytest.mark.parametrize(("more", "reason"), [({}, "gave no reason"), ({"structuredContent": {"why": "shut"}}, "shut")])
def test_an_error_always_has_a_reason(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(McpToolError, match=reason):
        call(tmp_path, {"content": [], "isError": True, **more})


def test_a_key_at_the_cut_of_a_long_result_is_masked(tmp_path: Path) -> None:
    text = "x" * (200_000 - 10) + "$KEY" + "y" * 1_000
    shown = call(tmp_path, {"content": [{"type": "text", "text": text}]})
    assert "sk-" not in shown


# --- arguments in the prompt ---------------------------------------------------------------------------------------


def line_of(properties: dict[str, Any], **more: Any) -> str:
    args, types, descriptions = tool_arguments({"type": "object", "properties": properties, **more})
    tool = dspy.Tool(lambda **_: None, name="t", desc="D.", args=args, arg_types=types, arg_desc=descriptions)
    return tool_line(tool)


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "string"}, "str"),
        ({"type": "string", "enum": ["asc", "desc"]}, "Literal['asc', 'desc']"),
        ({"enum": ["a", 1, None]}, "Literal['a', 1, None]"),
        ({"type": "array", "items": {"type": "string"}}, "list[str]"),
        ({"type": "array"}, "list"),
        ({"type": ["string", "null"]}, "str | None"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "int | None"),
        ({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}, "list[int | str]"),
        ({"type": "object", "properties": {"lat": {"type": "number"}, "n": {"type": "null"}}}, "{lat: float, n: None}"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "dict[str, str]"),
        ({"type": "object"}, "dict"),
        ({"type": "florp"}, "Any"),
        ({"type": {"a": 1}}, "Any"),
        ({}, "Any"),
        (True, "Any"),
    ],
)  # fmt: skip
def test_a_model_sees_the_type_of_each_argument(schema: Any, shown: str) -> None:
    assert f"`t(x: {shown})` D." in line_of({"x": schema}, required=["x"])


def test_a_model_sees_which_arguments_it_may_leave_out() -> None:
    properties = {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "integer", "default": 3}}
    assert "`t(a: str, b: int = …, c: int = 3)`" in line_of(properties, required=["a"])


def test_a_model_sees_the_description_of_each_argument_in_short() -> None:
    properties = {
        "a": {"type": "string", "description": "the city,\nby its name"},
        "b": {"type": "string", "description": "d" * 10_000},
        "c": {"type": "string"},
    }
    line = line_of(properties, required=["a", "b", "c"])
    assert line == f"- `t(a: str, b: str, c: str)` D. `a`: the city, by its name; `b`: {'d' * 79}…"


def test_the_line_of_a_tool_stays_short() -> None:
    large = {"enum": ["v" * 1_000] * 1_000, "description": "d" * 1_000}
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(100):
        deep = {"type": "object", "properties": {f"p{at}": deep for at in range(20)}}
    assert len(line_of({f"a{at}": large for at in range(20)})) < 5_000
    assert len(line_of({"x": deep}, required=["x"])) < 300


def test_one_odd_argument_leaves_the_others_their_types() -> None:
    properties = {
        "odd": {"type": ["string", "null"]},
        "wrong": {"$ref": "#/$defs/none"},
        "number": {"type": "integer", "description": "how many"},
    }
    args, types, descriptions = tool_arguments({"type": "object", "properties": properties})
    assert types == {"odd": Any, "wrong": Any, "number": int}
    assert (args["odd"]["type"], descriptions["number"]) == (["string", "null"], "how many")


def test_references_are_in_place_and_end() -> None:
    point = {"type": "object", "properties": {"x": {"type": "number"}, "next": {"$ref": "#/$defs/point"}}}
    schema = {"properties": {"p": {"$ref": "#/$defs/point", "description": "start"}}, "$defs": {"point": point}}
    assert "p: {x: float, next: {x: float, next: dict}}" in line_of(**schema)
    doubled = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 50} for at in range(30)}
    started = time.thread_time()
    args, *_ = tool_arguments({"properties": {"p": {"$ref": "#/$defs/d0"}, "q": {}}, "$defs": doubled})
    assert args.keys() == {"p", "q"}
    assert time.thread_time() - started < 2


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_in_a_description_never_reaches_a_model(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "description": "not $KEY", "default": "$KEY"}}}
    tools = [{"name": "tell", "description": "d" * 1_990 + "$KEY", "inputSchema": schema}]
    lm, script = scripted(action("SUBMIT(answer='x')"))
    with rlm_dspy.mcp_tools(raw_server(tmp_path, tools=tools)) as found, dspy.context(lm=lm):
        rlm_dspy.RLM("context, question -> answer", tools=found)(context="c", question="q")
        assert "sk-" not in json.dumps(found[0].args)
    assert "sk-" not in str(texts(script.requests[0]))
    assert "`x`: not ********" in texts(script.requests[0])[0]


@pytest.mark.parametrize(
    "words",
    [
        ("--api-key", KEY),
        ("--token", KEY),
        ("-key", KEY),
        ("--auth", KEY),
        (f"--api-key={KEY}",),
        ("--header", f"Authorization: Bearer {KEY}"),
        (f"X-Api-Key: {KEY}",),
    ],
)
def test_a_key_among_the_arguments_is_masked(tmp_path: Path, words: tuple[str, ...]) -> None:
    server = raw_server(tmp_path, *words) | {"env": {}}
    with rlm_dspy.mcp_tools(server) as tools:
        shown = tools[0]()
    assert "********" in shown
    assert KEY not in shown


def test_the_keys_of_an_address_are_secrets() -> None:
    server = McpServer(url=f"http://ada:pass-0123456789@box.example/mcp?api_key={KEY}&page=long-plain-word")
    text = f"{KEY} pass-0123456789 long-plain-word"
    assert server.redactor().text(text) == "******** ******** long-plain-word"


# --- what a server prints ------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
import rlm_dspy

with rlm_dspy.mcp_tools(json.loads(sys.argv[1])) as tools:
    print(tools[0]())
"""


def test_what_a_server_prints_never_reaches_stderr_as_it_is(tmp_path: Path) -> None:
    given = {"stray": "connecting with $KEY", "errors": "using $KEY \x1b[31m"}
    answer = {"content": [{"type": "text", "text": "fine"}]}
    server = raw_server(tmp_path, calls={"give": answer}, **given)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*warm_python(), "-c", PROGRAM, json.dumps(server)], capture_output=True, text=True, env=env, check=True
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_a_log_that_is_asked_for_says_that_a_line_was_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"stray": "connecting with $KEY", "errors": "using $KEY"}
    caplog.set_level("DEBUG", logger="rlm_dspy")
    with rlm_dspy.mcp_tools(raw_server(tmp_path, calls={"give": {"content": []}}, **given)) as tools:
        tools[0]()
    assert "Failed to parse JSONRPC message from server" in caplog.text
    assert "writes: using ********" in caplog.text
    assert KEY not in caplog.text


def test_a_server_that_ends_at_once_says_what_it_wrote(tmp_path: Path) -> None:
    server = raw_server(tmp_path, ends=True, errors="first\ncannot use $KEY \x1b[31m")
    with pytest.raises(ConfigurationError) as caught, rlm_dspy.mcp_tools(server):
        pass
    assert str(caught.value).endswith("; it wrote: first / cannot use ********  [31m")


def test_a_server_that_writes_without_end_is_not_held_up(tmp_path: Path) -> None:
    server = raw_server(tmp_path, calls={"give": {"content": []}}, errors="e" * 1_000_000 + "\n" + "f\n" * 100_000)
    with rlm_dspy.mcp_tools(server) as tools:
        assert tools[0]() == ""


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("python 'unclosed", "its command line cannot be split"),
        ("", "its command line is empty"),
        ({"command": sys.executable, "cwd": "/no/such/folder"}, "there is no folder /no/such/folder"),
    ],
)
def test_wrong_settings_are_refused_with_their_reason(given: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem), rlm_dspy.mcp_tools(given):
        pass


def test_a_call_after_the_block_says_so(tmp_path: Path) -> None:
    with rlm_dspy.mcp_tools(raw_server(tmp_path)) as tools:
        pass
    with pytest.raises(McpToolError, match="the connection is closed; call the tool within the block"):
        tools[0]()


def test_an_argument_that_the_tool_does_not_have_is_refused(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}}
    schemas = {"strict": schema, "open": {**schema, "additionalProperties": True}}
    tools = [{"name": name, "inputSchema": given} for name, given in schemas.items()]
    done = {"content": [{"type": "text", "text": "done"}]}
    with rlm_dspy.mcp_tools(raw_server(tmp_path, tools=tools, calls={"strict": done, "open": done})) as found:
        strict, free = found
        assert strict(query="a") == free(query="a", max_results=2) == "done"
        with pytest.raises(TypeError, match=r"strict\(\) has no argument max_results; it takes query, limit"):
            strict(query="a", max_results=2)


def test_passwords_of_a_server_are_masked_wherever_they_are_given() -> None:
    address = "postgresql://app:pass-0123456789@db/app"
    server = McpServer(command="db", args=("--dsn", address), env={"PGPASSWORD": "word-0123456789"})
    assert server.redactor().text("pass-0123456789 word-0123456789") == "******** ********"
