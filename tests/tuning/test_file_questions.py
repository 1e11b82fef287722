"""Questions about somebody's files: each answer is the right one, and no file, however odd, ends the making."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy import data
from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import CorpusError
from rlm_dspy.tuning import file_questions


def answers(**texts: str) -> dict[str, Any]:
    """What is asked about files, which are named like a_py, and answered."""
    corpus = Corpus.from_texts({name.replace("_", "."): text for name, text in texts.items()})
    return {one.question: one.answer for one in file_questions.make_questions(corpus, 400)}


def test_classes_with_short_names_are_children_too() -> None:
    code = "class Animal: ...\nclass Dog(Animal): ...\nclass Cat(Animal): ...\nclass Horse(Animal): ...\n"
    twice = "class Animal: ...\nclass Dog(Animal): ...\nclass Horse(Animal):\n    class Dog(Animal): ...\n"
    asked = "How many classes inherit directly from Animal?"
    assert answers(a_py=code)[asked] == 3
    assert answers(a_py=twice)[asked] == 3
    assert answers(a_py=code, b_py="import a\n\nclass Emu(a.Animal): ...\nclass Eel(Animal[int]): ...\n")[asked] == 5
    assert asked not in answers(a_py=code, b_py="from a import Animal as Beast\n\nclass Emu(Beast): ...\n")


def test_the_file_of_a_base_is_asked_only_where_there_is_one_base() -> None:
    asked = "Which file defines the class that Child inherits from?"
    files = {"base_py": "class Base: ...\n", "other_py": "class Other: ...\n"}
    head = "from base import Base\nfrom other import Other\n\n"
    assert answers(**files, c_py=head + "class Child(Base): ...\n")[asked] == "base.py"
    assert asked not in answers(**files, c_py=head + "class Child(Base, Other): ...\n")


@pytest.mark.parametrize(
    "more",
    [
        "LIMIT += 1",
        "LIMIT: int = 3",
        "LIMIT = other = 4",
        "LIMIT, other = 5, 6",
        "for LIMIT in range(3): pass",
        "if True:\n    LIMIT = 7",
        "def change():\n    global LIMIT\n    LIMIT = 8",
        "from other import LIMIT",
        "import LIMIT",
        "with open('x') as LIMIT: pass",
        "del LIMIT",
        "def LIMIT(): pass",
        "class LIMIT: pass",
        "if (LIMIT := 3): pass",
        "try: pass\nexcept OSError as LIMIT: pass",
        "match 3:\n    case LIMIT: pass",
    ],
)
def test_a_name_that_is_bound_twice_has_no_one_value(more: str) -> None:
    asked = "What value does a.py assign to LIMIT?"
    assert answers(a_py="LIMIT = 12\n")[asked] == 12
    assert answers(a_py="LIMIT = 12\n\ndef other(LIMIT):\n    return LIMIT\n")[asked] == 12
    assert asked not in answers(a_py=f"LIMIT = 12\n{more}\n", b_txt="something to ask about is here\n" * 9)


@pytest.mark.parametrize(
    ("text", "last", "number"),
    [
        ("# Top\n## One\n## Two\n## Three\n", "Three", 3),
        ("# Top\n## One\n## Two\n## Three\n# Appendix C#\n", "Appendix C#", None),
        ("# Top\n## One\n## Two\n## Three\n\nThe end\n-------\n", None, None),
        ("## One\n~~~\n## code\n~~~\n## Two\n  ```\n## code\n  ```\n## Three\n", "Three", 3),
        ("## One\n## Two\n##\tThree\n## Four ##\n", "Four", 4),
    ],
)
def test_the_last_heading_is_the_last_of_any_level(text: str, last: str | None, number: int | None) -> None:
    made = answers(a_md=text, b_csv="name,price\nchair,12\ntable,40\nlamp,9\n")
    assert made.get("Which is the last heading of a.md?") == last
    assert made.get("How many headings below the title does a.md have?") == number


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.csv", "a,b\n1,2\r3\n4,5\n"),
        ("twice.csv", "a,a\n1,2\n3,4\n4,5\n"),
        ("long.csv", "a,b\n1," + "x" * 140_000 + "\n2,3\n4,5\n"),
        ("deep.py", "x = " + "-" * 60_000 + "1\n"),
        ("nested.py", "x = " + "(" * 5_000 + "\n"),
        ("sum.py", "x = " + "1 + " * 60_000 + "1\n"),
    ],
)
def test_a_hostile_file_ends_nothing(name: str, text: str) -> None:
    corpus = Corpus.from_texts({name: text, "good.csv": "name,price\nchair,12\ntable,40\nlamp,9\n"})
    made = {one.question: one.answer for one in file_questions.make_questions(corpus, 60)}
    assert made["In good.csv, what is the sum of the column price?"] == 61
    assert not any("twice.csv" in asked for asked in made)
    with pytest.raises(CorpusError):
        file_questions.make_questions(Corpus.from_texts({"empty.bin": "."}), 0)


def test_a_constant_that_is_no_valid_text_is_written(tmp_path: Path) -> None:
    made = [
        one.row(0, "c") for one in file_questions.make_questions(Corpus.from_texts({"a.py": "NAME = 'x\\ud800y'\n"}), 9)
    ]
    data.write(tmp_path / "q.jsonl", made)
    assert "x?y" in [json.loads(line)["answer"] for line in (tmp_path / "q.jsonl").read_text().splitlines()]
