"""Earlier turns of a conversation: read from a ``dspy.History``, shown as turns of the prompt, and added to.

A message of a history holds the inputs and outputs of one turn, by the names of the signature's fields. A long input is
kept as a handle: its size and a digest. The prompt shows an earlier turn the way its first observation looked: the
inputs as the REPL showed them (a long one only if the current call has it too), then the outputs, with a bar before
each line so that they read as data. Each turn's prompt therefore begins with the messages of the turn before it, up to
that turn's first reply.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic

from rlm_dspy.context import Context
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.rlm import prompts
from rlm_dspy.rlm.images import describe_media, with_media
from rlm_dspy.rlm.outputs import jsonable_outputs
from rlm_dspy.rlm.signatures import RESULTS, history_field
from rlm_dspy.rlm.step_texts import barred_text, clean_for_prompt, clip_middle
from rlm_dspy.run import replace_surrogates
from rlm_dspy.sandbox.worker import tables

MAX_INPUT_CHARS = 2_000  # longest input that a history keeps whole
MAX_OUTPUT_CHARS = 2_000  # characters of an earlier output shown in the prompt, head and tail
MIN_REPEATED_CHARS = 200  # a longer input that did not change since the last turn is not shown again
MOST_SHARE, LEAST_SHARE = 0.5, 0.1  # of a prompt's turns that earlier turns may fill, and may always fill
DROPPED_AT_ONCE = 4  # turns left out in one move, so that the prompts between two moves share their beginning
# Fields of a single step, which other modules write into a history; a turn is its inputs and outputs.
STEP_FIELDS = frozenset({"reasoning", "code", "output", "repl_output", "next_thought", "tool_calls"}) | RESULTS
_HANDLE = re.compile(r"\w+\([^()\n]*sha256 [0-9a-f]{12}\)")


@dataclass(frozen=True)
class EarlierTurn:
    """The inputs and outputs of one turn, as its history keeps them."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]


def messages_of(history: Any) -> list[dict[str, Any]]:
    """Return the messages of a history; None has none.

    Raises:
        ConfigurationError: it is not a ``dspy.History``.
    """
    if history is None:
        return []
    try:
        return list(dspy.History.model_validate(history).messages)
    except pydantic.ValidationError:
        shape = "dspy.History(messages=[{'question': …, 'answer': …}])"
        raise ConfigurationError(f"a history is a {shape}, not {type(history).__name__}") from None


def earlier_turns(signature: type[dspy.Signature], history: Any) -> list[EarlierTurn]:
    """Return the turns of a history.

    Messages without an input continue the turn before them: some modules write one message for each step of a turn.

    Raises:
        ConfigurationError: a message has a name that the signature does not have.
    """
    own = history_field(signature)
    input_names = [name for name in signature.input_fields if name != own]
    output_names = list(signature.output_fields)
    turns: list[EarlierTurn] = []
    for number, message in enumerate(messages_of(history)):
        _check_names(message, [*input_names, *output_names], f"{own or 'history'}.messages[{number}]")
        inputs = {name: kept_input(value) for name, value in message.items() if name in input_names}
        outputs = replace_surrogates(
            jsonable_outputs({name: value for name, value in message.items() if name in output_names})
        )
        if inputs or (outputs and (not turns or turns[-1].outputs)):
            turns.append(EarlierTurn(inputs, outputs))
        elif outputs:
            turns[-1].outputs.update(outputs)
    return turns


def _check_names(message: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Refuse a message of other fields than the signature's."""
    other = sorted(set(message) - set(names) - STEP_FIELDS)
    if not other and (STEP_FIELDS | set(names)) & set(message):
        return
    fields = ", ".join(f"`{name}`" for name in names)
    wrong = f"the unknown fields {other}" if other else "no fields"
    raise ConfigurationError(f"{where} has {wrong}; a turn has the fields of the signature: {fields}")


def next_history(
    history: Any, signature: type[dspy.Signature], inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> dspy.History:
    """Return a history with one more turn; long inputs are kept as handles."""
    own = history_field(signature)
    kept_inputs = {name: kept_input(value) for name, value in inputs.items() if name != own}
    kept_outputs = replace_surrogates(jsonable_outputs({name: outputs[name] for name in signature.output_fields}))
    return dspy.History(messages=[*map(replace_surrogates, messages_of(history)), {**kept_inputs, **kept_outputs}])


def kept_input(value: Any) -> Any:
    """Return an input as a history keeps it: JSON, or a handle with its size and digest if it is long."""
    if isinstance(value, Context):
        if len(value) > MAX_INPUT_CHARS:
            return repr(value)
        value = value.text
    if isinstance(value, str):
        if len(value) <= MAX_INPUT_CHARS:
            return replace_surrogates(value)
        return repr(Context(value))
    value = with_media(value, lambda media, _: f"[{describe_media(media)}]", "")
    if isinstance(value, str):
        return value
    if hasattr(value, "sandbox_index"):
        return f"{type(value).__name__}({prompts.size_of(value)}, sha256 {value.digest[:12]})"
    table = tables.plain_data(value)
    if table is not tables.OTHER:  # the repr of a table leaves rows out
        plain = jsonable_outputs({"value": table})["value"]
    else:
        plain = jsonable_outputs({"value": value})["value"]
    plain = replace_surrogates(plain)
    text = json.dumps(plain, ensure_ascii=False)
    if len(text) <= MAX_INPUT_CHARS:
        return plain
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{type(value).__name__}({prompts.size_of(value)}, sha256 {digest[:12]})"


def is_handle(value: Any) -> bool:
    """Return whether a kept input stands for a long one."""
    return isinstance(value, str) and _HANDLE.fullmatch(value) is not None


def _is_long(kept: Any) -> bool:
    return is_handle(kept) or len(str(kept)) > MIN_REPEATED_CHARS


# Renders inputs as the REPL shows them; the names of the second argument did not change.
View = Callable[[Mapping[str, Any], frozenset[str]], str]


class ShownTurns:
    """The earlier turns of one call as its prompts show them, and the view of the current inputs after them.

    Args:
        turns: all earlier turns, oldest first.
        given: the inputs of the current call, with handles for long texts where the caller gave them.
        values: the same as the REPL has them.
        view: renders inputs.
        name: the REPL variable that holds all turns.
        room: the characters for all turns of a prompt; the oldest turns that take too much of it are left out.
        is_numbered: whether each turn begins with its number.
    """

    def __init__(
        self,
        turns: Sequence[EarlierTurn],
        given: Mapping[str, Any],
        values: Mapping[str, Any],
        view: View,
        *,
        name: str,
        room: int,
        is_numbered: bool,
    ) -> None:
        self.turns = list(turns)
        self._values = values
        self._kept = {name: kept_input(given[name]) for name in values}
        self._view = view
        self.name = name
        self._is_numbered = is_numbered
        self.left_out = 0
        self.exchanges, self.probe = self._rendered()
        self._leave_out_oldest(min(MOST_SHARE * room, max(LEAST_SHARE * room, room - 2 * len(self.probe))))

    @property
    def chars(self) -> int:
        """The characters of the earlier turns in a prompt."""
        return sum(len(shown) + len(reply) for shown, reply in self.exchanges)

    @property
    def header(self) -> str:
        """The line that opens the current turn."""
        return self._header_line(len(self.turns) + 1)

    @property
    def for_repl(self) -> list[dict[str, Any]]:
        """All earlier turns, for the REPL."""
        return [{**turn.inputs, **turn.outputs} for turn in self.turns]

    def drop_half(self) -> bool:
        """Leave out half of the shown turns; return False if there is only one, which is kept."""
        if len(self.exchanges) < 2:
            return False
        self.left_out += len(self.exchanges) // 2
        self.exchanges, _ = self._rendered()  # what the current turn showed stays as it was shown
        return True

    def as_text(self, limit: int) -> str:
        """Return the turns as one text of about ``limit`` characters."""
        parts = [part for exchange in self.exchanges for part in exchange]
        if parts:
            return clip_middle("\n".join(parts), limit)
        return ""

    def _leave_out_oldest(self, room: float) -> None:
        sizes = [len(shown) + len(reply) for shown, reply in self.exchanges]
        total, many = sum(sizes), len(sizes)
        while self.left_out < many and total > room:
            if self.left_out + DROPPED_AT_ONCE < many:
                step = DROPPED_AT_ONCE
            else:
                step = 1
            total -= sum(sizes[self.left_out : self.left_out + step])
            self.left_out += step
            if total <= room:  # what the first turn showed is now shown by the first one kept
                self.exchanges, self.probe = self._rendered()
                total = self.chars
        if self.left_out:
            self.exchanges, self.probe = self._rendered()

    def _rendered(self) -> tuple[list[tuple[str, str]], str]:
        """Return what each shown turn showed and its outputs, and the view of the current inputs."""
        seen: dict[str, Any] = {}
        exchanges = []
        for number, turn in enumerate(self.turns[self.left_out :], self.left_out + 1):
            parts = [self._header_line(number), self._inputs_text(turn.inputs, seen)]
            exchanges.append(("\n".join(filter(None, parts)), _outputs_text(turn.outputs)))
        probe = self._inputs_text(self._kept, seen)
        if self.left_out:
            note = f"[Oldest turns left out here: {self.left_out}; `{self.name}` in the REPL holds all.]"
            if exchanges:
                exchanges[0] = f"{note}\n{exchanges[0][0]}", exchanges[0][1]
            else:
                probe = f"{note}\n{probe}"
        return exchanges, probe

    def _header_line(self, number: int) -> str:
        if self._is_numbered:
            return f"[turn {number}]"
        return ""

    def _inputs_text(self, kept: Mapping[str, Any], seen: dict[str, Any]) -> str:
        """Render the inputs of a turn; ``seen`` holds what the turns before it showed."""
        values: dict[str, Any] = {}
        gone: list[str] = []
        for name, value in kept.items():
            if name in self._kept and self._kept[name] == value:
                values[name] = self._values[name]
            elif is_handle(value):
                gone.append(f"`{name}`: {value}, no longer given")
            else:
                values[name] = value
        unchanged = frozenset(name for name in values if _is_long(kept[name]) and seen.get(name) == kept[name])
        seen.update(kept)
        return clean_for_prompt("\n".join([self._view(values, unchanged), *gone]))


def _outputs_text(outputs: Mapping[str, Any]) -> str:
    """Render the outputs of a turn as its reply; nothing in it reads like code."""
    if not outputs:
        return "That turn ended without outputs."
    lines = ["That turn is done. Its outputs:"]
    for name, value in outputs.items():
        if isinstance(value, str):
            text = value
        else:
            text = json.dumps(value, ensure_ascii=False)
        lines += [f"`{name}`:", barred_text(clip_middle(text, MAX_OUTPUT_CHARS))]
    return clean_for_prompt("\n".join(lines))


def fitting_turns(turns: Sequence[Mapping[str, Any]], room: int) -> tuple[list[dict[str, Any]], int]:
    """Return the newest turns that fit in ``room`` characters, and the number of those left out."""
    sizes = [len(json.dumps(turn, ensure_ascii=False)) for turn in turns]
    first, total = 0, sum(sizes)
    while first < len(sizes) and total > room:
        step = DROPPED_AT_ONCE if first + DROPPED_AT_ONCE < len(sizes) else 1
        total -= sum(sizes[first : first + step])
        first += step
    return [dict(turn) for turn in turns[first:]], first
