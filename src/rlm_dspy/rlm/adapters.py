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
from collections.abc import Iterable
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from rlm_dspy.rlm.replies import read_plain, read_sections, visible_text

MARK = "<<CUSTOM-TYPE-"  # opens the markers between which DSPy reads content parts, such as images to fetch


FORM = "Each reply: a sentence on what you do next, then one ```python block with the code, and nothing after it."
# A small model that is asked for a sentence often writes nothing else.
CODE_FORM = "Each reply is one ```python block and nothing else."
_FIELD_MARKER = re.compile(
    r"(?P<start>^[ \t>*#`]*)?\[\[ ?## ?(?P<name>\w+) ?## ?\]{1,2}(?:(?:\*\*)?:?(?=\s|\Z))?", re.MULTILINE
)


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
        if not sections and (found := read_plain(completion)):
            return {"reasoning": found[0], "code": found[1]}
        raise _parse_error(self, signature, completion, "The reply has no code.")


def _is_action(signature: type[dspy.Signature]) -> bool:
    return set(signature.output_fields) == {"reasoning", "code"}


def render_reply(reasoning: str, code: str) -> str:
    """Return a past reply in the form the model should have used, which is how it is shown."""
    if not code:
        return reasoning
    block = code if code.lstrip().startswith("```") else f"```python\n{code}\n```"
    return f"{reasoning}\n{block}" if reasoning else block


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
        return _CODE_ONLY if small else _OURS
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
    reads_markers = isinstance(chosen, dspy.ChatAdapter) and not isinstance(chosen, dspy.JSONAdapter | dspy.XMLAdapter)

    def parse_visible(signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        # In an XML adapter's replies, a field's own tag, such as <reasoning>, is not thinking.
        fields = frozenset(signature.output_fields) if isinstance(chosen, dspy.XMLAdapter) else frozenset()
        visible = visible_text(completion, fields)
        if visible is None:
            raise _parse_error(chosen, signature, completion, "The reply ended inside its thinking.")
        if reads_markers and not _is_action(signature):
            visible = with_plain_markers(visible, signature.output_fields)
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


def with_plain_markers(reply: str, fields: Iterable[str]) -> str:
    """Return a reply with the markers of its fields as DSPy reads them: each on its own line, spelled exactly.

    Small models often end the line of an answer with the marker that ends the reply, which DSPy then takes for a part
    of the answer. Of a field's markers only the most regular ones count; an answer may mention or quote others.
    """
    names = [*fields, "completed"]
    spelled = {name.lower(): name for name in names} | {name: name for name in names}
    marks: list[tuple[int, str, re.Match[str]]] = []
    for mark in _FIELD_MARKER.finditer(reply):
        if name := spelled.get(mark["name"]) or spelled.get(mark["name"].lower()):
            marks.append((_irregularity(mark, name), name, mark))
    best: dict[str, int] = {}
    for rank, name, _ in marks:
        best[name] = min(rank, best.get(name, rank))
    parts, end = [], 0
    for rank, name, mark in marks:
        if rank and rank == best[name]:
            parts += [reply[end : mark.start()], f"\n[[ ## {name} ## ]]\n"]
            end = mark.end()
    return "".join([*parts, reply[end:]])


def _irregularity(mark: re.Match[str], name: str) -> int:
    """Return 0 for a marker that DSPy reads, 1 for another one at the beginning of a line, 2 for one inside a line."""
    if mark["start"] is None:
        return 2
    return 0 if mark[0].strip() == f"[[ ## {name} ## ]]" else 1


def _parse_error(chosen: Any, signature: type[dspy.Signature], reply: str, message: str) -> AdapterParseError:
    return AdapterParseError(type(chosen).__name__, signature, reply, message)


def without_markers(text: str) -> str:
    """Return ``text`` without the markers of DSPy's content parts."""
    return text.replace(MARK, MARK[:2] + " " + MARK[2:])


_OURS = ignoring_thinking(TurnAdapter())
_CODE_ONLY = ignoring_thinking(TurnAdapter(CODE_FORM))
_DEFAULT = dspy.ChatAdapter()
