"""Generate questions about a user's own files, with answers computed by code, when there are no labels.

Counts, look-ups, first and last, definitions, joins over two places, and some without an answer. An answer is used only
if it is unique: there is no question about a name that is defined twice.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import CorpusError
from rlm_dspy.evidence.absence import ABSENT

MAX_VALUE_CHARS = 60  # longest value, in characters, that is asked for
MAX_WORDS = 400  # number of words among which rare ones are searched
_FENCED = re.compile(r"(?ms)^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)|<!--.*?-->")
_HEADING = re.compile(r"(?m)^ {0,3}(#{1,6})[ \t]+(\S.*?)(?:[ \t]+#+)?[ \t]*$")
_UNDERLINED = re.compile(r"(?m)\S[^\n]*\n {0,3}(?:=+|-+)[ \t]*$")


@dataclass(frozen=True)
class Question:
    """A question, its computed answer, its scorer, and lines that prove the answer."""

    kind: str
    question: str
    answer: Any
    scorer: str = "exact"
    support: tuple[str, ...] = ()

    def row(self, number: int, context: Any) -> dict[str, Any]:
        """Return the question as a dataset row."""
        row = {"id": f"{self.kind}-{number}", "task": self.kind, "question": self.question, "answer": self.answer}
        return {**row, "scorer": self.scorer, "support": list(self.support), "context": context}


@dataclass
class _Code:
    """The definitions in the Python files of a corpus."""

    functions: dict[str, list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]] = field(default_factory=dict)
    classes: dict[str, list[tuple[str, ast.ClassDef]]] = field(default_factory=dict)
    constants: dict[str, list[tuple[str, Any, str]]] = field(default_factory=dict)
    by_file: dict[str, list[str]] = field(default_factory=dict)
    imported: dict[tuple[str, str], str] = field(default_factory=dict)
    renamed: set[str] = field(default_factory=set)


def make_questions(corpus: Corpus, count: int, *, seed: int = 0) -> list[Question]:
    """Return up to ``count`` questions about a corpus, alternating between kinds, deterministic for a seed.

    Raises:
        CorpusError: the corpus has nothing to ask about.
    """
    rng = random.Random(seed)
    code = _read_code(corpus)
    pools = []
    for kind in _KINDS:
        candidates = list(itertools.islice(kind(corpus, code, rng), 4 * count))
        rng.shuffle(candidates)
        if candidates:
            pools.append(candidates)
    if not pools:
        raise CorpusError("these files have nothing to ask about: give source code, Markdown, CSV or text files")
    turns = itertools.chain.from_iterable(itertools.zip_longest(*pools))
    unique = {question.question: question for question in turns if question is not None}
    return list(unique.values())[:count]


# --- code ----------------------------------------------------------------------------------------------------------


def _read_code(corpus: Corpus) -> _Code:
    code = _Code()
    for name, text in corpus.items():
        if not name.endswith(".py"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about invalid escapes in strings
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for very deep expressions
            continue
        _read_module(code, name, tree, text)
    return code


def _read_module(code: _Code, name: str, tree: ast.Module, text: str) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            code.functions.setdefault(node.name, []).append((name, node))
        elif isinstance(node, ast.ClassDef):
            code.classes.setdefault(node.name, []).append((name, node))
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").rpartition(".")[2]
            code.imported |= {(name, alias.asname or alias.name): module for alias in node.names}
            code.renamed |= {alias.name for alias in node.names if alias.asname not in (None, alias.name)}
    code.by_file[name] = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    bound = Counter(itertools.chain.from_iterable(map(_bound_names, ast.walk(tree))))
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value, target = node.value, node.targets[0].id
            if not isinstance(value, ast.Constant) or not isinstance(value.value, str | int | float):
                continue
            if value.value != "" and bound[target] == 1:
                source = ast.get_source_segment(text, node) or ""
                code.constants.setdefault(target, []).append((name, value.value, source.split("\n")[0]))


def _bound_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node binds or deletes, in any scope, except parameters."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
        case ast.Import(names=found) | ast.ImportFrom(names=found):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in found)
        case ast.Global(names=names):
            yield from names


def _defined_once(found: dict[str, list[Any]]) -> Iterator[tuple[str, Any]]:
    """Yield each name of more than three letters that is defined exactly once, with its definition."""
    return ((name, places[0]) for name, places in found.items() if len(places) == 1 and len(name) > 3)


def _constant_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    for name, (file, value, line) in _defined_once(code.constants):
        if not isinstance(value, bool) and len(str(value)) <= MAX_VALUE_CHARS and re.search(r"\w", str(value)):
            yield Question("lookup", f"What value does {file} assign to {name}?", value, support=(line,))


def _default_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    for name, (_, node) in _defined_once(code.functions):
        arguments = [*node.args.posonlyargs, *node.args.args]
        given = list(zip(arguments[len(arguments) - len(node.args.defaults) :], node.args.defaults, strict=True))
        given += [(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None]
        for argument, default in given:
            if not isinstance(default, ast.Constant) or not isinstance(default.value, int | float | str):
                continue
            if len(ast.unparse(default)) <= MAX_VALUE_CHARS:
                value = str(default.value) if isinstance(default.value, bool) else default.value
                asked = f"What is the default of the parameter {argument.arg} of the function {name}?"
                yield Question("default", asked, value)


def _definition_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    for name, (file, _) in _defined_once(code.functions):
        yield Question("definition", f"Which file defines the function {name}?", file, support=(f"def {name}(",))
    for name, (file, _) in _defined_once(code.classes):
        yield Question("definition", f"Which file defines the class {name}?", file, support=(f"class {name}",))


def _join_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    """Ask through two definitions: a class, its base class, and where or how often that occurs."""
    once = dict(_defined_once(code.classes))
    children: Counter[str] = Counter()
    for places in code.classes.values():
        for _, node in places:
            children.update(set(map(_base_class_name, node.bases)))
    for name, (file, node) in once.items():
        for base in node.bases if len(node.bases) == 1 else ():
            if isinstance(base, ast.Name):
                home = once[base.id][0] if base.id in once else file
                if home != file and code.imported.get((file, base.id)) == PurePosixPath(home).stem:
                    asked = f"Which file defines the class that {name} inherits from?"
                    yield Question("join", asked, home, support=(f"class {name}({base.id}",))
    for base_name, number in children.items():
        if base_name in once and base_name not in code.renamed and number > 1:
            yield Question("count", f"How many classes inherit directly from {base_name}?", number, "closeness")


def _base_class_name(node: ast.expr) -> str:
    """Return the name of a base class: the last part of ``zoo.Animal``, the first of ``Animal[int]``."""
    match node:
        case ast.Subscript(value=value):
            return _base_class_name(value)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _order_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    for file, names in code.by_file.items():
        if len(names) > 2 and len(set(names)) == len(names):
            yield Question("first", f"Which is the first top-level function that {file} defines?", names[0])
            yield Question("last", f"Which is the last top-level function that {file} defines?", names[-1])
            yield Question("count", f"How many top-level functions does {file} define?", len(names), "closeness")


# --- text ----------------------------------------------------------------------------------------------------------


def _heading_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    for name, text in corpus.items():
        body = _FENCED.sub("", text)
        if PurePosixPath(name).suffix.lower() not in (".md", ".markdown") or _UNDERLINED.search(body):
            continue
        found = _HEADING.findall(body)
        below = [marks for marks, _ in found if len(marks) > 1]
        if len(below) > 2:
            last = found[-1][1]
            yield Question("last", f"Which is the last heading of {name}?", last, support=(last,))
        if len(below) > 2 and len(below) + 1 >= len(found):
            yield Question("count", f"How many headings below the title does {name} have?", len(below), "closeness")


def _word_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    """Ask which file has a word that is in one file only, and how many lines have a common word."""
    homes: dict[str, set[str]] = {}
    for name, text in corpus.items():
        for word in set(re.findall(r"\b[a-zA-Z][a-z]{5,}\b", text)):
            homes.setdefault(word, set()).add(name)
    words = sorted(homes)
    rng.shuffle(words)
    for word in words[:MAX_WORDS]:
        if len(homes[word]) == 1 and len(corpus) > 2:
            yield Question("lookup", f"Which file has the word '{word}'?", next(iter(homes[word])), support=(word,))
        elif len(corpus) > 2:
            asked = f"How many files have the word '{word}' (as a whole word, in this spelling)?"
            yield Question("count", asked, len(homes[word]), "closeness")
    for name, text in corpus.items():
        counts = Counter(re.findall(r"\b[a-zA-Z][a-z]{5,}\b", text))
        if word := next((word for word, number in sorted(counts.items()) if number > 4), None):
            lines = sum(bool(re.search(rf"\b{word}\b", line)) for line in text.split("\n"))
            asked = f"How many lines of {name} have the word '{word}' (as a whole word, in this spelling)?"
            yield Question("count", asked, lines, "closeness")


def _table_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    for name, text in corpus.items():
        if not name.endswith((".csv", ".tsv")):
            continue
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if name.endswith(".tsv") else ",")
        try:
            rows = list(table)
        except csv.Error:
            continue
        heads = table.fieldnames or ()
        if len(rows) < 3 or len(set(heads)) < len(heads) or any(None in row or None in row.values() for row in rows):
            continue
        yield Question("count", f"How many rows does {name} have, without its head?", len(rows), "closeness")
        columns = {column: [row[column] for row in rows] for column in rows[0]}
        keys = [column for column, values in columns.items() if len(set(values)) == len(rows)]
        for column, values in columns.items():
            yield from _column_questions(name, column, values)
            if not keys or not column.strip() or column == keys[0]:
                continue
            for row in rng.sample(rows, min(5, len(rows))):
                asked = f"In {name}, what is the {column} of the row whose {keys[0]} is {row[keys[0]]}?"
                yield Question("join", asked, row[column], support=(row[keys[0]],))


def _column_questions(name: str, column: str, values: list[str]) -> Iterator[Question]:
    if all(re.fullmatch(r"-?\d{1,12}", value) for value in values):
        numbers = [int(value) for value in values]
        yield Question("sum", f"In {name}, what is the sum of the column {column}?", sum(numbers))
        yield Question("most", f"In {name}, what is the greatest value of the column {column}?", max(numbers))
    counts = Counter(values)
    if 1 < len(counts) < len(values) / 2:
        value, number = sorted(counts.items())[0]
        asked = f"In {name}, how many rows have '{value}' in the column {column}?"
        yield Question("count", asked, number, "closeness")


def _absent_questions(corpus: Corpus, code: _Code, rng: random.Random) -> Iterator[Question]:
    """Ask for something that does not exist; the right answer is to say so."""
    whole = "\n".join(text for _, text in corpus.items())
    for _ in range(20):
        name = f"{rng.choice(('merge', 'rotate', 'quantise', 'unfold'))}_{rng.choice(('ledger', 'glacier', 'sonnet'))}"
        if name not in whole:
            asked = f"Which file defines the function {name}? If none does, answer '{ABSENT}'."
            yield Question("absent", asked, ABSENT, "abstention")


_KINDS: tuple[Callable[[Corpus, _Code, random.Random], Iterator[Question]], ...] = (
    _constant_questions,
    _default_questions,
    _definition_questions,
    _join_questions,
    _order_questions,
    _heading_questions,
    _word_questions,
    _table_questions,
    _absent_questions,
)
