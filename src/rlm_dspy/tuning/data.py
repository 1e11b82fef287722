"""Datasets as JSONL: one question per line, its context inline, in files, or as the recipe of a generated task.

    {"question": "…", "answer": "…", "context": "the text itself"}
    {"question": "…", "answer": 12, "context": {"files": ["docs", "src/a.py"], "exclude": ["*.log"]}}
    {"question": "…", "answer": ["a", "b"], "scorer": "set_f1", "context": {"task": "pairs", "index": 3}}

File paths are relative to the JSONL file. Contexts become handles, so that no demo, proposer prompt, log or saved
program ever contains their text.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from rlm_dspy import corpus, safe_files
from rlm_dspy.context import Context
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError, CorpusError
from rlm_dspy.report.run_store import Judgement, RunStore
from rlm_dspy.tuning import run_export, scoring, tasks

logger = logging.getLogger(__name__)

MIN_HANDLE_CHARS = 2_000  # texts longer than this become handles
DIGEST_DIGITS = 16  # hexadecimal digits of the context's digest in a recipe
_RECIPE = frozenset({"task", "split", "index", "seed", "tokens", "level", "sha256"})
_cached: dict[tuple[Any, ...], Any] = {}


def load(path: str | Path, *, limit: int | None = None, prefix: str = "") -> list[dspy.Example]:
    """Return the examples of a JSONL file, with inputs ``context`` and ``question``.

    Args:
        path: the file; each line has ``question`` and ``answer``, and ``context`` in one of the forms above.
        limit: maximum number of examples.
        prefix: what the ids of rows without one begin with, by default the file's name.

    Raises:
        CorpusError: a line is malformed, lacks a field, repeats an id, or its context is not available; the message
            names the line.
    """
    path = Path(path)
    examples: dict[str, dspy.Example] = {}
    _cached.clear()
    for number, row in rows(path):
        if limit is not None and len(examples) >= limit:
            break
        try:
            loaded = example(row, path.parent, f"{prefix or path.stem}-{number}")
            if loaded.id in examples:
                raise CorpusError(f"the id {loaded.id!r} is used twice: give each question its own")
            examples[loaded.id] = loaded
        except (CorpusError, ConfigurationError) as error:
            raise CorpusError(f"{path}:{number}: {error}") from error
    _cached.clear()
    if not examples:
        raise CorpusError(f"{path} has no examples: write one JSON object with question, answer and context per line")
    return list(examples.values())


def rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of each line that is not blank.

    Raises:
        CorpusError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}:{number}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{path}:{number}: each line must be a JSON object, not {type(row).__name__}")
        yield number, row


def example(row: Mapping[str, Any], folder: Path, number: str) -> dspy.Example:
    """Make the example of one row."""
    if missing := [field for field in ("question", "answer", "context") if field not in row]:
        raise CorpusError(f"missing {', '.join(missing)}; it has {', '.join(row) or 'nothing'}")
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise CorpusError("question must be a non-empty text")
    if (scorer := row.get("scorer")) is not None and scorer not in scoring.SCORERS:
        raise CorpusError(f"{scorer!r} is not a scorer; choose from {', '.join(sorted(scoring.SCORERS))}")
    values = {"context": context(row["context"], folder), "question": row["question"]}
    values |= {name: value for name, value in row.items() if name not in values} | {"id": number}
    if row.get("support") is not None:
        values["support"] = list(_text_tuple("support", row["support"]))
    if row.get("id") is not None:
        values["id"] = str(row["id"])
    return dspy.Example(**values).with_inputs("context", "question")


def context(given: Any, folder: Path) -> Any:
    """Return the context of a row: a text, a handle or a corpus."""
    if isinstance(given, str):
        return handle(given)
    if isinstance(given, dict) and "task" in given:
        return _generated_context(given)
    if isinstance(given, dict) and (named := given.get("files", given.get("file"))):
        names = _text_tuple("files of a context", named)
        excluded = _text_tuple("exclude of a context", given.get("exclude", ()))
        key = (str(folder), names, excluded)
        if key not in _cached:
            _cached[key] = corpus.read([_path_or_url(name, folder) for name in names], exclude=excluded)
        wanted = given.get("sha256")
        if wanted and _cached[key].texts_digest != wanted:
            raise CorpusError(f"the files have changed since the answer was given: {', '.join(names)}")
        return _cached[key]
    raise CorpusError('context must be a text, {"files": [...]} or the recipe of a task, {"task": ...}')


def _path_or_url(name: str, folder: Path) -> str:
    """Return the path of a file named in a dataset, or its URL."""
    if "://" in name:
        return name
    return os.path.normpath(folder / name)


def from_runs(folder: str | Path | None = None, *, mark: Judgement = "right", model: str = "") -> list[dspy.Example]:
    """Return a trainset of the saved runs that a person marked, with inputs ``context`` and ``question``.

    Mark a run with ``rlm-dspy runs mark RUN right``. A run whose files have changed or cannot be named in a dataset is
    left out, and a warning says so.

    Args:
        folder: the folder of runs; that of ``rlm-dspy ask`` by default.
        mark: "right", or "wrong" for examples of wrong answers.
        model: only runs of this model; "" for any.

    Raises:
        CorpusError: no run is left.

    Example:
        >>> trainset = rlm_dspy.data.from_runs()  # doctest: +SKIP
    """
    if folder is None:
        folder = safe_files.cache_folder() / "runs"
    else:
        folder = Path(folder)
    export = run_export.RunExport("dspy", marked=mark, model=model, statuses=frozenset({"submitted", "extracted"}))
    examples = []
    for row in export.rows(RunStore(folder)):
        try:
            examples.append(example(row, folder, str(row["id"])))
        except CorpusError as error:
            export.skipped[str(error)] += 1
    _cached.clear()
    run_export.note_skipped(export, logger.warning)
    if not examples:
        if reasons := "; ".join(f"{reason} ({count})" for reason, count in export.skipped.most_common(3)):
            raise CorpusError(f"no run in {folder} that is marked {mark} can be used: {reasons}")
        raise CorpusError(f"no run in {folder} is marked {mark}: use `rlm-dspy runs mark RUN {mark}`")
    return examples


def _text_tuple(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise CorpusError(f"{name} must be a text or a list of texts, not {value!r}")
    return tuple(texts)


def _generated_context(recipe: Mapping[str, Any]) -> Any:
    if unknown := set(recipe) - _RECIPE:
        raise CorpusError(f"a recipe cannot have {', '.join(sorted(unknown))}, only {', '.join(sorted(_RECIPE))}")
    try:
        item = tasks.make(**{key: value for key, value in recipe.items() if key != "sha256"})
    except TypeError as error:
        raise CorpusError(f"the recipe is invalid: {error}") from error
    handle = contain(item.context)
    wanted = recipe.get("sha256")
    if wanted and not handle.digest.startswith(wanted):
        raise CorpusError("the recipe no longer generates the context it was written for: make the dataset again")
    return handle


def contain(texts: str | Mapping[str, str]) -> Any:
    """Return a text as a handle, texts by name as a corpus."""
    if isinstance(texts, str):
        return Context(texts)
    return corpus.Corpus.from_texts(texts)


def handle(value: Any) -> Any:
    """Return a long text as a handle, anything else unchanged."""
    if isinstance(value, str) and len(value) > MIN_HANDLE_CHARS:
        return Context(value)
    return value


def handles(examples: Iterable[dspy.Example]) -> list[dspy.Example]:
    """Return your own examples with their long input texts wrapped as handles.

    Raises:
        ConfigurationError: an example does not say which of its fields are inputs.
    """
    shielded = []
    for example in examples:
        copy = example.copy()
        for name, value in inputs_of(example).items():
            copy[name] = handle(value)
        shielded.append(copy)
    return shielded


def inputs_of(example: dspy.Example) -> dict[str, Any]:
    """Return the inputs of an example.

    Raises:
        ConfigurationError: it does not say which of its fields are inputs.
    """
    try:
        return dict(example.inputs().items())
    except ValueError as error:
        message = f"example {example.get('id', '')} has no inputs: name them with `.with_inputs('context', 'question')`"
        raise ConfigurationError(message) from error


def inputs_key(example: dspy.Example) -> str:
    """Return a text that is the same for examples that ask the same of the same context."""
    try:
        inputs = inputs_of(example)
    except ConfigurationError:
        inputs = dict(example.items())
    values = {name: getattr(value, "digest", value) for name, value in inputs.items()}
    normal = {name: scoring.normal_text(value) for name, value in values.items()}
    return json.dumps(normal, sort_keys=True)


def generated(task: str, split: tasks.Split, indices: Iterable[int], **recipe: Any) -> list[dict[str, Any]]:
    """Return rows of a generated task, each with the recipe of its context.

    Args:
        task: the name of the task.
        split: the split of the questions.
        indices: their numbers in it.
        recipe: ``tokens``, ``seed`` and ``level``, as in :func:`rlm_dspy.tuning.tasks.make`.
    """
    questions = []
    for index in indices:
        complete: dict[str, Any] = {"seed": 0, "tokens": 8_000, **recipe, "task": task, "split": split, "index": index}
        item = tasks.make(**complete)
        complete |= {"level": item.level, "sha256": contain(item.context).digest[:DIGEST_DIGITS]}
        row = {
            "id": f"{task}-{split}-{complete['tokens']}-{complete['seed']}-{index}",
            "task": task,
            "level": item.level,
        }
        row |= {"question": item.question, "answer": item.answer, "scorer": item.scorer}
        questions.append(row | {"support": list(item.support)[:5], "context": complete})
    return questions


def write(path: str | Path, questions: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL and return their number."""
    lines = [json.dumps(row, ensure_ascii=False) for row in questions]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="replace")
    return len(lines)


def split(
    examples: Sequence[dspy.Example], shares: Sequence[float] = (0.4, 0.3, 0.3), *, seed: int = 0
) -> list[list[dspy.Example]]:
    """Divide examples into parts by share, deterministically; those with the same inputs are in the same part.

    Raises:
        ConfigurationError: a part would be empty.
    """
    same: dict[str, list[dspy.Example]] = {}
    for example in examples:
        same.setdefault(inputs_key(example), []).append(example)
    groups = list(same.values())
    random.Random(seed).shuffle(groups)
    shuffled = [example for group in groups for example in group]
    between = {0, *itertools.accumulate(map(len, groups))}
    parts, start, total = [], 0, 0.0
    for share in shares:
        total += share / sum(shares)
        stop = min(place for place in between if place >= round(total * len(shuffled)))
        parts.append(shuffled[start:stop])
        start = stop
    if not all(parts):
        raise ConfigurationError(
            f"{counted_noun(len(shuffled), 'question')}, too few for {len(parts)} parts: add more, or raise --limit"
        )
    return parts
