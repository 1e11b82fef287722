"""grep over bytes: the same matches as ``re``, in linear time, with counts and truncation."""

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_dspy.sandbox.toolkit import CorpusTexts, bind, patterns
from rlm_dspy.sandbox.toolkit.matching import find_matches

PATTERNS = [
    "a", "a+", "a*", r"\w+", r"\d{2,}", r"^\s*b", r"b$", ".*b", r"[^\W\d]", r"[\w-]+", r"(?:a|b)c?", r"\bab\b", "é",
    r"\S+$", "(?i)A", r"(a)(b)?", r"x{,2}", r"[a[]", r"[]a]", r"a(?=b)", r"(a)\1", r"\x61", r"[^a]", r"\D\d",
    r"(?s)a.b", "^", "$", "^$", r"\b", r"^\s*$", "b*$", "^a?", "(?:^|b)", "a??", "$|b", r"\b|a", "(|a)+",
]  # fmt: skip


def tools(context: Any) -> dict[str, Any]:
    namespace = {"context": context}
    bind(namespace, "context")
    return namespace


def spans(pattern: str, text: str, name: str | None = None) -> list[tuple[int, int]]:
    data: Any = text if name is None else CorpusTexts.from_texts({name: text})
    found = find_matches(patterns.compiled_pattern(pattern), data, [name], float("inf"), 0)
    return [one["range"] for one in found]


@pytest.mark.parametrize("pattern", PATTERNS)
@settings(max_examples=40)
@given(text=st.text(alphabet="ab c1\né_\t\u2028٣", max_size=30))
def test_the_fast_engine_finds_what_re_finds(pattern: str, text: str):
    expected = [match.span() for match in re.compile(pattern, re.M).finditer(text)]
    assert spans(pattern, text) == expected
    assert spans(pattern, text, "a.txt") == expected


@given(text=st.text(max_size=60))
def test_lines_and_ranges_are_those_of_the_text_in_any_script(text: str):
    for match in find_matches(patterns.compiled_pattern(r"\S+"), CorpusTexts.from_texts({"a": text}), ["a"], 100, 1):
        assert text[slice(*match["range"])].strip()
        assert match["line"] == text.count("\n", 0, match["start"]) + 1


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){12}$"])
def test_patterns_that_hang_re_take_no_time(pattern: str):
    started = time.process_time()
    assert tools("a" * 5_000 + "b")["grep"](pattern) == []
    assert time.process_time() - started < 20


@pytest.mark.parametrize("pattern", [r"(?<=a)b", r"(a)\1", r"a\Z", r"(?>a)b"])
def test_what_the_fast_engine_lacks_goes_to_re(pattern: str):
    assert patterns.re2_pattern(patterns.compiled_pattern(pattern), True) is None
    expected = [match.span() for match in re.finditer(pattern, "aab a")]
    assert [one["range"] for one in tools("aab a")["grep"](pattern)] == expected


def test_without_the_fast_engine_re_finds_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patterns, "re2", None)
    assert [one["line"] for one in tools("a\nb\na")["grep"]("a")] == [1, 3]


@pytest.mark.parametrize("pattern", ["^", "$", "^$", r"\b"])
def test_an_empty_match_is_counted_once(pattern: str):
    text = "a\n\n\nb\n"
    expected = [match.span() for match in re.finditer(pattern, text, re.M)]
    found = tools(text)["grep"](pattern, max_matches=None)
    assert [one["range"] for one in found] == expected
    assert tools(text)["grep"](pattern, max_matches=1).total == found.total == len(expected)


def test_counts_per_file_and_what_was_cut_are_told():
    found = tools(CorpusTexts.from_texts({"a.log": "x\n" * 30, "b.log": "x\n", "c.log": "y"}))["grep"](
        "x", max_matches=5
    )
    assert len(found) == 5
    assert found.counts == {"a.log": 30, "b.log": 1}
    assert found.total == 31
    assert repr(found).endswith(
        "[5 of 31 matches shown; by file: a.log 30, b.log 1; raise max_matches or narrow by source=]"
    )


def test_nothing_is_said_where_nothing_was_cut():
    found = tools("x\nx")["grep"]("x")
    assert found.cut == ""
    assert repr(found) == "1: x\n2: x"


def test_re_stops_at_the_limit_and_says_that_there_may_be_more():
    found = tools("ab ab ab")["grep"]("a(?=b)", max_matches=2)
    assert len(found) == 2
    assert "see if there are more" in found.cut


def test_counting_ends_somewhere():
    found = tools("x" * 50_000)["grep"]("x", max_matches=1)
    assert not found.complete
    assert "at least" in found.cut


def test_a_match_in_a_very_long_line_is_cut_around():
    text = "é" * 5_000 + "needle" + "ü" * 5_000
    found = tools(CorpusTexts.from_texts({"a": text}))["grep"]("needle")
    assert found[0]["range"] == (5_000, 5_006)
    assert found[0]["text"].startswith("…é")
    assert "needle" in found[0]["text"]
    assert len(found[0]["text"]) <= 1002


def test_a_converted_file_tells_pages():
    files = [{"name": "a.pdf", "kind": "pdf", "start": 0, "stop": 12, "chars": 12, "lines": 4,
              "marks": [[1, "page 1", False], [3, "page 2", False]]}]  # fmt: skip
    corpus = CorpusTexts(b"one\ntwo\nsix\n", {"files": files})
    assert [match["place"] for match in tools(corpus)["grep"]("[ox]")] == ["page 1", "page 1", "page 2"]
    assert tools(corpus)["search"]("six")[0]["place"]


# Chunks, outline, rows


def test_chunks_by_headings_leave_code_alone():
    text = "intro\n# One\na\n```\n# no heading\n```\n## Two\nb\n"
    grab = tools(text)
    parts = [grab["select"](one) for one in grab["chunk"](mode="headings")]
    assert parts == ["intro\n", "# One\na\n```\n# no heading\n```\n", "## Two\nb\n"]


def test_chunks_by_definitions_keep_decorators():
    text = "import os\n\n@cache\ndef one():\n    def inner(): ...\n\nclass Two:\n    pass\n"
    grab = tools(text)
    parts = [grab["select"](one) for one in grab["chunk"](mode="definitions")]
    assert [part.split("\n")[0] for part in parts] == ["import os", "@cache", "class Two:"]


def test_chunks_by_a_function_take_ranges_or_offsets():
    grab = tools("one--two")
    assert grab["chunk"](mode=lambda text: [(0, 3), (5, 8)]) == [(0, 3), (5, 8)]
    assert grab["chunk"](mode=lambda text: [3, 5]) == [(0, 3), (3, 5), (5, 8)]
    with pytest.raises(ValueError, match="pairs in it, or offsets"):
        grab["chunk"](mode=lambda text: ["one"])


def test_the_outline_shows_files_headings_and_definitions():
    corpus = CorpusTexts.from_texts(
        {"README.md": "# Top\ntext\n## Sub\n", "src/a.py": "x = 1\ndef f(): ...\n# remark\n"}
    )
    assert tools(corpus)["outline"]() == (
        "README.md: 3 lines, 18 characters\n    1: # Top\n    3: ## Sub\n"
        "src/\n  a.py: 3 lines, 28 characters\n    2: def f(): ..."
    )


def test_the_outline_of_a_large_corpus_is_cut_and_says_so():
    corpus = CorpusTexts.from_texts({f"{number:04}.py": "def f(): ...\n" * 20 for number in range(300)})
    text = tools(corpus)["outline"]()
    assert "8 more; outline(source='0000.py') shows them" in text
    assert text.endswith("… 100 more files; narrow by source=")


def test_rows_are_typed_by_the_files_kind():
    corpus = CorpusTexts.from_texts(
        {"a.csv": 'name,n\n"x\ny",1\n', "b.tsv": "a\tb\n1\t2\n", "c.jsonl": '{"a": 1}\n\n{"a": 2}', "d.json": "[1, 2]"}
    )
    assert corpus.rows("a.csv") == [{"name": "x\ny", "n": "1"}]
    assert corpus.rows("b.tsv") == [{"a": "1", "b": "2"}]
    assert corpus.rows("c.jsonl") == [{"a": 1}, {"a": 2}]
    assert corpus.rows("d.json") == [1, 2]
    with pytest.raises(ValueError, match="has no rows"):
        CorpusTexts.from_texts({"a.md": "x"}).rows("a.md")


def test_rows_may_hold_any_separator_of_lines_and_long_cells():
    corpus = CorpusTexts.from_texts(
        {"a.jsonl": '{"a": "one\u2028two\x85"}\r\n{"a": 2}\n', "b.csv": "a,b\n1," + "x" * 200_000}
    )
    assert corpus.rows("a.jsonl") == [{"a": "one\u2028two\x85"}, {"a": 2}]
    assert corpus.rows("b.csv") == [{"a": "1", "b": "x" * 200_000}]


@pytest.mark.parametrize("nothing", [{}, [], CorpusTexts.from_texts({})])
def test_there_is_nothing_to_find_in_no_files(nothing: Any):
    assert tools(nothing)["search"]("foo") == tools(nothing)["grep"]("foo") == tools(nothing)["chunk"]() == []
    assert tools(nothing)["outline"]() == "(no files)"
