"""The search index: the same passages as without it, built once, updated per file, never required."""

import sqlite3

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_dspy import RLM
from rlm_dspy.corpus import Corpus, index, read
from rlm_dspy.sandbox import Sandbox
from rlm_dspy.sandbox.toolkit.ranking import Query, rank_passages
from rlm_dspy.testing import action, scripted


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("RLM_DSPY_HOME", str(place))
    return place


TEXTS = {
    "a.md": "The default port is 8080.\n" + "filler words here and there\n" * 80 + "Retries end after 7 attempts.\n",
    "b.py": "def renderMaxIters(value):\n    return value\n",
    "c.md": "Nothing of note: ports of call, harbours.\n",
}


def places(found):
    return [(one["source"], one["start"], one["end"], one["text"]) for one in found]


def test_nothing_is_indexed_unless_asked(home):
    corpus = Corpus.from_texts(TEXTS)
    assert not corpus.index.ready()
    assert corpus.search_index("port", 3) is None
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("query", ["default port", "retry attempts", "maxIters", "harbour", "max_iters", "value"])
def test_the_best_passage_is_that_of_the_search_without_index(query):
    corpus = Corpus.from_texts(TEXTS)
    assert corpus.index.build()
    found = corpus.search_index(query, 3)
    assert places(found)[:1] == places(rank_passages(TEXTS, list(TEXTS), Query(query), 3))[:1]


@given(st.lists(st.text("abc éß\n.", max_size=900), min_size=1, max_size=4), st.text("abcé ", max_size=6))
@settings(max_examples=25, deadline=None)
def test_what_the_index_finds_is_in_the_text(texts, query):
    corpus = Corpus.from_texts({str(number): text for number, text in enumerate(texts)})
    corpus.index.build()
    for one in corpus.search_index(query, 5) or ():
        assert corpus[one["source"]][one["start"] : one["end"]] == one["text"].replace("…", "") or "…" in one["text"]
        assert one["line"] == corpus[one["source"]].count("\n", 0, one["start"]) + 1


def test_only_what_changed_is_read_again(tmp_path, monkeypatch):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    assert read([tmp_path]).index.build()
    (tmp_path / "c.md").write_text("The lighthouse stands.")
    corpus = read([tmp_path])
    assert not corpus.index.ready()
    cut = []
    monkeypatch.setattr(index, "_cut", lambda body: cut.append(body) or iter([body]))
    assert corpus.index.build()
    assert cut == ["The lighthouse stands."]
    assert [one["source"] for one in corpus.search_index("lighthouse", 3)] == ["c.md"]
    assert corpus.search_index("harbours", 3) == []


def test_an_index_mostly_of_files_that_are_gone_is_built_anew(tmp_path):
    for name in TEXTS:
        (tmp_path / name).write_text("old words " * 400)
    first = read([tmp_path])
    first.index.build()
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    corpus = read([tmp_path])
    assert corpus.index.build()
    with sqlite3.connect(corpus.index.path) as db:
        assert db.execute("select count(*) from files").fetchone() == (3,)
    db.close()


def test_a_corpus_follows_an_index_that_another_one_built_anew(tmp_path):
    for number in range(10):
        (tmp_path / f"f{number}.md").write_text(f"zebra{number} words\n" + "filler of it\n" * number)
    first = read([tmp_path])
    assert first.index.build()
    assert [one["source"] for one in first.search_index("zebra9", 1)] == ["f9.md"]
    for number in range(9):
        (tmp_path / f"f{number}.md").write_text(f"lion{number} words\n" * 200)
    second = read([tmp_path])
    assert second.index.build()
    assert [one["source"] for one in second.search_index("zebra9", 1)] == ["f9.md"]
    assert first.search_index("zebra9", 3) is None  # not all of its files are there any more
    assert not first.index.ready()


def test_a_glob_narrows_the_search():
    corpus = Corpus.from_texts(TEXTS)
    corpus.index.build()
    assert {one["source"] for one in corpus.search_index("port", 5)} == {"a.md", "c.md"}
    assert {one["source"] for one in corpus.search_index("port", 5, ["c.md"])} == {"c.md"}


def test_a_damaged_index_is_no_harm():
    corpus = Corpus.from_texts(TEXTS)
    corpus.index.build()
    corpus.index.path.write_bytes(b"damaged" * 1000)
    again = Corpus.from_texts(TEXTS)
    assert not again.index.ready()
    assert again.search_index("port", 3) is None
    assert again.index.build()


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null"])
def test_without_a_folder_there_is_no_index(monkeypatch, place):
    monkeypatch.setenv("RLM_DSPY_HOME", place)
    assert not Corpus.from_texts(TEXTS).index.build()


def test_unspaced_scripts_are_left_to_the_search_without_index():
    corpus = Corpus.from_texts({"a": "東京は日本の首都です"})
    corpus.index.build()
    assert corpus.search_index("日本", 3) is None


def test_the_oldest_indexes_make_room(monkeypatch):
    one = Corpus.from_texts({"a": "first"})
    one.index.build()
    monkeypatch.setattr(index, "MOST_BYTES", 1)
    two = Corpus.from_texts({"a": "second"})
    two.index.build()
    assert two.index.path.exists()
    assert not one.index.path.exists()


def test_a_run_uses_an_index_that_is_there():
    corpus = Corpus.from_texts(TEXTS)
    corpus.index.build()
    used = []
    original = corpus.index.rank
    corpus.index.rank = lambda *args: used.append(args) or original(*args)
    last = action("SUBMIT(answer=search('harbour')[0]['text'])")
    lm, _ = scripted(action("print(search('default port', k=1))"), last)
    with dspy.context(lm=lm):
        answer = RLM("context, question -> answer", interpreter_factory=Sandbox)(context=corpus, question="?").answer
    assert "ports of call" in answer
    assert [query for query, _, _ in used] == ["default port", "harbour"]
