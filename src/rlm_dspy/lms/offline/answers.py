"""Choose the answer among passages: table cells, values, names and sentences."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlm_dspy.lms.offline.prompt import Field
from rlm_dspy.lms.offline.question_terms import ParsedQuestion, Term, read

_MONTH_NAMES = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
# Expansions and synonyms of column names.
_EXPANSIONS = {
    "qty": "quantity", "dept": "department", "tel": "telephone phone", "telephone": "phone", "mobile": "phone",
    "no": "number", "nr": "number", "amt": "amount", "addr": "address", "desc": "description", "min": "minimum",
    "max": "maximum", "avg": "average", "pop": "population", "yr": "year", "mgr": "manager", "pct": "percent",
    "acct": "account", "ref": "reference", "dob": "birth born", "mail": "email", "price": "cost", "cost": "price",
}  # fmt: skip
_EXPANSIONS |= {name[:3]: name for name in _MONTH_NAMES}
# What each question word expects in the column name and in the cell.
_EXPECTED = (
    (r"\bhow (?:many|much)\b", r"quantity|count|amount|units|number|total", r"[-+]?[\d.,\s]*\d[\d.,\s]*\D{0,4}"),
    (r"\bwhen\b|\bwhat (?:date|day|time|year)\b", r"date|time|day|year", r".*(?:\b(?:1[5-9]|20)\d\d\b|\d\d?:\d\d).*"),
    (r"\bwho\b", r"name|person|contact|owner|author|by\b", r"[^\W\d_][^\d@]*"),
    (r"\bwhere\b", r"place|location|venue|city|town|address|site", r"[^\W\d_].*"),
)


def row_cells(line: str, like: str | None = None) -> list[str]:
    """Split a table line into cells, by the separator of ``like`` or its own; empty if that is not possible."""
    between = max(("\t", "|", ";", ","), key=(like or line).count)
    text = line.strip().strip("|") if between == "|" else line
    if between != "|" and text.count('"') % 2:
        return []  # a cell continues on another line
    try:
        row = next(csv.reader([text.strip("\r\n")], delimiter=between, skipinitialspace=True), [])
    except csv.Error:
        return []
    marks = " `*" if between == "|" else None
    return [cell.strip(marks) for cell in row]


def cell(question: ParsedQuestion, row: str, head: str) -> tuple[float, str | None]:
    """Return how much of the question a row and its best column cover (0 to 1), and the cell.

    The score is 0 for a row that lacks a name of the question or has none of its words; the cell is None if no column
    matches.
    """
    names, values = row_cells(head), row_cells(row, head)
    terms = [term for term in question.terms if term.strong or " " not in term.text]
    if len(names) < 2 or not values or len(values) > len(names) or not terms:
        return 0.0, None  # with more cells than names, the columns are ambiguous
    values = values + [""] * (len(names) - len(values))
    keys, answered = _key_cells(terms, values)
    open_ones = [term for term in terms if term not in answered]
    marks = [
        (_name_weight(open_ones, name) + _expected_bonus(question.text, name, value), place)
        for place, (name, value) in enumerate(zip(names, values, strict=True))
        if place not in keys
    ]
    best, place = max(marks, key=lambda mark: (mark[0], -mark[1]), default=(0.0, -1))
    heads = " ".join(map(_name_words, names))
    column = [
        term for term in open_ones if best > 0 and place >= 0 and _matches_loosely(term, _name_words(names[place]))
    ]
    others = [term for term in open_ones if term not in column and _matches_loosely(term, heads)]
    there = [*answered, *column, *others]
    if not answered or any(term.weight >= 2.5 and term not in there for term in terms):
        return 0.0, None
    if best > 0 and not values[place]:
        return 0.0, None  # the row's cell in this column is empty
    fit = sum(term.weight for term in there) / sum(term.weight for term in terms)
    return fit, values[place] if best > 0 else None


def _key_cells(terms: Sequence[Term], values: Sequence[str]) -> tuple[set[int], list[Term]]:
    """Return the smallest set of cells with all terms of a row, and those terms."""
    found = []
    for place, value in enumerate(values):
        inside = [term for term in terms if re.search(term.pattern, value, re.I)]
        found.append((-sum(term.weight for term in inside), place, inside))
    keys: set[int] = set()
    answered: list[Term] = []
    for _, place, inside in sorted(found, key=lambda cell: cell[:2]):
        if new := [term for term in inside if term not in answered]:
            keys.add(place)
            answered += new
    return keys, answered


def _name_words(name: str) -> str:
    """Return the words of a column's name with their expansions; months are spelled out."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+", apart.lower())
    month = re.fullmatch(r"\d{4}[-/.](\d\d?)|(\d\d?)[-/.]\d{4}", name.strip())
    number = int(month[1] or month[2]) if month else 0
    named = [_MONTH_NAMES[number - 1]] if 1 <= number <= 12 else []
    return " ".join([*words, *(_EXPANSIONS[word] for word in words if word in _EXPANSIONS), *named, name.lower()])


def _matches_loosely(term: Term, spelled: str) -> bool:
    """Return whether a word is in a column's name, or shares most of its letters with a word of it."""
    if re.search(term.pattern.replace(r"(?:\b|_)", r"\b"), spelled, re.I):
        return True
    word = term.text.lower()
    return any(_is_similar(word, other) for other in spelled.split())


def _is_similar(name: str, other: str) -> bool:
    shared = next((n for n, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other)))
    return shared >= 5 and shared >= 0.6 * max(len(name), len(other))


def _name_weight(terms: Sequence[Term], name: str) -> float:
    """Weigh how many question words found in no cell are in a column's name; other words in it reduce the weight."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)) or [name]
    known = 0
    for word in words:
        spelled = _name_words(word)
        known += any(_matches_loosely(term, spelled) for term in terms)
    found = sum(term.weight for term in terms if _matches_loosely(term, _name_words(name)))
    return found * (0.3 + 0.7 * known / len(words))


def _expected_bonus(asked: str, name: str, value: str) -> float:
    for word, column, shape in _EXPECTED:
        if re.search(word, asked, re.I) and re.fullmatch(shape, value):
            if re.search(rf"\b(?:{column})", _name_words(name)):
                return 1.2
            return 0.2
    return 0.0


NOTHING = "Nothing was found in the context that answers this (offline look-up by keywords, no language model)."

_LITERAL = re.compile(
    r"""\s*`?(?P<v>[rbf]?"[^"\n]*"|[rbf]?'[^'\n]*'          # a string
    |\d[\d_]*(?:\s*[*+/]+\s*\d[\d_]*)+                    # arithmetic
    |[-+]?\d[\d_,]*(?:\.\d+)?(?:e[-+]?\d+)?%?(?:\s?(?:ms|s|sec|seconds?|minutes?|hours?|days?|[KMGT]i?B|bytes|%|
       steps?|times|characters|tokens))?\b
    |\[[^\]\n]*\]|\{[^}\n]*\}|\([^)\n]*\)
    |[A-Za-z_][\w.]*(?:\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\))?)`?""",
    re.X,
)
_MANY = re.compile(
    r"(?i)\b(?:class(?:es)?|functions?|methods?|which \w+s)\b.*\b(?:raise|inherit|subclass|extend|derive)"
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,_]*(?:\.\d+)?")


@dataclass(frozen=True)
class Passage:
    """An exact piece of the context, and its position."""

    text: str
    score: float = 0.0
    line: int | None = None
    start: int | None = None
    source: str | None = None
    names: tuple[str, ...] = ()
    after: str = ""
    has: frozenset[int] = frozenset()
    head: str = ""

    @property
    def where(self) -> str:
        """The place as ``path:line``, or ``line N``."""
        if self.source:
            return f"{self.source}:{self.line}"
        return f"line {self.line}"


@dataclass(frozen=True)
class Finding:
    """An answer and the passages that support it; ``found`` is False if nothing matched well."""

    answer: str
    passages: tuple[Passage, ...] = ()
    found: bool = True
    names: tuple[str, ...] = ()


def passages(rows: Iterable[dict[str, Any]], question: ParsedQuestion) -> list[Passage]:
    """Parse passages from the explorer's output; one that is the question itself answers nothing and is left out."""
    found = [
        Passage(
            text=str(row["text"]),
            score=float(row.get("score", 0)),
            line=row.get("line"),
            start=row.get("start"),
            source=row.get("source"),
            names=tuple(row.get("in", ())),
            after=str(row.get("after", "")),
            has=frozenset(row.get("has", ())),
            head=str(row.get("head", "")),
        )
        for row in rows
        if "text" in row
    ]
    return [passage for passage in found if not _is_question(question, passage)]


# What a file of questions has on a line besides the question: its number, or the keys of JSON.
_BEFORE_QUESTION = r"[\W\d_]*(?:(?:id|q|question|query|prompt|task)[\W\d_]*)*"
_AFTER_QUESTION = r"\W*(?:id\W+\w+)?\W*"


def _is_question(question: ParsedQuestion, passage: Passage) -> bool:
    """Return whether a passage only repeats the question, and is not a heading above its answer."""
    words = r"\W+".join(map(re.escape, re.findall(r"\w+", question.text)))
    if not words or not re.fullmatch(_BEFORE_QUESTION + words + _AFTER_QUESTION, passage.text, re.I):
        return False
    return not (passage.text.startswith("#") and re.match(r"\s*[^#\s]", passage.after))


def find_answer(question: ParsedQuestion, passages: list[Passage]) -> Finding:
    """Choose the answer among ranked passages."""
    judged = sorted(
        ((_judge_passage(question, passage), passage) for passage in passages), key=lambda item: -item[0][0]
    )
    judged = [(verdict, passage) for verdict, passage in judged if covers_question(question, passage)]
    if not judged:
        return Finding(NOTHING, found=False)
    (score, value), best = judged[0]
    if value and _MANY.search(question.text):
        return _finding_of_names(judged)
    if value is not None and best.head:
        best_rows = [(mark, passage) for mark, passage in judged if passage.head and mark[0] > score - 0.01]
        return _finding_of_rows(best_rows)
    if value is not None:
        return Finding(value, (best,), names=(value,))
    close = [passage for (mark, _), passage in judged[1:3] if mark > 0.85 * score]
    return Finding(_passage_answer(best), (best, *close))


_BY_NAME = ("defined", "file", "what", "raises", "subclasses", "bases", "parameters", "returns")


def covers_question(question: ParsedQuestion, passage: Passage) -> bool:
    """Return whether a passage, with its surroundings, covers enough of the question."""
    if passage.head:
        return cell(question, passage.text, passage.head)[0] >= 0.45
    terms = [(place in passage.has, term) for place, term in enumerate(question.terms)]
    names = [there for there, term in terms if term.weight >= 2.5]
    if names and not any(names):
        return False
    single = [(there, term) for there, term in terms if term.strong or " " not in term.text]
    plain = [(there, term) for there, term in single if not term.strong and term.weight >= 1]
    # If the question has a name, one missing word besides it proves nothing.
    enough = not plain or (len(plain) == 1 and question.kind in _BY_NAME and names) or _found_share(plain) >= 0.3
    return _found_share(single) >= 0.45 and bool(enough)


def _found_share(terms: list[tuple[bool, Term]]) -> float:
    total = sum(term.weight for _, term in terms)
    if total:
        return sum(term.weight for there, term in terms if there) / total
    return 0.0


def _judge_passage(question: ParsedQuestion, passage: Passage) -> tuple[float, str | None]:
    """Rescore a passage by whether it has an answer of the right kind, and return that answer."""
    bonus = 0.0
    value: str | None = None
    if passage.head:
        bonus, value = cell(question, passage.text, passage.head)
        if value is not None:
            return passage.score + 8.0 * bonus, value
    if question.kind in ("default", "value"):
        bonus, value = _assigned_value(question, passage)
    elif extract := _EXTRACT.get(question.kind):
        value = extract(question, passage)
        bonus = 3.5 if value is not None else 0.0
        if value and question.kind == "env":
            bonus += 3.0 * _name_match(question, value)
    around = " ".join([passage.text, *passage.names, passage.source or ""])
    bonus += sum(1.5 for term in question.terms if term.weight >= 2.5 and re.search(term.pattern, around, re.I))
    defined = re.match(r"\s*(?:(?:async )?def|class)\s+(\w+)|\s*(\w+)\s*(?::[^=\n]{1,60})?=[^=]", passage.text)
    if defined and question.kind not in ("default", "value"):
        bonus += 3.0 * _name_match(question, defined[1] or defined[2])
    explains = r"\W{0,6}(?:%s)[`*\"]*\s*(?:\([^)\n]*\))?[`*\"]*\s*(?:is|are|means|[:\u2013\u2014])\s"
    if question.kind == "what" and re.match(explains % "|".join(question.subjects or ("$",)), passage.text, re.I):
        bonus += 3.0
    if passage.source and re.search(r"(?:^|/)(?:tests?|examples?|CHANGELOG)", passage.source):
        bonus -= 1.0
    return passage.score + bonus, value


def _finding_of_rows(judged: list[tuple[tuple[float, str | None], Passage]]) -> Finding:
    """Answer with the cell of each row that matches as well as the best."""
    by_place: dict[str, Passage] = {}
    for (_, value), passage in judged[:5]:
        if value is not None:
            by_place.setdefault(value, passage)
    return Finding("; ".join(by_place), tuple(by_place.values()), names=tuple(by_place))


def _finding_of_names(judged: list[tuple[tuple[float, str | None], Passage]]) -> Finding:
    names: dict[str, Passage] = {}
    top = judged[0][0][0]
    for (score, value), passage in judged:
        if value and score >= 0.6 * top:
            names.setdefault(value, passage)
    chosen = list(names)[:8]
    return Finding(", ".join(chosen), tuple(names[name] for name in chosen), names=tuple(chosen))


def _passage_answer(passage: Passage) -> str:
    """Return the passage as an answer: without list marks, with the text it announces."""
    text = " ".join(passage.text.split())
    doc = re.match(r'[^"\']{0,400}?(?:"""|\'\'\')\s*(.+?)(?:\n\s*\n|"""|\'\'\'|\Z)', passage.after, re.S)
    if doc and re.match(r"(?:async\s+)?(?:def|class)\b", text):
        return f"{text} {' '.join(doc[1].split())}"
    plain = re.sub(r"^(?:[-*+>]|\d+\.|#+)\s+", "", text)
    if text.startswith("#") or text.endswith(":"):
        more = re.match(r"\s*(?:```\w*\n)?(.+?)(?:\n\s*\n|```|\Z)", passage.after, re.S)
        if more:
            return f"{plain.rstrip(':')}: {' '.join(more[1].split())}"
        return plain
    return plain


_ASSIGNED = re.compile(
    r"""(?:^|[(,{\[]\s*|self\.|\*,\s*|[`\s])["'`]?(?P<name>[A-Za-z_][\w-]*)["'`]?\s*
    (?:(?P<typed>:[^=\n:]{1,90}=)|(?P<plain>=)|(?P<colon>:(?=\s*[^\s=])))(?!=)""",
    re.X,
)


def _assigned_value(question: ParsedQuestion, passage: Passage) -> tuple[float, str | None]:
    """Find the value that a passage assigns to the subject: (how well it fits, the value)."""
    text = passage.text
    best: tuple[float, str | None] = (0.0, None)
    for found in _ASSIGNED.finditer(text):
        fit = _name_match(question, found["name"])
        if fit:
            value = _leading_literal(text[found.end() :], found["name"])
        else:
            value = None
        unpacked = not found["typed"] and re.match(r"[^=(]*,[^=(]*$", text[: found.start("name")])
        if value is None or unpacked:
            continue
        colon = 3.5 if re.search(r"[\"']\s*:", found[0]) else 2.0
        mark = fit * (colon if found["colon"] else 4.0) + _value_confidence(value) + (1.0 if found["typed"] else 0.0)
        if question.kind == "default" and "default" in found["name"].lower():
            mark += 1.0
        if not found["typed"] and "(" in text[: found.start("name")] and not re.match(r"\s*(?:async )?def\b", text):
            mark -= 1.5  # an argument of one call
        best = max(best, (mark, value), key=lambda item: item[0])
    for subject in question.subjects:
        if re.search(subject, text, re.I):
            best = max(best, _in_prose(question, text), key=lambda item: item[0])
    return best


def _name_match(question: ParsedQuestion, name: str) -> float:
    """Return how much of the question a name covers, from 0 to 1."""
    asked = [term for term in question.terms if term.strong or " " not in term.text]
    if any(term.strong and re.fullmatch(term.pattern, name, re.I) for term in asked):
        if any(term.text == name for term in asked):
            return 1.0
        return 0.9
    words = [term for term in asked if not term.strong]
    loose = [(term.pattern.replace(r"(?:\b|_)", "").replace(r"\b", ""), term) for term in words]
    return _found_share([(bool(re.search(pattern, name, re.I)), term) for pattern, term in loose])


def _value_confidence(value: str) -> float:
    if re.match(r"[-+]?\d|[\"']|[rbf][\"']|(?:True|False)$", value):
        return 1.5
    if value[0] in "[{(":
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            return -3.0
        return 1.5
    if value == "None":
        return 0.5
    if re.fullmatch(r"[A-Z]\w+\([^()]*\d[^()]*\)", value):
        return 1.0
    if value in ("UNSET", "NOT_GIVEN", "MISSING"):
        return -1.0
    if re.fullmatch(r"[A-Z][A-Z0-9_]*|default\w*", value):
        return 0.0
    return -2.0


def _in_prose(question: ParsedQuestion, text: str) -> tuple[float, str | None]:
    """Find a value in a table row or after the word "default", if the text before it names the subject."""
    if text.lstrip().startswith("|"):
        name, *values = [part.strip(" `*") for part in text.strip().strip("|").split("|")]
        shape = r"[-+]?\d[\w.,]*(?: ?\w+)?|None|True|False|\".*\"|'.*'"
        found = next((value for value in values if re.fullmatch(shape, value)), None)
        return 4.0 * _name_match(question, name), found
    best: tuple[float, str | None] = (0.0, None)
    verb = r"(?:\s+(?:to|is|are|of|as)\b|\s*[=:,])"
    for match in re.finditer(rf"(?i)\bdefault(?:s|ed)?\b(?:{verb}|(?:\s+[\w`-]+){{1,3}}?{verb})?\s*", text):
        value = _leading_literal(text[match.end() :], "")
        if value and _value_confidence(value) > 0:
            asked = [term for term in question.terms if term.weight >= 1 and " " not in term.text]
            before = text[max(0, match.start() - 60) : match.end()]
            fit = _found_share([(bool(re.search(term.pattern, before, re.I)), term) for term in asked])
            best = max(best, (4.5 * fit, value), key=lambda item: item[0])
    return best


def _leading_literal(text: str, subject: str) -> str | None:
    found = _LITERAL.match(text)
    if not found:
        return None
    value = found["v"].rstrip(",.")
    inner = re.search(r"\bdefault(?:_factory)?\s*=\s*([^,()]+)", value) or re.search(
        r"(?:get|getenv)\([^,()]+,\s*([^()]+)\)", value
    )
    if inner and "(" in value:
        value = inner[1].strip()
    if (subject and re.fullmatch(rf"(?:\w+\.)*{re.escape(subject)}", value, re.I)) or value.startswith("self."):
        return None
    return value


def _raise_site(question: ParsedQuestion, passage: Passage) -> str | None:
    raised = re.search(r"\b(?:raise|throw\s+new)\s+((?:\w+\.)*[A-Z]\w+)", passage.text)
    if not raised:
        return None
    if re.search(r"\b(?:exceptions?|errors?)\b|\bwhat\s+does\b", question.text, re.I) and not any(
        re.search(subject, raised[1]) for subject in question.subjects
    ):
        return raised[1]
    classes = [name for name in passage.names if name[:1].isupper()]
    if re.search(r"\bclass(?:es)?\b", question.text, re.I):
        if classes:
            return classes[0]
        return None
    if re.search(r"\b(?:files?|modules?|where)\b", question.text, re.I):
        return passage.where
    return ".".join(reversed(passage.names)) or passage.where


def _first_match(pattern: str) -> Any:
    def extract(question: ParsedQuestion, passage: Passage) -> str | None:
        for subject in question.subjects:
            found = re.search(pattern.replace("SUBJECT", subject), passage.text + passage.after, re.S | re.I)
            if found and found.start() <= len(passage.text):
                return " ".join(found[1].split()).strip(" ,")
        return None

    return extract


def _definition_place(question: ParsedQuestion, passage: Passage) -> str | None:
    shape = r"(?:class|def|function|fn|func|struct|interface|type)\s+|^\s*"
    for subject in question.subjects:
        if re.search(rf"(?:{shape}){subject}\s*[(:=<{{]", passage.text, re.I):
            return passage.where
    return None


def _best_token(pattern: str) -> Any:
    def extract(question: ParsedQuestion, passage: Passage) -> str | None:
        asked = question.text.lower()
        found = [token for token in re.findall(pattern, passage.text) if token.lower() not in asked]
        return max(found, key=lambda token: _name_match(question, token), default=None)

    return extract


_NAMED = _best_token(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")


def _environment_variable(question: ParsedQuestion, passage: Passage) -> str | None:
    read = re.search(r"(?:environ|env)\w*(?:\.get)?\s*[\[(]\s*[\"'](\w+)[\"']", passage.text)
    found: str | None = read[1] if read else _NAMED(question, passage)
    return found


def _source_file(question: ParsedQuestion, passage: Passage) -> str | None:
    return passage.source


_EXTRACT: dict[str, Any] = {
    "raises": _raise_site,
    "subclasses": _first_match(r"class\s+(\w+)\([^)\n]*SUBJECT"),
    "bases": _first_match(r"class\s+SUBJECT\(([^)]*)\)"),
    "parameters": _first_match(
        r"(?:def\s+SUBJECT|class\s+SUBJECT\b.{0,400}?def\s+__init__)\s*(\((?:[^()]|\([^()]*\))*\))"
    ),
    "returns": _first_match(r"def\s+SUBJECT\s*\((?:[^()]|\([^()]*\))*\)\s*->\s*([^\n]+?):\s*(?:\n|$)"),
    "defined": _definition_place,
    "env": _environment_variable,
    "error": _best_token(r"\b\w+(?:Error|Exception|Warning)\b"),
    "file": _source_file,
}


# Names of outputs that say no more than the question does.
_GENERIC = {
    "answer", "answers", "result", "results", "response", "output", "reply", "final_answer", "text", "value", "count",
    "number", "n", "total", "amount", "items", "list", "names", "date", "when", "year", "who", "where", "ok",
}  # fmt: skip


def fill_fields(
    fields: tuple[Field, ...], question: ParsedQuestion, finding: Finding, passages: list[Passage]
) -> tuple[dict[str, Any], list[str]]:
    """Return a plain value for each field, and the names of the fields for which nothing was found."""
    values: dict[str, Any] = {}
    missing: list[str] = []
    for field in fields:
        if field.name == "reasoning":
            values[field.name] = explain_finding(question, finding)
            continue
        own = finding
        if field.name not in _GENERIC and not is_evidence(field):
            own = _field_finding(field, question, finding, passages)
        value = _typed_value(field.type, own)
        if value is None:
            missing.append(field.name)
            value = empty_value(field.type)
        values[field.name] = value
    if missing and "reasoning" in values:
        values["reasoning"] += missing_note(missing)
    return values, missing


def missing_note(missing: list[str]) -> str:
    """Name the values that do not come from the text."""
    return f" Nothing was found for {', '.join(missing)}; empty values stand there."


def explain_finding(question: ParsedQuestion, finding: Finding) -> str:
    """Explain how the answer was found."""
    terms = ", ".join(term.text for term in question.terms[:8]) or "no keywords"
    if not finding.found:
        return f"Offline look-up without a language model: no passage holds enough of these keywords: {terms}."
    places = ", ".join(dict.fromkeys(passage.where for passage in finding.passages[:3]))
    return f"Offline look-up without a language model: by the keywords {terms}, the best passage is at {places}."


def is_evidence(field: Field) -> bool:
    """Return whether a field expects quotes."""
    return "Evidence" in field.type or (field.name in ("evidence", "quotes", "citations") and "list" in field.type)


def evidence_quotes(finding: Finding, *, bare: bool = False) -> list[dict[str, Any]]:
    """Return the passages as evidence: exact quotes with their places, or only quotes and sources."""
    quotes = []
    for passage in finding.passages[:6]:
        item: dict[str, Any] = {"quote": passage.text}
        if passage.source:
            item["source"] = passage.source
        if passage.start is not None and not bare:
            item |= {"start": passage.start, "end": passage.start + len(passage.text), "line": passage.line}
        quotes.append(item)
    return quotes


def _field_finding(field: Field, question: ParsedQuestion, finding: Finding, given: list[Passage]) -> Finding:
    """Search the same passages for a field with a meaningful name."""
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
    asked = ParsedQuestion(question.text, read(f"{field.name.replace('_', ' ')}?").kind, extra.terms, extra.subjects)
    if covers_question(asked, best):
        return find_answer(asked, [best])
    return Finding(best.text, (best,))


def _typed_value(kind: str, finding: Finding) -> Any:
    if re.match(r"(?:(?:Optional|Union|UnionType)\[)?str\b", kind):
        return finding.answer
    if "Evidence" in kind:
        return evidence_quotes(finding)
    if not finding.found:
        return None
    texts = [finding.answer, *(passage.text for passage in finding.passages)]
    if options := _literal_options(kind):
        return _first_option(options, texts)
    base = re.split(r"[|,\]]", re.sub(r"^(?:Optional|Union|UnionType)\[", "", kind))[0].strip()
    if base.startswith(("list", "List", "tuple", "set", "Sequence")):
        return _list_items(kind, finding)
    return _SCALARS.get(base, lambda _: finding.answer if base == "Any" else None)(texts)


def _literal_options(kind: str) -> list[Any]:
    match = re.search(r"Literal\[(.*)\]", kind)
    if not match:
        return []
    try:
        return list(ast.literal_eval(f"[{match[1]}]"))
    except (ValueError, SyntaxError):
        return []


def _first_option(options: list[Any], texts: list[str]) -> Any:
    """Return the option that occurs first in the texts, or None."""
    for text in texts:
        for option in options:
            if re.search(rf"(?i)\b{re.escape(str(option))}\b", text):
                return option
    return None


def _list_items(kind: str, finding: Finding) -> list[Any]:
    texts = list(finding.names) or [passage.text for passage in finding.passages[:5]]
    if len(texts) == 1 and re.fullmatch(r"\[.*\]|\(.*\)", texts[0]):
        try:
            texts = [str(item) for item in ast.literal_eval(texts[0])]
        except (ValueError, SyntaxError, TypeError):
            texts = [part.strip() for part in texts[0][1:-1].split(",")]
    inner = re.search(r"\[(int|float)\b", kind)
    if not inner:
        return texts
    numbers = [float(number) for number in _all_numbers(texts)]
    if inner[1] == "int":
        return list(map(int, numbers))
    return numbers


def _all_numbers(texts: list[str]) -> Iterator[str]:
    """Yield the numbers of texts, without separators."""
    for text in texts:
        for number in _NUMBER.findall(text):
            yield re.sub("[,_]", "", number).rstrip(".")


def _first_integer(texts: list[str]) -> int | None:
    return next((int(number) for number in _all_numbers(texts) if "." not in number), None)


def _first_float(texts: list[str]) -> float | None:
    return next((float(number) for number in _all_numbers(texts)), None)


def _stated_truth(texts: list[str]) -> bool:
    """Return a stated truth value if there is one, else whether anything was found at all."""
    return texts[0].strip().lower() not in ("false", "no", "off", "none")


def _first_date(texts: list[str]) -> str | None:
    for text in texts:
        if match := re.search(r"\b(\d{4})-(\d\d)-(\d\d)\b", text):
            return match[0]
        named = re.search(r"\b(\d{1,2})\.? (\w{3,9})\.? (\d{4})\b|\b(\w{3,9})\.? (\d{1,2}),? (\d{4})\b", text)
        if named:
            if named[1]:
                day, month, year = named[1], named[2], named[3]
            else:
                day, month, year = named[5], named[4], named[6]
            number = next((i for i, name in enumerate(_MONTH_NAMES, 1) if name[:3] == month.lower()[:3]), None)
            if number:
                return f"{year}-{number:02d}-{int(day):02d}"
    return None


_SCALARS: dict[str, Any] = {
    "int": _first_integer,
    "float": _first_float,
    "Decimal": _first_float,
    "bool": _stated_truth,
    "date": _first_date,
    "datetime": _first_date,
}


def empty_value(kind: str) -> Any:
    """Return the emptiest value that a type allows."""
    if "None" in kind or kind.startswith("Optional"):
        return None
    if options := _literal_options(kind):
        open_ones = ("unknown", "none", "other", "n/a", "neutral")
        return next((option for option in options if str(option).lower() in open_ones), options[0])
    if kind.startswith(("list", "List", "tuple", "set", "Sequence")):
        return []
    if kind.startswith(("dict", "Dict", "Mapping")):
        return {}
    return {"int": 0, "float": 0.0, "Decimal": 0, "bool": False}.get(kind, NOTHING)
