"""What the offline engine reads out of tables: the row that has what is asked about, the column that is asked for."""

from __future__ import annotations

import dspy
import pytest

import rlm_dspy
from rlm_dspy.lms.offline import answers, offline_engine, question_terms

PEOPLE = """Full Name;Phone Number;E-mail;Dept.
Maria Gomez;111-2222;m.gomez@example.org;Legal
Jose Lopez;333-4444;j.lopez@example.org;Sales
Maria Lopez;555-6666;m.lopez@example.org;Research
"""
PRICES = """Product,Mar,Apr,May
red apple,1.10,1.20,1.30
green apple,2.10,2.20,2.30
"rye bread, dark",3.10,3.20,3.30
"""
MONTHS = "article\t2024-02\t2024-03\nlamp\t10.50\t11.50\nchair\t20.50\t21.50\n"
STOCK = """# Stock

| SKU | Item | Qty | Min. stock | Last Order |
|---|---|---|---|---|
| AX-1001 | steel bolt | 420 | 100 | 2025-01-02 |
| AX-1002 | steel wire | 77 | 50 | 2025-03-04 |
"""
CITIES = "code,city,nation\nQRS,Oslo,Norway\nTUV,Lima,Peru\n"
FILES = {"people.csv": PEOPLE, "prices.csv": PRICES, "months.tsv": MONTHS, "stock.md": STOCK, "cities.csv": CITIES}


def ask(asked: str) -> answers.Finding:
    notes = "=== notes.txt (1 line) ===\nThe phone list, the stock and the prices are kept by the front desk.\n"
    text = notes + "".join(f"=== {name} ({body.count(chr(10))} lines) ===\n{body}\n" for name, body in FILES.items())
    return offline_engine._look_up(asked, text)[1]


@pytest.mark.parametrize(
    ("asked", "cell"),
    [
        ("what is the phone of Maria Lopez?", "555-6666"),
        ("what is the email of Jose Lopez?", "j.lopez@example.org"),
        ("which department is Maria Gomez in?", "Legal"),
        ("who has the phone number 333-4444?", "Jose Lopez"),
        ("what did red apple cost in March?", "1.10"),
        ("what was the price of green apple in May?", "2.30"),
        ("what did rye bread cost in April?", "3.20"),
        ("what did the chair cost in March 2024?", "21.50"),
        ("which city has code TUV?", "Lima"),
        ("what is the code of Oslo?", "QRS"),
        ("what is the SKU of steel wire?", "AX-1002"),
        ("how many steel wire are in stock?", "77"),
        ("what is the minimum stock of AX-1001?", "100"),
        ("when was the last order of steel bolt?", "2025-01-02"),
    ],
)
def test_a_cell_is_found_by_its_row_and_its_column(asked: str, cell: str) -> None:
    found = ask(asked)
    assert found.answer == cell
    assert cell in found.passages[0].text
    assert len(found.passages[0].text.splitlines()) == 1


@pytest.mark.parametrize(
    "asked",
    [
        "what is the phone of Zebulon Quarrel?",
        "what is the phone of Maria Quarrel?",
        "what is the code of Cairo?",
        "which city has code XYZ?",
        "what did purple unicorns cost in March?",
        "what did red apple cost in November?",
    ],
)
def test_what_no_row_has_is_not_found(asked: str) -> None:
    assert not ask(asked).found


def test_rows_that_fit_equally_are_all_given() -> None:
    found = ask("what is the email of Lopez?")
    assert found.answer == "j.lopez@example.org; m.lopez@example.org"
    assert len(found.passages) == 2


def test_a_row_without_a_column_that_is_asked_for_is_given_whole() -> None:
    assert ask("what about AX-1002?").answer == "| AX-1002 | steel wire | 77 | 50 | 2025-03-04 |"


@pytest.mark.parametrize(
    "line",
    ["from math import a, b, c", "one, two, three = values", "    indented, words, here", "def f(a, b, c):", "[1, 2],"],
)
def test_code_and_prose_are_no_tables(line: str) -> None:
    from rlm_dspy.lms.offline.explorer import table_header

    text = f"names, of, things\n{line}\n"
    assert table_header(text, text.index(line)) == ""
    prose = "In spring, the birds return, and the town, which sleeps.\nIn autumn, they leave, and it, again, rests.\n"
    assert table_header(prose, prose.index("In autumn")) == ""


def test_a_row_that_does_not_fit_its_header_is_no_row() -> None:
    assert answers.cell(question_terms.read("what is the code of Oslo?"), "a,b", "code,city,nation") == (0.0, None)


@pytest.mark.parametrize(
    ("table", "question", "answer"),
    [
        ("name,city,amount\nAda,Oslo\nBea,Bergen,7\n", "What is the amount of Bea?", "7"),
        ("name,city,amount\nAda,Oslo\nBea,Bergen,7\n", "What is the city of Ada?", "Oslo"),
        ("name,city,amount\nAda,Oslo\nBea,Bergen,7\n", "What is the amount of Ada?", None),
        ("id,name,phone\n1,Ann,555-1\n2,Bob\n3,Eve,Smith,555-3\n", "What is the phone of Eve?", None),
        ('id,text,n\n1,"open quote,5\n2,fine,6\n', "What is the n of open quote?", None),
        ("product,price\nlamp,19.99\nchair,49.50\ndesk,120\n", "What is the price of the chair?", "49.50"),
        ("Item\tPrice\tTime\nnuts\t0.3\t1 day, 2:00:00\n", "What is the price of nuts?", "0.3"),
    ],
)
def test_a_ragged_or_odd_table_gives_the_right_cell_or_nothing(table: str, question: str, answer: str | None) -> None:
    corpus = rlm_dspy.Corpus.from_texts({"a.csv": table})
    with dspy.context(lm=rlm_dspy.lm("offline")):
        found = rlm_dspy.RLM("context, question -> answer")(context=corpus, question=question).answer
    assert found.startswith("Nothing was found") if answer is None else found == answer
