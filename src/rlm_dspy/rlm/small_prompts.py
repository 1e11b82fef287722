"""Prompts for small models: short, with worked examples, because such models copy better than they follow.

They were tuned on a model of 1.5B weights (benchmarks/RESULTS.md). Nothing shown looks like a header or like code,
because such a model writes back what it sees. A model that repeats a step at temperature 0 keeps doing so, so its first
repeat ends the run.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args, get_origin

import dspy

from rlm_dspy.evidence import Evidence
from rlm_dspy.rlm import prompts, worked_examples
from rlm_dspy.rlm.modes import asks_about_all
from rlm_dspy.rlm.step_texts import barred_text, clean_for_prompt, framed_output

MAX_WHOLE_CHARS = 2_000  # inputs up to this many characters are shown whole
PREVIEW_CHARS = 600  # characters shown of longer inputs, head and tail together
MAX_OUTPUT_CHARS = 1_500  # characters shown of a step's output
MAX_FOUND_LINES = 5
MAX_FOUND_CHARS = 800
MAX_LINKED_LINES = 3
MAX_NAME_CHARS = 200  # longest name of a file that is shown in an example
MAX_REMINDER_CHARS = 400  # longest question that is repeated under each output
HEAD_CHARS = 4_000  # of a table, in which its header and first rows are looked for
SNIFFED_LINES = 4  # lines read to recognise a table
MAX_COLUMN_CHARS = 40  # longest name of a column

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

CORPUS = """- `{main}["name"]` is the text of one file, and `{main}.items()` gives the name and the text of each, `{main}.rows("name.csv")` the rows of a table as dicts; `{main}` itself is no string."""

CLOSING = """When the answer stands in what was printed, reply with {call} alone."""

FOUND = """Lines of `{main}` with words of the question:"""

FOUND_ADVICE = """If they hold the answer, reply with {call} alone. To count, add up or compare, write code over all of `{main}`."""

SOME_FOUND_ADVICE = """There may be more: write code over all of `{main}` that finds, counts or compares."""

MADE_UP = """{quoted} is in no output and no input. Find or compute it in code, print it, and SUBMIT what you saw."""

NOTHING = """{quoted} is nothing. See whether your code looks for it as the data has it: print a few lines or rows, then try again. If it is right, SUBMIT it again."""

REMINDER = """Question again: {task}
If the answer is above, {call} alone; else look in another way."""


ABOUT_OUTPUTS = "About the outputs: {task}"


def action_instructions(signature: type[dspy.Signature]) -> str:
    """Return the strategy, then the user's own instructions: what optimizers may rewrite."""
    task = prompts.own_instructions(signature)
    if task:
        return f"{STRATEGY}\n\n{ABOUT_OUTPUTS.format(task=task)}"
    return STRATEGY


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
    task: str,
) -> str:
    """Render the fixed part of the instructions, as :func:`rlm_dspy.rlm.prompts.protocol_text` does for other models.

    Args:
        calls: maximum sub-calls of the whole run.
        room: maximum characters of a prompt to the sub-model.
        main: the name of the main context, if it is a text or a corpus.
        corpus: whether it is a corpus.
        task: the user's own instructions, if any; placed at the top, a small model would follow only them.
    """
    functions = [TOOLKIT] if toolkit else []
    functions += [CORPUS.format(main=main)] if corpus else []
    functions += [LLM_QUERY.format(calls=calls, room=room), *map(prompts.tool_line, tools.values())]
    about = ABOUT_OUTPUTS.format(task=task) if task else ""
    quotes = prompts.EVIDENCE if evidence else ""
    text = prompts.filled_protocol(PROTOCOL, signature, functions, about, quotes, interpreter.strip())
    if not toolkit or main is None:
        return text
    return f"{text}\n{CLOSING.format(call=final_call(signature))}"


def final_call(signature: type[Any]) -> str:
    """Return the SUBMIT of all outputs that must be given, in the form of their types."""
    given = []
    for name, annotation in _needed_outputs(signature).items():
        if _is_text(annotation):
            given.append(f'{name}="..."')
        elif get_origin(annotation) is list:
            given.append(f"{name}=[...]")
        else:
            given.append(f"{name}=...")
    return f"SUBMIT({', '.join(given)})"


def _needed_outputs(signature: type[Any]) -> dict[str, Any]:
    fields = signature.output_fields
    needed = {name: field.annotation for name, field in fields.items() if field.is_required()}
    without_evidence = {name: kind for name, kind in needed.items() if kind != list[Evidence]}
    return without_evidence or {name: field.annotation for name, field in fields.items()}


def _is_text(annotation: Any) -> bool:
    return str in (annotation, *get_args(annotation)) and get_origin(annotation) not in (list, dict, tuple, set)


def worked_demo(
    value: Any, question: str, *, main: str, signature: type[Any], found: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the worked example for a question as a demo of one or two turns.

    Args:
        value: the main context: a text or a corpus.
        question: what is asked about it.
        main: its name.
        signature: the signature of the run; where the example's answer does not fit its outputs, it only prints.
        found: lines of it with words of the question, best first.
    """
    kind, text, rows = _data_expressions(value, main, found)
    columns = _number_columns(value, found) if kind == "table" else []
    needed = _needed_outputs(signature)
    first = next(iter(needed))
    only = needed[first] if len(needed) == 1 else None
    example = worked_examples.fitting_example(kind, question, columns)
    if only is bool:
        example = worked_examples.YES_OR_NO[kind]
    elif only in (int, float) and example.output:
        example = worked_examples.with_number(example)
    lines = "\n".join(barred_text(line) for line in example.lines)
    shown = [f"Question: {example.question}", FOUND.format(main=main), lines, SOME_FOUND_ADVICE.format(main=main)]
    if kind == "corpus" and example in worked_examples.EXAMPLES["corpus"]:
        name = main
    else:
        name = text
    code = example.code.format(main=name, rows=rows, first=first)
    turn = {"observation": "\n".join(shown), "reasoning": "", "code": _fitting_code(code, needed)}
    answer = _answer_code(example.answer, only)
    if not example.output or answer is None:
        return turn
    output = f"{framed_output(example.output)}\n{reminder_text(example.question, final_call(signature))}"
    history = dspy.History(messages=[turn])
    return {"history": history, "observation": output, "reasoning": "", "code": f"SUBMIT({first}={answer})"}


def _answer_code(answer: str, kind: Any) -> str | None:
    """Return an example's answer as a value of the only output's type, None if it has no such form."""
    if _is_text(kind):
        return f'"{answer}"'
    if get_origin(kind) is list:
        return f'["{answer}"]'
    if kind in (bool, int, float):
        return answer
    return None


def _fitting_code(code: str, outputs: Mapping[str, Any]) -> str:
    """Return an example whose SUBMIT has the type of the only output, or none if it cannot."""
    kind = next(iter(outputs.values()))
    if len(outputs) == 1 and (_is_text(kind) or kind is bool):
        return code
    lines, submit = [line for line in code.splitlines() if "SUBMIT(" not in line], code.splitlines()[-1]
    if len(outputs) == 1 and kind in (int, float) and (number := re.fullmatch(r"(SUBMIT\(\w+=)str\((.*)\)\)", submit)):
        lines.append(f"{number[1]}{number[2]})")
    elif len(outputs) == 1 and get_origin(kind) is list and '", ".join(numbers)' in submit:
        lines.append(submit.replace('", ".join(numbers)', "numbers"))
    return "\n".join(lines)


def _data_expressions(value: Any, main: str, lines: Sequence[str]) -> tuple[worked_examples.Kind, str, str]:
    """Return what the data is, the code for its text, and the code that reads its rows.

    The data of a corpus is its only file, or the table in which the best line was found, or all files.
    """
    if isinstance(value, str):
        delimiter = delimiter_of(value)
        if delimiter in (None, ","):
            option = ""
        else:
            option = f", delimiter={delimiter!r}"
        rows = f"import csv, io\nrows = list(csv.DictReader(io.StringIO({main}){option}))"
        return "text" if delimiter is None else "table", main, rows
    files = value.sandbox_index()["files"]
    likely = _likely_file(files, lines)
    if likely and _is_plain_name(likely["name"]):
        name = json.dumps(likely["name"])
        if likely["kind"] in ("csv", "tsv") or likely["name"].endswith((".csv", ".tsv")):
            return "table", main, f"rows = {main}.rows({name})"
        if len(files) == 1:
            return "text", f"{main}[{name}]", ""
    return "corpus", f'"\\n".join({main}.values())', ""


def _likely_file(files: Sequence[Mapping[str, Any]], lines: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the only file, or the one of the best line."""
    likely = [file for file in files if len(files) == 1 or (lines and lines[0].startswith(f"{file['name']}:"))]
    if likely:
        return likely[0]
    return None


def _number_columns(value: Any, lines: Sequence[str]) -> list[str]:
    """Return the columns of a table, in lower case, that have a number in the first row."""
    text = value
    if not isinstance(value, str):
        likely = _likely_file(value.sandbox_index()["files"], lines)
        text = next((text for name, text in value.items() if likely and name == likely["name"]), "")
    head = text[:HEAD_CHARS].splitlines()[:2]
    rows = list(csv.reader(head, delimiter=delimiter_of(text) or ","))
    if len(rows) < 2:
        return []
    return [column.lower() for column, cell in zip(*rows, strict=False) if re.fullmatch(r"-?\d+(?:[.,]\d+)?", cell)]


def _is_plain_name(name: str) -> bool:
    """Return whether a file name can stand in an example as it is: short, and nothing in it ends code or a field."""
    return len(name) <= MAX_NAME_CHARS and "`" not in name and clean_for_prompt(name) == name


def delimiter_of(text: str) -> str | None:
    """Return the column separator of a table with a header, or None if the text is not one."""
    head = text[:HEAD_CHARS].splitlines()[:SNIFFED_LINES]
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
    """Return whether a cell may be a column name: a few words, no number, no sentence, no ``key: value``."""
    letters = any(letter.isalpha() for letter in cell)
    return letters and len(cell) <= MAX_COLUMN_CHARS and not any(mark in cell for mark in ".:=")


def render_probe(
    values: Mapping[str, Any],
    task: str,
    main: str | None,
    lines: Sequence[str],
    call: str,
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
    if lines:
        shown.append(FOUND.format(main=main))
        shown.append("\n".join(barred_text(line) for line in lines))
        advice = SOME_FOUND_ADVICE if asks_about_all(task) else FOUND_ADVICE
        shown.append(advice.format(main=main, call=call))
    return "\n".join(shown)


def reminder_text(task: str, call: str) -> str:
    """Repeat the question and the final call, for models that lose track of it; a long one is not repeated."""
    if task and len(task) <= MAX_REMINDER_CHARS:
        return REMINDER.format(task=task, call=call)
    return ""
