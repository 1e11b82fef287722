"""The adapter for action calls: plain turns, as models are trained on, instead of DSPy's field markers.

The system text holds only the instructions. REPL output and model replies then alternate; each reply is a sentence or
two and one ```python block. Markers, field lists and a closing sentence in every turn took up a fifth of the prompt.
DSPy retries an unreadable reply with a second call in JSON that no budget counts; here the reply is returned and
becomes a step. All other calls, and any adapter the caller configured, are left to DSPy.

The texts of typed sub-calls, types and class names included, come from the sandbox and are always treated as text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any, get_args

import dspy
from dspy.adapters.utils import annotation_allows_none
from dspy.utils.exceptions import AdapterParseError

from rlm_dspy.rlm.replies import read_plain, read_sections, visible_outputs, visible_text
from rlm_dspy.rlm.reply_outputs import plain_reply, without_end_marker
from rlm_dspy.rlm.step_texts import without_markers

FORM = "Each reply: a sentence on what you do next, then one ```python block with the code, and nothing after it."
# A small model that is asked for a sentence often writes nothing else.
CODE_FORM = "Each reply is one ```python block and nothing else."


class TurnAdapter(dspy.ChatAdapter):  # type: ignore[misc]
    """Formats an action call as plain turns, and parses replies in that form or with DSPy's markers."""

    def __init__(self, form: str = FORM, **options: Any) -> None:
        super().__init__(use_json_adapter_fallback=False, **options)
        self.form = form

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the messages of an action call; leave all other calls to DSPy."""
        turns = getattr(inputs.get("history"), "messages", None)
        if demos or turns is None or set(inputs) != {"history", "observation"} or not _is_action(signature):
            messages: list[dict[str, Any]] = super().format(signature, demos, inputs)
            return messages
        messages = [{"role": "system", "content": f"{signature.instructions}\n{self.form}"}]
        for turn in turns:
            messages.append({"role": "user", "content": turn["observation"]})
            reply = render_reply(turn.get("reasoning") or "", turn.get("code") or "")
            messages.append({"role": "assistant", "content": reply})
        return [*messages, {"role": "user", "content": inputs["observation"]}]

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return the fields of an action byte for byte; DSPy cuts them at form feeds, even inside literals."""
        if not _is_action(signature):
            fields: dict[str, Any] = super().parse(signature, completion)
            return fields
        sections = read_sections(completion)
        if sections.get("code", "").strip() and "reasoning" in sections:
            return {"reasoning": sections["reasoning"].strip(), "code": sections["code"]}
        if not sections and (plain := read_plain(completion)):
            return {"reasoning": plain[0], "code": plain[1]}
        raise _parse_error(self, signature, completion, "The reply has no code.")


def _is_action(signature: type[dspy.Signature]) -> bool:
    """Return whether a signature is that of an RLM's step, in our form or in DSPy's; not just by its outputs."""
    is_of_step = not {"observation", "repl_history"}.isdisjoint(signature.input_fields)
    return is_of_step and set(signature.output_fields) == {"reasoning", "code"}


def render_reply(reasoning: str, code: str) -> str:
    """Return a past reply in the form the model should have used, which is how it is shown."""
    if not code:
        return reasoning
    if code.lstrip().startswith("```"):
        block = code
    else:
        block = f"```python\n{code}\n```"
    if reasoning:
        return f"{reasoning}\n{block}"
    return block


def is_plain() -> bool:
    """Return whether action calls use plain turns, i.e. the caller configured no adapter."""
    return dspy.settings.adapter is None


def action_adapter(*, small: bool = False) -> Any:
    """Return the adapter for an action call: the caller's choice, or ours instead of DSPy's default.

    Args:
        small: whether the model is small and is asked for code only.
    """
    chosen = dspy.settings.adapter
    if chosen is None:
        if small:
            return _CODE_ONLY
        return _OURS
    if type(chosen) is dspy.ChatAdapter and chosen.use_json_adapter_fallback:
        chosen = copy.copy(chosen)
        chosen.use_json_adapter_fallback = False
    return ignoring_thinking(chosen)


def answer_adapter(*, once: bool = False) -> Any:
    """Return the adapter for a call that returns a signature's outputs: the caller's, ignoring thinking.

    Args:
        once: do not ask again, in JSON, after a reply that could not be read.
    """
    chosen = ignoring_thinking(dspy.settings.adapter or _DEFAULT)
    if once and hasattr(chosen, "use_json_adapter_fallback"):
        chosen.use_json_adapter_fallback = False
    return chosen


def plain_adapter(*, images: bool = False) -> Any:
    """Return the adapter for a typed sub-call: like :func:`action_adapter`, but without retries or content parts.

    Args:
        images: keep content parts, because the call has images; its texts must be without markers then.
    """
    chosen = copy.copy(action_adapter())
    if hasattr(chosen, "use_json_adapter_fallback"):
        chosen.use_json_adapter_fallback = False
    if images:
        return chosen
    render = chosen.format_user_message_content

    def as_text(*args: Any, **kwargs: Any) -> str:
        return without_markers(render(*args, **kwargs))

    chosen.format_user_message_content = as_text
    return chosen


def ignoring_thinking(chosen: Any) -> Any:
    """Return a copy of an adapter that ignores the thinking in a reply.

    The copy, and its fallback if it has one, raise ``AdapterParseError`` with the whole reply.
    """
    quiet = copy.copy(chosen)
    parse = quiet.parse
    make_fallback = getattr(quiet, "_make_json_adapter_fallback", None)
    names_fields = isinstance(chosen, dspy.JSONAdapter | dspy.XMLAdapter)
    reads_markers = type(chosen).parse in (dspy.ChatAdapter.parse, TurnAdapter.parse)  # a subclass may read others

    def parse_visible(signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        is_action = _is_action(signature) and not isinstance(chosen, dspy.XMLAdapter)
        if is_action:
            visible = visible_text(completion)
        else:
            visible = visible_outputs(completion, _output_starts(signature))
        if visible is None:
            raise _parse_error(chosen, signature, completion, "The reply ended inside its thinking.")
        if _is_action(signature):
            return _parse_as_is(parse, signature, visible, completion)
        try:
            if reads_markers:
                shown = plain_reply(visible, signature.output_fields)
            else:
                shown = visible
            values = _parse_as_is(parse, signature, shown, completion)
            return _stated_values(signature, values, visible, names_fields=names_fields)
        except ValueError as error:
            raise _parse_error(chosen, signature, completion, str(error)) from error

    quiet.parse = parse_visible
    if make_fallback is not None:
        quiet._make_json_adapter_fallback = lambda: ignoring_thinking(make_fallback())
    return quiet


def _output_starts(signature: type[dspy.Signature]) -> re.Pattern[str]:
    """Return a pattern for the starts of outputs in DSPy's forms: after a marker, in JSON, between tags."""
    names = "|".join(map(re.escape, signature.output_fields))
    return re.compile(rf"\[\[ ?## ?(?:{names}) ?## ?\]|\{{\s*\"(?:{names})\"\s*:|<(?:{names})>", re.IGNORECASE)


def _parse_as_is(parse: Any, signature: type[dspy.Signature], text: str, completion: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = parse(signature, text)
    except AdapterParseError as error:
        error.lm_response = completion
        raise
    return fields


def _stated_values(
    signature: type[dspy.Signature], found: Mapping[str, Any], reply: str, *, names_fields: bool
) -> dict[str, Any]:
    """Return the values that DSPy found, if the reply states them: DSPy fills in None, and turns null into "None".

    Raises:
        ValueError: a value is not in the reply.
    """
    if names_fields and reply.strip() not in ("", "{}") and not any(name in reply for name in found):
        raise ValueError(f"The reply has no {', '.join(found)}")
    values = dict(found)
    for name, value in found.items():
        annotation = signature.output_fields[name].annotation
        if not isinstance(value, str):
            continue
        if value == "None" and annotation is str and re.search(rf'"{name}"\s*:\s*null\b', reply):
            raise ValueError(f"The output `{name}` is null, where a text is wanted.")
        is_optional_text = annotation_allows_none(annotation) and str in get_args(annotation)
        if is_optional_text and value.lower() in ("none", "null"):
            values[name] = None
        else:
            values[name] = without_end_marker(value)
    return values


def _parse_error(chosen: Any, signature: type[dspy.Signature], reply: str, message: str) -> AdapterParseError:
    return AdapterParseError(type(chosen).__name__, signature, reply, message)


_OURS = ignoring_thinking(TurnAdapter())
_CODE_ONLY = ignoring_thinking(TurnAdapter(CODE_FORM))
_DEFAULT = dspy.ChatAdapter()
