"""The text tools of the REPL, run as they are in a worker: over one namespace."""

import ast
import inspect
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_dspy.rlm import prompts
from rlm_dspy.sandbox import toolkit
from rlm_dspy.sandbox.toolkit import CorpusTexts, bind
from rlm_dspy.sandbox.toolkit import corpus_handle as handle
from rlm_dspy.sandbox.toolkit.ranking import PASSAGE, passage_start

LINES = "\n".join(f"line {number}" for number in range(100))
FILES = {
    "src/app.py": "import os\n\nclass App:\n    max_iters: int = 20\n",
    "src/web/view.py": "def render(maxIters):\n    return maxIters\n",
    "README.md": "# App\n\nThe default of max_iters is 20.\n",
}


def tools(context: Any) -> dict[str, Any]:
    """A namespace as the worker makes it."""
    namespace = {"context": context}
    bind(namespace, "context")
    return namespace


# Seed 004, rows 14 to 19


def test_seed_peek_returns_the_characters_of_a_range():
    assert tools("Hello World! This is a test.")["peek"](0, 5) == "Hello"
    assert len(tools("Short")["peek"](0, 1000)) == 5


def test_seed_grep_tells_where_matches_start():
    grep = tools("The cat and the dog. The bird and the cat.")["grep"]
    matches = grep("cat")
    assert [match["start"] for match in matches] == [4, 38]
    assert matches[0]["range"] == (4, 7)
    assert len(tools("cat " * 50)["grep"]("cat", max_matches=5)) == 5


def test_seed_chunk_of_100_lines_by_10_makes_10_ranges():
    assert len(tools(LINES)["chunk"](mode="lines", size=10)) == 10


def test_seed_select_joins_without_separators():
    assert tools("0123456789" * 10)["select"]([(0, 5), (10, 15)]) == "0123401234"


# The namespace


def test_tools_read_the_main_context_as_it_is_bound_now():
    namespace = tools("first")
    namespace["context"] = "second"
    assert namespace["peek"]() == "second"
    assert namespace["P"] == "first"


def test_tools_work_on_a_text_that_is_given():
    namespace: dict[str, Any] = {}
    bind(namespace, None)
    assert namespace["grep"]("b", text="abc")[0]["start"] == 1
    with pytest.raises(ValueError, match="no main context"):
        namespace["peek"]()


@pytest.mark.parametrize("value", [None, 3, object()])
def test_a_context_that_is_no_text_is_refused_clearly(value):
    with pytest.raises(ValueError, match="'context' must be a str, a corpus"):
        tools(value)["grep"]("x")


def test_lists_and_dicts_of_texts_read_like_a_corpus():
    assert tools(["one", "two"])["grep"]("two")[0]["source"] == "1"
    assert tools({"a": "one", "b": "two"})["grep"]("two")[0]["source"] == "b"
    assert tools(["one", "two"])["peek"](0, 6) == "onetwo"


def test_every_tool_says_its_use_in_one_line():
    for name in ("peek", "grep", "chunk", "select", "search"):
        assert len(tools("x")[name].__doc__.splitlines()) == 1


def test_the_file_runs_as_plain_source_in_any_interpreter():
    namespace: dict[str, Any] = {"context": "one two"}
    exec(toolkit.source(), namespace)
    namespace["bind"](namespace, "context")
    assert namespace["search"]("two")[0]["line"] == 1
    assert repr(namespace["Corpus"].from_texts({"a": "b"}).files[0]).startswith("FileInfo(name='a'")
    prices = namespace["Corpus"].from_texts({"a.csv": "name,price\nchair,12\n", "b.txt": "x"})
    assert prices.rows("a.csv") == [{"name": "chair", "price": "12"}]


def test_the_files_of_the_toolkit_share_one_namespace_and_define_no_name_twice():
    names: Counter[str] = Counter()
    for part in toolkit._PARTS:
        tree = ast.parse((Path(toolkit.__file__).parent / f"{part}.py").read_text())
        names.update(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    assert [name for name, times in names.items() if times > 1] == []


# peek


def test_peek_without_an_end_shows_2000_characters_from_the_start():
    peek = tools("x" * 5000)["peek"]
    assert (len(peek()), len(peek(4000)), len(peek(-500)), len(peek(9000))) == (2000, 1000, 500, 0)


def test_peek_on_a_corpus_heads_each_file_with_its_name():
    shown = tools(CorpusTexts.from_texts({"a": "one", "b": "two"}))["peek"]()
    assert shown == "=== a ===\none\n=== b ===\ntwo"
    assert tools(CorpusTexts.from_texts({"a": "one"}))["peek"](0, 2) == "on"


def test_peek_takes_the_end_of_a_path_and_refuses_an_ambiguous_one():
    peek = tools(CorpusTexts.from_texts(FILES))["peek"]
    assert peek(0, 9, source="app.py") == "import os"
    with pytest.raises(ValueError, match="means 2 files"):
        peek(source="*.py")
    with pytest.raises(ValueError, match=r"no file matches 'READMEE\.md'; did you mean README\.md"):
        peek(source="READMEE.md")


# grep


def test_grep_shows_the_line_and_the_lines_around_it():
    match = tools("a\r\nb\r\nc\r\nd\r\n")["grep"]("c", context=1)[0]
    assert (match["line"], match["text"]) == (3, "b\nc\nd")


def test_grep_anchors_at_lines_and_ignores_case_if_asked():
    grep = tools("one\nTwo\ntwo")["grep"]
    assert [match["line"] for match in grep("^two$")] == [3]
    assert [match["line"] for match in grep("^two$", ignore_case=True)] == [2, 3]
    assert grep(re.compile("Two"))[0]["line"] == 2


def test_grep_cuts_a_long_line_around_the_match():
    match = tools("x" * 1_000_000 + "needle" + "y" * 1_000_000)["grep"]("needle")[0]
    assert "needle" in match["text"]
    assert len(match["text"]) == 1002
    assert match["text"].startswith("…")
    assert match["text"].endswith("…")


def test_grep_limits_itself_to_a_glob_a_folder_or_a_file():
    grep = tools(CorpusTexts.from_texts(FILES))["grep"]
    assert {match["source"] for match in grep("max_?iters", ignore_case=True)} == set(FILES)
    assert {match["source"] for match in grep("max", source="*.py")} == {"src/app.py", "src/web/view.py"}
    assert {match["source"] for match in grep("max", source="src/web")} == {"src/web/view.py"}
    assert {match["source"] for match in grep("max", source="view.py")} == {"src/web/view.py"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("(",), "bad regular expression"),
        (("",), "non-empty"),
        ((3,), "non-empty"),
        (("x", 0, False, 0), "max_matches"),
        (("x", -1), "context"),
        (("x", 0, False, None, None, "a.py"), "single text"),
    ],
)
def test_grep_refuses_bad_arguments_clearly(arguments, message):
    with pytest.raises(ValueError, match=message):
        tools("text")["grep"](*arguments)


@given(
    st.text("ab\n\r\u2028x", max_size=60),
    st.sampled_from(["a", "b+", "^a", "a$", ".*b", ".*b.*", "x*", "a\\nb", ".*\\sb", ".*?a"]),
)
def test_grep_finds_what_re_finds(text, pattern):
    found = tools(text)["grep"](pattern, max_matches=None)
    spans = [match["range"] for match in found]
    plain = [match.span() for match in re.finditer(pattern, text, re.M)]
    # After ".*b.*" re also reports the empty rest of the line; nobody looks for that.
    assert spans == (plain if ".*b" not in pattern else [s for s in plain if s[0] != s[1]])
    assert [match["line"] for match in found] == [text.count("\n", 0, start) + 1 for start, _ in spans]


# chunk and select


@given(
    st.text("a b\n.", max_size=200),
    st.sampled_from(["lines", "chars", "paragraphs"]),
    st.integers(1, 30),
    st.integers(0, 40),
)
def test_chunks_cover_the_text_and_keep_to_their_size(text, mode, size, overlap):
    namespace = tools(text)
    ranges = namespace["chunk"](mode, size, overlap)
    end = 0
    for start, stop in ranges:
        assert start <= end < stop
        body = text[start:stop]
        assert (body.count("\n") + (not body.endswith("\n")) if mode == "lines" else len(body)) <= size
        end = stop
    assert end == len(text)
    assert namespace["select"](namespace["chunk"](mode, size)) == text


def test_paragraphs_are_packed_whole_and_long_ones_are_cut_at_a_space():
    text = "one\n\ntwo\n\n" + "word " * 20 + "\n\nend"
    parts = [text[start:end] for start, end in tools(text)["chunk"]("paragraphs", 30)]
    assert parts[0] == "one\n\ntwo\n\n"
    assert all(len(part) <= 30 for part in parts)
    assert all(part.endswith((" ", "\n")) for part in parts[:-1])


def test_overlapping_chunks_share_as_much_as_asked():
    assert tools("0123456789")["chunk"]("chars", 4, 2) == [(0, 4), (2, 6), (4, 8), (6, 10)]
    assert tools("a\nb\nc\nd")["chunk"]("lines", 2, 1) == [(0, 4), (2, 6), (4, 7)]


def test_an_overlap_of_the_size_or_more_becomes_half_of_it():
    chunk = tools("0123456789")["chunk"]
    assert chunk("chars", 4, 20) == chunk("chars", 4, 2)
    assert chunk("chars", 1, 5) == chunk("chars", 1)


def test_chunks_of_a_corpus_name_their_source():
    namespace = tools(CorpusTexts.from_texts(FILES))
    ranges = namespace["chunk"]()
    assert [one[0] for one in ranges] == list(FILES)
    assert namespace["select"](ranges) == "".join(FILES.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("words",), "mode"), (("lines", 0), "size"), (("lines", True), "size"), (("chars", 5, -1), "overlap")],
)
def test_chunk_refuses_bad_arguments_clearly(arguments, message):
    with pytest.raises(ValueError, match=message):
        tools("text")["chunk"](*arguments)


def test_select_takes_one_range_matches_and_offsets_of_a_whole_corpus():
    namespace = tools(CorpusTexts.from_texts({"a": "one", "b": "two"}))
    assert namespace["select"]((0, 6)) == "onetwo"
    assert namespace["select"](("b", 0, 2)) == "tw"
    assert namespace["select"](namespace["grep"]("[et]")) == "et"
    for bad in [[1], [("a",)], [("a", "b")], [{}]]:
        with pytest.raises(ValueError, match="range"):
            namespace["select"](bad)


# search


def test_search_ranks_the_passage_with_the_rarest_words_first():
    text = "\n\n".join(f"Paragraph {n} talks about common things at length. " * 10 for n in range(50))
    text += "\n\nThe treaty of Ghent was signed in 1814."
    best = tools(text)["search"]("When was the treaty of Ghent signed?")[0]
    assert "1814" in best["text"]
    assert text[slice(*best["range"])] == best["text"]
    assert best["line"] == text.count("\n", 0, best["start"]) + 1


@pytest.mark.parametrize("query", ["default of max_iters", "max iters", "MAX_ITERS", "maxIters"])
def test_search_splits_identifiers(query):
    found = tools(CorpusTexts.from_texts(FILES))["search"](query)
    assert {match["source"] for match in found} == set(FILES)


def test_search_prefers_a_file_named_in_the_query():
    files = {f"m{n}.py": "retries = 3\n" for n in range(20)} | {"rlm.py": "retries = 5\n"}
    assert tools(CorpusTexts.from_texts(files))["search"]("retries in RLM")[0]["source"] == "rlm.py"


def test_search_finds_other_forms_of_a_word_and_unspaced_scripts():
    assert tools("It raises an error.")["search"]("which function raised errors")
    assert tools("東京は日本の首都です")["search"]("首都")
    assert tools("Straße in İzmir")["search"]("straße")[0]["range"] == (0, 15)


def test_search_is_deterministic_and_keeps_the_order_of_ties():
    corpus = CorpusTexts.from_texts({f"{n:02}": "same words here" for n in range(30)})
    found = tools(corpus)["search"]("same words", k=5)
    assert [match["source"] for match in found] == ["00", "01", "02", "03", "04"]
    assert found == tools(corpus)["search"]("same words", k=5)


@pytest.mark.parametrize("query", ["", "   ", "?!", "zebra"])
def test_search_returns_nothing_where_nothing_matches(query):
    assert tools("some text")["search"](query) == []


def test_search_refuses_bad_arguments_clearly():
    with pytest.raises(ValueError, match="k must be"):
        tools("x")["search"]("x", k=0)
    with pytest.raises(ValueError, match="query must be a string"):
        tools("x")["search"](3)


@given(st.text(max_size=3000), st.text(max_size=30))
def test_search_passages_are_true_and_compact(text, query):
    for match in tools(text)["search"](query):
        assert text[match["start"] : match["end"]] == match["text"]
        assert len(match["text"]) <= 1200
        assert match["line"] == text.count("\n", 0, match["start"]) + 1


@given(st.text("ab \n", max_size=4000))
def test_passages_tile_the_text(text):
    edges = [passage_start(text, at) for at in range(len(text) // PASSAGE + 2)]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (0, len(text))


# Hard texts


@pytest.mark.parametrize("text", ["", "\n", "\ud800 lone \udfff", "\0\0", "x" * 300_000])
def test_hard_texts_behave(text):
    namespace = tools(text)
    namespace["peek"]()
    namespace["grep"]("lone")
    namespace["search"]("lone")
    assert namespace["select"](namespace["chunk"]("paragraphs", 7)) == text


def test_a_large_single_line_is_read_without_scanning_it_for_each_match():
    namespace = tools("some words in one line " * 200_000)
    assert len(namespace["grep"]("words", max_matches=1000)) == 1000
    assert len(namespace["search"]("words", k=3)) == 3


# The corpus in the REPL


def test_a_corpus_lists_reads_and_describes_itself():
    corpus = CorpusTexts.from_texts(FILES)
    assert repr(corpus) == f"Corpus(3 files, {sum(map(len, FILES.values()))} characters)"
    assert (len(corpus), list(corpus), "README.md" in corpus) == (3, list(FILES), True)
    assert corpus.files[2] == ("README.md", "text", len(FILES["README.md"]), 3)
    assert dict(corpus.items()) == FILES
    assert corpus[:12] == "import os\n\nc"


def test_a_corpus_names_a_near_file_for_a_wrong_one():
    corpus = CorpusTexts.from_texts(FILES)
    with pytest.raises(KeyError, match=r"did you mean src/app\.py"):
        corpus["src/apps.py"]
    with pytest.raises(KeyError, match="indexed by file name"):
        corpus[0]


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=6), st.integers(-5, 80), st.integers(-5, 80))
def test_a_corpus_over_bytes_is_the_texts_it_was_made_of(texts, start, end):
    corpus = CorpusTexts.from_texts(texts)
    assert dict(corpus.items()) == texts
    assert corpus[start:end] == "".join(texts.values())[start:end]


def test_a_corpus_keeps_only_so_many_decoded_bytes(monkeypatch):
    monkeypatch.setattr(handle, "_CACHED", 10)
    corpus = CorpusTexts.from_texts({str(n): "12345678" for n in range(5)})
    assert "".join(corpus.values()) == "12345678" * 5
    assert list(corpus._cache) == ["4"]


def test_a_file_of_the_list_gives_its_text() -> None:
    corpus = CorpusTexts.from_texts({"a.txt": "apples", "b.txt": "pears"})
    assert [corpus[file] for file in corpus.files] == ["apples", "pears"]


def test_the_functions_take_the_arguments_that_the_prompt_names() -> None:
    functions = tools("a b ERROR c\nerror\n" * 5)
    shown = re.findall(r"`(\w+)\(([^`]*)\)`", prompts.TOOLKIT)
    assert {name for name, _ in shown} >= {"search", "grep", "peek", "chunk", "select", "outline"}
    for name, arguments in shown:
        names = [part.partition("=")[0].strip() for part in arguments.split(",") if part and '"' not in part]
        own = list(inspect.signature(functions[name]).parameters)
        assert [one for one in own if one in names] == names, name
    grep = functions["grep"]
    assert len(grep("ERROR", 2)) == 5
    assert len(grep("ERROR", 0, True)) == len(grep("error", re.I)) == 10
    assert "--" in str(grep("ERROR", 1))


@pytest.mark.parametrize("nothing", [[], (), {}, ""])
def test_nothing_is_not_the_whole_context(nothing):
    repl = tools("an ERROR\n" * 12)
    assert len(repl["grep"]("ERROR", nothing)) == 0
    assert len(repl["search"]("ERROR", nothing)) == 0
    assert repl["chunk"](nothing, 100) == []
    assert repl["grep"]("ERROR", repl["grep"]("nowhere")) == []
    with pytest.raises(ValueError, match="the second argument is None"):
        repl["grep"]("ERROR", None)


def test_hits_are_searched_for_a_second_pattern():
    repl = tools(LINES)
    hits = repl["grep"]("7", repl["grep"]("^line 1"))
    assert [(hit.line, hit.text) for hit in hits] == [(18, "line 17")]


def test_a_short_text_in_place_of_a_file_is_answered_with_the_way_to_search_it():
    repl = tools(FILES)
    for call in (lambda: repl["grep"]("max", "a max line"), lambda: repl["search"]("max", "a max line")):
        with pytest.raises(ValueError, match="to work on this text itself, pass text="):
            call()
    with pytest.raises(ValueError, match="a short text goes in text="):
        repl["chunk"]("a max line", 100)
