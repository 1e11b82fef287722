"""Datasets load from text, files and recipes; bad ones are told by line; generated ones are exact and reproducible."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy import data
from rlm_dspy.errors import ConfigurationError, CorpusError
from rlm_dspy.tuning import scoring, tasks

ROOT = Path(__file__).parent.parent.parent
ROW = {"question": "q?", "answer": 1, "context": "text"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_context_is_a_text_files_or_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("in a file")
    path = jsonl(
        tmp_path / "d.jsonl",
        ROW,
        {**ROW, "context": "long " * 1_000},
        {**ROW, "context": {"files": ["docs"]}},
        {**ROW, "context": {"file": "docs/a.md"}},
        {**ROW, "context": {"task": "needle", "tokens": 1_000}},
        "",
    )
    made = data.load(path)
    assert [type(one.context).__name__ for one in made] == ["str", "Context", "Corpus", "Corpus", "Context"]
    assert list(made[0].inputs().keys()) == ["context", "question"]
    assert [one.id for one in made] == [f"d-{n}" for n in range(1, 6)]
    assert len(data.load(path, limit=2)) == 2
    assert len(repr(made)) < 2_000


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": ', "d.jsonl:2: not valid JSON"),
        ("[1]", "d.jsonl:2: each line must be a JSON object, not list"),
        ({"question": "q?"}, "d.jsonl:2: missing answer, context"),
        ({**ROW, "question": " "}, "d.jsonl:2: question must be a non-empty text"),
        ({**ROW, "scorer": "best"}, "d.jsonl:2: 'best' is not a scorer"),
        ({**ROW, "context": {"files": ["gone.txt"]}}, "d.jsonl:2: .*gone.txt"),
        ({**ROW, "context": {"files": 5}}, "d.jsonl:2: files of a context must be"),
        ({**ROW, "context": {"files": [5]}}, "d.jsonl:2: files of a context must be"),
        ({**ROW, "context": {"files": ["x"], "exclude": 5}}, "d.jsonl:2: exclude of a context must be"),
        ({**ROW, "id": "d-1"}, "d.jsonl:2: the id 'd-1' is used twice"),
        ({**ROW, "context": 7}, "d.jsonl:2: context must be"),
        ({**ROW, "context": {"task": "chess"}}, "d.jsonl:2: 'chess' is not a task"),
        ({**ROW, "context": {"task": "needle", "size": 9}}, "d.jsonl:2: a recipe cannot have size"),
        ({**ROW, "context": {"task": "needle", "tokens": 10}}, "d.jsonl:2: tokens must be"),
        ({**ROW, "context": {"task": "needle", "tokens": "many"}}, "d.jsonl:2: the recipe is invalid"),
        (
            {**ROW, "context": {"task": "needle", "sha256": "0" * 16}},
            "d.jsonl:2: the recipe no longer generates the context",
        ),
    ],
)
def test_a_bad_line_is_told_with_its_number(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message):
        data.load(jsonl(tmp_path / "d.jsonl", ROW, row))


def test_an_id_of_nought_is_an_id(tmp_path: Path) -> None:
    made = data.load(jsonl(tmp_path / "d.jsonl", {**ROW, "id": 0}, {**ROW, "id": ""}, {**ROW, "id": None}))
    assert [one.id for one in made] == ["0", "", "d-3"]


def test_files_that_hold_nothing_or_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no examples"):
        data.load(jsonl(tmp_path / "empty.jsonl"))
    with pytest.raises(CorpusError, match="cannot be read: No such file"):
        data.load(tmp_path / "gone.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="cannot be read"):
        data.load(tmp_path / "bytes.jsonl")


def test_parts_are_disjoint_the_same_each_time_and_never_empty() -> None:
    made = [dspy.Example(question=str(n)) for n in range(10)]
    parts = data.split(made, (0.5, 0.3, 0.2))
    assert [len(part) for part in parts] == [5, 3, 2]
    assert {one.question for part in parts for one in part} == {str(n) for n in range(10)}
    assert data.split(made, (0.5, 0.3, 0.2)) == parts
    with pytest.raises(ConfigurationError, match="too few"):
        data.split(made[:2], (0.5, 0.3, 0.2))


def test_examples_that_ask_the_same_are_in_one_part() -> None:
    texts = ["The sky is blue.", "x" * 5_000]
    made = [dspy.Example(id=n, context=data.handle(texts[n % 2]), question="Which?") for n in range(10)]
    made += [dspy.Example(id=10 + n, context="c", question=f" QUESTION {n // 2}") for n in range(10)]
    made = [one.with_inputs("context", "question") for one in made]
    parts = data.split(made, (0.4, 0.3, 0.3))
    assert sorted(one.id for part in parts for one in part) == list(range(20))
    keys = [{data.inputs_key(one) for one in part} for part in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 7


def whole(item: tasks.Item) -> str:
    return item.context if isinstance(item.context, str) else "\n".join(item.context.values())


@pytest.mark.parametrize("task", tasks.TASKS)
@pytest.mark.parametrize("level", tasks.LEVELS)
def test_a_task_is_reproducible_of_the_size_asked_and_provable(task: str, level: tasks.Level) -> None:
    item = tasks.make(task, tokens=4_000, level=level, index=5)
    assert item == tasks.make(task, tokens=4_000, level=level, index=5)
    assert item != tasks.make(task, tokens=4_000, level=level, index=6)
    assert 0.7 < len(whole(item)) / 16_000 < 1.35
    assert all(line in whole(item) for line in item.support)
    assert scoring.SCORERS[item.scorer](item.answer, item.answer) == 1
    assert scoring.SCORERS[item.scorer](item.answer, str(item.answer)) == 1


@pytest.mark.parametrize("task", tasks.TASKS)
def test_splits_share_no_names(task: str) -> None:
    items = {split: [tasks.make(task, split=split, index=index) for index in range(6)] for split in tasks.SPLITS}
    names = [
        {name for item in items[split] for name in re.findall(r"\b[A-Z][a-z]{4,}\b", named(item))}
        for split in tasks.SPLITS
    ]
    common = {"Which", "List", "Write", "According", "Answer"}
    assert not (names[0] & names[1] - common) | (names[0] & names[2] - common) | (names[1] & names[2] - common)


def named(item: tasks.Item) -> str:
    return f"{item.question} {item.answer}"


def test_answers_are_those_that_the_context_gives() -> None:
    for index in range(6):
        item = tasks.make("counting", level="medium", tokens=2_000, index=index)
        if found := re.fullmatch(r"How many texts of the user (\w+) are a (\w+)\?", item.question):
            lines = [line for line in whole(item).splitlines() if f"User: {found[1]} " in line]
            assert sum(line.endswith(f"Label: {found[2]}") for line in lines) == item.answer
        item = tasks.make("logs", level="medium", tokens=2_000, index=index)
        if found := re.search(r"sum of bytes over the lines of (\w+) with status (\d+)", item.question):
            rows = [line.split(",") for line in whole(item).splitlines()[1:]]
            assert sum(int(r[4]) for r in rows if r[1:3] == [found[1], found[2]]) == item.answer
        item = tasks.make("pairs", level="hard", tokens=2_000, index=index)
        first, second = re.findall(r"at least one (\w+)", item.question)
        kinds: dict[str, set[str]] = {}
        for user, label in re.findall(r"User: (\w+) .*Label: (\w+)", whole(item)):
            kinds.setdefault(user, set()).add(label)
        both = sorted(user for user, has in kinds.items() if {first, second} <= has)
        assert item.answer == [f"{a} & {b}" for n, a in enumerate(both) for b in both[n + 1 :]]


def test_a_large_context_is_of_its_size() -> None:
    item = tasks.make("synthesis", tokens=1_000_000, level="hard")
    assert 0.95 < len(whole(item)) / 4_000_000 < 1.05


@pytest.fixture(scope="module")
def committed() -> list[list[dspy.Example]]:
    """What each file of ``datasets/`` holds."""
    return [
        data.load(path) for path in sorted((ROOT / "datasets").glob("*/*.jsonl")) if path.parent.name != "retrieval"
    ]


def test_the_committed_datasets_load_and_follow_their_recipes(committed: list[list[dspy.Example]]) -> None:
    assert len(committed) == 3 * (len(tasks.TASKS) + 1)
    for made in committed:
        assert len({one.id for one in made}) == len(made)
        assert len(made) >= 12
    assert all((ROOT / "datasets" / task / "README.md").exists() for task in [*tasks.TASKS, "mixed"])


def test_the_generator_writes_any_size_and_the_same_bytes_again(tmp_path: Path) -> None:
    script = str(ROOT / "datasets/make_tasks.py")
    for out in ("one", "two"):
        flags = ["--task", "pairs", "--split", "dev", "--tokens", "2000", "--count", "2", "--out", str(tmp_path / out)]
        subprocess.run([sys.executable, script, *flags], check=True, capture_output=True, timeout=60)
    one, two = ((tmp_path / out / "pairs/dev.jsonl").read_bytes() for out in ("one", "two"))
    assert one == two
    assert len(data.load(tmp_path / "one/pairs/dev.jsonl")) == 2


def test_examples_of_ones_own_become_handles() -> None:
    made = data.handles([dspy.Example(context="x" * 9_000, question="q").with_inputs("context", "question")])
    assert isinstance(made[0].context, rlm_dspy.Context)
    assert made[0].question == "q"
    assert set(made[0].inputs().keys()) == {"context", "question"}
    long = dspy.Example(context="c", question="q", answer="y" * 9_000).with_inputs("context", "question")
    assert data.handles([long])[0].answer == "y" * 9_000
    with pytest.raises(ConfigurationError, match="name them with"):
        data.handles([dspy.Example(context="c", question="q")])


def test_a_script_that_reads_only_the_context_comes_to_every_committed_answer(
    committed: list[list[dspy.Example]],
) -> None:
    solve = runpy.run_path(str(ROOT / "benchmarks/solver.py"))["solve"]
    for one in itertools.chain.from_iterable(committed):
        found = solve(one.question, getattr(one.context, "text", one.context))
        assert scoring.SCORERS[one.scorer](one.answer, str(found)) == 1, one.id
