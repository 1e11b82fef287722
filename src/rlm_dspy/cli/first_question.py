"""The first question to suggest: one that the offline engine can answer from the files."""

from __future__ import annotations

import csv
import itertools
import re
import shlex
from collections.abc import Iterator

import dspy

from rlm_dspy import lms
from rlm_dspy.corpus import Corpus
from rlm_dspy.evidence.absence import is_absent
from rlm_dspy.rlm.direct import Direct

MAX_FILES = 20  # whose beginnings are searched for a question
MAX_FILE_CHARS = 5_000
MAX_TRIES = 8
_DEFINITION = re.compile(r"^\s*(?:class|def)\s+([A-Za-z]\w{4,})", re.M)
_HEADING = re.compile(r"^#{1,6}\s+(.{4,60}?)\s*$", re.M)
_WORD = re.compile(r"\b[A-Za-z][a-z]{3,}\b")


def first_command(corpus: Corpus) -> str:
    """Return a command with a question that the offline engine answers from the corpus, a pattern if it finds none."""
    beginnings = {}
    for name, text in itertools.islice(corpus.items(), MAX_FILES):
        beginnings[name] = text[:MAX_FILE_CHARS]
    sample = Corpus.from_texts(beginnings)
    with dspy.context(lm=lms.lm(lms.OFFLINE)):
        ask = Direct("context, question -> answer")
        for question in itertools.islice(_possible_questions(beginnings), MAX_TRIES):
            if not is_absent(ask(context=sample, question=question).answer):
                return f"rlm-dspy {shlex.quote(question)}"
    return "rlm-dspy 'a question with words of the files'"


def _possible_questions(texts: dict[str, str]) -> Iterator[str]:
    """Yield questions about what the files name: cells of tables, definitions, headings, then their longest words."""
    for name, text in texts.items():
        if name.endswith(".csv"):
            yield from _table_question(text)
        if found := _DEFINITION.search(text):
            yield f"Where is {found[1]} defined?"
        if found := _HEADING.search(text):
            yield f"What does it say about {found[1]}?"
    for text in texts.values():
        words = sorted(set(_WORD.findall(text)), key=lambda word: (-len(word), word))
        if words:
            yield f"What does it say about {words[0]}?"


def _table_question(text: str) -> Iterator[str]:
    try:
        rows = list(itertools.islice(csv.reader(text.splitlines()), 2))
    except csv.Error:
        return
    if len(rows) == 2 and min(map(len, rows)) > 1:
        yield f"What is the {rows[0][1]} of {rows[1][0]}?"
