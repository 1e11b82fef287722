"""Fills typed output fields from what was found; what cannot be extracted is left empty, and said."""

from __future__ import annotations

import ast
import re
from typing import Any

from rlm_dspy.lms.offline import answers
from rlm_dspy.lms.offline.answers import Finding, Passage
from rlm_dspy.lms.offline.prompt import Field
from rlm_dspy.lms.offline.question import Question, read

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_GENERIC = frozenset(
    (
        "answer",
        "answers",
        "result",
        "results",
        "response",
        "output",
        "reply",
        "final_answer",
        "text",
        "value",
        "count",
        "number",
        "n",
        "total",
        "amount",
        "items",
        "list",
        "names",
        "date",
        "when",
        "year",
        "who",
        "where",
        "ok",
    )
)


def fill(
    fields: tuple[Field, ...], question: Question, finding: Finding, given: list[Passage]
) -> tuple[dict[str, Any], list[str]]:
    """Return a plain value for each field, and the names of those that nothing was found for."""
    values: dict[str, Any] = {}
    missing: list[str] = []
    for field in fields:
        if field.name == "reasoning":
            values[field.name] = reasoning(question, finding)
            continue
        own = finding if field.name in _GENERIC or is_evidence(field) else _own(field, question, finding, given)
        value = _typed(field.type, own, question)
        if value is None:
            missing.append(field.name)
            value = empty(field.type)
        values[field.name] = value
    if missing and "reasoning" in values:
        values["reasoning"] += placeholders(missing)
    return values, missing


def placeholders(missing: list[str]) -> str:
    """Tell which values are not from the text."""
    return f" Nothing was found for {', '.join(missing)}; empty values stand there."


def reasoning(question: Question, finding: Finding) -> str:
    """Tell how the answer came about."""
    terms = ", ".join(term.text for term in question.terms[:8]) or "no keywords"
    if not finding.found:
        return f"Offline look-up without a language model: no passage holds enough of these keywords: {terms}."
    places = ", ".join(dict.fromkeys(passage.where for passage in finding.passages[:3]))
    return f"Offline look-up without a language model: by the keywords {terms}, the best passage is at {places}."


def is_evidence(field: Field) -> bool:
    """Tell whether a field wants quotes."""
    return "Evidence" in field.type or (field.name in ("evidence", "quotes", "citations") and "list" in field.type)


def quotes(finding: Finding, *, bare: bool = False) -> list[dict[str, Any]]:
    """Return the passages as evidence: exact quotes with their places, or only quotes and sources."""
    found = []
    for passage in finding.passages[:6]:
        item: dict[str, Any] = {"quote": passage.text}
        if passage.source:
            item["source"] = passage.source
        if passage.start is not None and not bare:
            item |= {"start": passage.start, "end": passage.start + len(passage.text), "line": passage.line}
        found.append(item)
    return found


def _own(field: Field, question: Question, finding: Finding, given: list[Passage]) -> Finding:
    """Look for a field with a telling name among the same passages."""
    extra = read(f"{field.name.replace('_', ' ')} {field.desc}")
    asked_already = {term.text for term in question.terms}
    if not finding.found or all(term.text in asked_already for term in extra.terms):
        return finding

    def mark(passage: Passage) -> float:
        return sum(term.weight for term in extra.terms if re.search(term.pattern, passage.text, re.I))

    near = [passage for passage in given if passage.score >= 0.5 * finding.passages[0].score]
    best = max(near, key=lambda passage: passage.score + 2 * mark(passage), default=None)
    if best is None or mark(best) == 0:
        return finding
    asked = Question(question.text, read(f"{field.name.replace('_', ' ')}?").kind, extra.terms, extra.subjects)
    return answers.find(asked, [best]) if answers.covers(asked, best) else Finding(best.text, (best,))


def _typed(kind: str, finding: Finding, question: Question) -> Any:
    if re.match(r"(?:(?:Optional|Union|UnionType)\[)?str\b", kind):
        return finding.answer
    if "Evidence" in kind:
        return quotes(finding)
    if not finding.found:
        return None
    texts = [finding.answer, *(passage.text for passage in finding.passages)]
    if options := _options(kind):
        said = (o for text in texts for o in options if re.search(rf"(?i)\b{re.escape(str(o))}\b", text))
        return next(said, None)
    base = re.split(r"[|,\]]", re.sub(r"^(?:Optional|Union|UnionType)\[", "", kind))[0].strip()
    if base.startswith(("list", "List", "tuple", "set", "Sequence")):
        return _items(kind, finding)
    return _SCALARS.get(base, lambda _: finding.answer if base == "Any" else None)(texts)


def _options(kind: str) -> list[Any]:
    found = re.search(r"Literal\[(.*)\]", kind)
    if not found:
        return []
    try:
        return list(ast.literal_eval(f"[{found[1]}]"))
    except (ValueError, SyntaxError):
        return []


def _items(kind: str, finding: Finding) -> list[Any]:
    texts = list(finding.names) or [passage.text for passage in finding.passages[:5]]
    if len(texts) == 1 and re.fullmatch(r"\[.*\]|\(.*\)", texts[0]):
        try:
            texts = [str(item) for item in ast.literal_eval(texts[0])]
        except (ValueError, SyntaxError, TypeError):
            texts = [part.strip() for part in texts[0][1:-1].split(",")]
    inner = re.search(r"\[(int|float)\b", kind)
    if not inner:
        return texts
    found = [number for text in texts for number in answers.numbers(text)]
    return [int(float(number)) if inner[1] == "int" else float(number) for number in found]


def _integer(texts: list[str]) -> int | None:
    return next((int(n) for text in texts for n in answers.numbers(text) if "." not in n), None)


def _real(texts: list[str]) -> float | None:
    return next((float(n) for text in texts for n in answers.numbers(text)), None)


def _truth(texts: list[str]) -> bool:
    """A stated truth value if there is one; else whether anything was found at all."""
    return texts[0].strip().lower() not in ("false", "no", "off", "none")


def _date(texts: list[str]) -> str | None:
    for text in texts:
        if found := re.search(r"\b(\d{4})-(\d\d)-(\d\d)\b", text):
            return found[0]
        named = re.search(r"\b(\d{1,2})\.? (\w{3,9})\.? (\d{4})\b|\b(\w{3,9})\.? (\d{1,2}),? (\d{4})\b", text)
        if named:
            day, month, year = (named[1], named[2], named[3]) if named[1] else (named[5], named[4], named[6])
            number = next((i for i, name in enumerate(_MONTHS, 1) if name == month.lower()[:3]), None)
            if number:
                return f"{year}-{number:02d}-{int(day):02d}"
    return None


_SCALARS: dict[str, Any] = {
    "int": _integer,
    "float": _real,
    "Decimal": _real,
    "bool": _truth,
    "date": _date,
    "datetime": _date,
}


def empty(kind: str) -> Any:
    """The emptiest value that a type allows."""
    if "None" in kind or kind.startswith("Optional"):
        return None
    if options := _options(kind):
        open_ones = ("unknown", "none", "other", "n/a", "neutral")
        return next((option for option in options if str(option).lower() in open_ones), options[0])
    if kind.startswith(("list", "List", "tuple", "set", "Sequence")):
        return []
    if kind.startswith(("dict", "Dict", "Mapping")):
        return {}
    return {"int": 0, "float": 0.0, "Decimal": 0, "bool": False}.get(kind, answers.NOTHING)
