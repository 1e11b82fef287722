"""``--out``: the outputs of a question as a DSPy signature fragment."""

from __future__ import annotations

import ast
import keyword
from typing import Any

import click

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


def output_names(out: str) -> list[str]:
    """Return the output names of a fragment, without importing DSPy.

    Raises:
        click.UsageError: the fragment is malformed, or a name cannot be used.
    """
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
    found = [argument.arg for argument in plain.args]
    if not found:
        raise click.UsageError(f"--out names no output. {FORM}")
    for name in found:
        if found.count(name) > 1:
            raise click.UsageError(f"--out names {name!r} twice. Give each output its own name.")
        _check_name(name)
    return found


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
    """Return the signature of ``ask``: context and question in, the fragment's outputs and evidence out.

    Raises:
        click.UsageError: a type in the fragment is unknown.
    """
    import dspy
    from dspy.signatures.signature import make_signature

    from rlm_dspy.corpus import Corpus
    from rlm_dspy.evidence import Evidence

    output_names(out)
    try:
        wanted = make_signature(f"question -> {out}").output_fields
    except (ValueError, TypeError, AttributeError, SyntaxError) as error:
        name = str(error).removeprefix("Unknown name: ")
        reason = "it contains an unusable type" if name == str(error) else f"unknown type {name}"
        raise click.UsageError(f"--out {out!r}: {reason}. {FORM}") from error
    fields: dict[str, Any] = {
        "context": (Corpus, dspy.InputField(desc="the files to answer from")),
        "question": (str, dspy.InputField()),
    }
    for name, field in wanted.items():
        fields[name] = (field.annotation, dspy.OutputField(desc=_field_description(name, len(wanted))))
    fields[EVIDENCE] = (
        list[Evidence],
        dspy.OutputField(desc="short passages copied word for word from the context that prove the answer"),
    )
    return make_signature(fields, INSTRUCTIONS, "Ask")


INSTRUCTIONS = (
    "Answer the question from the context alone. Back the answer with quotes copied exactly from the context. "
    "If the context does not hold the answer, say that it was not found and give no evidence."
)


def _field_description(name: str, count: int) -> str:
    return "the answer to the question, complete and to the point" if count == 1 or name == "answer" else name
