"""Submitted answers: parse them into the signature's types, locate their evidence, render them for the record."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import decimal
import enum
import itertools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Annotated, Any, Union, get_args, get_origin

import dspy
import pydantic
from dspy.adapters.utils import annotation_allows_none, parse_value

from rlm_dspy.evidence import Evidence, check, is_weak, short_answers
from rlm_dspy.metering import reply_text
from rlm_dspy.rlm import prompts
from rlm_dspy.run import cut_text

_ENDLESS = re.compile(r"(?<![\w.])[\d_]*+\.?[\d_]*+[eE][-+]?[\d_]{5,}+(?!\w)")  # an exponent of five digits or more
MOST_EXPONENT = 5_000  # of a Decimal, either way
LONGEST_REPAIRED = 1_000  # characters of broken JSON: the repair takes quadratic time, seconds for ten thousand
LONGEST_LITERAL = 100_000  # characters of Python's notation: reading a hexadecimal number takes quadratic time too

MOST_PARTS = 100_000  # lists and dicts of an output; also its other values where each may have one of several types
MOST_READ_PARTS = 1_000_000  # of a text that is read as JSON
MOST_COLLISIONS = 100  # values of one hash in a set
MAX_NUMBER_CHARS = 1_000  # of a text that is hashed as the number that it may become
LONGEST_PATTERN = 500  # characters of a regular expression, which may take minutes to compile
MOST_ERRORS = 100  # errors of one value that are described
MOST_SHOWN_ITEMS = 5  # with more errors, only this many items of each container are checked and described


def parse_outputs(signature: type[dspy.Signature], value: Any) -> tuple[dict[str, Any], str | None]:
    """Parse a SUBMIT value into a signature's outputs; the problem, if any, is advice for the model."""
    fields = signature.output_fields
    call = f"SUBMIT({', '.join(f'{name}=...' for name in fields)})."
    if not isinstance(value, Mapping):
        return {}, f"SUBMIT got a {type(value).__name__}; call {call}"
    value = _unpacked_outputs(value, fields)
    defaults = {n: f.get_default(call_default_factory=True) for n, f in fields.items() if not f.is_required()}
    value = {**defaults, **value}
    if missing := [name for name in fields if name not in value]:
        return {}, f"Missing outputs: {missing}. Use {call}"
    outputs, errors = {}, []
    for name, field in fields.items():
        try:
            if value[name] is None and not annotation_allows_none(field.annotation):
                raise ValueError("None is not allowed here; find the value, or write that it was not found")
            _refuse_endless(value[name], field.annotation)
            parsed = _parse_as_type(_hits_as_texts(value[name], field.annotation), field.annotation)
            outputs[name] = _checked_limits(parsed, field)
            repr(outputs[name])  # as the step's output and the record show it
            json.dumps(jsonable_outputs({name: outputs[name]}))
        except Exception as error:  # a validator of the user's type may raise anything, and a model can adapt to it
            wanted = prompts.type_name(field)
            problem = cut_text(_error_text(error, value[name], field.annotation), 1_000)
            errors.append(f"{name}: expected {wanted}, got {type(value[name]).__name__}: {problem}")
    if not errors:
        return outputs, None
    return {}, "[Type Error] " + "; ".join(errors)


def _checked_limits(value: Any, field: Any) -> Any:
    """Return the value if it meets its field's limits (``dspy.OutputField(le=5)``), which are not part of its type.

    Raises:
        pydantic.ValidationError: it does not meet them; a validator of the user's may raise anything else.
    """
    if not field.metadata:
        return value
    return pydantic.TypeAdapter(Annotated[(field.annotation, *field.metadata)]).validate_python(value)


def limit_problems(signature: type[dspy.Signature], outputs: Mapping[str, Any]) -> list[str]:
    """Return a problem for each output outside its field's limits, for calls that cannot ask the model again."""
    problems = []
    for name, field in signature.output_fields.items():
        try:
            _checked_limits(outputs[name], field)
        except Exception as error:  # a validator of the user's type may raise anything, and the answer is paid for
            problems.append(f"{name} does not keep to its limits: {_error_text(error, None, None)}")
    return problems


def _error_text(error: BaseException, value: Any, annotation: Any) -> str:
    """Return what is wrong with a value; for a pydantic error, each place and its message, without URLs."""
    if not isinstance(error, pydantic.ValidationError):
        if isinstance(error, (ValueError, TypeError)):
            return str(error)
        return f"{type(error).__name__}: {error}"
    if error.error_count() > MOST_ERRORS:  # reading a million of them takes minutes
        wrong = f"{error.error_count():,} places are wrong"
        try:
            pydantic.TypeAdapter(annotation).validate_python(_beginning_of(_parsed_text(value)))
        except pydantic.ValidationError as first:
            if first.error_count() <= MOST_ERRORS:
                return f"{_error_text(first, None, None)}; and more: {wrong}"
        return wrong
    problems = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(map(str, problem["loc"]))
        problems.append(f"{place}: {problem['msg']}" if place else problem["msg"])
    return "; ".join(problems)


def _beginning_of(value: Any) -> Any:
    """Return a value with only the first items of each container, so that few places of it can be wrong."""
    if isinstance(value, Mapping):
        return {key: _beginning_of(item) for key, item in itertools.islice(value.items(), MOST_SHOWN_ITEMS)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_beginning_of(item) for item in itertools.islice(value, MOST_SHOWN_ITEMS)]
    return value


def _refuse_too_many(value: Any, annotation: Any) -> None:
    """Refuse a value with more parts than can be checked against a union or a class within a second.

    Raises:
        ValueError: there are too many.
    """
    is_plain = _is_plain_type(annotation)
    has_hashes = _hashes_values(annotation)
    parts = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if has_hashes and isinstance(item, (Mapping, list, tuple)):
            _refuse_collisions(item)
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        elif is_plain:
            continue
        parts += 1
        if parts > MOST_PARTS:
            raise ValueError(
                f"it has more than {MOST_PARTS:,} {'lists and dicts' if is_plain else 'values'}; submit less"
            )


def _hashes_values(annotation: Any, above: tuple[Any, ...] = ()) -> bool:
    """Return whether a type is or contains a set, or a dict whose keys are made of texts."""
    origin, parts = get_origin(annotation) or annotation, get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Set) and parts != (str,):
        return True
    if isinstance(origin, type) and issubclass(origin, Mapping) and parts and parts[0] not in (str, Any):
        return True
    if isinstance(origin, type) and issubclass(origin, pydantic.BaseModel) and origin not in above:
        parts = tuple(field.annotation for field in origin.model_fields.values())
    elif dataclasses.is_dataclass(origin) and origin not in above:
        with contextlib.suppress(NameError, TypeError):
            parts = tuple(typing.get_type_hints(origin).values())
    return any(_hashes_values(part, (*above, origin)) for part in parts)


def _refuse_collisions(items: Iterable[Any]) -> None:
    """Refuse values crafted to share one hash: filling a set with them would take quadratic time.

    Raises:
        ValueError: more than ``MOST_COLLISIONS`` values that differ have the same hash.
    """
    values_by_hash: dict[int, list[Any]] = {}
    for item in items:
        values = values_by_hash.setdefault(_hash_of(item), [])
        if len(values) > MOST_COLLISIONS:
            raise ValueError("its values collide; submit others")
        if item not in values:
            values.append(item)


def _hash_of(value: Any) -> int:
    """Return the hash that a value has in a set, also one that is still a text of a number, or a list."""
    if isinstance(value, str) and len(value) <= MAX_NUMBER_CHARS:
        with contextlib.suppress(decimal.InvalidOperation, ValueError, TypeError):
            return hash(decimal.Decimal(value))
    if isinstance(value, (list, tuple)):
        return hash(tuple(map(_hash_of, value)))
    with contextlib.suppress(TypeError):
        return hash(value)
    return id(value)


def _is_plain_type(annotation: Any) -> bool:
    """Return whether each value is checked against one plain type, which is fast."""
    if get_origin(annotation) in (list, dict, tuple, set, frozenset):
        return all(map(_is_plain_type, get_args(annotation)))
    return annotation in (str, int, float, bool, bytes, list, dict, Any, ...)


def _refuse_endless(value: Any, annotation: Any) -> None:
    """Refuse a number that would take forever to write out, unless it is in a text that is kept as text.

    Raises:
        ValueError: such a number was found.
    """
    if isinstance(value, decimal.Decimal) and value.is_finite() and abs(value.adjusted()) > MOST_EXPONENT:
        raise ValueError("its exponent is too large")
    if annotation is str or annotation is Any or annotation == list[str]:
        return
    if isinstance(value, str):
        whole = value.strip().lstrip("+-")
        if _ENDLESS.fullmatch(whole) or (annotation is not None and _ENDLESS.search(whole)):
            raise ValueError("its exponent is too large")
    elif isinstance(value, Mapping):
        for item in (*value, *value.values()):
            _refuse_endless(item, None)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _refuse_endless(item, None)


def _parse_as_type(value: Any, annotation: Any) -> Any:
    """Parse a value as a type, as DSPy does; neither JSON nor Python notation is repaired in long texts."""
    if (get_origin(annotation) or annotation) is re.Pattern and len(str(value)) > LONGEST_PATTERN:
        raise ValueError(f"a pattern of more than {LONGEST_PATTERN} characters; submit a shorter one")
    if not isinstance(value, str) or len(value) <= LONGEST_REPAIRED or _keeps_texts(annotation):
        _refuse_too_many(value, annotation)
        return parse_value(value, annotation)
    parsed = _parsed_text(value)
    _refuse_too_many(parsed, annotation)
    return pydantic.TypeAdapter(annotation).validate_python(parsed)


def _parsed_text(value: Any) -> Any:
    """Return the value of a text that is JSON or a Python literal, else the value itself."""
    if not isinstance(value, str):
        return value
    if sum(map(value.count, ",[{")) > MOST_READ_PARTS:  # reading millions of lists takes gigabytes
        raise ValueError(f"its text has more than {MOST_READ_PARTS:,} values; submit less")
    with contextlib.suppress(json.JSONDecodeError, RecursionError):
        return json.loads(value)
    if len(value) <= LONGEST_LITERAL:
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return ast.literal_eval(value)
    return value


def _keeps_texts(annotation: Any) -> bool:
    """Return whether DSPy accepts a text for this type without parsing it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return str in parts and type(None) in parts
    return annotation is str or isinstance(annotation, enum.EnumMeta)


def _hits_as_texts(value: Any, annotation: Any) -> Any:
    """Replace hits by their text where a str is expected: in the REPL a hit reads like one."""
    if annotation == list[str] and isinstance(value, list):
        return [_hits_as_texts(item, str) for item in value]
    if annotation is not str:
        return value
    if isinstance(value, list) and value and all(map(_is_hit, value)):
        return "\n".join(hit["text"] for hit in value)
    if _is_hit(value):
        return value["text"]
    return value


def _is_hit(value: Any) -> bool:
    return isinstance(value, Mapping) and {"line", "text", "range"} <= set(value)


def _unpacked_outputs(value: Mapping[str, Any], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Unpack outputs submitted as a single dict, as in ``SUBMIT({"answer": 5})``, or as its JSON.

    A dict may have other keys beside them, such as its reasoning; a text with those is an answer in JSON.
    """
    filled = [name for name in fields if value.get(name) is not None]
    inner = value[filled[0]] if len(filled) == 1 else None
    if isinstance(inner, Mapping):
        inner = {name: item for name, item in inner.items() if name in fields}
    elif isinstance(inner, str) and inner.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            inner = _parsed_text(inner)
    if not isinstance(inner, Mapping) or not set(inner) <= set(fields) or filled[0] not in inner:
        return value
    required = {name for name, field in fields.items() if field.is_required()}
    if not required <= set(inner) or _takes_mapping(fields[filled[0]].annotation, value[filled[0]]):
        return value
    return inner


def _takes_mapping(annotation: Any, value: Any) -> bool:
    """Return whether the output's own type accepts this dict, or the one in this JSON."""
    try:
        value = _parsed_text(value)
        _refuse_too_many(value, annotation)
        pydantic.TypeAdapter(annotation).validate_python(dict(value))
    except Exception:  # a validator of the user's type may raise anything
        return False
    return True


AROUND_LINES = 5  # lines of a source kept on each side of a quote
MAX_AROUND_CHARS = 2_000  # characters on each side


def locate_evidence(
    value: Any, contexts: Mapping[str, Any], answers: Sequence[str] = ()
) -> tuple[Any, list[Evidence], list[str]]:
    """Locate all evidence in a value; return the value with it located, the evidence in order, and the problems.

    Evidence that says little by itself and supports no short answer in ``answers`` is marked ``weak``.
    """
    pieces: list[Evidence] = []

    def collect(piece: Evidence) -> Evidence:
        pieces.append(piece)
        return piece

    _map_evidence(value, collect)
    checked, problems = check(pieces, contexts)
    for number, piece in enumerate(checked):
        if piece.match is not None and is_weak(piece.quote, answers):
            checked[number] = piece.model_copy(update={"weak": True})
    located = iter(checked)
    return _map_evidence(value, lambda piece: next(located)), checked, problems


def missing_evidence(signature: type[dspy.Signature], outputs: Any) -> list[str]:
    """Return the lists of evidence that a model's reply does not name; an adapter fills in empty ones."""
    fields, reply = signature.output_fields, reply_text(outputs)
    return [name for name in fields if fields[name].annotation == list[Evidence] and name not in reply]


def evidence_records(evidence: Sequence[Evidence], contexts: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return evidence for the record, each with ``around``: the ten lines of its source in which the quote stands."""
    return tuple(item.model_dump() | {"around": lines_around(item, contexts)} for item in evidence)


def lines_around(item: Evidence, contexts: Mapping[str, Any]) -> str:
    """Return the lines around a located quote, "" if it was not found."""
    if item.match is None or item.start is None or item.end is None:
        return ""
    for context in contexts.values():
        text = context
        if not isinstance(context, str) and item.source is not None and item.source in getattr(context, "names", ()):
            text = context[item.source]
        if isinstance(text, str) and item.quote and text[item.start : item.end] == item.quote:
            before = text[max(0, item.start - MAX_AROUND_CHARS) : item.start].split("\n")[-AROUND_LINES - 1 :]
            after = text[item.end : item.end + MAX_AROUND_CHARS].split("\n")[: AROUND_LINES + 1]
            return "\n".join(before) + item.quote + "\n".join(after)
    return ""


def answers_beside(signature: type[dspy.Signature], outputs: Mapping[str, Any]) -> list[str]:
    """Return the short answers among the outputs that are not evidence."""
    fields = signature.output_fields
    plain = {name: value for name, value in outputs.items() if not holds_evidence(fields[name].annotation)}
    return short_answers(plain)


def _map_evidence(value: Any, change: Callable[[Evidence], Evidence]) -> Any:
    """Apply ``change`` to each piece of evidence in a value."""
    if isinstance(value, Evidence):
        return change(value)
    if type(value) in (list, tuple, set, frozenset):
        return type(value)([_map_evidence(item, change) for item in value])
    if isinstance(value, dict):
        return {key: _map_evidence(item, change) for key, item in value.items()}
    if isinstance(value, pydantic.BaseModel) and holds_evidence(type(value)):
        fields = type(value).model_fields
        return value.model_copy(update={name: _map_evidence(getattr(value, name), change) for name in fields})
    return value


def holds_evidence(annotation: Any, above: tuple[Any, ...] = ()) -> bool:
    """Return whether a type is or contains :class:`Evidence`."""
    if annotation is Evidence:
        return True
    parts = list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel) and annotation not in above:
        parts += [field.annotation for field in annotation.model_fields.values()]
    return any(holds_evidence(part, (*above, annotation)) for part in parts)


def render_input(value: Any) -> str:
    """Render an input for the record, shortened if it is long."""
    if not isinstance(value, str):
        return cut_text(repr(value))
    if len(value) <= prompts.PREVIEW_CHARS:
        return cut_text(value)
    return f"str, {len(value):,} characters: {value[:200]}…"


def jsonable_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return outputs as plain JSON values; values without a JSON form, such as binary data, are rendered."""
    kind = pydantic.TypeAdapter(dict[str, Any])
    dumped: dict[str, Any] = {}
    for name, value in outputs.items():
        try:
            dumped |= kind.dump_python({name: value}, mode="json", fallback=repr, serialize_as_any=True)
        except (UnicodeDecodeError, pydantic.PydanticUserError, TypeError):
            dumped[name] = repr(value)
    return dumped
