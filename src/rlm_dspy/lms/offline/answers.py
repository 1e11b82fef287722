"""Turns ranked passages into an answer: a value, a name, a place or the passage itself; never more than they say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rlm_dspy.lms.offline import tables
from rlm_dspy.lms.offline.question import Question, Term

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
    """A piece of the context, exactly as it stands there, and where."""

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
        return f"{self.source}:{self.line}" if self.source else f"line {self.line}"


@dataclass(frozen=True)
class Finding:
    """An answer and the passages that hold it; not ``found`` when nothing matched well."""

    answer: str
    passages: tuple[Passage, ...] = ()
    found: bool = True
    names: tuple[str, ...] = ()


def passages(rows: Iterable[dict[str, Any]]) -> list[Passage]:
    """Read passages from what the explorer printed."""
    return [
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


def find(question: Question, given: list[Passage]) -> Finding:
    """Choose the answer among ranked passages."""
    judged = sorted(((_judge(question, passage), passage) for passage in given), key=lambda item: -item[0][0])
    judged = [(verdict, passage) for verdict, passage in judged if covers(question, passage)]
    if not judged:
        return Finding(NOTHING, found=False)
    (score, value), best = judged[0]
    if value and _MANY.search(question.text):
        return _several(question, judged)
    if value is not None and best.head:
        return _of_rows([(mark, passage) for mark, passage in judged if passage.head and mark[0] > score - 0.01])
    if value is not None:
        return Finding(value, (best,), names=(value,))
    close = [passage for (mark, _), passage in judged[1:3] if mark > 0.85 * score]
    return Finding(_shown(question, best), (best, *close))


_BY_NAME = ("defined", "file", "what", "raises", "subclasses", "bases", "parameters", "returns")


def covers(question: Question, passage: Passage) -> bool:
    """Tell whether a passage, with its surroundings, has enough of the question in it."""
    if passage.head:
        return tables.cell(question, passage.text, passage.head)[0] >= 0.45
    terms = [(place in passage.has, term) for place, term in enumerate(question.terms)]
    names = [there for there, term in terms if term.weight >= 2.5]
    if names and not any(names):
        return False
    single = [(there, term) for there, term in terms if term.strong or " " not in term.text]
    plain = [(there, term) for there, term in single if not term.strong and term.weight >= 1]
    # Where a name is given, one word beside it that is not there proves nothing.
    enough = not plain or (len(plain) == 1 and question.kind in _BY_NAME and names) or _share(plain) >= 0.3
    return _share(single) >= 0.45 and bool(enough)


def _share(terms: list[tuple[bool, Term]]) -> float:
    total = sum(term.weight for _, term in terms)
    return sum(term.weight for there, term in terms if there) / total if total else 0.0


_DEFINED = re.compile(r"\s*(?:(?:async )?def|class)\s+(\w+)|\s*(\w+)\s*(?::[^=\n]{1,60})?=[^=]")


def _judge(question: Question, passage: Passage) -> tuple[float, str | None]:
    """Score a passage again by whether it holds an answer of the right kind, and give that answer."""
    bonus = 0.0
    value: str | None = None
    if passage.head:
        bonus, value = tables.cell(question, passage.text, passage.head)
        if value is not None:
            return passage.score + 8.0 * bonus, value
    if question.kind in ("default", "value"):
        bonus, value = _value(question, passage)
    elif extract := _EXTRACT.get(question.kind):
        value = extract(question, passage)
        bonus = 3.5 if value is not None else 0.0
        bonus += 3.0 * _names(question, value) if value and question.kind == "env" else 0.0
    around = " ".join([passage.text, *passage.names, passage.source or ""])
    bonus += sum(1.5 for term in question.terms if term.weight >= 2.5 and re.search(term.pattern, around, re.I))
    defined = (
        None
        if question.kind in ("default", "value")
        else re.match(r"\s*(?:(?:async )?def|class)\s+(\w+)|\s*(\w+)\s*(?::[^=\n]{1,60})?=[^=]", passage.text)
    )
    if defined:
        bonus += 3.0 * _names(question, defined[1] or defined[2])
    explains = r"\W{0,6}(?:%s)[`*\"]*\s*(?:\([^)\n]*\))?[`*\"]*\s*(?:is|are|means|[:\u2013\u2014])\s"
    if question.kind == "what" and re.match(explains % "|".join(question.subjects or ("$",)), passage.text, re.I):
        bonus += 3.0
    if passage.source and re.search(r"(?:^|/)(?:tests?|examples?|CHANGELOG)", passage.source):
        bonus -= 1.0
    return passage.score + bonus, value


def _of_rows(judged: list[tuple[tuple[float, str | None], Passage]]) -> Finding:
    """Answer with the cell of each row that fits as well as the best."""
    found: dict[str, Passage] = {}
    for (_, value), passage in judged[:5]:
        if value is not None:
            found.setdefault(value, passage)
    return Finding("; ".join(found), tuple(found.values()), names=tuple(found))


def _several(question: Question, judged: list[tuple[tuple[float, str | None], Passage]]) -> Finding:
    names: dict[str, Passage] = {}
    top = judged[0][0][0]
    for (score, value), passage in judged:
        if value and score >= 0.6 * top:
            names.setdefault(value, passage)
    chosen = list(names)[:8]
    return Finding(", ".join(chosen), tuple(names[name] for name in chosen), names=tuple(chosen))


def _shown(question: Question, passage: Passage) -> str:
    """The passage as an answer: without list marks, with what it announces."""
    text = " ".join(passage.text.split())
    doc = re.match(r'[^"\']{0,400}?(?:"""|\'\'\')\s*(.+?)(?:\n\s*\n|"""|\'\'\'|\Z)', passage.after, re.S)
    if doc and re.match(r"(?:async\s+)?(?:def|class)\b", text):
        return f"{text} {' '.join(doc[1].split())}"
    plain = re.sub(r"^(?:[-*+>]|\d+\.|#+)\s+", "", text)
    if text.startswith("#") or text.endswith(":"):
        more = re.match(r"\s*(?:```\w*\n)?(.+?)(?:\n\s*\n|```|\Z)", passage.after, re.S)
        return f"{plain.rstrip(':')}: {' '.join(more[1].split())}" if more else plain
    return plain


_ASSIGNED = re.compile(
    r"""(?:^|[(,{\[]\s*|self\.|\*,\s*|[`\s])["'`]?(?P<name>[A-Za-z_][\w-]*)["'`]?\s*
    (?:(?P<typed>:[^=\n:]{1,90}=)|(?P<plain>=)|(?P<colon>:(?=\s*[^\s=])))(?!=)""",
    re.X,
)


def _value(question: Question, passage: Passage) -> tuple[float, str | None]:
    """Find what a passage sets or says of the subject: (how well it fits, the value)."""
    text = passage.text
    best: tuple[float, str | None] = (0.0, None)
    for found in _ASSIGNED.finditer(text):
        fit = _names(question, found["name"])
        value = _literal(text[found.end() :], found["name"]) if fit else None
        unpacked = not found["typed"] and re.match(r"[^=(]*,[^=(]*$", text[: found.start("name")])
        if value is None or unpacked:
            continue
        colon = 3.5 if re.search(r"[\"']\s*:", found[0]) else 2.0
        mark = fit * (colon if found["colon"] else 4.0) + _sureness(value) + (1.0 if found["typed"] else 0.0)
        mark += 1.0 if question.kind == "default" and "default" in found["name"].lower() else 0.0
        if not found["typed"] and "(" in text[: found.start("name")] and not re.match(r"\s*(?:async )?def\b", text):
            mark -= 1.5  # what one caller passes
        best = max(best, (mark, value), key=lambda item: item[0])
    for subject in question.subjects:
        if re.search(subject, text, re.I):
            best = max(best, _in_prose(question, text), key=lambda item: item[0])
    return best


def _names(question: Question, name: str) -> float:
    """How much of what is asked for a name has in it, from 0 to 1."""
    asked = [term for term in question.terms if term.strong or " " not in term.text]
    if any(term.strong and re.fullmatch(term.pattern, name, re.I) for term in asked):
        return 1.0 if any(term.text == name for term in asked) else 0.9
    words = [term for term in asked if not term.strong]
    loose = [(term.pattern.replace(r"(?:\b|_)", "").replace(r"\b", ""), term) for term in words]
    return _share([(bool(re.search(pattern, name, re.I)), term) for pattern, term in loose])


def _sureness(value: str) -> float:
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
    return 0.0 if re.fullmatch(r"[A-Z][A-Z0-9_]*|default\w*", value) else -2.0


def _in_prose(question: Question, text: str) -> tuple[float, str | None]:
    """Find a value in a table row or after the word "default", if what stands before it names the subject."""
    if text.lstrip().startswith("|"):
        cells = [cell.strip(" `*") for cell in text.strip().strip("|").split("|")]
        shape = r"[-+]?\d[\w.,]*(?: ?\w+)?|None|True|False|\".*\"|'.*'"
        return 4.0 * _names(question, cells[0]), next((c for c in cells[1:] if re.fullmatch(shape, c)), None)
    best: tuple[float, str | None] = (0.0, None)
    verb = r"(?:\s+(?:to|is|are|of|as)\b|\s*[=:,])"
    for found in re.finditer(rf"(?i)\bdefault(?:s|ed)?\b(?:{verb}|(?:\s+[\w`-]+){{1,3}}?{verb})?\s*", text):
        value = _literal(text[found.end() :], "")
        if value and _sureness(value) > 0:
            asked = [term for term in question.terms if term.weight >= 1 and " " not in term.text]
            before = text[max(0, found.start() - 60) : found.end()]
            fit = _share([(bool(re.search(term.pattern, before, re.I)), term) for term in asked])
            best = max(best, (4.5 * fit, value), key=lambda item: item[0])
    return best


def _literal(text: str, subject: str) -> str | None:
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


def _raiser(question: Question, passage: Passage) -> str | None:
    raised = re.search(r"\b(?:raise|throw\s+new)\s+((?:\w+\.)*[A-Z]\w+)", passage.text)
    if not raised:
        return None
    if re.search(r"\b(?:exceptions?|errors?)\b|\bwhat\s+does\b", question.text, re.I) and not any(
        re.search(subject, raised[1]) for subject in question.subjects
    ):
        return raised[1]
    classes = [name for name in passage.names if name[:1].isupper()]
    if re.search(r"\bclass(?:es)?\b", question.text, re.I):
        return classes[0] if classes else None
    if re.search(r"\b(?:files?|modules?|where)\b", question.text, re.I):
        return passage.where
    return ".".join(reversed(passage.names)) or passage.where


def _first(pattern: str, group: int = 1) -> Any:
    def extract(question: Question, passage: Passage) -> str | None:
        for subject in question.subjects:
            found = re.search(pattern.replace("SUBJECT", subject), passage.text + passage.after, re.S | re.I)
            if found and found.start() <= len(passage.text):
                return " ".join(found[group].split()).strip(" ,")
        return None

    return extract


def _defined(question: Question, passage: Passage) -> str | None:
    shape = r"(?:class|def|function|fn|func|struct|interface|type)\s+|^\s*"
    for subject in question.subjects:
        if re.search(rf"(?:{shape}){subject}\s*[(:=<{{]", passage.text, re.I):
            return passage.where
    return None


def _token(pattern: str) -> Any:
    def extract(question: Question, passage: Passage) -> str | None:
        asked = question.text.lower()
        found = [token for token in re.findall(pattern, passage.text) if token.lower() not in asked]
        return max(found, key=lambda token: _names(question, token), default=None)

    return extract


_NAMED = _token(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")


def _variable(question: Question, passage: Passage) -> str | None:
    read = re.search(r"(?:environ|env)\w*(?:\.get)?\s*[\[(]\s*[\"'](\w+)[\"']", passage.text)
    found: str | None = read[1] if read else _NAMED(question, passage)
    return found


def _file(question: Question, passage: Passage) -> str | None:
    return passage.source


_EXTRACT: dict[str, Any] = {
    "raises": _raiser,
    "subclasses": _first(r"class\s+(\w+)\([^)\n]*SUBJECT"),
    "bases": _first(r"class\s+SUBJECT\(([^)]*)\)"),
    "parameters": _first(r"(?:def\s+SUBJECT|class\s+SUBJECT\b.{0,400}?def\s+__init__)\s*(\((?:[^()]|\([^()]*\))*\))"),
    "returns": _first(r"def\s+SUBJECT\s*\((?:[^()]|\([^()]*\))*\)\s*->\s*([^\n]+?):\s*(?:\n|$)"),
    "defined": _defined,
    "env": _variable,
    "error": _token(r"\b\w+(?:Error|Exception|Warning)\b"),
    "file": _file,
}


def numbers(text: str) -> list[str]:
    """Return the numbers of a text, without separators."""
    return [re.sub("[,_]", "", found).rstrip(".") for found in _NUMBER.findall(text)]
