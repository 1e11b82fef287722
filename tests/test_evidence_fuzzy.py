"""Typos are accepted and marked, changed facts are not; places are pages and rows; numbers need a source."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_dspy.corpus import Corpus, Document
from rlm_dspy.evidence import Evidence, check, numbers, unseen_numbers

TEXT = "Intro.\nThe tenant shall give ninety (90) days of written notice before leaving the premises.\nEnd."
QUOTE = "The tenant shall give ninety (90) days of written notice"


def one(quote, context=TEXT):
    (found,), _ = check([Evidence(quote=quote)], {"context": context})
    return found


@pytest.mark.parametrize(
    "quote",
    [
        "The tennant shall give ninety (90) days of writen notice",
        "The tenant shall give ninety (90) days written notice before",
        "Tenant shall give ninety (90) days of written notice",
        "tenant shall give the ninety (90) days of written notices",
    ],
)
def test_a_slip_of_the_pen_becomes_the_text_as_it_stands(quote):
    found = one(quote)
    assert found.match == "fuzzy"
    assert found.quote in TEXT
    assert found.line == 2


@pytest.mark.parametrize(
    "quote",
    [
        "The tenant shall give ninety (60) days of written notice",
        "The tenant shall not give ninety (90) days of written notice",
        "The landlord shall give ninety (90) days of written notice",
        "The tenant shall give ninety (90) days of spoken notice",
        "written notise",
    ],
)
def test_a_changed_fact_is_no_slip(quote):
    assert one(quote).match is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(QUOTE) - 1), st.sampled_from("abcxyz"))
def test_what_is_found_is_always_in_the_text(place, letter):
    found = one(QUOTE[:place] + letter + QUOTE[place + 1 :])
    assert found.match is None or found.quote in TEXT


def test_evidence_of_a_converted_file_tells_its_page():
    pages = Document.of("a.pdf", "one\ntwo and more\n", kind="pdf", marks=[(1, "page 1", False), (2, "page 2", False)])
    assert one("two and", Corpus([pages])).where == "a.pdf:page 2"


def test_evidence_of_a_table_tells_its_row():
    table = Document.of("a.csv", 'name,note\nann,"two\nlines"\nbob,plain text\n', kind="csv")
    assert one("bob,plain", Corpus([table])).where == "a.csv:row 3"
    assert one("ann,", Corpus([Document.of("a.csv", "name\nann,1\n", kind="csv")])).where == "a.csv:row 2"


@pytest.mark.parametrize("source", ["a.pdf:page 2", "a.pdf, page 2", "a.pdf page 2"])
def test_a_place_that_a_model_names_is_understood(source):
    assert Evidence.model_validate({"quote": "abc", "source": source}).source == "a.pdf"


def test_what_cannot_be_verified_is_kept_and_flagged():
    claimed = Evidence(quote="nowhere at all").model_copy(update={"match": "exact"})
    given_ones = [claimed, Evidence(quote="Intro")]
    checked, problems = check(given_ones, {"c": TEXT})
    assert [item.match for item in checked] == [None, "exact"]
    assert len(problems) == 1


def test_a_corpus_is_read_file_by_file():
    read = []

    class Watched(Corpus):
        def __getitem__(self, name):
            read.append(name)
            return super().__getitem__(name)

    corpus = Watched(Document.of(f"{number}.txt", f"text number {number}") for number in range(50))
    located, _ = check([Evidence(quote="text number 7", source="7.txt")], {"context": corpus})
    assert located[0].source == "7.txt"
    assert set(read) == {"7.txt"}


# Numbers


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ("It costs 1,250 euros.", "price: 1250"),
        ("It costs 1250.00 euros.", "price: 1,250"),
        ("12.5 percent", "12,5 %"),
        ("three of 12 cases, 7 of them", "nothing"),
        ("version 3.11.7", "3.11.7 is out"),
        ("1 000 000", "1.000.000"),
        ("id4711", "no number of its own"),
        ("It took 1234.567 seconds", "1234.567 s"),
        ("It took 1,234.567 seconds", "1,234.567 s"),
        ("It took 1,234.567 seconds", "1234.567 s"),
        ("1.250 Euro", "1250"),
        ("1.250 ms", "1.25"),
        ("0.125", "0,125"),
        ("in 2024 125 people", "125 people came in 2024"),
    ],
)
def test_numbers_that_were_seen_are_no_matter(answer, seen):
    assert unseen_numbers({"answer": answer}, [], {"context": seen}) == []
    assert unseen_numbers({"answer": answer}, [seen], {}) == []


def test_numbers_that_nobody_saw_are_flagged():
    warnings = unseen_numbers({"answer": "It was 4711, not 42.5.", "total": 99}, ["42"], {"context": "47110 or 990"})
    assert warnings == [
        "unseen numbers in answer: 4711, 42.5 (in no output and no input of the run)",
        "unseen numbers in total: 99 (in no output and no input of the run)",
    ]


@pytest.mark.parametrize(
    ("answer", "seen"),
    [("0.125", "nothing but 125 apples"), ("1234.567", "1234567"), ("5.000 Euro", "5 Euro"), ("1.250.000", "1.25")],
)
def test_a_decimal_point_is_no_thousands_separator(answer, seen):
    assert len(unseen_numbers({"answer": answer}, [], {"context": seen})) == 1
    assert len(unseen_numbers({"answer": answer}, [seen], {})) == 1


def test_a_number_of_very_many_digits_is_no_matter():
    assert unseen_numbers({"answer": "7" * 5_000 + ", not 4711"}, ["9" * 5_000], {"c": "47"}) == [
        "unseen numbers in answer: 4711 (in no output and no input of the run)"
    ]


def test_numbers_are_looked_for_in_every_file():
    corpus = Corpus.from_texts({"a": "none", "b": "the sum is 4,711"})
    assert unseen_numbers({"answer": ["4711"], "more": {"x": 4711.0}, "flag": True}, [], {"context": corpus}) == []


def test_numbers_that_are_too_many_to_look_for_are_said_to_be_unchecked(monkeypatch):
    monkeypatch.setattr(numbers, "_MAX_SEARCHED_CHARS", 10_000)
    answer = {"answer": list(range(100_000, 100_200))}
    (warning,) = unseen_numbers(answer, (), {"c": "x" * 1_000})
    assert "were not looked for" in warning
