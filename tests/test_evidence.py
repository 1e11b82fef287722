"""The host finds quotes in the context, or rejects them with advice."""

import re
import time

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_dspy.corpus import Corpus
from rlm_dspy.evidence import MAX_QUOTE, MIN_QUOTE, Evidence, check
from rlm_dspy.evidence.locate import _OUTER
from rlm_dspy.sandbox import toolkit

FILES = {
    "src/app.py": "class App:\n    max_iters: int = 20\n    name = 'x'\n",
    "src/web/app.py": "max_iters: int = 20\n",
    "notes.md": "The “quick”  brown\nfox \u2013 it\u2019s fast… and it jumps.\nShe said: go.\n",
}
CONTEXTS = {"context": Corpus.from_texts(FILES), "question": "what is the default of max_iters?"}


def one(evidence, contexts=CONTEXTS):
    """Check one piece that is expected to be found."""
    located, problems = check([Evidence.model_validate(evidence)], contexts)
    assert problems == []
    return located[0]


def advice(quote, contexts=CONTEXTS):
    (checked,), problems = check([Evidence(quote=quote)], contexts)
    assert checked.match is None
    assert "\n" not in problems[0]
    return problems[0]


@pytest.fixture
def thread_seconds():
    """Count the processor's seconds, which a busy machine does not lengthen much."""
    began = time.thread_time()
    return lambda: time.thread_time() - began


# What a model may write


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ("a quote", {"quote": "a quote"}),
        ({"quote": "abc", "source": "a.py:12"}, {"source": "a.py", "line": 12}),
        ({"quote": "abc", "source": "a.py:12-14"}, {"source": "a.py", "line": 12}),
        ({"quote": "abc", "source": "a.py:12:5"}, {"source": "a.py", "line": 12}),
        ({"quote": "abc", "source": "a.py#L12"}, {"source": "a.py", "line": 12}),
        ({"quote": "abc", "source": "a.py, line 12"}, {"source": "a.py", "line": 12}),
        ({"quote": "abc", "source": "line 12"}, {"source": None, "line": 12}),
        ({"quote": "abc", "source": "a.py:12", "line": 3}, {"source": "a.py", "line": 3}),
        ({"quote": "abc", "line": "12-14", "start": -4, "end": True}, {"line": 12, "start": None, "end": None}),
        ({"quote": "abc", "source": 3, "line": None}, {"source": "3", "line": None}),
        (
            {"text": "abc", "source": "a", "range": (1, 4), "line": 2, "score": 1.5},
            {"quote": "abc", "start": 1, "end": 4},
        ),
        ({"quote": "abc", "path": "a.py"}, {"source": "a.py"}),
        ({"quote": "a\ud800b"}, {"quote": "a?b"}),
        ({"quote": "abc", "source": ""}, {"source": None}),
        ({"quote": "abc", "match": "yes"}, {"match": None}),
        ({"quote": "abc", "match": "exact"}, {"match": None}),
        ({"quote": "abc", "source": "landing page.md"}, {"source": "landing page.md"}),
        ({"quote": "abc", "source": "landing page 2.md"}, {"source": "landing page 2.md"}),
        ({"quote": "abc", "source": "balance sheet.xlsx"}, {"source": "balance sheet.xlsx"}),
        ({"quote": "abc", "source": "a.xlsx, sheet Sales row 3"}, {"source": "a.xlsx"}),
        ({"quote": "abc", "source": "a.xlsx: sheet Sales"}, {"source": "a.xlsx"}),
        ({"quote": "abc", "source": "a.pdf page 3-4"}, {"source": "a.pdf"}),
    ],
)
def test_evidence_is_accepted_as_models_write_it(given_value, expected):
    item = Evidence.model_validate(given_value)
    assert {key: getattr(item, key) for key in expected} == expected


@pytest.mark.parametrize("value", [{}, {"source": "a"}, 3, None, {"quote": ["a"]}])
def test_evidence_without_a_quote_is_no_evidence(value):
    with pytest.raises(pydantic.ValidationError):
        Evidence.model_validate(value)


def test_where_names_the_path_or_the_line():
    assert Evidence(quote="q", source="a.py", line=3).where == "a.py:3"
    assert Evidence(quote="q", line=3).where == "line 3"
    assert Evidence(quote="q", source="a.py").where == "a.py"
    assert Evidence(quote="q").where == ""


def test_evidence_goes_to_json_and_back():
    found = one("max_iters: int = 20")
    again = Evidence.model_validate_json(found.model_dump_json())
    assert again == found.model_copy(update={"match": None})  # only the host's own check says that it was found
    assert Evidence.model_json_schema()["required"] == ["quote"]


def test_a_long_source_of_blanks_is_read_in_a_moment(thread_seconds):
    Evidence.model_validate({"quote": "abc", "source": "a" + " " * 20_000 + "b"})
    assert thread_seconds() < 2


# Finding


def test_rules_of_dashes_and_marks_are_looked_for_in_a_moment(thread_seconds):
    for mark in "-'":
        quote = "Results overview\n" + mark * 24 + "\nThe limit is 31 s."
        text = "Results overview\n" + mark * 30 + "\nThe limit is 30 s.\n"
        assert check([Evidence(quote=quote)], {"context": text})[1]
        assert one(quote.replace("31", "30"), {"context": text}).match == "normalized"
    quote = "-" * 1900 + " limits are 31 s."
    assert check([Evidence(quote=quote)], {"context": ("-" * 4000 + " limits are 30 s.\n") * 50})[1]
    assert thread_seconds() < 5


def test_an_exact_quote_gets_its_place_from_the_host():
    found = one({"quote": "max_iters: int = 20", "line": 99, "end": 1, "match": "normalized"})
    assert (found.source, found.line, found.start, found.end, found.match) == ("src/app.py", 2, 15, 34, "exact")
    assert FILES["src/app.py"][found.start : found.end] == found.quote


@pytest.mark.parametrize(
    ("source", "found_in"),
    [
        ("src/web/app.py", "src/web/app.py"),
        ("web/app.py", "src/web/app.py"),
        ("/root/project/src/web/app.py", "src/web/app.py"),
        ("src/web/app.py:77", "src/web/app.py"),
        ("context", "src/app.py"),
        ("notes.md", "src/app.py"),
        ("invented.py", "src/app.py"),
    ],
)
def test_the_source_is_a_hint_that_the_host_corrects(source, found_in):
    assert one({"quote": "max_iters: int = 20", "source": source}).source == found_in


def test_the_nearest_of_several_places_is_taken():
    text = "".join(f"{n}: the same words\n" for n in range(100))
    assert one({"quote": "the same words", "line": 42}, {"context": text}).line == 42
    assert one({"quote": "the same words", "line": 5000}, {"context": text}).line == 100
    assert one({"quote": "the same words", "start": text.index("57:")}, {"context": text}).line == 58
    assert one({"quote": "the  same words", "line": 42}, {"context": text}).line == 42
    assert one("the same words", {"context": text}).where == "line 1"


@pytest.mark.parametrize(
    "quote",
    [
        'The "quick" brown fox - it\'s fast... and it jumps.',
        "“The “quick” brown fox \u2013 it\u2019s fast… and it jumps.”",
        "…\u00a0The \u2018quick\u2019\tbrown\r\nfox — it's fast",
        "  She said:  go. ",
    ],
)
def test_spacing_quotation_marks_and_dashes_may_differ(quote):
    found = one(quote)
    assert found.match == "normalized"
    assert found.quote == FILES["notes.md"][found.start : found.end]
    assert found.source == "notes.md"


def test_a_match_of_grep_or_search_is_evidence_as_it_is():
    namespace = {"context": toolkit.CorpusTexts.from_texts(FILES)}
    toolkit.bind(namespace, "context")
    matches = namespace["grep"]("max_iters", context=1) + namespace["search"]("default of max_iters")
    located, problems = check([Evidence.model_validate(match) for match in matches], CONTEXTS)
    assert problems == []
    assert [found.source for found in located] == [match["source"] for match in matches]


def test_single_texts_have_no_source_but_further_ones_do():
    contexts = {"notes": "short text", "context": "a much longer text than the other"}
    assert one("longer text", contexts).source is None
    assert one("short text", contexts).where == "notes:1"
    assert one("what is the default").where == "question:1"


def test_order_is_kept_and_good_pieces_survive_bad_ones():
    pieces = [Evidence(quote=q) for q in ("name = 'x'", "nowhere at all", "She said: go.")]
    checked, problems = check(pieces, CONTEXTS)
    assert [(piece.quote, piece.match is not None) for piece in checked] == [
        ("name = 'x'", True), ("nowhere at all", False), ("She said: go.", True),
    ]  # fmt: skip
    assert len(problems) == 1
    assert problems[0].startswith("evidence 2: ")


def test_nothing_to_check_is_no_problem():
    assert check([], {}) == ([], [])
    assert "not in any context" in check([Evidence(quote="a phrase")], {})[1][0]


# Advice


def test_a_wrong_quote_is_answered_with_the_nearest_passage():
    told = advice("max_iters: int = 30")
    assert "is not in `context` or `question`" in told
    assert re.search(r'The nearest passage, at src/(web/)?app\.py:\d, is "max_iters: int = 20', told)


@pytest.mark.parametrize("quote", ["zebra crossing", "the Zürich zoo", "?!§%&"])
def test_an_invented_quote_is_answered_plainly(quote):
    assert "nor anything like it" in advice(quote)


@pytest.mark.parametrize("quote", ["", "  ", "ab", '"x"', "…"])
def test_a_quote_that_proves_nothing_is_refused(quote):
    assert "too short" in advice(quote)


def test_a_quote_that_is_too_long_is_refused():
    assert "at most 2,000" in advice("x" * (MAX_QUOTE + 1))


def test_advice_is_short_and_encodable_whatever_the_context_holds():
    told = advice("alpha beta gamma delta", {"context": "alpha beta \ud800\n gamma " * 500})
    assert len(told) < 700
    told.encode()


def test_case_and_words_are_not_forgiven():
    assert advice("CLASS APP:")
    assert advice("She said go.")


# Properties


@given(st.text(min_size=1, max_size=300), st.data())
def test_every_true_quote_is_found_where_it_says(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    quote = text[start : data.draw(st.integers(start, len(text)))]
    (checked,), problems = check([Evidence.model_construct(quote=quote)], {"context": text})
    if problems:
        assert checked.match is None
        assert len(quote.strip(_OUTER)) < MIN_QUOTE
    else:
        assert text[checked.start : checked.end] == checked.quote
        assert checked.line == text.count("\n", 0, checked.start) + 1


@given(st.text(max_size=200), st.text(max_size=60))
def test_what_is_found_differs_in_spacing_and_marks_only(text, quote):
    (checked,), _ = check([Evidence(quote=quote)], {"context": text})
    if checked.match is not None:
        assert [c for c in checked.quote if c.isalnum()] == [c for c in quote if c.isalnum()]


def test_a_large_context_is_checked_in_bounded_work():
    text = "the same few words again and again " * 300_000
    assert one("few words  again", {"context": text}).match == "normalized"
    assert "nearest passage" in advice("the same few birds again and again", {"context": text})
