"""Reads a cell out of a table row: the row that has what is asked about, the column that is asked for."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from rlm_dspy.lms.offline.question import Question, Term

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
# What the names of columns are short for, or mean beside what they say.
_LONG = {
    "qty": "quantity", "dept": "department", "tel": "telephone phone", "telephone": "phone", "mobile": "phone",
    "no": "number", "nr": "number", "amt": "amount", "addr": "address", "desc": "description", "min": "minimum",
    "max": "maximum", "avg": "average", "pop": "population", "yr": "year", "mgr": "manager", "pct": "percent",
    "acct": "account", "ref": "reference", "dob": "birth born", "mail": "email", "price": "cost", "cost": "price",
}  # fmt: skip
_LONG |= {name[:3]: name for name in _MONTHS}
# What the word that asks expects: in the name of the column, and in the cell.
_EXPECTED = (
    (r"\bhow (?:many|much)\b", r"quantity|count|amount|units|number|total", r"[-+]?[\d.,\s]*\d[\d.,\s]*\D{0,4}"),
    (r"\bwhen\b|\bwhat (?:date|day|time|year)\b", r"date|time|day|year", r".*(?:\b(?:1[5-9]|20)\d\d\b|\d\d?:\d\d).*"),
    (r"\bwho\b", r"name|person|contact|owner|author|by\b", r"[^\W\d_][^\d@]*"),
    (r"\bwhere\b", r"place|location|venue|city|town|address|site", r"[^\W\d_].*"),
)


def cells(line: str, like: str | None = None) -> list[str]:
    """Cut a line of a table into its cells, by what stands between those of ``like`` or its own; none if it cannot."""
    between = max(("\t", "|", ";", ","), key=(like or line).count)
    text = line.strip().strip("|") if between == "|" else line
    if between != "|" and text.count('"') % 2:
        return []  # a cell goes on in another line
    try:
        row = next(csv.reader([text.strip("\r\n")], delimiter=between, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [cell.strip(" `*") if between == "|" else cell.strip() for cell in row]


def cell(question: Question, row: str, head: str) -> tuple[float, str | None]:
    """Return how much of the question a row and the column that is asked for have (0 to 1), and the cell.

    Nothing fits a row that lacks a name of the question, or has none of its words; without a column that is
    asked for the cell is None.
    """
    names, values = cells(head), cells(row, head)
    terms = [term for term in question.terms if term.strong or " " not in term.text]
    if len(names) < 2 or not values or len(values) > len(names) or not terms:
        return 0.0, None  # of a row with more cells than names nobody knows which cell has which name
    values = values + [""] * (len(names) - len(values))
    keys, told = _keys(terms, values)
    open_ones = [term for term in terms if term not in told]
    marks = [
        (_named(open_ones, name) + _expected(question.text, name, value), place)
        for place, (name, value) in enumerate(zip(names, values, strict=True))
        if place not in keys
    ]
    best, place = max(marks, key=lambda mark: (mark[0], -mark[1]), default=(0.0, -1))
    heads = " ".join(map(_spelled, names))
    column = [term for term in open_ones if best > 0 and place >= 0 and _loose(term, _spelled(names[place]))]
    others = [term for term in open_ones if term not in column and _loose(term, heads)]
    there = [*told, *column, *others]
    if not told or any(term.weight >= 2.5 and term not in there for term in terms):
        return 0.0, None
    if best > 0 and not values[place]:
        return 0.0, None  # the row has nothing in the column that is asked for
    fit = sum(term.weight for term in there) / sum(term.weight for term in terms)
    return fit, values[place] if best > 0 else None


def _keys(terms: Sequence[Term], values: Sequence[str]) -> tuple[set[int], list[Term]]:
    """Tell which cells have the terms that a row has, as few of them as have all, and those terms."""
    found = [[term for term in terms if re.search(term.pattern, value, re.I)] for value in values]
    keys: set[int] = set()
    told: list[Term] = []
    for place in sorted(range(len(values)), key=lambda place: (-sum(term.weight for term in found[place]), place)):
        if new := [term for term in found[place] if term not in told]:
            keys.add(place)
            told += new
    return keys, told


def _spelled(name: str) -> str:
    """The words of a column's name, with what they are short for; a month is named too."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+", apart.lower())
    month = re.fullmatch(r"\d{4}[-/.](\d\d?)|(\d\d?)[-/.]\d{4}", name.strip())
    number = int(month[1] or month[2]) if month else 0
    named = [_MONTHS[number - 1]] if 1 <= number <= 12 else []
    return " ".join([*words, *(_LONG[word] for word in words if word in _LONG), *named, name.lower()])


def _loose(term: Term, spelled: str) -> bool:
    """Tell whether a word is in the name of a column, or shares most of its letters with a word of it."""
    if re.search(term.pattern.replace(r"(?:\b|_)", r"\b"), spelled, re.I):
        return True
    word = term.text.lower()
    return any(_kin(word, other) for other in spelled.split())


def _kin(one: str, other: str) -> bool:
    shared = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return shared >= 5 and shared >= 0.6 * max(len(one), len(other))


def _named(terms: Sequence[Term], name: str) -> float:
    """What the words of the question that no cell has weigh in the name of a column, less if it has others too."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)) or [name]
    known = [word for word in words if any(_loose(term, _spelled(word)) for term in terms)]
    found = sum(term.weight for term in terms if _loose(term, _spelled(name)))
    return found * (0.3 + 0.7 * len(known) / len(words))


def _expected(asked: str, name: str, value: str) -> float:
    for word, column, shape in _EXPECTED:
        if re.search(word, asked, re.I) and re.fullmatch(shape, value):
            return 1.2 if re.search(rf"\b(?:{column})", _spelled(name)) else 0.2
    return 0.0
