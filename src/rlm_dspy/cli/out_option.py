"""``--out``: the outputs of a question, as a DSPy signature fragment or the JSON schema of an object."""

from __future__ import annotations

import ast
import json
import keyword
import os
from pathlib import Path
from typing import Any

import click

from rlm_dspy.errors import ConfigurationError

INPUTS = ("context", "question")
EVIDENCE = "evidence"
# Names that the REPL and the prediction use; a test compares them with the RLM's own lists.
TAKEN = frozenset(
    {
        "llm_query",
        "llm_query_batched",
        "predict",
        "predict_batched",
        "subcall",
        "subcall_batched",
        "SUBMIT",
        "FINAL",
        "FINAL_VAR",
        "print",
        "P",
        "past_steps",
        "peek",
        "grep",
        "chunk",
        "select",
        "search",
        "trajectory",
        "final_reasoning",
        "run",
        "self",
        "base",
    }
)
FORM = "Write it like --out 'answer: str, items: list[str]'."


SCHEMA_FORM = (
    'It must be an object with properties, like {"type": "object", "properties": {"port": {"type": "integer"}}}.'
)
MAX_SCHEMA_BYTES = 1_000_000


def read_out(out: str) -> str:
    """Return the text of the schema if ``--out`` names a JSON file, else the fragment.

    Raises:
        click.UsageError: the file cannot be read.
    """
    if not out.endswith(".json"):
        return out
    path = Path(os.path.expanduser(out))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCHEMA_BYTES + 1)
        text = data.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError):
            reason = error.strerror
        else:
            reason = "it is not UTF-8"
        raise click.UsageError(f"--out {out} cannot be read: {reason}.") from error
    if len(data) > MAX_SCHEMA_BYTES:
        raise click.UsageError(f"--out {out} is larger than {MAX_SCHEMA_BYTES:,} bytes.")
    if not is_schema(text):
        raise click.UsageError(f"--out {out} is not a JSON schema. {SCHEMA_FORM}")
    return text


def is_schema(out: str) -> bool:
    """Return whether the outputs are given as a JSON schema."""
    return out.startswith("{")


def output_names(out: str) -> list[str]:
    """Return the output names, without importing DSPy.

    Raises:
        click.UsageError: the outputs are malformed, or a name cannot be used.
    """
    if is_schema(out):
        names = list(_parse_schema(out)["properties"])
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise click.UsageError(f"--out {name!r} cannot be the name of an output: it is not a Python name.")
            _check_name(name)
        return names
    return _fragment_names(out)


def _parse_schema(out: str) -> dict[str, Any]:
    """Return a schema with properties.

    Raises:
        click.UsageError: it is not JSON, or not an object with properties.
    """
    try:
        schema = json.loads(out)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--out: the schema is not JSON: {error}.") from error
    properties = schema.get("properties")
    if schema.get("type", "object") != "object" or not isinstance(properties, dict) or not properties:
        raise click.UsageError(f"--out: the schema names no output. {SCHEMA_FORM}")
    if not all(isinstance(one, dict) for one in properties.values()):
        raise click.UsageError(f"--out: a property of the schema is not an object. {SCHEMA_FORM}")
    return dict(schema)


def _fragment_names(out: str) -> list[str]:
    try:
        tree = ast.parse(f"def outputs({out}): pass")
    except (SyntaxError, ValueError) as error:
        raise click.UsageError(f"--out {out!r} cannot be parsed. {FORM}") from error
    function = tree.body[0]
    if len(tree.body) != 1 or not isinstance(function, ast.FunctionDef) or function.returns:
        raise click.UsageError(f"--out {out!r} cannot be parsed. {FORM}")
    plain = function.args
    if plain.vararg or plain.kwarg or plain.kwonlyargs or plain.posonlyargs or plain.defaults:
        raise click.UsageError(f"--out {out!r} may contain only names and types. {FORM}")
    names = [argument.arg for argument in plain.args]
    if not names:
        raise click.UsageError(f"--out names no output. {FORM}")
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(f"--out names {name!r} twice. Give each output its own name.")
        _check_name(name)
    return names


def _check_name(name: str) -> None:
    if name in INPUTS:
        raise click.UsageError(f"--out {name!r}: this is the name of an input. Choose another.")
    if name == EVIDENCE:
        raise click.UsageError("--out 'evidence': evidence is always included in the answer; omit it.")
    if name in TAKEN:
        raise click.UsageError(f"--out {name!r}: a tool or the result uses this name. Choose another.")
    if name.startswith("_") or keyword.issoftkeyword(name):
        raise click.UsageError(f"--out {name!r} cannot be the name of an output. Choose another.")


def ask_signature(out: str) -> Any:
    """Return the signature of ``ask``: context and question in, the outputs and evidence out.

    Raises:
        click.UsageError: a type is unknown.
    """
    import dspy
    from dspy.signatures.signature import make_signature

    from rlm_dspy.corpus import Corpus
    from rlm_dspy.evidence import Evidence

    names = output_names(out)
    fields: dict[str, Any] = {
        "context": (Corpus, dspy.InputField(desc="the files to answer from")),
        "question": (str, dspy.InputField()),
    }
    kinds = _schema_types(out) if is_schema(out) else _fragment_types(out)
    for name, (kind, description) in kinds.items():
        fields[name] = (kind, dspy.OutputField(desc=description or _field_description(name, len(names))))
    fields[EVIDENCE] = (
        list[Evidence],
        dspy.OutputField(desc="short passages copied word for word from the context that prove the answer"),
    )
    return make_signature(fields, INSTRUCTIONS, "Ask")


def _schema_types(out: str) -> dict[str, tuple[Any, str]]:
    """Return the type and the description of each property; one that is not required may be None.

    Raises:
        click.UsageError: the schema uses what cannot be an output.
    """
    from rlm_dspy.tuning.typed_signature import CONSTRAINTS, SchemaReader

    schema = _parse_schema(out)
    reader = SchemaReader(schema)
    required = schema.get("required") or schema["properties"]
    kinds = {}
    for name, one in schema["properties"].items():
        try:
            kind = reader.type_of(one, name)
        except (ConfigurationError, TypeError, ValueError, AttributeError) as error:  # a schema of another form
            raise click.UsageError(f"--out {name!r}: {error}.") from error
        if name not in required:
            kind = kind | None
        limits = ", ".join(f"{key} {one[key]}" for key in CONSTRAINTS if key in one)
        description = str(one.get("description") or "")
        kinds[name] = (kind, f"{description} ({limits})".strip() if limits else description)
    return kinds


def _fragment_types(out: str) -> dict[str, tuple[Any, str]]:
    """Return the type of each output of a fragment, without descriptions.

    Raises:
        click.UsageError: a type is unknown.
    """
    from dspy.signatures.signature import make_signature

    try:
        wanted = make_signature(f"question -> {out}").output_fields
    except (ValueError, TypeError, AttributeError, SyntaxError) as error:
        name = str(error).removeprefix("Unknown name: ")
        if name == str(error):
            reason = "it contains an unusable type"
        else:
            reason = f"unknown type {name}"
        raise click.UsageError(f"--out {out!r}: {reason}. {FORM}") from error
    return {name: (field.annotation, "") for name, field in wanted.items()}


INSTRUCTIONS = (
    "Answer the question from the context alone. Back the answer with quotes copied exactly from the context. "
    "If the context does not hold the answer, say that it was not found and give no evidence."
)


def _field_description(name: str, count: int) -> str:
    if count == 1 or name == "answer":
        return "the answer to the question, complete and to the point"
    return name
