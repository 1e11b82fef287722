"""The predictors of an RLM: their entries in DSPy's traces, demos and saved programs are short and hold no context.

Optimizers copy traces into demos, into their own prompts and into saved programs. So texts are shortened when the trace
is written, and again when a program is saved, because some optimizers put whole training examples among the demos. A
demo that comes from a run is shown as the turns of that run; a labelled example, which has none of the predictor's own
fields, is shown as a line of the instructions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import dspy
import pydantic

from rlm_dspy._dspy import call_signature
from rlm_dspy.rlm import dspy_states
from rlm_dspy.rlm.step_texts import clip_middle

MAX_KEPT_CHARS = 2_000  # characters of a text kept in a trace, a demo or a saved program, head and tail
KEPT_OF_TURN = 800  # the same for each text of a past turn
KEPT_OF_LABEL = 300  # longer fields of a labelled example are left out
MAX_KEPT_TURNS = 6  # past turns kept: the first and the newest
TURN_FIELDS = ("observation", "reasoning", "code")
WORKED = "(a worked example of another task: none of its variables exist here)\n"
LABELLED = "Examples of inputs and their right outputs (long inputs are left out):"


class Predictor(dspy.Predict):  # type: ignore[misc]
    """A ``dspy.Predict`` for an RLM with the signature ``task``."""

    def __init__(self, signature: type[dspy.Signature], task: type[dspy.Signature]) -> None:
        super().__init__(signature)
        self.task = task
        self.untuned = str(self.signature.instructions)
        self.untuned_outputs = self.signature.dump_state()["fields"][len(self.signature.input_fields) :]
        self.task_fields = tuple(task.fields)

    def forward(self, **inputs: Any) -> Any:
        """Predict, with the demos as turns and the labelled examples as instructions."""
        return super().forward(**self._prepared_inputs(inputs))

    async def aforward(self, **inputs: Any) -> Any:
        """Predict as :meth:`forward` does, without blocking."""
        return await super().aforward(**self._prepared_inputs(inputs))

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """Return the state with demos that are short, hold no context and can be written as JSON.

        The fields use the form of ``dspy.RLM``, so that each class can load what the other saved.
        """
        state: dict[str, Any] = super().dump_state(json_mode)
        outputs = state["signature"]["fields"][len(self.signature.input_fields) :]
        if dspy_states.is_action(self.signature) and len(outputs) == len(self.untuned_outputs):
            outputs = dspy_states.output_fields(outputs, self.untuned_outputs, dspy_states.outputs_of_dspy(self.task))
        fields = [*dspy_states.input_fields(self.signature), *outputs]
        instructions = dspy_states.with_protocol(self.signature, self.task, self.untuned)
        signature = {**state["signature"], "fields": fields, "instructions": instructions}
        return {
            **state,
            "signature": signature,
            "demos": [portable_demo(demo, self._known_fields()) for demo in self.demos],
        }

    def load_state(self, state: dict[str, Any], *, allow_unsafe_lm_state: bool = False) -> Predictor:
        """Load a state saved by our RLM or DSPy's."""
        own = self.signature.dump_state()["fields"][: len(self.signature.input_fields)]
        instructions = state["signature"]["instructions"]
        if dspy_states.is_action(self.signature):
            instructions = dspy_states.without_protocol(instructions, self.task, self.untuned)
            state = self._with_own_outputs(state)
        read = dspy_states.as_ours(state, self.signature, own, instructions)
        super().load_state(read, allow_unsafe_lm_state=allow_unsafe_lm_state)
        return self

    def _with_own_outputs(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return an action's state with the descriptions of untuned outputs replaced by ours."""
        fields = state["signature"]["fields"]
        outputs = fields[-len(self.untuned_outputs) :]
        theirs = dspy_states.outputs_of_dspy(self.task)
        if len(outputs) == len(theirs) == len(self.untuned_outputs):
            kept = fields[: len(fields) - len(outputs)]
            fields = [*kept, *dspy_states.output_fields(outputs, theirs, self.untuned_outputs)]
        return {**state, "signature": {**state["signature"], "fields": fields}}

    def _known_fields(self) -> tuple[str, ...]:
        return (*self.signature.fields, *self.task_fields, "augmented")

    def _prepared_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        signature = inputs.get("signature") or self.signature
        demos: list[Any] = []
        labelled: list[str] = []
        saved_demos: Any = inputs.get("demos", self.demos)
        for saved_demo in saved_demos:
            demo = dspy_states.as_our_demo(saved_demo, self.signature)
            if set(signature.input_fields) & set(demo.keys()) and set(signature.output_fields) & set(demo.keys()):
                demos.append(demo)
            elif line := labelled_line(demo, self.task_fields):
                labelled.append(line)
        if labelled:
            text = "\n".join([signature.instructions, "", LABELLED, *labelled])
            signature = call_signature(signature, text)
        history = inputs.get("history")
        if isinstance(history, dspy.History) and demos:
            turns = [turn for demo in demos for turn in demo_turns(demo)]
            inputs, demos = {**inputs, "history": _HistoryWithDemos.of(turns, history)}, []
        return {**inputs, "signature": signature, "demos": [compact_inputs(dict(demo.items())) for demo in demos]}

    def _forward_postprocess(self, completions: Any, signature: Any, **inputs: Any) -> Any:
        if isinstance(inputs.get("history"), _HistoryWithDemos):
            inputs["history"] = inputs["history"].own
        return super()._forward_postprocess(completions, signature, **compact_inputs(inputs))


class _HistoryWithDemos(dspy.History):  # type: ignore[misc]
    """The turns of worked examples and of this run; ``own`` holds only the latter."""

    _own: Any = pydantic.PrivateAttr(None)

    @classmethod
    def of(cls, turns: list[dict[str, Any]], own: dspy.History) -> _HistoryWithDemos:
        shown = cls(messages=[*turns, *own.messages])
        shown._own = own
        return shown

    @property
    def own(self) -> dspy.History:
        return self._own


def compact_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's inputs in the short form kept in traces."""
    return {name: _shorten_value(value) for name, value in inputs.items()}


def _shorten_value(value: Any) -> Any:
    if isinstance(value, dspy.History):
        kept = value.messages
        if len(kept) > MAX_KEPT_TURNS:
            kept = [kept[0], *kept[1 - MAX_KEPT_TURNS :]]
        turns = []
        for turn in kept:
            turns.append({name: _cut_text(text, KEPT_OF_TURN) for name, text in turn.items()})
        return dspy.History(messages=turns)
    return _cut_text(value, MAX_KEPT_CHARS)


def _cut_text(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return clip_middle(value, limit)
    return value


def demo_turns(demo: Any) -> list[dict[str, Any]]:
    """Return the turns of the run that a demo comes from; the last one is the demo itself."""
    fields = dict(demo.items())
    history = fields.pop("history", None)
    if isinstance(history, Mapping):
        past = history.get("messages", [])
    else:
        past = getattr(history, "messages", [])
    turns = [
        *(dict(turn) for turn in past),
        {name: value for name, value in compact_inputs(fields).items() if name in TURN_FIELDS},
    ]
    turns[0]["observation"] = WORKED + str(turns[0].get("observation", ""))
    return turns


def labelled_line(demo: Any, fields: Iterable[str]) -> str:
    """Return a labelled example as one line; fields that are long or have no short form are omitted."""
    parts = []
    for name in fields:
        if name in demo and _is_short(demo[name]):
            value = demo[name]
            if isinstance(value, str):
                text = " ".join(value.split())
            else:
                text = _json_text(value)
            parts.append(f"{name}: {text}")
    if parts:
        return "- " + "; ".join(parts)
    return ""


def _is_short(value: Any) -> bool:
    return (
        not hasattr(value, "toDict") and not hasattr(value, "sandbox_index") and len(_json_text(value)) <= KEPT_OF_LABEL
    )


def portable_demo(demo: Any, fields: Iterable[str]) -> dict[str, Any]:
    """Return a demo as JSON values: its known fields, each text shortened, contexts as one line."""
    kept = {name: demo[name] for name in fields if name in demo}
    dumped: dict[str, Any] = json.loads(_json_text({name: _plain_value(value) for name, value in kept.items()}))
    return dumped


def _plain_value(value: Any) -> Any:
    value = _shorten_value(value)
    if hasattr(value, "sandbox_index") or not hasattr(value, "model_dump"):
        return value
    return value.model_dump(mode="json")


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)
