"""A list of hits is complete and prints short; a hit reads as a string, a dict, a pair or a match, as models write."""

import copy
import json
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy.sandbox import Sandbox
from rlm_dspy.sandbox.toolkit import CorpusTexts, Hit, Matches, bind, matching
from rlm_dspy.sandbox.worker import values

LOG = "".join(f"{'ERROR' if n % 2 else 'INFO'} job {n}\n" for n in range(116))


def tools(context: Any) -> dict[str, Any]:
    namespace = {"context": context}
    bind(namespace, "context")
    return namespace


# The list


def test_all_matches_are_there_and_only_printing_is_cut():
    found = tools(LOG)["grep"]("ERROR")
    assert len(found) == 58
    assert sum(1 for _ in found) == 58
    assert Counter(hit["text"][:5] for hit in found) == {"ERROR": 58}
    lines = repr(found).split("\n")
    assert lines[:2] == ["2: ERROR job 1", "4: ERROR job 3"]
    assert lines[20:] == ["[20 of 58 matches shown; all are in the list: loop over it, or narrow by source=]"]
    assert str(found) == repr(found)


def test_the_counts_of_files_are_told_where_printing_is_cut():
    found = tools(CorpusTexts.from_texts({"a.log": LOG, "b.log": "ERROR\n"}))["grep"]("ERROR")
    assert repr(found).endswith(
        "[20 of 59 matches shown; by file: a.log 58, b.log 1; all are in the list: loop over it, or narrow by source=]"
    )


def test_a_limit_that_was_asked_for_limits():
    found = tools(LOG)["grep"]("ERROR", max_matches=3)
    assert (len(found), found.total) == (3, 58)
    assert repr(found).endswith("[3 of 58 matches shown; raise max_matches or narrow by source=]")


@pytest.mark.parametrize("pattern", ["x", "x(?=x|$)"])
def test_the_most_that_is_found_is_told(monkeypatch: pytest.MonkeyPatch, pattern: str):
    monkeypatch.setattr(matching, "MOST", 1_000)
    found = tools("x" * 5_000)["grep"](pattern)
    assert len(found) == 1_000
    assert "20 of at least 1,00" in repr(found)
    assert "the list ends at 1,000" in repr(found)
    assert not tools("x" * 1_000)["grep"]("y").cut


@pytest.mark.parametrize("text", [LOG, LOG.replace("job", "jöb")])
@pytest.mark.parametrize("make", [str, lambda text: CorpusTexts.from_texts({"a": text}), lambda text: {"a": text}])
def test_hits_outlive_the_variable_they_were_found_in(make: Any, text: str):
    namespace = tools(make(text))
    found = namespace["grep"]("ERROR")
    namespace["context"] = namespace["P"] = "gone"
    assert [hit.text for hit in found] == [line for line in text.split("\n") if "ERROR" in line]
    assert all(text[hit.start : hit.end] == "ERROR" for hit in found)


def test_hits_can_be_read_in_any_order():
    text = LOG.replace("job", "jöb")
    found = tools(CorpusTexts.from_texts({"a": text, "b": text}))["grep"]("ERROR")
    assert (found[-1].source, found[-1].line, found[0].line, found[57].line) == ("b", 116, 2, 116)
    assert [hit.line for hit in reversed(found)] == [hit.line for hit in found][::-1]
    with pytest.raises(IndexError, match="there is no hit 200: 116 were found"):
        found[200]


def test_a_list_of_hits_is_a_list():
    found = tools(LOG)["grep"]("ERROR")
    nothing: list[Any] = []
    assert isinstance(found, list)
    assert isinstance(found[:3], Matches)
    assert repr(found[:2]) == "2: ERROR job 1\n4: ERROR job 3"
    assert (len([*found]), len(found + found), len(nothing + found), len(found[::2])) == (58, 116, 58, 29)
    assert found == list(found)
    assert found != []
    assert "ERROR job 3" in found
    assert sorted(found, key=lambda hit: -hit.line)[0].line == 116
    assert json.loads(json.dumps(found[:1])) == ["ERROR job 1"]
    again = copy.deepcopy(found)
    again.append(found[0])
    found.sort(key=lambda hit: -hit.line)
    assert (len(again), len(found), found[0].line, found.pop().line, len(found)) == (59, 58, 116, 2, 57)


def test_a_line_with_several_matches_is_printed_once():
    assert repr(tools("one\ntwo")["grep"]("[ow]")) == "1: one\n2: two (×2)"


def test_an_empty_list_is_printed_as_one():
    assert repr(tools(LOG)["grep"]("nowhere")) == "[]"
    assert not tools(LOG)["grep"]("nowhere")


def test_a_list_with_lines_around_sets_its_hits_apart():
    assert repr(tools("a\nx\nb\nc\nx\nd")["grep"]("x", context=1)) == "2: a\nx\nb\n--\n5: c\nx\nd"


# A hit


def hit_of(text: str = "one\nname: Ann, 42\n", pattern: str = r"name: (?P<who>\w+), (\d+)") -> Hit:
    found: Hit = tools(CorpusTexts.from_texts({"a.txt": text}))["grep"](pattern)[0]
    return found


def test_a_hit_is_printed_on_one_line_with_its_place():
    hit = hit_of()
    assert str(hit) == f"{hit}" == "a.txt:2: name: Ann, 42"
    assert repr([hit]) == "['a.txt:2: name: Ann, 42']"
    assert str(tools("x")["grep"]("x")[0]) == "1: x"


def test_a_hit_has_its_fields_as_attributes_and_items():
    hit = hit_of()
    assert (hit.line, hit.text, hit.source, hit.start, hit.end) == (2, "name: Ann, 42", "a.txt", 4, 17)
    assert (hit["line"], hit["range"], hit.range) == (2, (4, 17), (4, 17))
    assert (hit.get("line"), hit.get("nothing", 7), hit.get("place", "none"), hit["place"]) == (2, 7, "none", None)
    assert list(hit.keys()) == ["source", "line", "text", "start", "end", "range"]
    assert {**hit} == dict(hit) == dict(hit.items()) == hit.record()
    with pytest.raises(KeyError, match=r"a hit has source, line, text, .*not 'path'"):
        hit["path"]
    with pytest.raises(AttributeError, match="it has source, line, text"):
        hit.path  # noqa: B018  the access is the test


def test_a_hit_reads_as_its_text():
    hit = hit_of()
    assert "Ann" in hit
    assert hit.split(": ")[1] == "Ann, 42"
    assert re.search(r"\d+", hit)[0] == "42"
    assert ("> " + hit, hit[:4], hit == "name: Ann, 42", len(hit)) == ("> name: Ann, 42", "name", True, 13)
    assert "; ".join([hit, hit]) == "name: Ann, 42; name: Ann, 42"


def test_a_hit_reads_as_a_pair_of_line_and_text():
    line, text = hit = hit_of()
    assert (line, text) == (hit[0], hit[1]) == (2, "name: Ann, 42")


def test_a_hit_reads_as_a_match():
    hit = hit_of()
    assert (hit.group(), hit.group(1), hit.group("who"), hit.groups()) == (hit.text, "Ann", "Ann", ("Ann", "42"))
    assert (hit.groupdict(), hit.span(), hit.start(), hit.end()) == ({"who": "Ann"}, (4, 17), 4, 17)
    assert tools("aXb")["grep"]("x", re.I)[0].group() == "X"
    assert tools("found here")["search"]("found")[0].group() == "found here"


def test_the_text_is_the_whole_line_up_to_1000_characters():
    line = "x" * 990 + "needle"
    assert tools(f"a\n{line}\nb")["grep"]("needle")[0].text == line
    for context in (f"{line}yyyyy{line}", CorpusTexts.from_texts({"a": f"é{line}yyyyy{line}"})):
        hit = tools(context)["grep"]("needle")[0]
        assert (len(hit.text), "needle" in hit.text, hit.text[-1]) == (1002 if hit.text[0] == "…" else 1001, True, "…")
    assert "needle" in repr(tools(line)["grep"]("needle"))
    assert len(repr(tools(line)["grep"]("needle"))) < 420


@given(st.lists(st.integers(0, 1_500), max_size=5), st.sampled_from(["", "é", "\r"]), st.integers(0, 2))
def test_a_file_of_a_corpus_gives_the_hits_of_its_text(lengths: list[int], letter: str, around: int):
    text = "\n".join("y" * (length // 3) + "x" + letter + "y" * length for length in lengths) + letter
    single, many = (tools(one)["grep"]("x.", context=around) for one in (text, CorpusTexts.from_texts({"a": text})))
    assert [(hit.text, hit.line, hit.range, hit.group()) for hit in many] == [
        (hit.text, hit.line, hit.range, hit.group()) for hit in single
    ]


def test_a_hit_leaves_as_a_record():
    hit = hit_of()
    assert values.encode(hit)["line"] == 2
    (sent,) = values.decode(values.encode(tools("x")["grep"]("x")), dict)
    assert (type(sent), sent) == (dict, {"line": 1, "text": "x", "start": 0, "end": 1, "range": (0, 1)})
    assert rlm_dspy.Evidence.model_validate(hit.record()).quote == "name: Ann, 42"


def test_search_returns_hits_with_scores():
    (hit,) = tools(CorpusTexts.from_texts({"a.txt": "the treaty\nof Ghent"}))["search"]("treaty")
    assert isinstance(hit, Hit)
    assert (hit.score > 0, hit["score"] > 0, hit.line, hit.source) == (True, True, 1, "a.txt")
    assert str(hit) == "a.txt:1: the treaty\nof Ghent"


def test_hits_in_the_sandbox_cross_and_are_echoed():
    seen: list[Any] = []
    with Sandbox({"keep": seen.append}, main="context") as sandbox:
        shown = sandbox.run("grep('ERROR')", {"context": LOG})
        assert shown.value.startswith("2: ERROR job 1\n4: ERROR")
        assert sandbox.run("h = grep('ERROR')\nkeep(h[0])\nh[0]").value == "'2: ERROR job 1'"
        assert sandbox.run("SUBMIT(evidence=[h[0]])").final == {"evidence": [seen[0]]}
        assert sandbox.run("n = grep('E')\nn").text.startswith("2: ERROR job 1\n4: ERROR")
    assert seen == [{"line": 2, "text": "ERROR job 1", "start": 11, "end": 16, "range": (11, 16)}]


# Arguments as models give them


@pytest.mark.parametrize(
    ("arguments", "keywords", "lines"),
    [
        (("error", re.I), {}, [2]),
        (("error", re.IGNORECASE | re.M), {}, [2]),
        (("error",), {"flags": re.I}, [2]),
        (("(?i)error",), {}, [2]),
        (("err(?i)or",), {}, [2]),
        ((re.compile("error", re.I),), {}, [2]),
        ((re.compile("error"),), {"ignore_case": True}, [2]),
        (("error",), {}, []),
        (("b", "a\nb"), {}, [2]),
        (("b", "a\nb", re.I), {}, [2]),
        (("a\nb", "b"), {}, [2]),
    ],
)
def test_grep_takes_flags_and_texts_where_models_write_them(arguments: Any, keywords: Any, lines: Any):
    assert [hit.line for hit in tools("INFO\nERROR\n")["grep"](*arguments, **keywords)] == lines


def test_the_text_may_stand_first():
    text = "one two\nthree four\n" * 50
    namespace = tools(text)
    for whole in (text, namespace["context"]):
        assert namespace["peek"](whole, 4, 7) == namespace["peek"](4, 7) == "two"
        assert namespace["peek"](whole) == text[:2000]
        assert namespace["chunk"](whole, "lines", 50) == namespace["chunk"]("lines", 50)
        assert namespace["chunk"](whole, 500) == namespace["chunk"]("chars", 500)
        assert namespace["chunk"](whole, 500, 50) == namespace["chunk"]("chars", 500, 50)
        assert namespace["chunk"](whole) == namespace["chunk"]()
        assert namespace["search"](whole, "four") == namespace["search"]("four") == namespace["search"]("four", whole)
        assert namespace["select"](whole, [(0, 3)]) == namespace["select"]([(0, 3)], whole) == "one"
        assert namespace["grep"](whole, "four") == namespace["grep"]("four")
    assert namespace["search"]("some other text with a word", text="some other text")


def test_a_short_context_may_stand_first():
    namespace = tools("some short text")
    text = namespace["context"]
    assert namespace["peek"](text, 0, 4) == "some"
    assert namespace["chunk"](text, 5) == [(0, 5), (5, 10), (10, 15)]
    assert len(namespace["search"](text, "short")) == len(namespace["grep"](text, "short")) == 1


def test_a_corpus_or_one_of_its_files_may_stand_where_models_write_it():
    corpus = CorpusTexts.from_texts({"a.txt": "one", "b.txt": "two\none"})
    namespace = tools(corpus)
    assert namespace["peek"]("b.txt", 0, 3) == "two"
    assert [hit.source for hit in namespace["grep"]("one", "b.txt")] == ["b.txt"]
    assert [hit.source for hit in namespace["search"]("one", "b.txt")] == ["b.txt"]
    assert namespace["outline"]("b.txt") == namespace["outline"](source="b.txt")
    for name in ("grep", "search"):
        assert namespace[name](corpus, "two") == namespace[name]("two")
    assert namespace["chunk"](corpus) == namespace["chunk"]()
    assert namespace["peek"](corpus, 0, 3) == namespace["peek"](0, 3)


def test_hits_and_ranges_are_selected():
    namespace = tools(CorpusTexts.from_texts({"a.txt": "one two", "b.txt": "two"}))
    first, second = found = namespace["grep"]("two")
    assert namespace["select"](first) == "two"
    assert namespace["select"]([first, second]) == namespace["select"](found) == "twotwo"
    assert namespace["peek"](first, 7) == "two"
    text = "one two"
    namespace = tools(text)
    hit = namespace["grep"]("two")[0]
    assert namespace["peek"](*hit.range) == namespace["select"](*hit.range) == text[hit.start : hit.end] == "two"
    assert namespace["select"](hit.range) == namespace["select"](text, hit) == "two"


@pytest.mark.parametrize(
    "call",
    [
        "chunk(big, mode=big)", "chunk(size=big)", "peek(source=big)", "grep('x', source=big)", "select([big])",
        "select([(big, 1)])", "select([(big, 1, 2)])", "grep('(' + big)", "grep('x', max_matches=[0] * 9000)",
        "search('x', k=-1)", "context[big]", "context[[0] * 9000]", "outline(source=big)", "chunk('y' * 250)",
        "grep('x')[0][big]", "getattr(grep('x')[0], big)", "context.rows(big)", "peek([0] * 9000)",
    ],
)  # fmt: skip
def test_an_error_quotes_no_more_than_80_characters_of_an_argument(call: str):
    namespace = tools(CorpusTexts.from_texts({"a": "x", "b": "y"}))
    namespace["big"] = "word " * 2_000
    with pytest.raises((ValueError, KeyError, AttributeError, TypeError)) as caught:
        eval(call, namespace)
    assert len(str(caught.value)) < 330


@pytest.mark.parametrize("call", ["FINAL_VAR(big)", "SUBMIT(**{big: 1})", "SUBMIT('x', **{'answer': 1, big: 2})"])
def test_an_error_of_submit_quotes_little_too(call: str):
    with Sandbox(output_fields=[{"name": "answer"}]) as sandbox:
        told = sandbox.run(f"big = 'word ' * 2_000\n{call}").exception
    assert len(told or "") < 400


# Code

SHOP = """import os

class Shop:
    rate = 2

    @property
    def price(self):
        return self.rate

    async def sell(
        self,
        many: int,
    ) -> int:
        def twice(n):
            return n * 2

        if many:
            return twice(many)


def main():
    print(Shop().price)
"""
CART = """export class Cart extends Base {
  constructor(items) {
    super();
    this.items = items;
  }

  async total() {
    if (this.items) {
      return sum(this.items);
    }
  }
}

function main() {
  run(new Cart());
}
"""
WHERE = [
    ("shop.py", SHOP, "return self.rate", "class Shop > def price"),
    ("shop.py", SHOP, "rate = 2", "class Shop"),
    ("shop.py", SHOP, r"return n \* 2", "class Shop > def sell > def twice"),
    ("shop.py", SHOP, r"return twice", "class Shop > def sell"),
    ("shop.py", SHOP, "print", "def main"),
    ("shop.py", SHOP, "import os", ""),
    ("cart.js", CART, "this.items = items", "class Cart > constructor()"),
    ("cart.js", CART, "return sum", "class Cart > total()"),
    ("cart.js", CART, "run", "function main"),
]


@pytest.mark.parametrize(("name", "text", "pattern", "scope"), WHERE)
def test_a_hit_in_code_knows_its_class_and_function(name: str, text: str, pattern: str, scope: str):
    hit = tools(CorpusTexts.from_texts({name: text}))["grep"](pattern)[0]
    assert hit.scope == tools(text)["grep"](pattern)[0].scope == scope
    assert str(hit) == f"{name}:{hit.line}{f' ({scope})' if scope else ''}: {hit.text}"
    assert str(tools(text)["grep"](pattern)[0]) == f"{hit.line}: {hit.text}"


def test_a_scope_is_not_looked_for_in_a_long_program_when_it_is_printed():
    hit = tools(CorpusTexts.from_texts({"a.py": f"def f():\n    x = 1\n    y = '{'z' * 1_000_000}'\n"}))["grep"](
        "x = 1"
    )[0]
    assert (str(hit), hit.scope) == ("a.py:2:     x = 1", "def f")


def test_the_outline_shows_methods_under_their_class():
    outline = tools(CorpusTexts.from_texts({"shop.py": SHOP, "cart.js": CART}))["outline"]()
    assert outline == (
        "shop.py: 22 lines, 299 characters\n    3: class Shop:\n    7:   def price(self):\n    10:   async def sell(\n"
        "    21: def main():\n"
        "cart.js: 16 lines, 220 characters\n    1: export class Cart extends Base {\n    2:   constructor(items) {\n"
        "    7:   async total() {\n    14: function main() {"
    )


def test_the_outline_of_a_long_program_among_others_leaves_methods_out():
    long = "class A:\n" + "".join(f"    def f{n}(self): ...\n" for n in range(30)) + "def g(): ...\n"
    outline = tools(CorpusTexts.from_texts({"a.py": long, "b.py": "x = 1"}))["outline"]
    assert "    1: class A:\n    32: def g(): ...\n    … 30 more; outline(source='a.py') shows them" in outline()
    assert "    31:   def f29(self): ..." in outline(source="a.py")
