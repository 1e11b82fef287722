"""What a model is shown: its instructions, the first view of its inputs, and the output of each step."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import dspy
from dspy.adapters.utils import translate_field_type

from rlm_dspy.counting import counted_noun
from rlm_dspy.redact import Redactor, is_secret_name
from rlm_dspy.rlm.signatures import history_field
from rlm_dspy.rlm.step_texts import barred_text, clip_middle, observation_text
from rlm_dspy.sandbox.toolkit import count_lines
from rlm_dspy.sandbox.worker import tables

MAX_LISTED_FILES = 20  # up to this many files are listed one by one
MIN_GROUPED_FILES = 4  # beyond that, this many files of one folder and kind share a line
MAX_FILE_ROWS = 40  # rows of the list
MAX_SHOWN_HEADS = 3  # files whose beginnings are shown, each of a different kind
HEAD_LINES = 4
HEAD_CHARS = 120  # of each of these lines
MAX_NAMED_PROBLEMS = 5  # files named that were not read, or not in full
PROBLEM_CHARS = 200
READ_CHARS = 2_000_000  # largest file whose beginning is shown; larger ones are read when the model asks
# Of an array or a table:
MAX_FIRST_ROWS, MAX_TABLE_COLUMNS, MAX_FIRST_VALUES = 5, 50, 20

TABLES = frozenset({".csv", ".tsv", ".xlsx", ".jsonl"})

File = Mapping[str, Any]  # name, chars, lines


def corpus_view(corpus: Any) -> str:
    """Render the files of a corpus with their sizes, similar ones on one line, and the beginnings of a few kinds."""
    files = corpus.sandbox_index()["files"]
    return "\n".join([*_file_list_rows(files), *_beginning_lines(corpus, files), *_problem_lines(corpus)])


def _problem_lines(corpus: Any) -> list[str]:
    """Describe what was not read, or not in full, so that missing files are not mistaken for absent ones."""
    problems = getattr(corpus, "problems", ())
    lines = [f"Not as it is: {problem}"[:PROBLEM_CHARS] for problem in problems[:MAX_NAMED_PROBLEMS]]
    if len(problems) > MAX_NAMED_PROBLEMS:
        lines.append(f"… and {len(problems) - MAX_NAMED_PROBLEMS:,} more such files")
    return lines


def _file_list_rows(files: Sequence[File]) -> list[str]:
    if len(files) > MAX_LISTED_FILES:
        groups = _group_files(files)
    else:
        groups = [[file] for file in files]
    rows = [_group_row(group) for group in groups[:MAX_FILE_ROWS]]
    left = sum(len(group) for group in groups[MAX_FILE_ROWS:])
    if left:
        rows.append(f"… and {counted_noun(left, 'more file')}")
    return rows


def _group_files(files: Sequence[File]) -> list[list[File]]:
    """Group files by folder and kind where there are several, in the order of each group's first file."""
    by_kind: dict[tuple[str, str], list[File]] = {}
    for file in files:
        path = PurePosixPath(file["name"])
        by_kind.setdefault((str(path.parent), path.suffix), []).append(file)
    groups: list[list[File]] = []
    for group in by_kind.values():
        if len(group) >= MIN_GROUPED_FILES:
            groups.append(group)
        else:
            groups += [[file] for file in group]
    return groups


def _group_row(group: Sequence[File]) -> str:
    lines = sum(file["lines"] for file in group)
    first = PurePosixPath(group[0]["name"])
    if len(group) == 1:
        return f"{first} ({counted_noun(lines, 'line')})"
    last = PurePosixPath(group[-1]["name"])
    folder = "" if str(first.parent) == "." else f"{first.parent}/: "
    return f"{folder}{len(group):,} files {first.name} … {last.name} ({counted_noun(lines, 'line')})"


def _beginning_lines(corpus: Any, files: Sequence[File]) -> list[str]:
    """Return the first lines of a few files: tables, for their header, and the most frequent kinds."""
    by_kind: dict[str, list[File]] = {}
    for file in files:
        if file["chars"] <= READ_CHARS:
            by_kind.setdefault(PurePosixPath(file["name"]).suffix, []).append(file)
    kinds = sorted(by_kind, key=lambda kind: (kind not in TABLES, -len(by_kind[kind])))
    shown = []
    for group in [by_kind[kind] for kind in kinds[:MAX_SHOWN_HEADS]]:
        name = group[0]["name"]
        lines = [line for line in re.split(r"\r?\n", corpus[name][: HEAD_LINES * HEAD_CHARS * 4]) if line.strip()]
        if lines:
            shown.append(f"{name} begins:")
            shown += [f"  {line[:HEAD_CHARS]}{'…' if len(line) > HEAD_CHARS else ''}" for line in lines[:HEAD_LINES]]
    return shown


MAX_WHOLE_CHARS = 20_000  # inputs up to this many characters are shown whole
MAX_DEFAULT_CHARS = 40  # of a default of a user's tool
MAX_ARGUMENT_CHARS = 80  # of the description of an argument of a user's tool
MAX_DESCRIPTIONS_CHARS = 800  # of those of all arguments of one tool
MAX_TYPE_CHARS = 160  # of the type of an argument
MAX_TYPE_PARTS = 10  # values, choices or properties that are named in a type
MAX_TYPE_DEPTH = 2
MIN_STEP_CHARS = 400  # a step is shown with at least this many characters
MAX_KEYS = 8  # keys of a dict that are named
MAX_KEY_CHARS = 40
PREVIEW_CHARS = 1_000  # characters shown of longer inputs, half from each end

ACTION_STRATEGY = """Answer from data that lives in variables of a Python REPL, not in this prompt. You write short code, see what it prints, and write the next.
1. Find: search for the words that matter and print what you find; learn the structure before you process it.
2. Compute and combine in Python. Keep long or exact values in variables; do not retype them.
3. Ask `llm_query` what a piece of text means; `llm_query_batched` for many pieces at once.
4. Doubt a result that is empty, zero or surprising, and look again.
5. Submit what you have seen printed."""

EXTRACT_STRATEGY = """The work on the task below was ended by a limit. Give its final outputs now, from what the trajectory shows: prefer values that were printed, and say so plainly where the trajectory does not hold the answer."""

PROTOCOL = """How this works (fixed):
- The code runs in a persistent REPL: names stay, also after an error. What it prints comes back; of a long output you see head and tail.
- Inputs are variables: {inputs}. Do not assign to them.
Outputs, given once by SUBMIT({submit}), which ends the run:
{outputs}
Functions in the REPL:
{functions}"""

TOOLKIT = """- `search("words", k=10)` best passages; `grep(pattern, context=0, ignore_case=False)` all matches (printing shows 20); a hit prints as `source:line: text` and has `.line .text .source .range`. `peek(start, end)` a slice; `chunk("lines"|"chars"|"paragraphs"|"headings"|"definitions", size=200)` ranges; `select(ranges)` their text; `outline()` headings, definitions and methods."""

CORPUS = """- On a corpus all take `source=` (a file or glob); `context["name"]` is a file's text, `context.rows("name")` a table's or JSON file's records."""

LLM_QUERY = """- `llm_query(prompt) -> str` asks a sub-model, which sees only that prompt (at most {room:,} characters); `llm_query_batched([prompt, …])` many at once, a failed reply begins with "[ERROR]". At most {calls} sub-calls in all."""

PREDICT = """- `predict("doc -> label: Literal['a', 'b'], why: str", doc=text, instruction="…").label` asks with typed outputs; `predict_batched(signature, [dict, …])` many at once."""

SUBCALL = """- `subcall(text, instruction, output="items: list[str]")` lets a child model explore a text in a REPL of its own; `subcall_batched([(text, instruction), …])` many at once. It costs several calls: only for a piece too long for `llm_query`."""

EARLIER = """- Earlier turns of this conversation, if any, are above; `{name}` holds all of them as a list of dicts."""

EVIDENCE = """- `Evidence` is a dict with `quote`, copied exactly from the inputs, and `source`, its file name if it has one. A quote that is not there, or does not show the answer, is refused; a hit may stand for it. For an answer that was computed, or is not there, give an empty list."""


def outputs(signature: type[dspy.Signature]) -> str:
    """Render the output fields with their types and descriptions."""
    lines = []
    for name, field in signature.output_fields.items():
        desc = (field.json_schema_extra or {}).get("desc") or ""
        line = f"- `{name}` ({type_name(field)})"
        if desc and desc != "${" + name + "}":
            line += f": {desc}"
        if limits := (field.json_schema_extra or {}).get("constraints"):  # DSPy's own text, "less than or equal to: 5"
            line += f" ({limits})"
        # DSPy's own note contains the JSON schema, which only the user's own model classes need.
        note = translate_field_type(name, field).partition("# note: ")[2]
        lines.append(f"{line}. {note}" if '"properties"' in note and "Evidence" not in line else line)
    return "\n".join(lines)


def type_name(field: Any) -> str:
    """Return a field's type as a reader would write it."""
    annotation = field.annotation
    plain = isinstance(annotation, type) and not hasattr(annotation, "__args__")
    name = annotation.__name__ if plain else str(annotation)
    for prefix in ("typing.", "rlm_dspy.evidence.evidence.", "rlm_dspy.evidence.", "datetime."):
        name = name.replace(prefix, "")
    return name


def output_type_names(signature: type[dspy.Signature]) -> frozenset[str]:
    """Return the names in the types of a signature's outputs, such as list and Person."""
    types = " ".join(type_name(field) for field in signature.output_fields.values())
    return frozenset(re.findall(r"[^\W\d]\w*", types))


def protocol_text(
    signature: type[dspy.Signature],
    *,
    calls: int,
    room: int,
    recursion: bool,
    tools: Mapping[str, dspy.Tool],
    toolkit: bool,
    corpus: bool,
    evidence: bool,
    interpreter: str,
) -> str:
    """Render the fixed part of the instructions: inputs, outputs, functions and the interpreter's own rules.

    Args:
        calls: maximum sub-calls of the whole run.
        room: maximum characters of a prompt to the sub-model.
    """
    functions = [TOOLKIT] if toolkit else []
    functions += [CORPUS] if corpus else []
    functions += [LLM_QUERY.format(calls=calls, room=room), PREDICT, *([SUBCALL] if recursion else [])]
    functions += [tool_line(tool) for tool in tools.values()]
    return filled_protocol(PROTOCOL, signature, functions, EVIDENCE if evidence else "", interpreter.strip())


def filled_protocol(template: str, signature: type[dspy.Signature], functions: Sequence[str], *notes: str) -> str:
    """Fill the template of a protocol; the notes that are not empty follow it, after one on earlier turns."""
    text = template.format(
        inputs=", ".join(f"`{name}`" for name in signature.input_fields) or "none",
        submit=", ".join(f"{name}=..." for name in signature.output_fields),
        outputs=outputs(signature),
        functions="\n".join(functions),
    )
    if name := history_field(signature):
        text += "\n" + EARLIER.format(name=name)
    for note in notes:
        if note:
            text += "\n" + note
    return text


_TYPE_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}


def tool_line(tool: dspy.Tool) -> str:
    """Render a user's tool as a line of the function list, with the descriptions of its arguments."""
    args = tool.args or {}
    params = ", ".join(_parameter_text(name, schema) for name, schema in args.items())
    text = f"- `{tool.name}({params})` {(tool.desc or '').strip()}"
    room = MAX_DESCRIPTIONS_CHARS
    for name, schema in args.items():
        described = schema.get("description")
        if not isinstance(described, str) or not described.strip():
            continue
        line = f"{name}: {_cut_text(' '.join(described[:1_000].split()), MAX_ARGUMENT_CHARS)}"
        room -= len(line)
        if room < 0:
            text += " …"
            break
        text += f" `{name}`:{line[len(name) + 1 :]};"
    return text.rstrip(";").replace("\n", " ")


def _parameter_text(name: str, schema: Mapping[str, Any]) -> str:
    """Return a parameter with its type and default; a long default is left out, as is one that is a secret."""
    text = f"{name}: {_cut_text(_schema_type(schema), MAX_TYPE_CHARS)}"
    if "default" not in schema:
        if schema.get("optional"):
            return f"{text} = …"
        return text
    shown = repr(Redactor().value(schema["default"]))
    return f"{text} = {'…' if len(shown) > MAX_DEFAULT_CHARS or is_secret_name(name) else shown}"


def _schema_type(schema: Any, depth: int = 0) -> str:
    """Return the type that a JSON schema describes, as Python writes it; an object by its properties."""
    if not isinstance(schema, Mapping) or depth > MAX_TYPE_DEPTH:
        return "Any"
    if isinstance(values := schema.get("enum"), list) and values:
        shown = [_cut_text(repr(value), MAX_DEFAULT_CHARS) for value in values[:MAX_TYPE_PARTS]]
        return f"Literal[{', '.join(shown)}{', …' if len(values) > MAX_TYPE_PARTS else ''}]"
    kind = schema.get("type")
    choices = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(kind, list):
        choices = [{**schema, "type": name} for name in kind[:MAX_TYPE_PARTS] if isinstance(name, str)]
    if isinstance(choices, list) and choices:
        return " | ".join(dict.fromkeys(_schema_type(choice, depth + 1) for choice in choices[:MAX_TYPE_PARTS]))
    if kind == "array":
        if schema.get("items"):
            return f"list[{_schema_type(schema['items'], depth + 1)}]"
        return "list"
    if kind == "object":
        return _object_type(schema, depth)
    if isinstance(kind, str):
        return _TYPE_NAMES.get(kind, "Any")
    return "Any"


def _object_type(schema: Mapping[str, Any], depth: int) -> str:
    properties, values = schema.get("properties"), schema.get("additionalProperties")
    if isinstance(properties, Mapping) and properties and depth < MAX_TYPE_DEPTH:
        named = list(properties.items())[:MAX_TYPE_PARTS]
        shown = [f"{name}: {_schema_type(part, depth + 1)}" for name, part in named]
        return f"{{{', '.join(shown)}{', …' if len(properties) > MAX_TYPE_PARTS else ''}}}"
    if isinstance(values, Mapping) and values:
        return f"dict[str, {_schema_type(values, depth + 1)}]"
    return "dict"


def _cut_text(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit - 1]}…"


def head_and_tail(text: str, whole: int, shown: int) -> tuple[str, str, int]:
    """Return the head and tail of a text and the number of characters between them; a short text is all head."""
    if len(text) <= whole:
        return text, "", 0
    half = shown // 2
    return text[:half], text[-half:], len(text) - 2 * half


def describe_variable(
    name: str, value: Any, desc: str, *, main: bool, whole: int = MAX_WHOLE_CHARS, shown: int = PREVIEW_CHARS
) -> str:
    """Render one input variable for the probe: type, size, and the value itself or its head and tail."""
    kind, text = type(value).__name__, _rendered_value(value)
    head, tail, left_out = head_and_tail(text, whole, min(shown, whole))
    complete = not left_out
    if complete:
        body = barred_text(head)
    else:
        body = f"{barred_text(head)}\n[… {left_out:,} characters …]\n{barred_text(tail)}"
    size = size_of(value, text)
    if not complete and (parts := parts_text(value)):
        size += f", {parts}"
    state = "whole" if complete else "begins and ends"
    if hasattr(value, "sandbox_index"):
        state = "its files (text by name: `" + name + "[…]`)"
    if _is_array_or_table(value):
        state = "its head"
    role = "; the main context, also `P`" if main else ""
    about = f" ({desc})" if desc else ""
    return f"`{name}`{about}: {kind}, {size}{role}, {state}:\n{body}"


def size_of(value: Any, text: str | None = None) -> str:
    """Describe the size of an input whose rendering is ``text``."""
    text = _rendered_value(value) if text is None else text
    if hasattr(value, "sandbox_index"):
        return f"{counted_noun(len(value), 'file')}, {counted_noun(value.chars, 'character')}"
    if _is_array_or_table(value):
        return _extent_text(value)
    if isinstance(value, str):
        return f"{counted_noun(len(text), 'character')}, {counted_noun(count_lines(text), 'line')}"
    if isinstance(value, (list, tuple, dict, set, frozenset, bytes)):
        return f"{counted_noun(len(value), 'item')}, {counted_noun(len(text), 'character')} as text"
    return counted_noun(len(text), "character")


def parts_text(value: Any) -> str:
    """Describe the keys of a dict, or the items of a list, with their types and sizes; "" for anything else."""
    if isinstance(value, dict):
        named = [f"{repr(key)[:MAX_KEY_CHARS]} {_kind_text(value[key])}" for key in itertools.islice(value, MAX_KEYS)]
        return f"its keys {', '.join(named)}{', …' if len(value) > MAX_KEYS else ''}"
    if not isinstance(value, (list, tuple)) or not value:
        return ""
    kinds = sorted({type(item).__name__ for item in value})
    sizes = [len(item) for item in value if isinstance(item, str)]
    if kinds == ["str"]:
        return f"each str of {min(sizes):,} to {max(sizes):,} characters"
    if kinds == ["dict"]:
        return f"each dict, the first with {parts_text(value[0]).removeprefix('its ')}"
    return f"each {' or '.join(kinds[:MAX_KEYS])}"


def _kind_text(value: Any) -> str:
    if hasattr(value, "__len__"):
        return f"({type(value).__name__}, {len(value):,})"
    return f"({type(value).__name__})"


def chars_of(value: Any) -> int:
    """Return the number of characters of an input."""
    if hasattr(value, "sandbox_index"):
        return int(value.chars)
    if isinstance(value, (str, bytes)):
        return len(value)
    return len(_rendered_value(value))


def _rendered_value(value: Any) -> str:
    """Render a value as text: a text as itself, a corpus as its file list, anything else as JSON or its repr."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return repr(value[:MAX_WHOLE_CHARS])
    if hasattr(value, "sandbox_index"):
        return corpus_view(value)
    if _is_array_or_table(value):
        return _first_rows(value)
    if hasattr(value, "rlm_preview"):
        return str(value.rlm_preview())
    if hasattr(value, "model_dump_json"):
        return str(value.model_dump_json(warnings=False))  # the handle of an image stands where its type says Image
    try:
        return json.dumps(value, ensure_ascii=False, default=_stable_form)
    except (TypeError, ValueError, RecursionError):
        return str(_stable_form(value))


def _is_array_or_table(value: Any) -> bool:
    """Return whether ``value`` is a numpy array or a pandas table."""
    return bool(tables.plain_kind(value) and getattr(value, "shape", ()))


def _extent_text(value: Any) -> str:
    """Return the size of an array or table, and its type in the REPL."""
    if tables.plain_kind(value) == "DataFrame":
        rows, columns = value.shape
        here = "a DataFrame where pandas can be imported, else a list of dicts, one a row"
        return f"{counted_noun(rows, 'row')}, {counted_noun(columns, 'column')}; {here}"
    here = "here a list" if value.ndim == 1 else "here nested lists"
    if tables.plain_kind(value) == "ndarray":
        unless = ", unless numpy can be imported"
    else:
        unless = ""
    return f"shape {tuple(value.shape)}, {value.dtype}; {here}{unless}"


def _first_rows(value: Any) -> str:
    """Return the column types and first rows of a table, or the first values of an array."""
    if tables.plain_kind(value) != "DataFrame":
        return "\n".join(map(repr, tables.plain_data(value[:MAX_FIRST_VALUES])))
    kinds = [f"{name}: {kind}" for name, kind in zip(value.columns, value.dtypes, strict=True)]
    shown = kinds[:MAX_TABLE_COLUMNS]
    if len(kinds) > MAX_TABLE_COLUMNS:
        shown.append(f"… {counted_noun(len(kinds) - MAX_TABLE_COLUMNS, 'more column')}")
    rows = tables.plain_data(value.iloc[:MAX_FIRST_ROWS, :MAX_TABLE_COLUMNS])
    return "\n".join([", ".join(shown), *map(repr, rows)])


def _stable_form(value: Any) -> Any:
    """Render a value the same way in every process: sets in order, objects without their address."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def unchanged_line(name: str, value: Any) -> str:
    """Render an input that an earlier turn has shown."""
    return f"`{name}`: {type(value).__name__}, {size_of(value)}, the same as before"


def render_probe(
    values: Mapping[str, Any],
    fields: Mapping[str, Any],
    main: str | None,
    whole: int = MAX_WHOLE_CHARS,
    unchanged: Collection[str] = (),
) -> str:
    """Render the first observation, the host's view of the inputs; up to ``whole`` characters are shown whole."""
    shown = []
    for name, value in values.items():
        if name in unchanged:
            shown.append(unchanged_line(name, value))
            continue
        desc = (fields[name].json_schema_extra or {}).get("desc") or ""
        shown.append(
            describe_variable(name, value, "" if desc == "${" + name + "}" else desc, main=name == main, whole=whole)
        )
    return "Variables:\n" + "\n".join(shown)


def trajectory_text(steps: Sequence[Any], limit: int) -> str:
    """Render the steps for the extract predictor in about ``limit`` characters; the newest are shown in full first."""
    parts: list[str] = []
    left = limit
    for step in reversed(steps):
        if left < MIN_STEP_CHARS:
            parts.append(f"[steps 1 to {step.index}: left out]")
            break
        code = clip_middle(step.code, max(MIN_STEP_CHARS, left // 4))
        output = observation_text([step.output], max(MIN_STEP_CHARS, left - len(code)))
        parts.append(
            f"--- step {step.index} ---\n{clip_middle(step.reasoning, MIN_STEP_CHARS)}\n```python\n{code}\n```\n{output}"
        )
        left -= len(parts[-1])
    return "\n".join(reversed(parts))


def own_instructions(signature: type[dspy.Signature]) -> str:
    """Return the instructions of a signature, "" if they are DSPy's default."""
    default = dspy.Signature(signature.signature).instructions
    if signature.instructions == default:
        return ""
    return str(signature.instructions)


def action_instructions(signature: type[dspy.Signature]) -> str:
    """Return the task and the strategy, which optimizers may rewrite."""
    return "\n\n".join(part for part in (signature.instructions, ACTION_STRATEGY) if part)


def action_signature(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """Build the signature that writes the next code; its instructions are only task and strategy."""
    fields = {
        "history": (dspy.History, dspy.InputField()),
        "observation": (str, dspy.InputField(desc="What the REPL shows: the variables, then each output")),
        "reasoning": (str, dspy.OutputField(desc="What you know, what is missing, what to do next; brief")),
        "code": (str, dspy.OutputField(desc="Python for the REPL, in a ```python block")),
    }
    built: type[dspy.Signature] = dspy.Signature(fields, action_instructions(signature))
    return built


def task_field(signature: type[dspy.Signature]) -> str:
    """Return a name for the extract predictor's task input that does not clash with an output."""
    return next(name for name in ("task", "task_given", "task_and_variables") if name not in signature.output_fields)


def extract_signature(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """Build the signature that answers from the trajectory after a limit ended the run."""
    instructions = "\n\n".join(part for part in (signature.instructions, EXTRACT_STRATEGY) if part)
    fields = {
        task_field(signature): (str, dspy.InputField(desc="The variables as the REPL showed them")),
        "trajectory": (str, dspy.InputField(desc="The code that ran and what it showed")),
        **signature.output_fields,
    }
    built: type[dspy.Signature] = dspy.Signature(fields, instructions)
    return built
