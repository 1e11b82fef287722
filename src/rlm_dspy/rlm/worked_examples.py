"""Worked examples for small models: one turn of another task, chosen by the shape of the question and of the data.

Such a model copies the code that it was shown and changes the names, so the example must do what the question asks, and
in a way that survives small differences of the data. Shown as a turn it is followed more often than as part of the
instructions (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["text", "table", "corpus"]


@dataclass(frozen=True)
class Example:
    """A question, lines of its data, and code that answers it.

    ``shape`` is a regular expression for questions of this kind. In the code ``{main}`` stands for the main input
    or its text, ``{rows}`` for lines that read a table, and ``{first}`` for the first output.
    ``output`` and ``answer`` are what the code prints and what is then submitted, where one step is not enough.
    """

    shape: str
    question: str
    lines: tuple[str, ...]
    code: str
    output: str = ""
    answer: str = ""


_LOOK_UP = """for hit in grep("report on bridges"):
    print(hit)"""
# The first that fits is shown, so special shapes come before general ones, and look-ups are last.
EXAMPLES: dict[Kind, tuple[Example, ...]] = {
    "text": (
        Example(
            shape=r"\bpairs?\b",
            question="List all pairs of cities that both have at least one bridge and at least one tower.",
            lines=("4: city: Rome; built: 1887; has: bridge", "9: city: Oslo; built: 1911; has: tower"),
            code="""import re
from itertools import combinations
kinds = {{}}
for line in {main}.splitlines():
    name = re.search(r"city: (\\w+)", line)
    kind = re.search(r"has: (\\w+)", line)
    if name and kind:
        kinds.setdefault(name.group(1), set()).add(kind.group(1))
wanted = {{"bridge", "tower"}}
both = sorted(name for name in kinds if wanted <= kinds[name])
print(both)
SUBMIT({first}=", ".join(a + " & " + b for a, b in combinations(both, 2)))""",
        ),
        Example(
            shape=r"\b(?:at|in) the end\b|\bfinal(?:ly)?\b",
            question="Which cells hold 731 at the end? List all of them.",
            lines=("12: SET ak = 731", "30: SET bo = SET ak"),
            code="""values = {{}}
for line in {main}.splitlines():
    if line.startswith("SET "):
        left, right = [part.split()[-1] for part in line.split("=")]
        values[left] = values.get(right, right)
names = [name for name in values if values[name] == "731"]
print(names)
SUBMIT({first}=", ".join(names))""",
        ),
        Example(
            shape=r"\bmore\b.*\b(?:less|fewer|equal)|\bless\b.*\bmore\b",
            question="Is the color red more, less or equally frequent as blue?",
            lines=("2: size=3 color=blue", "5: size=8 color=red"),
            code="""import re
from collections import Counter
counts = Counter(re.findall(r"color\\W+(\\w+)", {main}))
red, blue = counts["red"], counts["blue"]
print(counts.most_common(5))
SUBMIT({first}="more" if red > blue else "less" if red < blue else "equal")""",
        ),
        Example(
            shape=r"\bhow many\b|\bnumber of\b|\bcount\b",
            question="How many letters of Ann are about apples?",
            lines=("3: date: 2019-05-02; by: Ann; about: apples", "8: date: 2019-07-11; by: Bob; about: pears"),
            code="""n = 0
for line in {main}.lower().splitlines():
    if "by: ann" in line and "about: apples" in line:
        n += 1
print(n)
SUBMIT({first}=str(n))""",
        ),
        Example(
            shape=r"(?<!at )\b(?:most|least|fewest)\b",
            question="Which color is the most frequent?",
            lines=("2: size=3 color=blue", "5: size=8 color=red"),
            code="""import re
from collections import Counter
counts = Counter(re.findall(r"color\\W+(\\w+)", {main}))
print(counts.most_common(5))
SUBMIT({first}=counts.most_common(1)[0][0])""",
        ),
        Example(
            shape=r"\ball\b|\bevery\b|\blist\b",
            question="What are all the phone numbers of Rome?",
            lines=("3: A phone number of Rome is 551-204.",),
            code="""import re
numbers = re.findall(r"phone number of Rome is (\\d+-\\d+)", {main})
print(numbers)
SUBMIT({first}=", ".join(numbers))""",
        ),
        Example(
            shape="",
            question="Who wrote the report on bridges?",
            lines=("12: This is about the bridges of Rome.",),
            code=_LOOK_UP,
            output="57: Ann Lee finished the report on bridges in May.",
            answer="Ann Lee",
        ),
    ),
    "table": (
        Example(
            shape=r"\bhow many\b|\bnumber of\b|\bcount\b",
            question="How many rows of Rome have the year 2024?",
            lines=("4: 17,Rome,2024,120",),
            code="""{rows}
n = sum(row["city"] == "Rome" and row["year"] == "2024" for row in rows)
print(n)
SUBMIT({first}=str(n))""",
        ),
        Example(
            shape=r"\b(?:sum|total|average|mean)\b",
            question="What is the sum of the prices over the rows of Rome with the year 2024?",
            lines=("4: 17,Rome,2024,120",),
            code="""{rows}
total = sum(int(row["price"]) for row in rows if row["city"] == "Rome" and row["year"] == "2024")
print(total)
SUBMIT({first}=str(total))""",
        ),
        Example(
            shape=r"\b(?:greatest|largest|highest|smallest|lowest|slowest|fastest|maximum|minimum)\b",
            question="What is the highest price of the rows of Rome with the year 2024?",
            lines=("4: 17,Rome,2024,120",),
            code="""{rows}
prices = [int(row["price"]) for row in rows if row["city"] == "Rome" and row["year"] == "2024"]
print(max(prices))
SUBMIT({first}=str(max(prices)))""",
        ),
        Example(
            shape=r"\b(?:first|last|latest|newest|oldest|earliest)\b",
            question="What is the id of the last row of Rome with the year 2024?",
            lines=("4: 17,Rome,2024,120",),
            code="""{rows}
found = [row for row in rows if row["city"] == "Rome" and row["year"] == "2024"]
print(found[0], found[-1])
SUBMIT({first}=found[-1]["id"])""",
        ),
        Example(
            shape="",
            question="What is the price of the row with id 7?",
            lines=("4: 7,Rome,2024,120",),
            code="""{rows}
for row in rows:
    if row["id"] == "7":
        print(row)
        SUBMIT({first}=row["price"])""",
        ),
    ),
    "corpus": (
        Example(
            shape=r"\b(?:newest|latest|most recent)\b",
            question="According to the newest letter that tells it, how many horses has the farm of Ann?",
            lines=("letters/3.txt:8: The farm of Ann has 7 horses.", "letters/1.txt:21: The farm of Ann has 4 horses."),
            code="""import re
found = []
for name, text in {main}.items():
    date = re.search(r"\\d\\d\\d\\d-\\d\\d-\\d\\d", text)
    line = re.search(r"The farm of Ann has (\\d+) horses", text)
    if date and line:
        found.append((date.group(), line.group(1)))
print(sorted(found))
SUBMIT({first}=max(found)[1])""",
        ),
        Example(
            shape=r"\b(?:which|what) (?:files?|documents?)\b",
            question="Which file defines the function parse_row?",
            lines=("src/read.py:8: def parse_row(line):",),
            code="""hits = grep(r"def parse_row\\(")
print(hits)
SUBMIT({first}=hits[0].source)""",
        ),
        Example(
            shape=r"\bhow many (?:files|documents)\b",
            question="How many files mention apples?",
            lines=("letters/3.txt:8: Ann sells apples.",),
            code="""names = [name for name, text in {main}.items() if "apples" in text]
print(names)
SUBMIT({first}=str(len(names)))""",
        ),
        Example(
            shape=r"\bhow many\b|\bnumber of\b|\bcount\b",
            question="How many functions call parse_row?",
            lines=("src/read.py:8:     return parse_row(line)",),
            code="""hits = grep(r"parse_row\\(")
print(hits)
SUBMIT({first}=str(len(hits)))""",
        ),
        Example(
            shape="",
            question="Who wrote the report on bridges?",
            lines=("letters/3.txt:12: This is about the bridges of Rome.",),
            code=_LOOK_UP,
            output="letters/1.txt:57: Ann Lee finished the report on bridges in May.",
            answer="Ann Lee",
        ),
    ),
}


_YES_OR_NO = Example(
    shape="",
    question="Is the report on bridges by Ann Lee?",
    lines=("12: This is about the bridges of Rome.",),
    code=_LOOK_UP,
    output="57: Ann Lee finished the report on bridges in May.",
    answer="True",
)
# For a question whose answer is True or False.
YES_OR_NO: dict[Kind, Example] = {
    "text": _YES_OR_NO,
    "table": Example(
        shape="",
        question="Is the price of the row with id 7 above 100?",
        lines=("4: 7,Rome,2024,120",),
        code="""{rows}
for row in rows:
    if row["id"] == "7":
        print(row)
        SUBMIT({first}=float(row["price"]) > 100)""",
    ),
    "corpus": replace(
        _YES_OR_NO,
        lines=("letters/3.txt:12: This is about the bridges of Rome.",),
        output="letters/1.txt:57: Ann Lee finished the report on bridges in May.",
    ),
}


def with_number(example: Example) -> Example:
    """Return an example of looking something up whose answer is a number."""
    question = "In which year was the report on bridges finished?"
    return replace(example, question=question, output=example.output.replace("in May", "in 1998"), answer="1998")


def fitting_example(kind: Kind, question: str, number_columns: Collection[str] = ()) -> Example:
    """Return the example whose shape the question has; a look-up if there is none.

    A corpus has examples of its own and those of a text. "How many units" asks for a sum if a table has numbers in a
    column of that name.
    """
    examples = EXAMPLES[kind]
    counted = re.search(r"\bhow many (\w+)", question, re.IGNORECASE)
    if counted and counted[1].lower() in number_columns:
        question = "sum"
    if kind == "corpus":
        examples = (*examples[:-1], *EXAMPLES["text"][:-1], examples[-1])
    for example in examples[:-1]:
        if re.search(example.shape, question, re.IGNORECASE):
            return example
    return examples[-1]
