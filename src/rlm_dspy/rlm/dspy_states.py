"""Compatibility with the predictors of ``dspy.RLM``: convert saved states, and inputs for substituted predictors.

DSPy's RLM has the inputs ``variables_info`` and ``repl_history``, and its action also ``iteration``; the outputs are
the same.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import dspy
from dspy.predict.rlm import ACTION_INSTRUCTIONS_TEMPLATE
from dspy.primitives.repl_types import REPLHistory

from rlm_dspy.run import Step

PROTOCOL_MARK = "\n\n--- What follows is for dspy.RLM; rlm_dspy replaces it by its own ---\n"
VARIABLES, HISTORY, ITERATION = "variables_info", "repl_history", "iteration"
MAX_TEMPLATE_CHARS = 50_000  # of a state's instructions that are searched for DSPy's own text
# DSPy's untuned action instructions, for any inputs, outputs, limits, interpreter and tools.
_UNTUNED = re.compile(
    re.sub(r"\\{\w+\\}", ".*?", re.escape(ACTION_INSTRUCTIONS_TEMPLATE))
    + r"(?:\nAdditional tools available[^\n]*(?:\n- `[^\n]*)*)?",
    re.DOTALL,
)
DESCRIPTIONS = {
    VARIABLES: "Metadata about the variables available in the REPL",
    HISTORY: "Previous REPL code executions and their outputs",
    ITERATION: "Current iteration number (1-indexed) out of max_iters",
}


def is_action(signature: type[dspy.Signature]) -> bool:
    """Return whether a signature belongs to the action predictor."""
    return "code" in signature.output_fields and "observation" in signature.input_fields


def input_fields(signature: type[dspy.Signature]) -> list[dict[str, str]]:
    """Return the input fields of a saved state in the form of ``dspy.RLM``."""
    if is_action(signature):
        names = [VARIABLES, HISTORY, ITERATION]
    else:
        names = [VARIABLES, HISTORY]
    return [{"prefix": f"{name.replace('_', ' ').title()}:", "description": DESCRIPTIONS[name]} for name in names]


def with_protocol(signature: type[dspy.Signature], task: type[dspy.Signature], ours: str) -> str:
    """Return a predictor's instructions for a saved state, with the protocol that ``dspy.RLM`` reads from there.

    Args:
        signature: the predictor's signature.
        task: the RLM's signature.
        ours: our untuned instructions.
    """
    if not is_action(signature):
        return str(signature.instructions)
    theirs = str(_action_of_dspy(task).instructions)
    if signature.instructions == ours:
        return theirs
    own = f"{task.instructions}\n\n" if task.instructions else ""
    return f"{signature.instructions}{PROTOCOL_MARK}{theirs.removeprefix(own)}"


def without_protocol(instructions: str, task: type[dspy.Signature], ours: str) -> str:
    """Convert the instructions of a saved state: DSPy's own text becomes ours, whichever class saved them.

    Another task in front of that text is kept, as in DSPy.
    """
    tuned, _, _ = instructions.partition(PROTOCOL_MARK)
    untuned = _UNTUNED.search(tuned[:MAX_TEMPLATE_CHARS])
    if untuned is None:
        return tuned
    own = f"{task.instructions}\n\n" if task.instructions else ""
    return f"{tuned[: untuned.start()]}{ours.removeprefix(own)}{tuned[untuned.end() :]}"


def saved_names(instructions: str) -> tuple[list[str], list[str]] | None:
    """Return the names of the inputs and outputs that a saved action was for, None if its text does not name them."""
    inputs = re.search(r"^- Variables: (.+?) \(your input data\)", instructions, re.MULTILINE)
    outputs = re.search(r"^- `SUBMIT\((.*?)\)` - submit final output", instructions, re.MULTILINE)
    if inputs is None or outputs is None:
        return None
    return re.findall(r"`(\w+)`", inputs[1]), re.findall(r"\w+", outputs[1])


def output_fields(
    fields: Sequence[Mapping[str, str]], before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """Return saved output fields; those that equal the untuned ones ``before`` are replaced by those ``after``."""
    chosen: list[Mapping[str, str]] = []
    for field, untuned, other in zip(fields, before, after, strict=True):
        chosen.append(other if field == untuned else field)
    return chosen


def outputs_of_dspy(task: type[dspy.Signature]) -> list[Mapping[str, str]]:
    """Return the output fields of the untuned action of ``dspy.RLM``."""
    fields: list[Mapping[str, str]] = _action_of_dspy(task).dump_state()["fields"]
    return fields[-2:]


def _action_of_dspy(task: type[dspy.Signature]) -> Any:
    """Return the signature of the untuned action of ``dspy.RLM``."""
    return _made_action(task, repr(task))  # type: ignore[arg-type]  # mypy does not see that a class has a hash


@lru_cache(maxsize=32)
def _made_action(task: type[dspy.Signature], described: str) -> Any:
    """Make that signature, which takes ten milliseconds; ``described`` changes if the task is changed in place."""
    return dspy.RLM(task).generate_action.signature


def as_ours(
    state: Mapping[str, Any],
    signature: type[dspy.Signature],
    inputs: Sequence[Mapping[str, str]],
    instructions: str,
) -> dict[str, Any]:
    """Convert a saved state to our input fields and demos, whichever class saved it."""
    fields = state["signature"]["fields"]
    outputs = list(fields[len(fields) - len(signature.output_fields) :])
    saved = {**state["signature"], "fields": [*inputs, *outputs], "instructions": instructions}
    return {**state, "signature": saved, "demos": [as_our_demo(demo, signature) for demo in state.get("demos", ())]}


def as_our_demo(demo: Any, signature: type[dspy.Signature]) -> Any:
    """Convert a demo to our inputs, whichever of the two classes it was made for."""
    fields = dict(demo.items())
    if VARIABLES not in fields and HISTORY not in fields:
        return demo
    variables, history = fields.pop(VARIABLES, ""), fields.pop(HISTORY, "")
    fields.pop(ITERATION, None)
    if is_action(signature):
        fields["observation"] = f"{_joined_text(variables)}\n{_joined_text(history)}".strip()
    else:
        task, trajectory = list(signature.input_fields)
        fields |= {task: _joined_text(variables), trajectory: _joined_text(history)}
    return fields


def _joined_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return str(value)


def action_signature(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """Return our action signature with the inputs of ``dspy.RLM``."""
    fields: dict[str, Any] = {
        VARIABLES: (str, dspy.InputField(desc=DESCRIPTIONS[VARIABLES])),
        HISTORY: (REPLHistory, dspy.InputField(desc=DESCRIPTIONS[HISTORY])),
        ITERATION: (str, dspy.InputField(desc=DESCRIPTIONS[ITERATION])),
    }
    for name, field in signature.output_fields.items():
        fields[name] = (field.annotation, field)
    built: type[dspy.Signature] = dspy.Signature(fields, signature.instructions)
    return built


def signature_for(predictor: Any, action: type[dspy.Signature], protocol: str) -> type[dspy.Signature]:
    """Return the signature for a substituted predictor: its own if it takes DSPy's inputs."""
    own = getattr(predictor, "signature", None)
    if own is not None and VARIABLES in getattr(own, "input_fields", {}):
        kept: type[dspy.Signature] = own.with_instructions(f"{own.instructions}\n\n{protocol}")
        return kept
    return action_signature(action)


def inputs_for(probe: str, steps: Sequence[Step], max_iters: int | None, limit: int) -> dict[str, Any]:
    """Return the inputs that ``dspy.RLM`` passes: to an action if ``max_iters`` is given, else to an extract."""
    history = REPLHistory(max_output_chars=limit)
    for step in steps:
        history = history.append(reasoning=step.reasoning, code=step.code, output=step.output)
    inputs: dict[str, Any] = {VARIABLES: [probe], HISTORY: history}
    if max_iters is None:
        return inputs
    return {**inputs, ITERATION: f"{len(steps) + 1}/{max_iters}"}


def accepted_inputs(function: Callable[..., Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that a function accepts by name; a module accepts all."""
    if isinstance(function, dspy.Module) or not callable(function):  # e.g. an object that has only ``acall``
        return dict(inputs)
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(inputs)
    return {name: value for name, value in inputs.items() if name in parameters}
