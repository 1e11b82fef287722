"""The host's own search: lines and passages of a text or corpus that match a question."""

from __future__ import annotations

import rlm_dspy
from rlm_dspy.rlm.passages import best_lines, best_passages, linked_lines, place_of

LINES = [f"{n},{['Rome', 'Ulm'][n % 2]},{n * 7 % 500}" for n in range(3_000)]
TABLE = "\n".join(["id,city,price", *LINES]) + "\n"


def test_the_line_with_the_rare_word_comes_first() -> None:
    found = best_lines(TABLE, "Which city has the row with id 1234?", 5, 800)
    assert "1236: 1234,Rome,138" in found
    assert len("\n".join(found)) <= 800


def test_a_long_line_is_shown_by_its_sentences() -> None:
    filler = "Nothing of note happened here today. " * 30
    text = f"{filler}The keeper is called Mira Holt. {filler}"
    assert best_lines(text, "Who is the keeper?", 3, 400)[0] == "1: The keeper is called Mira Holt."


def test_files_of_a_corpus_are_named() -> None:
    files = {"a.md": "About stones.\n", "b/c.md": "First.\nThe code of the gate is 7781.\n"}
    corpus = rlm_dspy.Corpus.from_texts(files)
    assert best_lines(corpus, "What is the code of the gate?", 2, 400)[0] == "b/c.md:2: The code of the gate is 7781."
    passage = best_passages(corpus, "What is the code of the gate?", 1)[0]
    assert place_of(passage) == "b/c.md:1"
    assert "7781" in passage["text"]


def test_nothing_is_found_where_no_word_of_the_question_is() -> None:
    assert best_lines("one\ntwo\n", "zebra?", 5, 800) == []
    assert best_lines("", "zebra?", 5, 800) == []


def test_the_characters_are_a_limit() -> None:
    assert sum(len(line) + 1 for line in best_lines(TABLE, "Rome", 50, 100)) <= 100


def test_lines_about_what_was_found_are_linked() -> None:
    people = "".join(f"Cara{n} Holt was born in Ulm{n}. Cara{n} Holt likes rain.\n" for n in range(50))
    text = f"{people}Ann Lee works for Bob Ray and reads a lot.\n{people}Bob Ray was born in Bern.\nVAR A = VAR B\n"
    question = "Where was the employer of Ann Lee born?"
    found = best_lines(text, question, 1, 400)
    assert found == ["51: Ann Lee works for Bob Ray and reads a lot."]
    assert linked_lines(text, question, found, 3) == ["102: Bob Ray was born in Bern."]
    assert linked_lines(text, question, found, 0) == []


def test_names_that_the_found_lines_have_in_common_link_to_nothing() -> None:
    text = "".join(f"The code of Gate{n} is {n}.\n" for n in range(90))
    found = best_lines(text, "What is the code of Gate7?", 5, 400)
    assert linked_lines(text, "What is the code of Gate7?", found, 3) == []
    assert linked_lines("one\ntwo\n", "zebra?", [], 3) == []
