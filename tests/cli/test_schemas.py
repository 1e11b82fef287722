"""What ``--json`` prints is what docs/schemas says, and nothing that it does not say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def check_output(name: str, text: str) -> Any:
    """Validate an output against a schema in which no other fields are allowed."""
    schema = json.loads((SCHEMAS / f"{name}-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    found = json.loads(text)
    jsonschema.Draft202012Validator(closed_schema(schema)).validate(found)
    return found


def closed_schema(schema: Any) -> Any:
    """Return a schema whose objects have only the fields that it names."""
    if isinstance(schema, list):
        return [closed_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: closed_schema(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed["additionalProperties"] = False
    return closed


@pytest.fixture(autouse=True)
def folder(write: Callable) -> None:
    write("docs/a.md", "The port is 8080.\n")
    write("docs/.hidden", "x")


@pytest.mark.parametrize("mode", ["rlm", "direct", "retrieve"])
def test_an_answer(run: Callable, mode: str) -> None:
    found = check_output("ask", run("ask", "--mode", mode, "--json", "what is the port?", "docs").out)
    assert found["schema_version"] == 1
    assert found["evidence"]


def test_several_outputs_and_an_answer_of_a_conversation(run: Callable) -> None:
    check_output("ask", run("ask", "--out", "port: str, host: str", "--json", "what is the port?", "docs").out)
    check_output("ask", run("chat", "docs", "--json", stdin=b"what is the port?\n").out)


def test_a_batch(run: Callable, write: Callable) -> None:
    write("q.jsonl", '"what is the port?"\n')
    assert check_output("batch", run("batch", "q.jsonl", "docs", "--out", "a.jsonl", "--json").out)["answered"] == 1


def test_a_listing(run: Callable) -> None:
    assert check_output("ls", run("ls", "docs", "--json").out)["totals"]["skipped"] == 1


def test_the_runs(run: Callable) -> None:
    assert check_output("runs", run("runs", "--json").out) == []
    run("ask", "--mode", "rlm", "what is the port?", "docs")
    assert len(check_output("runs", run("runs", "--json").out)) == 1
    run("runs", "mark", "last", "right")
    assert check_output("runs", run("runs", "--json").out)[0]["mark"] == "right"


def test_a_wrong_object_does_not_pass(run: Callable) -> None:
    found = json.loads(run("ls", "docs", "--json").out)
    for changed in ({**found, "schema_version": 2}, {**found, "more": 1}, {"files": []}):
        with pytest.raises(jsonschema.ValidationError):
            check_output("ls", json.dumps(changed))
