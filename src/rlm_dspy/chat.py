"""The adapter of the action calls: DSPy's ChatAdapter, but each past turn is rendered once, and nothing is asked twice.

DSPy renders the whole history again for every call, which makes a step dearer the longer a run is; and it answers an
unreadable reply by a second call in JSON that no budget sees. Here the reply comes back and becomes a step.

The texts of typed sub-calls come from the sandbox, types and class names included; they stay texts.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from rlm_dspy.replies import read_sections, visible_text

_TURN = dspy.Signature("observation -> reasoning, code")
_PLAIN = dspy.ChatAdapter(use_json_adapter_fallback=False)
MARK = "<<CUSTOM-TYPE-"  # begins the markers between which DSPy reads content parts, such as images to be fetched


class TurnAdapter(dspy.ChatAdapter):  # type: ignore[misc]
    """Writes the same messages as ``dspy.ChatAdapter``, with past turns from a cache."""

    def __init__(self, **options: Any) -> None:
        super().__init__(use_json_adapter_fallback=False, **options)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return the fields of an action byte for byte; DSPy cuts them at form feeds, also inside literals."""
        if set(signature.output_fields) != {"reasoning", "code"}:
            fields: dict[str, Any] = super().parse(signature, completion)
            return fields
        sections = read_sections(completion)
        if not sections.get("code", "").strip() or "reasoning" not in sections:
            raise _unreadable(self, signature, completion, "The reply has no code.")
        return {"reasoning": sections["reasoning"].strip(), "code": sections["code"]}

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the messages of an action call; any other call is DSPy's."""
        turns = getattr(inputs.get("history"), "messages", None)
        if demos or turns is None or set(inputs) != {"history", "observation"}:
            messages: list[dict[str, Any]] = super().format(signature, demos, inputs)
            return messages
        messages = [{"role": "system", "content": self.format_system_message(signature)}]
        for turn in turns:
            messages += _rendered(turn["observation"], turn.get("reasoning") or "", turn.get("code") or "")
        now = _PLAIN.format_user_message_content(_TURN, {"observation": inputs["observation"]}, main_request=True)
        return [*messages, {"role": "user", "content": now}]


@lru_cache(maxsize=512)
def _rendered(observation: str, reasoning: str, code: str) -> list[dict[str, Any]]:
    turn = dspy.History(messages=[{"observation": observation, "reasoning": reasoning, "code": code}])
    messages: list[dict[str, Any]] = _PLAIN.format_conversation_history(_TURN, "history", {"history": turn})
    return messages


def adapter() -> Any:
    """Return the adapter of an action call: ours in place of DSPy's default, else the caller's own choice."""
    chosen = dspy.settings.adapter
    if chosen is None:
        return _OURS
    if type(chosen) is dspy.ChatAdapter and chosen.use_json_adapter_fallback:
        chosen = copy.copy(chosen)
        chosen.use_json_adapter_fallback = False
    return ignoring_thinking(chosen)


def answer_adapter() -> Any:
    """Return the adapter of a call that gives a signature's outputs: the caller's own, without thinking."""
    return ignoring_thinking(dspy.settings.adapter or _DEFAULT)


def plain_adapter() -> Any:
    """Return the adapter of a typed sub-call: as :func:`adapter`, asking once, with no text made a content part."""
    chosen = copy.copy(adapter())
    if hasattr(chosen, "use_json_adapter_fallback"):
        chosen.use_json_adapter_fallback = False
    render = chosen.format_user_message_content

    def as_text(*args: Any, **kwargs: Any) -> str:
        return unmarked(render(*args, **kwargs))

    chosen.format_user_message_content = as_text
    return chosen


def ignoring_thinking(chosen: Any) -> Any:
    """Return a copy of an adapter that parses a reply without its thinking.

    The copy, and the one that it may fall back to, raise ``AdapterParseError`` with the whole reply.
    """
    quiet = copy.copy(chosen)
    parse = quiet.parse
    make_fallback = getattr(quiet, "_make_json_adapter_fallback", None)

    def parse_visible(signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        # In an XML adapter's replies a field's own tag, such as <reasoning>, is no thinking.
        fields = frozenset(signature.output_fields) if isinstance(chosen, dspy.XMLAdapter) else frozenset()
        visible = visible_text(completion, fields)
        if visible is None:
            raise _unreadable(chosen, signature, completion, "The reply ended inside its thinking.")
        try:
            fields_read: dict[str, Any] = parse(signature, visible)
        except AdapterParseError as error:
            error.lm_response = completion
            raise
        return fields_read

    quiet.parse = parse_visible
    if make_fallback is not None:
        quiet._make_json_adapter_fallback = lambda: ignoring_thinking(make_fallback())
    return quiet


def _unreadable(chosen: Any, signature: type[dspy.Signature], reply: str, message: str) -> AdapterParseError:
    return AdapterParseError(type(chosen).__name__, signature, reply, message)


def unmarked(text: str) -> str:
    """Return ``text`` without the markers of DSPy's content parts."""
    return text.replace(MARK, MARK[:2] + " " + MARK[2:])


_OURS = ignoring_thinking(TurnAdapter())
_DEFAULT = dspy.ChatAdapter()
