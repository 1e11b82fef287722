"""The worked examples of small models: each solves its own question, and is shown where a question has its shape."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.corpus import Corpus
from rlm_dspy.rlm import small_prompts, worked_examples
from rlm_dspy.rlm.worked_examples import EXAMPLES, Kind
from rlm_dspy.testing import action, scripted, texts

TABLE = (
    "id,city,year,price\n3,Ulm,2023,80\n7,Rome,2024,120\n8,Rome,2023,90\n9,Rome,2024,300\n10,Rome,2024,70\n"
    "11,Ulm,2024,900\n"
)
SIGNATURE = dspy.Signature("context, question -> answer")
COLORS = "size=3 color=blue\nsize=8 color=red\nsize=2 color=red\n"
LETTERS = {
    "letters/1.txt": "Letter of 2019-05-04.\nAnn sells apples.\nThe farm of Ann has 4 horses.\n",
    "letters/2.txt": "Letter of 2021-02-09.\nThe farm of Ann has 7 horses.\n",
    "letters/3.txt": "Letter of 2020-11-30.\nBob sells apples. The farm of Ann has 9 horses.\n",
    "src/read.py": "def parse_row(line):\n    return line\n\n\nparse_row('a')\n",
}

# For each example: what its question is asked about, and the answer.
SOLVED: dict[str, tuple[Any, str]] = {
    "List all pairs of cities that both have at least one bridge and at least one tower.": (
        "city: Rome; has: bridge\nno row\ncity: Rome; has: tower\ncity: Oslo; has: tower\ncity: Oslo; has: bridge\n"
        "city: Bern; has: tower\ncity: Ulm; has: bridge\ncity: Ulm; has: tower\n",
        "Oslo & Rome, Oslo & Ulm, Rome & Ulm",
    ),
    "Which cells hold 731 at the end? List all of them.": (
        "SET ak = 731\nprose\nSET bo = SET ak\nSET cu = 12\nSET cu = SET bo\nSET bo = 5\n",
        "ak, cu",
    ),
    "Is the color red more, less or equally frequent as blue?": (COLORS, "more"),
    "How many letters of Ann are about apples?": (
        "by: Ann; about: apples\nby: Bob; about: apples\nby: Ann; about: pears\nby: Ann; about: apples\n",
        "2",
    ),
    "Which color is the most frequent?": (COLORS, "red"),
    "What are all the phone numbers of Rome?": (
        "A phone number of Rome is 551-204.\nA phone number of Ulm is 1-2.\nA phone number of Rome is 77-1.\n",
        "551-204, 77-1",
    ),
    "How many rows of Rome have the year 2024?": (TABLE, "3"),
    "What is the sum of the prices over the rows of Rome with the year 2024?": (TABLE, "490"),
    "What is the highest price of the rows of Rome with the year 2024?": (TABLE, "300"),
    "What is the id of the last row of Rome with the year 2024?": (TABLE, "10"),
    "What is the price of the row with id 7?": (TABLE, "120"),
    "According to the newest letter that tells it, how many horses has the farm of Ann?": (LETTERS, "7"),
    "Which file defines the function parse_row?": (LETTERS, "src/read.py"),
    "How many files mention apples?": (LETTERS, "2"),
    "How many functions call parse_row?": (LETTERS, "2"),
}
CASES = [(kind, one) for kind, examples in EXAMPLES.items() for one in examples if not one.output]


def context_of(value: Any) -> Any:
    return rlm_dspy.Corpus.from_texts(value) if isinstance(value, dict) else value


def demo_for(value: Any, question: str, found: tuple[str, ...] = ()) -> dict[str, Any]:
    return small_prompts.worked_demo(value, question, main="context", signature=SIGNATURE, found=found)


def solved_by_example(context: Any, question: str) -> tuple[str, str, int]:
    lm, _ = scripted(action(demo_for(context, question)["code"]))
    with dspy.context(lm=lm):
        found = rlm_dspy.RLM("context, question -> answer")(context=context, question=question)
    return found.answer, found.run.status, len(found.run.steps)


@pytest.mark.parametrize(("kind", "example"), CASES, ids=[one.question[:40] for _, one in CASES])
def test_each_example_solves_its_own_question(kind: Kind, example: worked_examples.Example) -> None:
    data, answer = SOLVED[example.question]
    assert solved_by_example(context_of(data), example.question) == (answer, "submitted", 1)


@pytest.mark.parametrize("kind", ["text", "table"])
def test_the_examples_read_the_files_of_a_corpus_too(kind: Kind) -> None:
    for example in EXAMPLES[kind]:
        data, answer = SOLVED.get(example.question, ("", None))
        if answer:
            name = 'a "b".csv' if kind == "table" else "a b.txt"
            one_file = rlm_dspy.Corpus.from_texts({name: data})
            assert solved_by_example(one_file, example.question) == (answer, "submitted", 1)


def test_the_examples_of_a_text_read_all_files_of_a_corpus() -> None:
    question = "Which color is the most frequent?"
    corpus = rlm_dspy.Corpus.from_texts({"a.txt": COLORS, "b.txt": "color=blue\ncolor=blue\n", "c.md": ""})
    assert solved_by_example(corpus, question) == ("blue", "submitted", 1)


def test_the_table_where_the_best_line_was_found_is_read() -> None:
    corpus = rlm_dspy.Corpus.from_texts({"notes.md": "About Rome.\n", "sales.csv": TABLE})
    code = demo_for(corpus, "How many rows of Rome are there?", ("sales.csv:3: 7,Rome,2024,120",))["code"]
    assert code.startswith('rows = context.rows("sales.csv")')
    assert "rows" not in demo_for(corpus, "How many rows of Rome are there?", ("notes.md:1: About Rome.",))["code"]
    long_name = rlm_dspy.Corpus.from_texts({"n" * 240 + ".csv": TABLE})
    assert "nnn" not in demo_for(long_name, "How many rows of Rome are there?")["code"]


@pytest.mark.parametrize("name", ["[[ ## completed ## ]].csv", "a```.csv", "n" * 240 + ".csv"])
def test_a_name_that_would_end_the_code_is_not_shown(name: str) -> None:
    code = demo_for(rlm_dspy.Corpus.from_texts({name: TABLE}), "How many rows of Rome are there?")["code"]
    assert name[:5] not in code
    assert "rows" not in code


@pytest.mark.parametrize("data", ["prose\n", LETTERS])
def test_a_look_up_is_shown_in_two_turns(data: Any) -> None:
    demo = demo_for(context_of(data), "Who is the keeper of the gate?")
    first = demo["history"].messages[0]
    assert "grep(" in first["code"]
    assert demo["code"] == 'SUBMIT(answer="Ann Lee")'
    assert "Ann Lee" in demo["observation"]
    assert "Ann Lee" not in first["observation"]


@pytest.mark.parametrize(
    ("kind", "question", "shown"),
    [
        ("text", "Which pairs of teams played twice?", "List all pairs"),
        ("text", "What is x at the end?", "Which cells"),
        ("text", "Are errors more or less frequent than warnings?", "Is the color"),
        ("text", "HOW MANY errors are there?", "How many letters"),
        ("text", "Which user wrote most?", "Which color"),
        ("text", "Who has at least one dog?", "Who wrote"),
        ("text", "List every code.", "What are all"),
        ("text", "What is the code of Ulm?", "Who wrote"),
        ("table", "How many lines have status 404?", "How many rows"),
        ("table", "What is the average price?", "What is the sum"),
        ("table", "What is the slowest request?", "What is the highest"),
        ("table", "When was the first order?", "What is the id of the last"),
        ("table", "Who bought the bell?", "What is the price"),
        ("corpus", "By the latest report, how many berths are there?", "According to the newest"),
        ("corpus", "Which file has main()?", "Which file"),
        ("corpus", "How many documents name Ann?", "How many files"),
        ("corpus", "How many classes are there?", "How many functions"),
        ("corpus", "Which two pairs of cities are there?", "List all pairs"),
        ("corpus", "Who is Ann?", "Who wrote"),
    ],
)
def test_the_example_has_the_shape_of_the_question(kind: Kind, question: str, shown: str) -> None:
    found = worked_examples.fitting_example(kind, question)
    assert found.question.startswith(shown)


def test_a_table_is_read_by_its_own_separator() -> None:
    assert "io.StringIO(context), delimiter=';'" in demo_for(TABLE.replace(",", ";"), "How many?")["code"]
    assert "io.StringIO(context)))" in demo_for(TABLE, "How many?")["code"]


def first_prompt(question: str, **options: Any) -> str:
    lm, script = scripted(action("SUBMIT(answer='x')"), model="ollama_chat/qwen3:8b")
    rlm = rlm_dspy.RLM("context, question -> answer", **options)
    with dspy.context(lm=lm):
        rlm(context="a\nb\n", question=question)
    return "\n".join(texts(script.requests[0]))


def test_a_small_model_sees_the_example_as_a_turn_of_another_task() -> None:
    shown = first_prompt("How many lines are there?")
    assert "(a worked example of another task: none of its variables exist here)" in shown
    assert shown.index("letters of Ann") < shown.index("How many lines are there?")
    assert "worked example" not in first_prompt("How many lines are there?", profile="standard")


def test_the_demos_of_a_program_take_its_place() -> None:
    submit = action("SUBMIT(answer='x')")
    lm, script = scripted(submit, submit, model="ollama_chat/qwen3:8b")
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.generate_action.demos = [{"observation": "Own question", "reasoning": "", "code": "print(1)"}]
    with dspy.context(lm=lm):
        rlm(context="a\nb\n", question="How many lines are there?")
        rlm.generate_action.demos = [dspy.Example(question="Labelled?", answer="yes").with_inputs("question")]
        rlm(context="a\nb\n", question="How many lines are there?")
    first, second = ("\n".join(texts(request)) for request in script.requests)
    assert "Own question" in first
    assert "letters of Ann" not in first
    assert "Labelled?" in second
    assert "letters of Ann" in second


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("How many units of lamp were sold in the North?", "What is the sum"),
        ("How many Units were sold?", "What is the sum"),
        ("How many products are there?", "How many rows"),
        ("How many rows have 5 units?", "How many rows"),
    ],
)
def test_how_many_of_a_column_of_numbers_is_a_sum(question: str, shown: str) -> None:
    table = "region,product,units,price\n" + "North,lamp,5,12.5\n" * 20
    for value in (table, Corpus.from_texts({"sales.csv": table})):
        demo = small_prompts.worked_demo(value, question, main="context", signature=SIGNATURE)
        assert f"Question: {shown}" in demo["observation"]


@pytest.mark.parametrize(
    ("outputs", "question", "ending", "final"),
    [
        ("answer: list[str]", "What are all the phone numbers?", "SUBMIT(answer=numbers)", "SUBMIT(answer=[...])"),
        ("total: float", "What is the sum of the prices?", "SUBMIT(total=total)", "SUBMIT(total=...)"),
        ("total: float, unit: str", "What is the sum?", "print(total)", 'SUBMIT(total=..., unit="...")'),
        ("name: str, year: int", "Who wrote it?", "    print(hit)", 'SUBMIT(name="...", year=...)'),
        ("answer: str | None", "What is the sum of the prices?", "SUBMIT(answer=str(total))", 'SUBMIT(answer="...")'),
    ],
)
def test_the_example_submits_what_the_signature_takes_or_only_prints(
    outputs: str, question: str, ending: str, final: str
) -> None:
    signature = dspy.Signature(f"context, question -> {outputs}")
    value = TABLE if "sum" in question else "a text\n" * 900
    demo = small_prompts.worked_demo(value, question, main="context", signature=signature)
    assert demo["code"].splitlines()[-1] == ending
    assert "history" not in demo
    assert small_prompts.final_call(signature) == final


@pytest.mark.parametrize(
    ("outputs", "question", "submitted"),
    [
        ("answer", "Who wrote it?", 'SUBMIT(answer="Ann Lee")'),
        ("is_late: bool", "Is it late?", "SUBMIT(is_late=True)"),
        ("is_more: bool", "How many are there?", "SUBMIT(is_more=True)"),
        ("year: int", "When was it?", "SUBMIT(year=1998)"),
        ("names: list[str]", "Who wrote it?", 'SUBMIT(names=["Ann Lee"])'),
    ],
)
def test_a_look_up_is_answered_in_the_type_of_the_output(outputs: str, question: str, submitted: str) -> None:
    signature = dspy.Signature(f"context, question -> {outputs}")
    demo = small_prompts.worked_demo("a text\n" * 900, question, main="context", signature=signature)
    assert demo["code"] == submitted
    assert "SUBMIT" not in demo["history"].messages[0]["code"]
