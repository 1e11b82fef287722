"""What an RLM may be given: signatures, names, tools, limits and inputs, each refused with one clear line."""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import Any

import dspy
import pydantic
from dspy.primitives.facade import is_reserved_sandbox_name

from rlm_dspy.budget import Budget
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.evidence import Evidence as OwnEvidence  # DSPy looks for a user's `Evidence` in our frames too

RESERVED = frozenset({"llm_query", "llm_query_batched", "SUBMIT", "print"})  # as DSPy reserves them
RESULTS = frozenset({"trajectory", "final_reasoning"})


def output_field(name: str, field: Any) -> dict[str, Any]:
    """Describe an output for the REPL's SUBMIT."""
    simple = (str, int, float, bool, list, dict)
    return {"name": name, "type": field.annotation.__name__} if field.annotation in simple else {"name": name}


def limits(**given: Any) -> Budget:
    """Validate the limits of a run."""
    try:
        return Budget(**given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigurationError(f"{name}: {first['msg']} (got {first['input']!r})") from None


def read_signature(signature: type[dspy.Signature] | str) -> type[dspy.Signature]:
    """Return the signature, which must have outputs.

    Raises:
        ConfigurationError: it cannot be parsed or has no outputs.
    """
    read: Any = signature
    if isinstance(signature, str):
        text = signature.replace("rlm_dspy.Evidence", "Evidence")
        try:
            read = _signature_of(text)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ConfigurationError(f"the signature {text!r} cannot be read: {error}") from error
    elif not (isinstance(signature, type) and issubclass(signature, dspy.Signature)):
        raise ConfigurationError(f"a signature is a string or a dspy.Signature class, not {signature!r}")
    if not read.output_fields:
        raise ConfigurationError("the signature has no outputs; write it as 'context, question -> answer'")
    checked: type[dspy.Signature] = read
    return checked


def _signature_of(text: str) -> Any:
    """Return the signature that a text means; a class of the caller's own stands before ours of the same name."""
    if "Evidence" not in text:
        return dspy.Signature(text)
    try:
        return dspy.Signature(text)
    except (ValueError, SyntaxError, TypeError):
        return dspy.Signature(text, custom_types={"Evidence": OwnEvidence})


def named_tools(tools: list[Callable[..., Any]] | None) -> dict[str, dspy.Tool]:
    """Return the tools by name.

    Raises:
        TypeError: not a list of callables.
        ConfigurationError: two have one name.
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
    """Return whether the REPL needs a name for itself; the user's own stands before every other name there."""
    return name in RESERVED or name.startswith("__rlm_") or is_reserved_sandbox_name(name)


def validate_names(signature: type[dspy.Signature], tools: dict[str, dspy.Tool]) -> None:
    """Refuse names that the REPL or the prediction needs for itself.

    Raises:
        ConfigurationError: a name is not an identifier, reserved, or used twice.
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
    if taken := sorted(set(signature.output_fields) & RESULTS):
        raise ConfigurationError(f"Output fields conflict with RLM result metadata: {taken}")


def validate_inputs(signature: type[dspy.Signature], inputs: dict[str, Any]) -> None:
    """Refuse inputs that the signature does not have, or lacks.

    Raises:
        ConfigurationError: some are missing or unexpected.
    """
    names = set(signature.input_fields)
    if unexpected := set(inputs) - names:
        raise ConfigurationError(f"Unexpected inputs not declared in the signature: {sorted(unexpected)}")
    if missing := names - set(inputs):
        raise ConfigurationError(f"Missing required inputs: {sorted(missing)}")

