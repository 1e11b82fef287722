"""Checks of what ``--json`` prints against docs/schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = Path(__file__).parents[1] / "docs" / "schemas"


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
