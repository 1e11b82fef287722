"""The words of a search: stems, split names, titles, phrases and lines; and the retrieval set."""

import hashlib
import json
import random
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_dspy.corpus import Corpus
from rlm_dspy.sandbox.toolkit.ranking import Query, rank_passages, split_names, stem, words_of

FOLDER = Path(__file__).parent.parent / "datasets" / "retrieval"
WORDS = st.text("abcdeghilmnorstuvyzäöüéèß", min_size=1, max_size=16)


def sources(texts, query):
    return [hit["source"] for hit in rank_passages(texts, list(texts), Query(query), 5)]


@given(WORDS)
def test_a_stem_has_no_ending_to_cut(word):
    once = stem(word)
    assert stem(once) == once


@given(WORDS)
def test_a_stem_is_the_start_of_its_word(word):
    plain = word.translate(str.maketrans("äöüéè", "aouee"))
    assert plain.startswith(stem(word))
    assert stem(word)


@pytest.mark.parametrize(
    "words",
    [
        "retry retries retried retrying",
        "validate validates validation validated",
        "remove removal removed",
        "café cafe cafés",
    ],
)
def test_forms_of_a_word_have_one_stem(words):
    assert len({stem(word) for word in words.split()}) == 1


def test_names_are_split_at_capitals_underscores_and_numbers():
    assert words_of("parseHttp2Frame max_iters HTMLParser sha256") == [
        "parse", "http", "2", "frame", "max", "iters", "html", "parser", "sha", "256",
    ]  # fmt: skip
    assert words_of("a3 K3-7 x1y2") == ["a3", "k3", "7", "x1y2"]  # numbered things stay whole


@given(st.text("abXY19 _-.éÄß\n", max_size=60))
def test_the_index_has_the_tokens_of_the_search(text):
    db = sqlite3.connect(":memory:")
    db.execute("create virtual table t using fts5(x, tokenize='unicode61 remove_diacritics 2')")
    db.execute("create virtual table v using fts5vocab(t, 'row')")
    db.execute("insert into t values (?)", (split_names(text),))
    tokens = {row[0] for row in db.execute("select term from v")}
    db.close()
    plain = str.maketrans("éä", "ea")
    assert tokens == {word.translate(plain) for word in words_of(text)}


def test_an_accent_makes_no_difference_to_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("RLM_DSPY_HOME", str(tmp_path))
    corpus = Corpus.from_texts({"a.md": "The café closed.", "b.md": "The mill stands."})
    assert corpus.index.build()
    for query in ("cafés", "cafe"):
        assert [hit["source"] for hit in corpus.index.rank(query, 5)] == ["a.md"]


def test_a_heading_counts_for_the_text_below_it():
    text = "# Varnholm\n\n" + "Nothing of note. " * 60 + "\n\nThe brewery closed.\n\n"
    texts = {"a.md": text.replace("Varnholm", "Estrup"), "b.md": text}
    assert sources(texts, "breweries in Varnholm")[0] == "b.md"


def test_a_definition_comes_before_its_calls():
    texts = {f"{number}.py": f"def other_{number}():\n    return {number}\n" for number in range(20)}
    texts["a.py"] = "def wait():\n    delay = compute_delay(1)\n    log(delay)\n"
    texts["b.py"] = "def compute_delay(value):\n    part = lookup(value)\n    return part\n"
    assert sources(texts, "where is the delay computed")[0] == "b.py"


def test_the_row_with_all_fields_comes_first():
    columns, other = "article,material,warehouse,price\n", "hinge,oak,Lund,3\n" * 20
    texts = {f"{number}.csv": columns + other for number in range(20)}
    texts["a.csv"] = columns + "bolt,brass,Lund,4\nvalve,steel,Norwick,5\n" + other
    texts["b.csv"] = columns + "valve,brass,Norwick,2\n" + other
    assert sources(texts, "price of the brass valves in Norwick")[0] == "b.csv"


def test_neighbours_in_the_query_are_better_as_neighbours():
    texts = {"a.md": "The line of the order is long.", "b.md": "The order line is long and of the"}
    assert sources(texts, "order line")[0] == "b.md"


@pytest.fixture(scope="module")
def made():
    sys.path.insert(0, str(FOLDER))
    try:
        import make_retrieval
    finally:
        sys.path.remove(str(FOLDER))
    return make_retrieval.made_set()


def test_the_retrieval_set_is_the_committed_one(made):
    corpora, rows = made
    text = json.dumps(corpora, sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == (FOLDER / "corpora.sha256").read_text().strip()
    committed = (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in committed] == rows
    assert len({row["id"] for row in rows}) == len(rows) >= 300


def test_search_finds_most_answers_of_the_retrieval_set(made):
    corpora, rows = made
    for corpus, least in (("prose", 0.35), ("code", 0.6), ("tables", 0.9)):
        texts = corpora[corpus]
        chosen = random.Random(1).sample([row for row in rows if row["corpus"] == corpus], 8)
        found = 0
        for row in chosen:
            for hit in rank_passages(texts, list(texts), Query(row["question"]), 5):
                lines = range(hit["line"], hit["line"] + hit["text"].count("\n") + 1)
                if hit["source"] == row["source"] and row["first_line"] in lines:
                    found += 1
                    break
        assert found / len(chosen) >= least, corpus
