"""What ``--json`` prints is what docs/schemas says, and nothing that it does not say."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from schemas import SCHEMAS, check_output, jsonschema


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
    assert check_output("runs", run("runs", "--json").out)["runs"] == []
    run("ask", "--mode", "rlm", "what is the port?", "docs")
    assert len(check_output("runs", run("runs", "--json").out)["runs"]) == 1
    run("runs", "mark", "last", "right")
    assert check_output("runs", run("runs", "--json").out)["runs"][0]["mark"] == "right"


def test_an_estimate(run: Callable) -> None:
    for mode in ("rlm", "direct"):
        found = check_output("estimate", run("ask", "--mode", mode, "--dry-run", "--json", "what?", "docs").out)
        assert found["files"] == 1


def test_the_models_the_settings_and_a_diagnosis(run: Callable) -> None:
    assert check_output("models", run("models", "--json").out)["default"]["model"] == "offline"
    assert check_output("config", run("config", "--json").out)["settings"]["model"]["value"] == "offline"
    assert check_output("doctor", run("doctor", "--json").out)["checks"]


def test_an_evaluation(run: Callable, write: Callable) -> None:
    row = {"question": "what is the port?", "answer": "8080", "context": "The port is 8080."}
    write("d.jsonl", json.dumps(row) + "\n")
    found = check_output("eval", run("eval", "d.jsonl", "--compare", "direct,retrieve", "--json").out)
    assert set(found["sides"]) == {"direct", "retrieve"}


def test_every_schema_says_its_version() -> None:
    for path in SCHEMAS.glob("*.json"):
        schema = json.loads(path.read_text())
        assert "schema_version" in schema["required"], path
        assert schema["$id"] == f"urn:rlm-dspy:{path.stem}"


def test_a_wrong_object_does_not_pass(run: Callable) -> None:
    found = json.loads(run("ls", "docs", "--json").out)
    for changed in ({**found, "schema_version": 2}, {**found, "more": 1}, {"files": []}):
        with pytest.raises(jsonschema.ValidationError):
            check_output("ls", json.dumps(changed))
