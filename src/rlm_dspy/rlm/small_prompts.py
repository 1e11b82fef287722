"""Prompts for small models: short, with worked examples, because such models copy better than they follow.

They were tuned on a model of 1.5B weights (benchmarks/RESULTS.md). Nothing shown looks like a header or like code,
because such a model writes back what it sees. A model that repeats a step at temperature 0 keeps doing so, so its first
repeat ends the run.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rlm_dspy.rlm import prompts
from rlm_dspy.rlm.signatures import history_field

MAX_WHOLE_CHARS = 2_000  # inputs up to this many characters are shown whole
PREVIEW_CHARS = 600  # characters shown of longer inputs, head and tail together
MAX_OUTPUT_CHARS = 1_500  # characters shown of a step's output
MAX_FOUND_LINES = 5
MAX_FOUND_CHARS = 800
MAX_REMINDER_CHARS = 400  # longest question that is repeated under each output
SNIFFED_LINES = 4  # lines read to recognise a table

STRATEGY = """You answer a question about data in Python variables that are already loaded. You cannot see all of it: write short code that looks, and read what it prints."""

PROTOCOL = """Variables: {inputs}. Never assign to them.
Functions in the REPL:
{functions}
- `SUBMIT({submit})` ends the task. Call it when you have seen or computed the answer.
Outputs:
{outputs}"""

TOOLKIT = (
    """- `grep("regular expression")` lines that match; `search("words", k=5)` best passages; print what they find."""
)

LLM_QUERY = """- `llm_query(text + question) -> str` asks a helper, which sees only that text (at most {room:,} characters); at most {calls} times."""

TEXT_EXAMPLES = """Examples.
Question: Who wrote the report?
```python
for hit in grep("report"):
    print(hit)
```
Question: How many lines mention apples?
```python
n = sum("apples" in line for line in {main}.splitlines())
print(n)
SUBMIT({first}=str(n))
```
Question: Which color is the most frequent? (lines such as "color=red size=3")
```python
import re
from collections import Counter
counts = Counter(re.findall(r"color=(\\w+)", {main}))
print(counts.most_common(5))
SUBMIT({first}=counts.most_common(1)[0][0])
```"""

TABLE_EXAMPLES = """Examples.
Question: What is the price of the row with id 7?
```python
import csv, io
for row in csv.DictReader(io.StringIO({main}){delimiter}):
    if row["id"] == "7":
        print(row)
        SUBMIT({first}=row["price"])
```
Question: How many rows of Rome have the year 2024?
```python
import csv, io
rows = list(csv.DictReader(io.StringIO({main}){delimiter}))
n = sum(row["city"] == "Rome" and row["year"] == "2024" for row in rows)
print(n)
SUBMIT({first}=str(n))
```
Question: What is the total price of the rows of Rome?
```python
import csv, io
rows = list(csv.DictReader(io.StringIO({main}){delimiter}))
total = sum(float(row["price"]) for row in rows if row["city"] == "Rome")
print(total)
SUBMIT({first}=str(total))
```"""

CORPUS = """- `{main}["name"]` is the text of one file, and `{main}.items()` gives the name and the text of each; `{main}` itself is no string."""

CORPUS_EXAMPLES = """Examples.
Question: Which file defines the function parse_row?
```python
for hit in grep(r"def parse_row"):
    print(hit)
```
Question: How many files mention apples?
```python
names = [name for name, text in {main}.items() if "apples" in text]
print(names)
SUBMIT({first}=str(len(names)))
```
Question: Who wrote the report?
```python
for hit in search("who wrote the report", k=5):
    print(hit)
```"""

CLOSING = """When the answer stands in what was printed, reply with SUBMIT({first}="...") alone."""

FOUND_ADVICE = """If they hold the answer, reply with SUBMIT({first}="...") alone. To count, add up or compare, write code over all of `{main}`."""

MADE_UP = """{quoted} is in no output and no input. Find or compute it in code, print it, and SUBMIT what you saw."""

NOTHING = """{quoted} is nothing. See whether your code looks for it as the data has it: print a few lines or rows, then try again. If it is right, SUBMIT it again."""

REMINDER = """Question again: {task}
If the answer is above, SUBMIT({first}="...") alone; else look in another way."""


def protocol_text(
    signature: type[Any],
    *,
    calls: int,
    room: int,
    tools: Mapping[str, Any],
    toolkit: bool,
    evidence: bool,
    interpreter: str,
    main: str | None,
    corpus: bool,
    delimiter: str | None,
    task: str,
) -> str:
    """Render the fixed part of the instructions, as :func:`rlm_dspy.rlm.prompts.protocol_text` does for other models.

    Args:
        calls: maximum sub-calls of the whole run.
        room: maximum characters of a prompt to the sub-model.
        main: the name of the main context for the examples, if it is a text or a corpus.
        corpus: whether it is a corpus.
        delimiter: its column separator, if it is a table.
        task: the user's own instructions, if any; placed at the top, a small model would follow only them.
    """
    functions = [TOOLKIT] if toolkit else []
    functions += [CORPUS.format(main=main)] if corpus else []
    functions += [LLM_QUERY.format(calls=calls, room=room), *map(prompts.tool_line, tools.values())]
    text = PROTOCOL.format(
        inputs=", ".join(f"`{name}`" for name in signature.input_fields) or "none",
        submit=", ".join(f"{name}=..." for name in signature.output_fields),
        outputs=prompts.outputs(signature),
        functions="\n".join(functions),
    )
    if name := history_field(signature):
        text += "\n" + prompts.EARLIER.format(name=name)
    if task:
        text += f"\nAbout the outputs: {task}"
    if evidence:
        text += "\n" + prompts.EVIDENCE
    if interpreter.strip():
        text += "\n" + interpreter.strip()
    if not toolkit or main is None:
        return text
    first = next(iter(signature.output_fields))
    if corpus:
        examples = CORPUS_EXAMPLES.format(main=main, first=first)
    elif delimiter is None:
        examples = TEXT_EXAMPLES.format(main=main, first=first)
    else:
        option = "" if delimiter == "," else f", delimiter={delimiter!r}"
        examples = TABLE_EXAMPLES.format(main=main, first=first, delimiter=option)
    return f"{text}\n{examples}\n{CLOSING.format(first=first)}"


def delimiter_of(text: str) -> str | None:
    """Return the column separator of a table with a header, or None if the text is not one."""
    head = text[:4_000].splitlines()[:SNIFFED_LINES]
    if len(head) < SNIFFED_LINES:
        return None
    for delimiter in (",", ";", "\t", "|"):
        try:
            rows = list(csv.reader(head, delimiter=delimiter))
        except csv.Error:
            continue
        header = rows[0]
        same_width = len({len(row) for row in rows}) == 1 and len(header) > 1
        if same_width and len(set(header)) == len(header) and all(_is_name(cell) for cell in header):
            return delimiter
    return None


def _is_name(cell: str) -> bool:
    """Return whether a cell may be a column name: a few words, neither a number nor a sentence."""
    return bool(cell.strip()) and len(cell) <= 40 and any(letter.isalpha() for letter in cell) and "." not in cell


def render_probe(
    values: Mapping[str, Any],
    task: str,
    main: str | None,
    found: Sequence[str],
    first: str,
    unchanged: Collection[str] = (),
) -> str:
    """Render the first observation: the question, the inputs, and the lines found by the host's search."""
    shown = [f"Question: {task}"] if task else []
    for name, value in values.items():
        if str(value) == task:
            continue
        if name in unchanged:
            shown.append(prompts.unchanged_line(name, value))
            continue
        shown.append(prompts.describe_variable(name, value, "", main=False, whole=MAX_WHOLE_CHARS, shown=PREVIEW_CHARS))
        if name == main and isinstance(value, str) and (delimiter := delimiter_of(value)):
            columns = ", ".join(next(csv.reader([value.partition("\n")[0]], delimiter=delimiter)))
            shown.append(f"`{name}` is a table, one row a line, with the columns {columns}: read it by csv.DictReader.")
    if found:
        shown.append(f"Lines of `{main}` with words of the question:")
        shown.append("\n".join(prompts.barred_text(line) for line in found))
        shown.append(FOUND_ADVICE.format(main=main, first=first))
    return "\n".join(shown)


def framed_output(output: str) -> str:
    """Render the output of a step in a form that the model does not write back."""
    return f"Output:\n{prompts.barred_text(output)}"


def reminder_text(task: str, first: str) -> str:
    """Repeat the question, for models that lose track of it; a long one is not repeated."""
    return REMINDER.format(task=task, first=first) if task and len(task) <= MAX_REMINDER_CHARS else ""
