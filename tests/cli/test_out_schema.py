"""``--out FILE.json``: the outputs of a question as a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import pytest
from pydantic import BaseModel

from rlm_dspy.cli import model_choice, out_option
from rlm_dspy.testing import fields, scripted

SCHEMA = {
    "type": "object",
    "required": ["server"],
    "properties": {
        "server": {
            "type": "object",
            "required": ["port"],
            "properties": {"port": {"type": "integer"}, "names": {"type": "array", "items": {"type": "string"}}},
        },
        "level": {"$ref": "#/$defs/Level", "description": "how grave it is"},
        "note": {"type": ["integer", "null"]},
    },
    "$defs": {"Level": {"enum": ["low", "high"]}},
}
ANSWER = {"server": {"port": 8080, "names": ["a"]}, "level": "high", "note": None}


@pytest.fixture
def speak(home: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the command choose a scripted model."""

    def answer_with(*replies: str) -> None:
        lm, _ = scripted(*replies)
        monkeypatch.setattr(model_choice, "choose", lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None))

    return answer_with


def test_properties_are_the_outputs_and_objects_are_models() -> None:
    made = out_option.ask_signature(json.dumps(SCHEMA)).output_fields
    assert list(made) == ["server", "level", "note", "evidence"]
    assert issubclass(made["server"].annotation, BaseModel)
    assert made["server"].annotation(port=1).names is None
    assert made["level"].json_schema_extra["desc"] == "how grave it is"
    assert made["note"].annotation == int | None


def test_an_answer_has_the_form_of_the_schema(run: Callable, write: Callable, speak: Callable) -> None:
    write("docs/a.md", "The port is 8080.\n")
    write("form.json", json.dumps(SCHEMA))
    reply = {name: json.dumps(value) for name, value in ANSWER.items() if name != "level"}
    speak(fields(**reply, level="high", evidence="[]"))
    result = run("ask", "which port?", "docs", "--out", "form.json", "--json")
    assert json.loads(result.out)["outputs"] == ANSWER
    speak(fields(**reply, level="high", evidence="[]"))
    assert "8080" in run("ask", "which port?", "docs", "--out", "form.json").out


def test_a_batch_takes_one_too(run: Callable, write: Callable, home: Any) -> None:
    write("docs/a.md", "The port is 8080.\n")
    write("q.jsonl", '"what is the port?"\n')
    write("form.json", '{"properties": {"port": {"type": "string"}}}')
    assert run("batch", "q.jsonl", "docs", "--out", "a.jsonl", "--fields", "form.json").code == 0
    assert "8080" in json.loads((home / "a.jsonl").read_text())["outputs"]["port"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "is not a JSON schema"),
        ("{", "the schema is not JSON"),
        ("{}", "names no output"),
        ('{"type": "array", "properties": {"a": {}}}', "names no output"),
        ('{"properties": {"a": 3}}', "is not an object"),
        ('{"properties": {"two words": {}}}', "not a Python name"),
        ('{"properties": {"class": {}}}', "not a Python name"),
        ('{"properties": {"evidence": {}}}', "always included"),
        ('{"properties": {"a": {"type": "money"}}}', "has the type 'money'"),
        ('{"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}', "refers to itself"),
    ],
)
def test_what_is_no_schema_is_a_usage_error(run: Callable, write: Callable, text: str, says: str) -> None:
    write("a.md", "text")
    write("form.json", text)
    result = run("ask", "what?", "a.md", "--out", "form.json")
    assert result.code == 2
    assert says in result.err


def test_a_missing_or_foreign_file_is_named(run: Callable, home: Any) -> None:
    assert "gone.json cannot be read: No such file" in run("ask", "what?", ".", "--out", "gone.json").err
    (home / "x.json").write_bytes(b"\xff")
    assert "it is not UTF-8" in run("ask", "what?", ".", "--out", "x.json").err
    (home / "x.json").write_bytes(b" " * 1_000_001)
    with pytest.raises(click.UsageError, match="larger than"):
        out_option.read_out("x.json")
