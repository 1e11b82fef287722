"""Signatures that a model wrote, read without trusting them: only plain types and classes that its code declared.

DSPy's own reader imports any module that such a text names, which is not for text from a sandbox.
"""

from __future__ import annotations

import ast
import datetime
import json
import keyword
import re
import typing
from collections.abc import Mapping
from typing import Any

import dspy
import pydantic

from rlm_dspy.errors import ConfigurationError

SAFE_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, list, dict, tuple, set)},
    **{kind.__name__: kind for kind in (datetime.date, datetime.datetime)},
    "Literal": typing.Literal,
    "Optional": typing.Optional,
    "Union": typing.Union,
    "Any": Any,
    "List": list,
    "Dict": dict,
    "Tuple": tuple,
    "Set": set,
}
MAX_SHAPES = 50
# ``dspy.Predict`` takes these out of its keywords, where they choose the server, the model and how often it is asked.
TAKEN = frozenset({"config", "demos", "lm", "new_signature", "prediction", "signature", "self", "instance"})


def untrusted(text: str, shapes: Mapping[str, Any]) -> type[dspy.Signature]:
    """Read a signature that a model wrote, with the shapes of classes that its code declared.

    Raises:
        ConfigurationError: it is malformed, or names a type that is neither plain nor declared.
    """
    try:
        return _read(text, shapes)
    except ConfigurationError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, NameError, SyntaxError, RecursionError) as error:
        raise ConfigurationError(f"the signature {str(text)[:80]!r} cannot be read: {error}") from None
    except (pydantic.PydanticUserError, AssertionError) as error:  # a type that means nothing: ``Literal``, ``list[5]``
        raise ConfigurationError(f"the signature {str(text)[:80]!r} cannot be read: {error}") from None


def _read(text: str, shapes: Mapping[str, Any]) -> type[dspy.Signature]:
    kinds = dict(SAFE_TYPES)
    for name in shapes:
        if len(shapes) > MAX_SHAPES or not str(name).isidentifier() or name in SAFE_TYPES:
            raise ConfigurationError(f"the class {str(name)[:80]!r} cannot be used as a type here; rename it")
        _declare(str(name), shapes, kinds, ())
    if not isinstance(text, str) or text.count("->") != 1:
        raise ConfigurationError(f"a signature reads 'doc, question -> label: str', not {str(text)[:80]!r}")
    fields: dict[str, Any] = {}
    for side, make in zip(text.split("->"), (dspy.InputField, dspy.OutputField), strict=True):
        for name, annotation in _fields(side):
            if name in fields or not re.fullmatch(r"[A-Za-z]\w*", name) or keyword.iskeyword(name):
                raise ConfigurationError(f"the field name {name[:80]!r} cannot be used, or is used twice")
            if name in TAKEN:
                raise ConfigurationError(f"the field name {name!r} is taken; choose another, such as '{name}_text'")
            fields[name] = (_kind(annotation, kinds) if annotation is not None else str, make())
    built: type[dspy.Signature] = dspy.Signature(fields)
    if not built.input_fields or not built.output_fields:
        raise ConfigurationError(f"a signature needs inputs and outputs: 'doc -> label: str', not {text[:80]!r}")
    if "CUSTOM-TYPE-" in json.dumps(built.model_json_schema(), ensure_ascii=False):
        raise ConfigurationError("a signature cannot hold the markers of DSPy's content parts")
    return built


def _fields(side: str) -> list[tuple[str, ast.expr | None]]:
    try:
        function = ast.parse(f"def f({side}): pass").body[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigurationError(f"the fields {side.strip()[:80]!r} cannot be read: {error}") from None
    if not isinstance(function, ast.FunctionDef):
        raise ConfigurationError(f"the fields {side.strip()[:80]!r} cannot be read")
    return [(argument.arg, argument.annotation) for argument in function.args.args]


def _declare(name: str, shapes: Mapping[str, Any], kinds: dict[str, Any], above: tuple[str, ...]) -> Any:
    """Build the model of a declared class, and of those that it names, into ``kinds``."""
    if name in kinds:
        return kinds[name]
    shape = shapes[name]
    if name in above:
        raise ConfigurationError(f"the class {name[:80]!r} contains itself; use a flat shape")
    if "values" in shape:
        kinds[name] = typing.Literal[tuple(shape["values"])]
        return kinds[name]
    fields: dict[str, Any] = {}
    for field, hint in shape["fields"].items():
        if not re.fullmatch(r"[A-Za-z]\w*", field):
            raise ConfigurationError(f"the field name {field[:80]!r} of {name[:80]!r} cannot be used")
        tree = ast.parse(str(hint), mode="eval").body
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in shapes:
                _declare(node.id, shapes, kinds, (*above, name))
        optional = field in shape.get("optional", ())
        kind = _kind(tree, kinds)
        fields[field] = (kind | None, None) if optional else (kind, ...)
    kinds[name] = pydantic.create_model(name, __doc__=shape.get("doc") or None, **fields)
    return kinds[name]


def _kind(node: ast.expr, kinds: Mapping[str, Any]) -> Any:
    """Return the type that an annotation means, of the known ones only."""
    if isinstance(node, ast.Constant):
        return _kind(ast.parse(node.value, mode="eval").body, kinds) if isinstance(node.value, str) else node.value
    if isinstance(node, ast.Name) and node.id in kinds:
        return kinds[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_kind(node.left, kinds), _kind(node.right, kinds)]  # noqa: UP007  made at run time
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in kinds:
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            if not all(isinstance(item, ast.Constant) for item in items):
                raise ConfigurationError("Literal takes plain values: Literal['a', 'b']")
            return typing.Literal[tuple(item.value for item in items if isinstance(item, ast.Constant))]
        return kinds[node.value.id][tuple(_kind(item, kinds) for item in items)]
    raise ConfigurationError(
        f"the type {ast.unparse(node)[:80]!r} is not known here: use {', '.join(SAFE_TYPES)}, or a class with typed "
        "fields that your code declares"
    )
