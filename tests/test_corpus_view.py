"""The model's view of a corpus: its shape, similar files grouped, and a preview."""

from __future__ import annotations

import dspy

import rlm_dspy
from rlm_dspy.rlm.prompts import MAX_FILE_ROWS, corpus_view
from rlm_dspy.testing import action, scripted, texts


def view(files: dict[str, str]) -> list[str]:
    return corpus_view(rlm_dspy.Corpus.from_texts(files)).splitlines()


def test_like_files_stand_on_one_line() -> None:
    files = {f"reports/{n:04}.txt": "a\nb\n" for n in range(100)}
    rows = view({**files, "README.md": "# Project\n"})
    assert rows[:2] == ["README.md (1 line)", "reports/: 100 files 0000.txt … 0099.txt (200 lines)"]


def test_a_few_files_are_each_listed() -> None:
    assert view({"a.md": "one\ntwo", "b.md": ""}) == [
        "a.md (2 lines)",
        "b.md (0 lines)",
        "a.md begins:",
        "  one",
        "  two",
    ]


def test_the_header_of_a_table_is_shown_before_what_is_more_frequent() -> None:
    files = {f"{n}.{kind}": f"{kind} text {n}\n" for n in range(9) for kind in ("md", "txt", "py", "rst")}
    rows = view({**files, "sales.csv": "id,city,price\n1,Rome,3\n"})
    assert rows[rows.index("sales.csv begins:") + 1] == "  id,city,price"
    assert sum(row.endswith("begins:") for row in rows) == 3


def test_what_is_not_listed_is_counted() -> None:
    rows = view({f"folder{n}/file.md": "x\n" for n in range(200)})
    assert rows[MAX_FILE_ROWS] == "… and 160 more files"


def test_a_long_first_line_is_cut_with_a_mark() -> None:
    assert view({"a.md": "x" * 10_000})[-1] == "  " + "x" * 120 + "…"


def test_it_stands_in_the_first_observation() -> None:
    lm, script = scripted(action("SUBMIT(answer='x')"))
    with dspy.context(lm=lm):
        rlm_dspy.RLM("context, question -> answer")(
            context=rlm_dspy.Corpus.from_texts({"a.csv": "id,price\n1,2\n"}), question="q"
        )
    assert "| a.csv begins:\n|   id,price" in texts(script.requests[0])[-1]
