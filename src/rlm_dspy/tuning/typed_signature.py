"""Signatures as JSON: names, descriptions and instructions, and each type as a JSON schema.

A pydantic model becomes its schema, and a schema becomes a pydantic model again, with its fields, their defaults and
descriptions. Only data is read: no class is imported by its name, and validators in code do not travel.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from uuid import UUID

import dspy
import pydantic
import pydantic_core
from pydantic import BaseModel, ConfigDict, Field

from rlm_dspy.context import Context
from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence import Evidence

logger = logging.getLogger(__name__)

# Types that a JSON schema cannot express, by the name that stands for them.
NAMED_TYPES: dict[str, Any] = {
    "any": Any,
    "context": Context,
    "corpus": Corpus,
    "evidence": list[Evidence],
    "history": dspy.History,
    "image": dspy.Image,
}
PLAIN_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}
MAX_DEPTH = 20  # of a schema in a schema
# What limits a value, and pydantic's name for it.
CONSTRAINTS = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "pattern": "pattern",
}
# Keywords that limit a value in a way that no Python type expresses.
UNREADABLE = {
    "not", "allOf", "if", "then", "else", "patternProperties", "propertyNames", "contains", "minProperties",
    "maxProperties", "dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems",
}  # fmt: skip
FORMATS: dict[str, Any] = {
    "binary": bytes,
    "date": datetime.date,
    "date-time": datetime.datetime,
    "duration": datetime.timedelta,
    "path": Path,
    "time": datetime.time,
    "uri": pydantic.AnyUrl,
    "uuid": UUID,
}
# By the JSON type of a field: its default factory, which a schema does not contain.
EMPTY_VALUES: dict[str, Any] = {"array": list, "object": dict}


class FieldSchema(BaseModel):
    """A field of a signature; ``named`` is one of ``NAMED_TYPES``, else ``json_schema`` is its type with its limits."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    named: str | None = None
    json_schema: dict[str, Any] | None = None

    @property
    def annotation(self) -> Any:
        """The type of the field.

        Raises:
            ConfigurationError: the schema uses what cannot be read back.
        """
        if self.named is not None:
            if self.named not in NAMED_TYPES:
                raise ConfigurationError(f"the field {self.name} has the unknown type {self.named!r}")
            return NAMED_TYPES[self.named]
        whole = self.json_schema or {}
        return SchemaReader(whole, is_pydantics=True).type_of(whole, self.name)


class SerializableSignature(BaseModel):
    """A signature that can be saved as JSON.

    Example:
        >>> saved = SerializableSignature.of(signature).model_dump_json()
        >>> signature = SerializableSignature.model_validate_json(saved).signature()
    """

    model_config = ConfigDict(extra="forbid")

    instructions: str
    inputs: list[FieldSchema]
    outputs: list[FieldSchema]

    @classmethod
    def of(cls, signature: type[dspy.Signature]) -> SerializableSignature:
        """Describe a signature.

        Raises:
            ConfigurationError: a type has no JSON schema.
        """
        inputs = [_field_schema(name, field) for name, field in signature.input_fields.items()]
        outputs = [_field_schema(name, field) for name, field in signature.output_fields.items()]
        return cls(instructions=str(signature.instructions), inputs=inputs, outputs=outputs)

    def signature(self) -> type[dspy.Signature]:
        """Return the signature.

        Raises:
            ConfigurationError: a schema uses what cannot be read back.
        """
        fields: dict[str, Any] = {}
        for described in self.inputs:
            fields[described.name] = (described.annotation, dspy.InputField(desc=described.description))
        for described in self.outputs:
            limits = limits_of(described.json_schema or {})  # which a prompt names
            limited = dspy.OutputField(desc=described.description, **limits)
            fields[described.name] = (described.annotation, limited)
        restored: type[dspy.Signature] = dspy.Signature(fields, self.instructions)
        return restored


def _field_schema(name: str, field: Any) -> FieldSchema:
    description = str((field.json_schema_extra or {}).get("desc") or "")
    for named, kind in NAMED_TYPES.items():
        if field.annotation == kind:
            return FieldSchema(name=name, description=description, named=named)
    try:
        whole: Any = field.annotation
        if field.metadata:
            whole = Annotated[(whole, *field.metadata)]
        schema = pydantic.TypeAdapter(whole).json_schema()
    except pydantic.PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"the type of the field {name} has no JSON schema: {reason}") from error
    if _has_odd_keys(field.annotation):
        logger.warning("a JSON schema has only text keys, so those in %s become texts in the saved signature", name)
    return FieldSchema(name=name, description=description, json_schema=schema)


def _has_odd_keys(kind: Any) -> bool:
    """Return whether a type has dicts whose keys are not texts, as far as its type arguments say."""
    parts = get_args(kind)
    if get_origin(kind) is dict and parts[0] not in (str, Any) and get_origin(parts[0]) is not Literal:
        return True
    return any(_has_odd_keys(part) for part in parts)


def limits_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits that a schema sets, by pydantic's names."""
    return {CONSTRAINTS[key]: schema[key] for key in CONSTRAINTS if key in schema}


class SchemaReader:
    """Makes types of JSON schemas; those of ``$defs`` are made once."""

    def __init__(self, whole: Mapping[str, Any], *, is_pydantics: bool = False) -> None:
        self._has_factories = is_pydantics  # a list that may be left out is then empty, not None
        self._shared: Mapping[str, Any] = whole.get("$defs") or {}
        self._made: dict[str, Any] = {}
        self._open: set[str] = set()

    def type_of(self, schema: Mapping[str, Any], name: str, depth: int = 0) -> Any:
        """Return the type that a schema describes.

        Raises:
            ConfigurationError: the schema is not one that pydantic writes for a type of data.
        """
        if depth > MAX_DEPTH:
            raise ConfigurationError(f"the schema of {name} is nested too deeply")
        if unreadable := sorted(UNREADABLE & schema.keys()):
            raise ConfigurationError(f"the schema of {name} uses {', '.join(unreadable)}, which cannot be checked here")
        limits = limits_of(schema)
        kind = self._unlimited_type(schema, name, depth)
        if not limits or "$ref" in schema or "anyOf" in schema:
            return kind
        limited: Any = Annotated[kind, Field(**limits)]
        try:
            pydantic.TypeAdapter(limited)
        except (pydantic.PydanticUserError, pydantic_core.SchemaError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(f"the schema of {name} has a limit that cannot be checked: {reason}") from error
        return limited

    def _unlimited_type(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        if "$ref" in schema:
            return self._shared_type(str(schema["$ref"]), depth)
        if "const" in schema:
            return Literal[schema["const"]]
        if "enum" in schema:
            return Literal[tuple(schema["enum"])]
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return reduce(or_, [self.type_of(choice, name, depth + 1) for choice in choices])
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            return reduce(or_, [self.type_of({**schema, "type": choice}, name, depth + 1) for choice in kind])
        if kind == "array":
            return self._array_type(schema, name, depth)
        if kind == "object":
            return self._object_type(schema, name, depth)
        if kind is None and not set(schema) - {"title", "description", "default"}:
            return Any
        if kind not in PLAIN_TYPES:
            raise ConfigurationError(f"the schema of {name} has the type {kind!r}, which cannot be read back")
        written = schema.get("format")
        if kind == "string" and written is not None:
            if written not in FORMATS:
                raise ConfigurationError(
                    f"the schema of {name} has the format {written!r}, which cannot be checked here"
                )
            return FORMATS[written]
        return PLAIN_TYPES[str(kind)]

    def _shared_type(self, reference: str, depth: int) -> Any:
        name = reference.removeprefix("#/$defs/")
        if name in self._open:
            raise ConfigurationError(f"the schema {reference} refers to itself, so its type cannot be made")
        if name not in self._shared:
            raise ConfigurationError(f"the schema {reference} is not there, so its type cannot be made")
        if name not in self._made:
            self._open.add(name)
            self._made[name] = self.type_of(self._shared[name], name, depth + 1)
            self._open.discard(name)
        return self._made[name]

    def _array_type(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        if "prefixItems" in schema:
            items = tuple(self.type_of(one, name, depth + 1) for one in schema["prefixItems"])
            return tuple[items]  # type: ignore[valid-type]
        item = self.type_of(schema.get("items") or {}, name, depth + 1)
        return set[item] if schema.get("uniqueItems") else list[item]  # type: ignore[valid-type]

    def _object_type(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        properties = schema.get("properties")
        if not properties:
            value = schema.get("additionalProperties")
            if isinstance(value, Mapping):
                inner = self.type_of(value, name, depth + 1)
            else:
                inner = Any
            return dict[str, inner]  # type: ignore[valid-type]
        required = set(schema.get("required") or ())
        fields: dict[str, Any] = {}
        for key, part in properties.items():
            kind = self.type_of(part, key, depth + 1)
            facts = {"description": part.get("description"), "validate_default": True}
            if key in required:
                fields[key] = (kind, Field(**facts))
            elif "default" in part:
                fields[key] = (kind, Field(part["default"], **facts))
            elif self._has_factories and part.get("type") in EMPTY_VALUES:
                fields[key] = (kind, Field(default_factory=EMPTY_VALUES[part["type"]], **facts))
            else:
                fields[key] = (kind | None, Field(None, **facts))
        title = str(schema.get("title") or name)
        if schema.get("additionalProperties") is False:
            config = ConfigDict(extra="forbid")
        else:
            config = None
        return pydantic.create_model(title, __doc__=schema.get("description"), __config__=config, **fields)
