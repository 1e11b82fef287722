"""Parse a look-up question: its kind, its terms, and the forms that an answer has in a text."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_STOP = frozenset(
    re.findall(
        r"[\w']+",
        """a an the of in on at to for from by with without within into onto and or not no nor is are was were be been
    being do does did done has have had can could will would shall should may might must it its this that these
    those there here what which who whom whose when where why how many much long often old i you he she we they me
    us them my your our their as if then than so such any some all each every both only just also about please tell
    give show find list name names named value values called set happen happened take takes get gets use used uses
    using s t re ve according text document documents context file files say says there's mean means exactly
        contains contain implements located lives includes include like have way
    stand stands one ones own same other between during before after under over up out per via whether kind type""",
    )
)
# Words that show the kind of question rather than its subject: they count, but little.
_LIGHT = frozenset(
    re.findall(
        r"\w+",
        """default defaults class classes function functions method methods module modules raise raises raised throw
    throws return returns define defined defines definition inherit inherits subclass subclasses extends base
    parameter parameters argument arguments option options constant variable error exception year date number
    limit maximum minimum current implemented implement package project library name compared compare fast slow
    fastest slowest largest smallest best most status setting method attribute flag wrote""",
    )
)
_KINDS: tuple[tuple[str, str], ...] = (
    ("default", r"\bdefaults?\b"),
    ("value", r"what(?:'s| is| are) (?:the )?`?[a-z]+_\w+`? (?:of|in|for)\b"),
    ("value", r"what(?:'s| is| are) (?:the )?`?(?-i:[A-Z][A-Z0-9]*_[A-Z0-9_]+)\b"),
    ("raises", r"\b(?:raises?|raised|throws?|thrown)\b"),
    ("bases", r"\bbase(?:s| class(?:es)?)\b.*\bof\b|\bwhat\b.*\b(?:inherits?|derives?|extends?)\b"),
    ("subclasses", r"\b(?:subclass(?:es)?|inherits?|derived?s?|extends?)\b"),
    ("parameters", r"\b(?:parameters?|arguments?|signature)\b.*\b(?:of|does|do|takes?|accepts?|for)\b"),
    ("returns", r"\b(?:returns?|return type)\b"),
    ("defined", r"\b(?:where|which (?:file|module|line))\b.*\b(?:defined?s?|declared?s?|implement\w*|located|live)\b"),
    ("when", r"\b(?:when|what (?:year|date|day|month)|which (?:year|date|day|month)|since when)\b"),
    ("who", r"\b(?:who|whom|whose|author|maintainer)\b"),
    ("count", r"\bhow (?:many|much|long|old|big|large|often|fast)\b"),
    ("env", r"\benvironment variables?\b"),
    ("error", r"\b(?:which|what) (?:exception|error|warning)s?\b"),
    ("file", r"\b(?:which|what) (?:file|module|document)s?\b"),
    ("value", r"\b(?:value|constant|port|status|code|version|limit|maximum|minimum|size|timeout|number|price|cost)\b"),
    ("what", r"^\s*(?:what(?:'s| is| are| does)|explain|describe|define)\b"),
)
# Abbreviations used in names in code.
_SHORT = {
    "directory": "dir", "environment": "env", "variable": "var", "maximum": "max", "minimum": "min", 
    "number": "n(?:um|_)",
    "parameter": "param", "argument": "arg", "configuration": "conf", "temperature": "temp", "database": "db",
    "message": "msg", "iteration": "iter", "temporary": "te?mp", "length": "len", "character": "char",
    "licence": "licens", "license": "licenc",
    "second": "sec", "initial": "init", "application": "app", "repository": "repo", "document": "doc",
}  # fmt: skip
_DATE = (
    r"\b(?:1[5-9]|20)\d\d\b|\b(?:January|February|March|April|May|June|July|August|September|October"
    r"|November|December)\b"
)
_ROLE = r"(?:method|function|attribute|parameter|argument|constant|option|setting|flag)"
_DEFINES = r"(?:class|def|function|func|fn|struct|interface|type|enum|trait|const|let|var)"
SIGNS: dict[str, tuple[tuple[str, float], ...]] = {
    "default": ((r"(?i)\bdefaults?\b", 1.0),),
    "when": ((_DATE, 3.0),),
    "who": ((r"\b(?:by|author|maintainer|written|created|led)\b", 1.0), (r"[A-Z]\w+ [A-Z]\w+", 1.0)),
    "count": ((r"\d", 1.5),),
    "value": ((r"\d", 1.0),),
    "env": ((r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", 2.5),),
    "raises": ((r"\braise\b", 1.5),),
    "error": ((r"\b\w+(?:Error|Exception|Warning)\b", 2.0),),
}


@dataclass(frozen=True)
class Term:
    """A word to search for: its pattern, its weight, and whether it looks like a name."""

    text: str
    pattern: str
    weight: float
    strong: bool


@dataclass(frozen=True)
class ParsedQuestion:
    """A question as the engine understands it: kind, terms, and the subjects' patterns."""

    text: str
    kind: str
    terms: tuple[Term, ...]
    subjects: tuple[str, ...]

    def plan(self, *, lean: bool = False) -> dict[str, object]:
        """Return the plain data for the explorer; ``lean`` reduces it for a very large context."""
        terms = self.terms[:3] if lean else self.terms
        shapes = self._weighed_shapes()[:2] if lean else self._weighed_shapes()
        return {
            "query": " ".join(term.text for term in terms) or self.text,
            "terms": [[term.pattern, term.weight, term.strong, _bare_pattern(term.pattern)] for term in terms],
            "shapes": [list(shape) for shape in shapes],
            "signs": [list(sign) for sign in (*SIGNS.get(self.kind, ()), *_unit_signs(self.text), *_DULL)],
            "fold": not any(term.strong for term in self.terms),
            "reach": 1_000_000_000 if lean else 8_000_000_000,  # characters that are grepped, all patterns together
            "keep": 24,
            "after": 500,
        }

    def _weighed_shapes(self) -> list[tuple[str, float, str]]:
        # A common word is part of many names, so a name with it means little.
        factor = 1.0 if any(term.strong for term in self.terms) else 0.4
        shapes = []
        for subject in self.subjects:
            for shape, weight in _answer_shapes(self.kind, subject):
                plain = _bare_pattern(subject) if subject in shape else ""
                shapes.append((shape, factor * weight, plain))
        return shapes


# Lines that name things without saying anything about them.
_DULL = (
    (r"^\s*(?:from\s+\S+\s+)?import\b", -2.5),
    (r"^\s*[\"'\w.]+,?\s*$", -1.5),
    (r"(?i)\b(?:assert|deprecated)\b", -0.5),
    (r"^\s*(?:\.\. [_|]|\[[^\]]*\]:\s*http|\[?!\[|<)", -3.0),
)


def _bare_pattern(pattern: str) -> str:
    """Return a pattern without its word boundaries: many times faster, and it matches wherever the pattern does."""
    for edge in (r"(?:\b|_)", r"s?(?:\b|_)", r"\b", r"\w*"):
        pattern = pattern.removeprefix(edge)
    for edge in (r"\w*", r"s?(?:\b|_)", r"(?:\b|_)", r"\b"):
        pattern = pattern.removesuffix(edge)
    return pattern


def _unit_signs(text: str) -> list[tuple[str, float]]:
    """Return the units that a question asks for."""
    signs = []
    if re.search(r"(?i)\bhow (?:much (?:memory|ram|space)|big|large)\b|\b(?:memory|file size)\b", text):
        signs.append((r"\d\s?(?:[KMGT]i?B|bytes)\b", 2.5))
    if re.search(r"(?i)\bhow (?:long|fast|slow|quick|much time)\b|\b(?:latency|duration|timeout)\b", text):
        signs.append((r"\d\s?(?:ms|µs|s|sec|seconds?|minutes?|hours?|days?)\b", 2.5))
    if re.search(r"(?i)\b(?:price|cost|how much does|expensive)\b", text):
        signs.append((r"[$€£]\s?\d|\d\s?(?:dollars|euros|USD|EUR)\b", 2.0))
    if many := re.search(r"(?i)\bhow many ((?:[\w-]+ ){0,2}?)([\w-]+)", text):
        nouns = "|".join(_stem_pattern(word) for word in f"{many[1]} {many[2]}".split())
        signs.append((rf"(?i)\d[\d,.]*\s+(?:[\w-]+\s+){{0,2}}?(?:{nouns})", 2.5))
    return signs


def read(text: str) -> ParsedQuestion:
    """Parse a question."""
    kind = next((kind for kind, pattern in _KINDS if re.search(pattern, text, re.I)), "any")
    terms = _find_terms(text)
    strong = [term.pattern for term in terms if term.strong]
    plain = [rf"\w*{_stem_pattern(term.text)}\w*" for term in terms if term.weight >= 1 and " " not in term.text]
    phrases = [term.pattern for term in terms if " " in term.text and not term.strong]
    return ParsedQuestion(text, kind, terms, tuple(strong[:3] + phrases[:3] if strong else phrases[:2] + plain[:3]))


def widen_question(question: ParsedQuestion, missing: Collection[str]) -> ParsedQuestion | None:
    """Return the question with names that were not found split into words, or None if there are none."""
    apart = {term.text for term in question.terms if term.pattern in missing and len(_name_parts(term.text)) > 1}
    if not any(term.strong and term.text in apart for term in question.terms):
        return None
    found: dict[str, Term] = {}
    for term in question.terms:
        if term.text not in apart:
            found[term.text.lower()] = term
            continue
        for word in _name_parts(term.text):
            _add_term(found, word.lower(), 0.3 if word.lower() in _LIGHT else 1.5, False)
    terms = tuple(found.values())
    return ParsedQuestion(question.text, question.kind, terms, tuple(rf"\w*{re.escape(t.text)}\w*" for t in terms[:4]))


def _name_parts(name: str) -> list[str]:
    return [word for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name) if len(word) > 2]


def _find_terms(text: str) -> tuple[Term, ...]:
    terms: dict[str, Term] = {}
    for quoted in re.findall(r"[`\"“]([^`\"“”\n]{2,60})[`\"”]", text):
        _add_term(terms, quoted.strip(), 4.0, True)
    words = re.findall(r"-{0,2}[^\W_](?:[\w.'\u2019-]*\w)?|_\w+", text)
    for place, word in enumerate(words):
        word = re.sub(r"['\u2019]s$", "", word)
        # A dotted name is searched by its parts; the last one is the subject.
        if re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", word):
            parts = word.split(".")
        else:
            parts = [word]
        for part in parts[:-1]:
            _add_term(terms, part, 1.0, False)
        _add_word(terms, parts[-1], first=place == 0, dotted=len(parts) > 1)
    for named in re.findall(r"\b([A-Z]\w+) (?:class|exception|module)\b|\b(?:class|exception) ([A-Z]\w+)", text):
        _add_term(terms, named[0] or named[1], 4.0, True)
    for named in re.findall(rf"(?i)\b(\w+) {_ROLE}\b|\b{_ROLE} (\w+)", text):
        for name in named:
            if name and name.lower() not in _STOP | _LIGHT:
                _add_term(terms, name, 4.0, True)
    _add_phrases(terms, words)
    return tuple(sorted(terms.values(), key=lambda term: -term.weight)[:14])


def _add_word(terms: dict[str, Term], word: str, *, first: bool, dotted: bool) -> None:
    lower = word.lower()
    if (lower in _STOP and (first or word != "May")) or (len(word) < 2 and not word.isdigit()):
        return
    if dotted or word.startswith("--") or re.search(r"_|[a-z][A-Z]|[A-Z]{2}|[A-Za-z]\d|\d[A-Za-z]", word):
        _add_term(terms, word, 4.0, True)
    elif word[0].isupper() and not first:
        _add_term(terms, word, 2.5, False)
    else:
        _add_term(terms, lower, 0.5 if lower in _LIGHT else 1.0 + 0.05 * min(len(lower), 10), False)


def _add_term(terms: dict[str, Term], text: str, weight: float, strong: bool) -> None:
    if strong:
        left = r"\b" if text[:1].isalnum() or text[:1] == "_" else ""
        right = r"\b" if re.search(r"\w$", text) else ""
        pattern = f"{left}{re.escape(text)}{right}"
    elif text[:1].isupper():
        pattern = rf"(?:\b|_){re.escape(text.removesuffix('s'))}s?(?:\b|_)"
    else:
        pattern = rf"(?:\b|_){_stem_pattern(text)}\w*"
    key = text.lower()
    if key not in terms or terms[key].weight < weight:
        terms[key] = Term(text, pattern, weight, strong)


def _stem_pattern(word: str) -> str:
    lower = word.lower()
    for ending in ("ations", "ation", "ingly", "ings", "ing", "ies", "ied", "edly", "ed", "es", "s", "ly", "e", "y"):
        if lower.endswith(ending) and len(lower) - len(ending) >= 4:
            return _with_short_form(lower, re.escape(lower[: -len(ending)]))
    return _with_short_form(lower, re.escape(lower))


def _with_short_form(word: str, stem: str) -> str:
    short = next((short for full, short in _SHORT.items() if word in (full, full + "s", full[:-1] + "ies")), None)
    if short:
        return f"(?:{stem}|{short})"
    return stem


def _add_phrases(terms: dict[str, Term], words: list[str]) -> None:
    """Add neighbouring words as identifiers, too."""
    for place in range(len(words) - 1):
        pair = words[place : place + 2]
        if pair[1].lower() == "of" and place + 2 < len(words):
            _add_phrase(terms, [pair[0], words[place + 2]])
            pair = [words[place + 2], pair[0]]
        _add_phrase(terms, pair)


def _add_phrase(terms: dict[str, Term], pair: list[str]) -> None:
    pair = [word.lower() for word in pair]
    if any(word in _STOP or not word.isalpha() for word in pair) or pair[0] in ("default", "which"):
        return
    joined = "[ _-]?".join(_stem_pattern(word) for word in pair)
    terms.setdefault(" ".join(pair), Term(" ".join(pair), rf"(?:\b|_){joined}\w*", 2.0, False))


def _answer_shapes(kind: str, subject: str) -> list[tuple[str, float]]:
    shapes: list[tuple[str, float]] = []
    defines = rf"(?m)^[ \t]*(?:export |pub |async |static )*{_DEFINES}\s+{subject}"
    assigned = rf"(?m)(?:^[ \t]*|[(,{{]\s*|self\.){subject}[\"'`]?\s*"
    match kind:
        case "default":
            shapes += [(assigned + r":[^=\n]{1,90}=[^=]", 6.0), (assigned + r"=[ \t]*[^=\s]", 5.0)]
            shapes += [(rf"{subject}.{{0,80}}\bdefaults?\b", 5.0), (rf"\b[Dd]efaults?\b.{{0,60}}{subject}", 5.0)]
            shapes += [(rf"\|\s*`?{subject}`?\s*\|", 4.0), (rf"[\"']{subject}[\"']\s*:\s*[^\s]", 5.0)]
        case "value" | "count" | "env":
            shapes += [(assigned + r"(?::[^=\n]{1,60})?=\s*[^=\s]", 4.0), (assigned + r":\s*\S", 2.0)]
            if kind == "env":
                shapes += [(r"(?:environ(?:\.get)?|getenv|env)\s*[\[(]\s*[\"']", 4.0)]
        case "raises":
            shapes += [(rf"\braise\s+(?:\w+\.)*{subject}", 6.0), (rf"\bthrow\s+new\s+{subject}", 6.0)]
            shapes += [(defines, 2.0)]
        case "subclasses":
            shapes += [(rf"(?m)^[ \t]*class\s+\w+\([^)\n]*{subject}", 7.0), (rf"\bextends\s+{subject}", 6.0)]
        case "any" | "when" | "who" | "error" | "file":
            shapes += [(defines, 2.0)]
        case _:
            shapes += [(defines, 6.0), (assigned + r"(?::[^=\n]{1,60})?=[^=]", 2.5)]
            shapes += [
                (
                    rf"(?m)(?:^|[.;·*`])\W{{0,6}}{subject}[`*\"]*\s*(?:\([^)\n]*\))?\s*(?:is|are|means|[\u2013\u2014:-])\s",
                    5.0,
                )
            ]
    return shapes
