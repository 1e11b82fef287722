"""Read and check signatures, inputs, tools and budgets.

A signature from a model is parsed without trusting it: only plain types and classes that its code declared. DSPy's own
parser imports any module that a signature names, which is unsafe for text from a sandbox.
"""

from __future__ import annotations

import ast
import datetime
import json
import keyword
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import dspy
import pydantic
from dspy.primitives.facade import is_reserved_sandbox_name

from rlm_dspy.budget import Budget
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence import Evidence as OwnEvidence  # DSPy also searches our frames for a user's `Evidence`

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
MAX_SHAPES = 50  # classes that a signature from a model may use
MAX_SIGNATURE_CHARS = 50_000  # of a signature from a model, with the classes that it names
MAX_FIELDS = 200  # of such a signature, and of all its classes: building a type takes a millisecond for each
# ``dspy.Predict`` reads these keywords to choose the server, the model and the number of completions.
TAKEN = frozenset({"config", "demos", "lm", "new_signature", "prediction", "signature", "self", "instance"})


def parse_untrusted_signature(text: str, shapes: Mapping[str, Any]) -> type[dspy.Signature]:
    """Parse a signature written by a model, with the shapes of the classes its code declared.

    Raises:
        ConfigurationError: it is malformed, or names a type that is neither plain nor declared.
    """
    try:
        return _parse_untrusted(text, shapes)
    except ConfigurationError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, NameError, SyntaxError, RecursionError) as error:
        raise ConfigurationError(f"the signature {str(text)[:80]!r} cannot be read: {error}") from None
    except (pydantic.PydanticUserError, AssertionError) as error:  # a meaningless type: ``Literal``, ``list[5]``
        raise ConfigurationError(f"the signature {str(text)[:80]!r} cannot be read: {error}") from None


def _parse_untrusted(text: str, shapes: Mapping[str, Any]) -> type[dspy.Signature]:
    _check_size(text, shapes)
    kinds = dict(SAFE_TYPES)
    for name in shapes:
        if len(shapes) > MAX_SHAPES or not str(name).isidentifier() or name in SAFE_TYPES:
            raise ConfigurationError(f"the class {str(name)[:80]!r} cannot be used as a type here; rename it")
        _declare_class(str(name), shapes, kinds, ())
    if not isinstance(text, str) or text.count("->") != 1:
        raise ConfigurationError(f"a signature reads 'doc, question -> label: str', not {str(text)[:80]!r}")
    fields: dict[str, Any] = {}
    for side, make in zip(text.split("->"), (dspy.InputField, dspy.OutputField), strict=True):
        for name, annotation in _parse_fields(side):
            if name in fields or not re.fullmatch(r"[A-Za-z]\w*", name) or keyword.iskeyword(name):
                raise ConfigurationError(f"the field name {name[:80]!r} cannot be used, or is used twice")
            if name in TAKEN:
                raise ConfigurationError(f"the field name {name!r} is taken; choose another, such as '{name}_text'")
            fields[name] = (_annotation_type(annotation, kinds) if annotation is not None else str, make())
    built: type[dspy.Signature] = dspy.Signature(fields)
    if not built.input_fields or not built.output_fields:
        raise ConfigurationError(f"a signature needs inputs and outputs: 'doc -> label: str', not {text[:80]!r}")
    if "CUSTOM-TYPE-" in json.dumps(built.model_json_schema(), ensure_ascii=False):
        raise ConfigurationError("a signature cannot hold the markers of DSPy's content parts")
    return built


def _check_size(text: str, shapes: Mapping[str, Any]) -> None:
    """Refuse what would keep the host busy for long.

    Raises:
        ConfigurationError: the signature or its classes are too long, or have too many fields.
    """
    chars = len(text) + len(json.dumps(shapes, ensure_ascii=False))
    if chars > MAX_SIGNATURE_CHARS:
        raise ConfigurationError(
            f"the signature has {chars:,} characters, with its classes; the limit is {MAX_SIGNATURE_CHARS:,}"
        )
    declared = sum(len(shape.get("fields", ())) for shape in shapes.values())
    if text.count(",") + declared > MAX_FIELDS:
        raise ConfigurationError(
            f"the signature has more than {MAX_FIELDS} fields, with those of its classes; give the values as one list"
        )


def _parse_fields(side: str) -> list[tuple[str, ast.expr | None]]:
    try:
        function = ast.parse(f"def f({side}): pass").body[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigurationError(f"the fields {side.strip()[:80]!r} cannot be read: {error}") from None
    if not isinstance(function, ast.FunctionDef):
        raise ConfigurationError(f"the fields {side.strip()[:80]!r} cannot be read")
    return [(argument.arg, argument.annotation) for argument in function.args.args]


def _declare_class(name: str, shapes: Mapping[str, Any], kinds: dict[str, Any], above: tuple[str, ...]) -> Any:
    """Build the models of a declared class and the classes it refers to, and add them to ``kinds``."""
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
                _declare_class(node.id, shapes, kinds, (*above, name))
        optional = field in shape.get("optional", ())
        kind = _annotation_type(tree, kinds)
        fields[field] = (kind | None, None) if optional else (kind, ...)
    kinds[name] = pydantic.create_model(name, __doc__=shape.get("doc") or None, **fields)
    return kinds[name]


def _annotation_type(node: ast.expr, kinds: Mapping[str, Any]) -> Any:
    """Return the type of an annotation, from the known types only."""
    node = _without_module(node)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return _annotation_type(ast.parse(node.value, mode="eval").body, kinds)
        return node.value
    if isinstance(node, ast.Name) and node.id in kinds:
        return kinds[node.id]
    if ast.unparse(node) == "dspy.Image":
        return dspy.Image
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[_annotation_type(node.left, kinds), _annotation_type(node.right, kinds)]  # noqa: UP007  made at run time
    if isinstance(node, ast.Subscript):
        base = _without_module(node.value)
    else:
        base = None
    if isinstance(node, ast.Subscript) and isinstance(base, ast.Name) and base.id in kinds:
        return _subscripted_type(base.id, node.slice, kinds)
    raise ConfigurationError(
        f"the type {ast.unparse(node)[:80]!r} is not known here: use {', '.join(SAFE_TYPES)}, or a class with typed "
        "fields that your code declares"
    )


def _subscripted_type(name: str, index: ast.expr, kinds: Mapping[str, Any]) -> Any:
    """Return the type ``name[index]``, such as ``list[str]``."""
    if isinstance(index, ast.Tuple):
        items = index.elts
    else:
        items = [index]
    if name == "Literal":
        if not all(isinstance(item, ast.Constant) for item in items):
            raise ConfigurationError("Literal takes plain values: Literal['a', 'b']")
        return typing.Literal[tuple(item.value for item in items if isinstance(item, ast.Constant))]
    parts = tuple(_annotation_type(item, kinds) for item in items)
    return kinds[name][parts if len(parts) > 1 else parts[0]]


def _without_module(node: ast.expr) -> ast.expr:
    """Return ``Optional`` for ``typing.Optional``, ``date`` for ``datetime.date``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("typing", "datetime"):
        return ast.Name(node.attr)
    return node


RESERVED = frozenset({"llm_query", "llm_query_batched", "SUBMIT", "print"})  # as DSPy reserves them
RESULTS = frozenset({"trajectory", "final_reasoning"})


def output_field(name: str, field: Any, *, finds_quotes: bool = False) -> dict[str, Any]:
    """Describe an output for the REPL's SUBMIT; it is ``optional`` if it has a default.

    Args:
        finds_quotes: the host finds quotes where the model gives none, so that a list of evidence is optional too.
    """
    described: dict[str, Any] = {"name": name}
    if field.annotation in (str, int, float, bool, list, dict):
        described["type"] = field.annotation.__name__
    if not field.is_required() or (finds_quotes and field.annotation == list[OwnEvidence]):
        described["optional"] = True
    return described


def make_budget(**limits: Any) -> Budget:
    """Validate the limits of a run."""
    try:
        return Budget(**limits)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"{name}: {first['msg']} (got {first['input']!r})") from None


def check_budget(budget: Any) -> Budget:
    """Return the budget; None gives the default one, which limits neither money nor time.

    Raises:
        ConfigurationError: it is not a budget.
    """
    if not isinstance(budget, Budget | None):
        raise ConfigurationError(f"budget must be an rlm_dspy.Budget, not {type(budget).__name__}")
    return budget or Budget()


def read_signature(signature: type[dspy.Signature] | str) -> type[dspy.Signature]:
    """Return the signature, which must have outputs.

    Raises:
        ConfigurationError: the signature cannot be parsed or has no outputs.
    """
    read: Any = signature
    if isinstance(signature, str):
        text = signature.replace("rlm_dspy.Evidence", "Evidence")
        try:
            read = _signature_of(text)
        except (ValueError, SyntaxError, TypeError) as error:
            reason, advice = _signature_problem(error)
            raise ConfigurationError(f"the signature {text!r} cannot be read: {reason}. {advice}") from error
    elif not (isinstance(signature, type) and issubclass(signature, dspy.Signature)):
        raise ConfigurationError(f"a signature is a string or a dspy.Signature class, not {signature!r}")
    if not read.output_fields:
        raise ConfigurationError("the signature has no outputs; write it as 'context, question -> answer'")
    checked: type[dspy.Signature] = read
    return checked


def _signature_problem(error: Exception) -> tuple[str, str]:
    """Return what is wrong with a signature in a string, and what to write instead."""
    reason = str(error).rstrip(".")
    if unknown := re.search(r"Unknown name: (\w+)", reason):
        name = unknown[1]
        return f"the type {name} is not known here", (
            f"Pass a class instead, written where {name} is in scope: class Task(dspy.Signature), with a line such as "
            f"`items: list[{name}] = dspy.OutputField()` for each field."
        )
    if isinstance(error, SyntaxError):
        reason = error.msg
    return reason, "Write it as 'context, question -> answer, items: list[str]': each field is a name, or name: type."


def _signature_of(text: str) -> Any:
    """Parse a signature text; the caller's own class takes precedence over ours of the same name."""
    if "Evidence" not in text:
        return dspy.Signature(text)
    try:
        return dspy.Signature(text)
    except (ValueError, SyntaxError, TypeError):
        return dspy.Signature(text, custom_types={"Evidence": OwnEvidence})


def named_tools(tools: list[Callable[..., Any]] | None) -> dict[str, dspy.Tool]:
    """Return the tools by name.

    Raises:
        TypeError: ``tools`` is not a list of callables.
        ConfigurationError: two tools have the same name.
    """
    if isinstance(tools, dict):
        raise TypeError(
            "tools must be a list, not a dict. Change tools={'name': func} to tools=[func] "
            "(names come from the functions, or use dspy.Tool(func, name='custom_name'))"
        )
    named: dict[str, dspy.Tool] = {}
    for value in tools or []:
        if not isinstance(value, dspy.Tool) and not callable(value):
            raise TypeError(f"Tool {value!r} must be callable, got {type(value).__name__}")
        tool = value if isinstance(value, dspy.Tool) else dspy.Tool(value)
        if tool.name in named:
            raise ConfigurationError(f"Duplicate tool name '{tool.name}'")
        named[tool.name] = tool
    return named


def is_reserved(name: str) -> bool:
    """Return whether the REPL reserves a name; every other name there can be overridden by the user's."""
    return name in RESERVED or name.startswith("__rlm_") or is_reserved_sandbox_name(name)


def validate_names(signature: type[dspy.Signature], tools: dict[str, dspy.Tool]) -> None:
    """Refuse names that the REPL or the prediction reserves.

    Raises:
        ConfigurationError: a name is not an identifier, is reserved, or is used twice.
    """
    for name in tools:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigurationError(f"Invalid tool name '{name}': must be a valid Python identifier and not a keyword")
        if is_reserved(name):
            raise ConfigurationError(f"Tool name '{name}' conflicts with built-in sandbox function")
    inputs = set(signature.input_fields)
    if "interpreter_factory" in inputs:
        raise ConfigurationError("'interpreter_factory' is reserved for RLM runtime configuration; rename the input.")
    if taken := sorted(filter(is_reserved, inputs)):
        raise ConfigurationError(f"Input fields conflict with built-in sandbox functions: {taken}")
    if taken := sorted(inputs & tools.keys()):
        raise ConfigurationError(f"Input fields conflict with user tools: {taken}")
    if len(histories := [name for name, field in signature.input_fields.items() if _is_history(field.annotation)]) > 1:
        raise ConfigurationError(f"a signature has at most one dspy.History; it has {histories}")
    if taken := sorted(set(signature.output_fields) & RESULTS):
        raise ConfigurationError(f"Output fields conflict with RLM result metadata: {taken}")


def signature_facts(signature: type[dspy.Signature]) -> list[Any]:
    """Return what identifies a signature, as JSON values, including the fields of the classes it uses."""
    fields = []
    for name, field in signature.fields.items():
        try:
            kind: Any = pydantic.TypeAdapter(field.annotation).json_schema()
        except (pydantic.PydanticUserError, NameError):
            kind = str(field.annotation)
        description = (field.json_schema_extra or {}).get("desc")
        fields.append([name, kind, description, [str(limit) for limit in field.metadata]])
    return [signature.instructions, fields]


def history_field(signature: type[dspy.Signature]) -> str | None:
    """Return the name of the input that holds the earlier turns of a conversation, or None."""
    return next((name for name, field in signature.input_fields.items() if _is_history(field.annotation)), None)


def _is_history(annotation: Any) -> bool:
    """Return whether a type is ``dspy.History``, or that or None."""
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    return annotation is dspy.History or parts == [dspy.History]


def validate_inputs(signature: type[dspy.Signature], inputs: dict[str, Any]) -> None:
    """Refuse unexpected or missing inputs; a missing history begins a new conversation.

    Raises:
        ConfigurationError: some are missing or unexpected.
    """
    names = set(signature.input_fields)
    if unexpected := set(inputs) - names:
        own = ", ".join(signature.input_fields)
        raise ConfigurationError(
            f"Unexpected inputs not declared in the signature: {sorted(unexpected)}. Its inputs are {own}; "
            "limits and other options are arguments of RLM(...)."
        )
    if missing := names - set(inputs) - {history_field(signature)}:
        raise ConfigurationError(f"Missing required inputs: {sorted(missing)}")
