"""Convert replies with a signature's outputs, as small models write them, to the form that DSPy reads.

DSPy repairs the text of an output until it fits the type, and takes None for an output that it does not find. That
works for most replies but turns some into values that nobody wrote: ``[1,250.50, 80]`` becomes three numbers. Such a
reply is refused here, so that the model is asked again; text with a single meaning, such as ``**1,250.50**``, is read.
"""

from __future__ import annotations

import ast
import decimal
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any, Literal, Union, get_args, get_origin

from dspy.adapters.utils import annotation_allows_none

from rlm_dspy.evidence import Evidence

_MARKER = re.compile(
    r"(?P<start>^[ \t>*#`]*)?\[\[ ?## ?(?P<name>\w+) ?## ?\]{1,2}(?:(?:\*\*)?:?(?=\s|\Z))?", re.MULTILINE
)
_TWICE = re.compile(r"^\[\[ ## (?P<name>\w+) ## \]\][ \t]*\n\s*(?=\[\[ ## (?P=name) ## \]\])", re.MULTILINE)
_SECTION = re.compile(r"^[ \t]*\[\[ ## (?P<name>\w+) ## \]\]", re.MULTILINE)
_END = re.compile(r"(?<!\s)\s*\[\[ ## completed ## \]\]\s*\Z")
_NOTE = re.compile(r"[ \t]*# note: the value you produce .*")  # DSPy puts this beside the name of a field
_SCHEMA = re.compile(r'\s*\{\s*"(?:type|anyOf)":')
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_AMBIGUOUS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^'\n]*'")
_LOOSE_NUMBER = re.compile(r"\d[ \u00a0\u202f]\d|\d\s?[%;]")  # DSPy reads only the first part of these
_NUMBER_LIST = re.compile(r"[(\[]\s*(?:[-+]?[\d.eE+-]+\s*,\s*)*(?:[-+]?[\d.eE+-]+)?\s*[)\]]")
_BULLET = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_DOTS = re.compile(r"[\[,(]\s*(?:\.{3}|…)")  # stands for items that are left out
_INNER_COMMA = re.compile(r"\([^()]*,[^()]*\)")  # may not separate items
_DEPTH = {"[": 1, "(": 1, "]": -1, ")": -1}
_NUMBERS = (int, float, decimal.Decimal)
_NOTHING = frozenset({"", "none", "null", "n/a"})


def plain_reply(reply: str, fields: Mapping[str, Any]) -> str:
    """Return a reply in the form that DSPy reads.

    Args:
        reply: what the model wrote, without its thinking.
        fields: the fields of the outputs, by name.

    Raises:
        ValueError: the reply has none of the outputs, or a value that DSPy would misread; the text says which.
    """
    text = _TWICE.sub("", with_plain_markers(reply, fields))
    sections: dict[str, str] = {}
    marks = list(_SECTION.finditer(text))
    for number, mark in enumerate(marks):
        if number + 1 < len(marks):
            end = marks[number + 1].start()
        else:
            end = len(text)
        if mark["name"] in fields:
            sections.setdefault(mark["name"], text[mark.end() : end].strip())
    changed = not sections
    if not sections:
        sections = dict(_fields_of_json(without_end_marker(reply), fields))
    if not sections and reply.strip():
        raise ValueError(f"The reply has no {', '.join(fields)}")
    for name, field in fields.items():
        if name in sections and field.annotation is not str:
            value = _plain_value(name, sections[name], field.annotation)
            changed = changed or value != sections[name]
            sections[name] = value
        elif name not in sections and field.annotation == list[Evidence]:
            sections[name], changed = "[]", True
    if not changed:
        return text
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in sections.items())


def with_plain_markers(reply: str, fields: Iterable[str]) -> str:
    """Return a reply with the markers of its fields as DSPy reads them: each on its own line, spelled exactly.

    Small models often end the line of an answer with the marker that ends the reply, which DSPy then takes for a part
    of the answer. Of a field's markers only the most regular ones count; an answer may mention or quote others.
    """
    names = [*fields, "completed"]
    spelled = {name.lower(): name for name in names} | {name: name for name in names}
    marks: list[tuple[int, str, re.Match[str]]] = []
    for mark in _MARKER.finditer(reply):
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
    if mark[0].strip() == f"[[ ## {name} ## ]]":
        return 0
    return 1


def _fields_of_json(reply: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each output of a reply that is a JSON object with all required outputs."""
    text = re.sub(r"\A\s*```(?:json)?\s*|\s*```\s*\Z", "", reply)
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if not isinstance(found, dict) or any(found.get(name) is None for name in _required_names(fields)):
            return
        for name in fields:
            if found.get(name) is not None:
                yield name, found[name] if isinstance(found[name], str) else json.dumps(found[name])


def _required_names(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, field in fields.items():
        if field.is_required() and not annotation_allows_none(field.annotation) and field.annotation != list[Evidence]:
            yield name


def _plain_value(name: str, text: str, annotation: Any) -> str:
    """Return the text of an output of another type than str, in a form that DSPy reads without guessing.

    Raises:
        ValueError: DSPy would misread it.
    """
    plain = _NOTE.sub("", text).strip()
    if text and not plain:
        raise _unread(name, text, "it is a note of the prompt, not a value")
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = set(get_args(annotation))
    else:
        kinds = {annotation}
    kinds.discard(type(None))
    if kinds == {str}:
        if _SCHEMA.match(plain):
            raise _unread(name, text, "it is the schema of the value, not a value")
        return plain
    if annotation == list[Evidence]:
        return _quotes_as_json(plain)
    bare = plain.strip("*`").strip()
    if kinds <= set(_NUMBERS):
        return bare.replace(",", "") if _THOUSANDS.fullmatch(bare) else bare
    if kinds == {bool}:
        return bare.rstrip(".")
    if len(kinds) == 1 and get_origin(next(iter(kinds))) is Literal:
        return _chosen_value(bare, get_args(next(iter(kinds))))
    unquoted = _QUOTED.sub('""', plain)
    is_loose = ", " in unquoted or not plain.startswith(("[", "{", "("))
    if _holds_numbers(annotation) and is_loose and _AMBIGUOUS.search(unquoted):
        raise _unread(name, text, "write numbers without separators of thousands")
    if _holds_numbers(annotation) and _LOOSE_NUMBER.search(unquoted):
        raise _unread(name, text, "write plain numbers, as JSON")
    if get_origin(annotation) is list:
        return _plain_list(name, plain, get_args(annotation))
    return plain


def _plain_list(name: str, text: str, items: tuple[Any, ...]) -> str:
    """Return the text of a list: in brackets, item by item after bullets or on lines, or separated by commas.

    Raises:
        ValueError: it may be another list, or not all of it.
    """
    bullets = _bullet_items(text)
    if bullets and items == (str,):
        return json.dumps(bullets, ensure_ascii=False)
    if _holds_lists(items) or not text.startswith("["):
        lines = [line for line in text.splitlines() if line.strip()]
        written = [f"[{text}]", f"[{', '.join(bullets or lines)}]"]
    else:
        written = [text.rstrip(".")]
    for candidate in written:
        with suppress(ValueError, RecursionError):
            if json.loads(candidate):
                return candidate
    if not _is_one_list(text):
        raise _unread(name, text, "write one list, as JSON")
    if not items or not set(items) <= set(_NUMBERS):
        return text
    with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return json.dumps(list(ast.literal_eval(text)))
    if not _NUMBER_LIST.fullmatch(text):
        raise _unread(name, text, "write one list, as JSON")
    return text


def _holds_lists(items: tuple[Any, ...]) -> bool:
    return any(get_origin(item) in (list, tuple, set, frozenset) for item in items)


def _unread(name: str, value: str, why: str) -> ValueError:
    return ValueError(f"Failed to parse field {name} with value {value} from the LM response. Error message: {why}")


def _chosen_value(text: str, allowed: tuple[Any, ...]) -> str:
    """Return the allowed value that a text names, ignoring case and a full stop, else the text."""
    named = text.strip("\"'").rstrip(".").casefold()
    matching = [value for value in allowed if isinstance(value, str) and value.casefold() == named]
    if len(matching) == 1 and text not in allowed:
        return matching[0]
    return text


def _quotes_as_json(text: str) -> str:
    """Return quotes that stand on lines of their own as the JSON of a list of evidence."""
    if text.startswith(("[", "{", "```")):
        return text
    quotes = []
    for line in text.splitlines():
        quote = _BULLET.sub("", line.strip()).strip()
        if len(quote) > 1 and quote[0] == quote[-1] and quote[0] in "\"'":
            quote = quote[1:-1]
        if quote.lower().rstrip(".") not in _NOTHING:
            quotes.append({"quote": quote})
    return json.dumps(quotes, ensure_ascii=False)


def _bullet_items(text: str) -> list[str]:
    """Return the items of a list with a bullet or a number before each line, [] for any other text."""
    items = []
    for line in text.splitlines():
        text_of_line = line.strip()
        if not text_of_line:
            continue
        bullet = _BULLET.match(text_of_line)
        if bullet is None:
            return []
        items.append(text_of_line[bullet.end() :].strip())
    return items


def _holds_numbers(annotation: Any) -> bool:
    return annotation in _NUMBERS or any(_holds_numbers(part) for part in get_args(annotation))


def _is_one_list(text: str) -> bool:
    """Return whether a text is a single list in brackets, whose items DSPy may have to repair."""
    inner = re.sub(r"\A```\w*\s*|\s*```\Z", "", text)
    if not (inner.startswith(("[", "(")) and inner.endswith(("]", ")"))):
        return False
    bare = _QUOTED.sub("", inner)
    if _DOTS.search(bare):
        return False
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            read(inner)
            return True
    depths = accumulate(_DEPTH.get(char, 0) for char in bare[:-1])
    return all(depth > 0 for depth in depths) and not _INNER_COMMA.search(bare)


def without_end_marker(text: str) -> str:
    """Return a text without the marker that ends a reply."""
    return _END.sub("", text)
