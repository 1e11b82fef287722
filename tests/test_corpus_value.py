"""A corpus as a value: its attributes, and that it never prints its text."""

import copy
import json
import pickle

import dspy
import openpyxl
import pydantic
import pytest
from openpyxl.chart import BarChart, Reference
from openpyxl.comments import Comment

from rlm_dspy.corpus import Corpus, Document, read
from rlm_dspy.errors import CorpusError
from rlm_dspy.sandbox import toolkit

TEXT = "private words " * 50


@pytest.fixture
def corpus():
    return Corpus.from_texts({"b.md": TEXT, "a.md": "short\nlines\n"})


def test_a_corpus_knows_its_documents(corpus):
    assert corpus.names == ("a.md", "b.md")
    assert (len(corpus), corpus.chars, corpus.lines) == (2, 712, 3)
    assert list(corpus) == ["a.md", "b.md"]
    assert "a.md" in corpus
    with pytest.raises(KeyError, match="did you mean"):
        corpus["c.md"]
    with pytest.raises(CorpusError, match="same name"):
        Corpus([Document.of("a", "1"), Document.of("a", "2")])


def test_the_digest_depends_on_names_and_texts_only(corpus):
    same = Corpus.from_texts({"a.md": "short\nlines\n", "b.md": TEXT})
    assert corpus.digest == same.digest
    assert (corpus, hash(corpus)) == (same, hash(same))
    assert corpus.digest != Corpus.from_texts({"a.md": "short\nlines\n", "b.m": "d" + TEXT}).digest
    assert corpus != "corpus"


def test_a_corpus_never_shows_its_text(corpus):
    class Model(pydantic.BaseModel):
        context: Corpus

    class Ask(dspy.Signature):
        context: Corpus = dspy.InputField()
        answer: str = dspy.OutputField()

    model = Model(context=corpus)
    example = dspy.Example(context=corpus, answer="x").with_inputs("context")
    prompt = dspy.ChatAdapter().format(Ask, [example], {"context": corpus})
    shown = [
        repr(corpus), str(corpus), f"{corpus}", repr(corpus.documents), repr(model), str(model.model_dump(mode="json")),
        model.model_dump_json(), json.dumps(Model.model_json_schema()), repr(example), str(prompt),
        json.dumps(dspy.LabeledFewShot(k=1).compile(dspy.Predict(Ask), trainset=[example]).dump_state()),
    ]  # fmt: skip
    assert not any("private words" in one for one in shown)
    assert "Corpus(2 files, 712 characters)" in str(prompt)


def test_a_corpus_is_validated_by_its_type(corpus):
    adapter = pydantic.TypeAdapter(Corpus)
    assert adapter.validate_python(corpus) is corpus
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python("text")


def test_a_corpus_is_pickled_whole_and_copied_by_reference(corpus):
    assert pickle.loads(pickle.dumps(corpus)) == corpus
    assert copy.deepcopy(corpus) is corpus
    assert copy.copy(corpus) is corpus


def test_a_corpus_that_was_used_is_still_pickled(tmp_path):
    (tmp_path / "a.md").write_text("text")
    corpus = read([tmp_path])
    corpus.sandbox_index()
    corpus.index.ready()
    again = pickle.loads(pickle.dumps(corpus))
    assert (again, again.origin, again.skipped) == (corpus, corpus.origin, corpus.skipped)
    assert again.sandbox_index() == corpus.sandbox_index()


def test_the_sandbox_sees_the_same_texts():
    texts = {"ascii.txt": "plain", "wide.txt": "Größe 😀\n", "lone.txt": "\ud800"}
    corpus = Corpus.from_texts(texts)
    inside = toolkit.CorpusTexts(b"".join(corpus.sandbox_chunks()), corpus.sandbox_index())
    assert dict(inside.items()) == texts
    assert repr(inside) == repr(corpus)
    json.dumps(corpus.sandbox_index())
    assert [(info.size, info.lines) for info in inside.files] == [(5, 1), (1, 1), (8, 1)]


def test_charts_and_cells_that_look_like_a_title_are_no_rows(tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (("Month", "Amount"), ("Jan", 10), ("=== Notes ===", 20)):
        sheet.append(row)
    sheet["B2"].comment = Comment("estimated", "Ann")
    chart = BarChart()
    chart.add_data(Reference(sheet, min_col=2, min_row=1, max_row=3), titles_from_data=True)
    sheet.add_chart(chart, "E2")
    book.save(tmp_path / "a.xlsx")
    corpus = read([tmp_path / "a.xlsx"])
    assert "[chart]" in corpus["a.xlsx"]
    inside = toolkit.CorpusTexts(b"".join(corpus.sandbox_chunks()), corpus.sandbox_index())
    assert [row["Amount"] for row in inside.rows("a.xlsx")] == ["10", "20"]
    assert inside.rows("a.xlsx")[0]["Amount [comment]"] == "estimated"
