"""Which inputs of a run are variables, contexts that evidence may quote, and the question."""

from __future__ import annotations

import itertools
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any

import dspy

from rlm_dspy.context import Context
from rlm_dspy.rlm.images import ImageHandle
from rlm_dspy.rlm.signatures import history_field
from rlm_dspy.sandbox.worker import tables

QUESTION_FIELDS = frozenset({"question", "query", "instruction", "task", "prompt"})
MAX_QUESTION_CHARS = 1_000  # a longer question counts as a context itself
MAX_TABLE_DEPTH = 4  # of lists and dicts in which tables are looked for
MAX_PATH_CHARS = 1_000  # longer texts are not taken for a path
_PATH = re.compile(r"(?:~|[A-Za-z]:)?[\w./\\-]+\.[A-Za-z]\w{0,7}")


def repl_inputs(signature: type[dspy.Signature], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that become variables: all but the history, long texts as themselves."""
    own = history_field(signature)
    variables: dict[str, Any] = {}
    for name, value in inputs.items():
        if name == own:
            continue
        if isinstance(value, Context):
            variables[name] = value.text
        else:
            variables[name] = value
    return variables


def input_warnings(signature: type[dspy.Signature], values: Mapping[str, Any]) -> list[str]:
    """Return a warning for each text that is None or a number, or that looks like a file path instead of a text.

    The disk is not checked: an untrusted text could probe for files.
    """
    warnings: list[str] = []
    for name, value in values.items():
        is_text = signature.input_fields[name].annotation in (str, Context)
        if is_text and (value is None or isinstance(value, numbers.Number)):
            warnings.append(f"{name} is {value!r}, where the signature has a text")
        if name not in QUESTION_FIELDS and isinstance(value, str) and _PATH.fullmatch(value[: MAX_PATH_CHARS + 1]):
            warnings.append(f"{name} is only {value!r}: pass rlm_dspy.read({value!r}) to ask about a file")
    return warnings


def is_context(value: Any) -> bool:
    """Return whether evidence may quote ``value``, i.e. it is a text or a corpus."""
    return (isinstance(value, str) and not isinstance(value, ImageHandle)) or hasattr(value, "sandbox_index")


def quotable_inputs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that evidence may quote, plain or structured, without the question and earlier turns."""
    quoted: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dspy.History) or (name in QUESTION_FIELDS and isinstance(value, str)):
            continue
        quoted[name] = _with_plain_tables(value)
    return quoted


def _with_plain_tables(value: Any, depth: int = 0) -> Any:
    """Return a value whose tables are plain data, also those inside its lists and dicts."""
    if value is None or isinstance(value, (str, int, float, bytes)):
        return value
    table = tables.plain_data(value)
    if table is not tables.OTHER:
        return table
    if depth < MAX_TABLE_DEPTH and type(value) in (list, tuple):
        return type(value)(_with_plain_tables(item, depth + 1) for item in value)
    if depth < MAX_TABLE_DEPTH and type(value) is dict:
        return {key: _with_plain_tables(item, depth + 1) for key, item in value.items()}
    return value


def task_of(values: Mapping[str, Any]) -> str:
    """Return the question or instruction of a run."""
    return next((str(value) for name, value in values.items() if name in QUESTION_FIELDS), "")


def main_context(values: Mapping[str, Any]) -> str | None:
    """Name the input that the toolkit works on: a corpus, ``context``, or the longest text.

    It is None if the longest text is the question and short, or if a list or dict is longer than the texts.
    """
    texts = {name: value for name, value in values.items() if is_context(value)}
    for name, value in texts.items():
        if not isinstance(value, str):
            return name
    if "context" in texts:
        return "context"
    sizes = {name: len(value) for name, value in texts.items() if name not in QUESTION_FIELDS}
    sizes = sizes or {name: len(value) for name, value in texts.items() if len(value) > MAX_QUESTION_CHARS}
    others = [value for name, value in values.items() if name not in texts and not isinstance(value, dspy.History)]
    if not sizes or any(_is_longer(value, max(sizes.values())) for value in others):
        return None
    return max(sizes, key=lambda name: sizes[name])


def _is_longer(value: Any, chars: int) -> bool:
    """Return whether a value, written out, has more characters; a large one is not written out as a whole."""
    items: Iterable[Any] = [value]
    if isinstance(value, Mapping):
        items = itertools.chain(value, value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = value
    total = 0
    for item in items:
        total += len(str(item))
        if total > chars:
            return True
    return False
