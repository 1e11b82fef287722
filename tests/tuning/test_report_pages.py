"""The pages of an evaluation and of an optimization: complete without a script, and safe whatever the texts are."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from browser import needs_browser, opened_browser
from rlm_dspy.tuning.evaluation import Row
from rlm_dspy.tuning.report import figures, optimize_page, page_parts, plots
from rlm_dspy.tuning.report.eval_page import report_page
from rlm_dspy.tuning.report.optimize_page import outcome_page
from rlm_dspy.tuning.report.outcome import candidate_tree

HOSTILE = (
    "<script>alert(1)</script>\"'></td></table>]]>--><img src=x onerror=alert(2)>\u202egnp.exe\u2066\x1b[31m\x00\ud800"
)


def row(side: str, number: int, score: float = 1.0, **more: Any) -> Row:
    values = {
        "key": f"{side}{number}",
        "side": side,
        "id": f"q{number}",
        "question": f"What is {number}?",
        "expected": "blue",
        "answer": "blue" if score == 1 else "red",
        "score": score,
        "status": "submitted",
        "seconds": number + 0.5,
        "calls": 2,
        "tokens": 1_000 + number,
        "cost": 0.01 * number,
    }
    return Row(**{**values, **more})


def mixed_rows() -> list[Row]:
    rows = [row("rlm", number, score) for number, score in enumerate([1.0, 0.0, 0.5, 1.0])]
    rows += [row("direct", number, 1.0) for number in range(3)] + [row("direct", 3, 0.0, status="failed", error="down")]
    return rows + [row("dspy.RLM", n, 0.0, status="failed", answer=None, error="LMError: gone") for n in range(4)]


class Reader(HTMLParser):
    """Collects tags with their attributes, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def outcome(candidates: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    before = figures.side_figures([row("rlm", n, float(n > 2)) for n in range(6)])
    after = figures.side_figures([row("rlm", n, float(n > 0)) for n in range(6)])
    base = {"digest": "d", "demos": 0, "questions": 6, "val_questions": 6, "chosen": False, "cost": 0.01}
    tried = [
        {**base, "number": 0, "parent": None, "val_score": 0.3, "calls": 20, "instructions": {"act": "Look.\nAnswer."}},
        {
            **base,
            "number": 1,
            "parent": 0,
            "val_score": 0.5,
            "calls": 40,
            "instructions": {"act": "Look twice.\nAnswer."},
        },
        {
            **base,
            "number": 2,
            "parent": 1,
            "val_score": 0.8,
            "calls": 70,
            "chosen": True,
            "instructions": {"act": "New."},
        },
        {**base, "number": 3, "parent": 0, "val_score": None, "calls": None, "instructions": {"act": "Dropped."}},
    ]
    return {
        "optimizer": "gepa",
        "model": "some/model",
        "prompt_model": "big/model",
        "metric": "exact",
        "questions": {"train": 6, "val": 6, "test": 6},
        "ended": "finished",
        "calls": 100,
        "cost": None,
        "before": before,
        "after": after,
        "gain": {"mean": 0.33, "interval": [0.1, 0.6], "questions": 6},
        "demos": {"before": {"act": 0}, "after": {"act": 2}},
        "diff": "--- act\n+++ act\n@@ -1 +1 @@\n-Look.\n+New.",
        "candidates": tried if candidates is None else candidates,
        "dspy": "3.4.1",
        **more,
    }


def pages() -> dict[str, str]:
    return {"eval": report_page("rows", mixed_rows()), "optimize": outcome_page(outcome())}


@pytest.mark.parametrize("name", ["eval", "optimize"])
def test_a_page_requests_nothing_and_allows_only_its_own_style_and_script(name: str) -> None:
    page = pages()[name]
    reader = Reader(page)
    policy = next(a["content"] or "" for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for part in re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.S):
        hashed = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{hashed}'" in policy
    assert not [attrs for _, attrs in reader.tags if "style" in attrs or any(a.startswith("on") for a in attrs)]
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|url\(|@import", page)


@pytest.mark.parametrize("name", ["eval", "optimize"])
def test_every_plot_has_a_title_ticks_and_a_unit(name: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", pages()[name], re.S)
    assert len(figures) == {"eval": 3, "optimize": 1}[name]
    for figure in figures:
        assert 'role="img" aria-label="' in figure
        assert len(re.findall(r'class="title"', figure)) == 1
        assert len(re.findall(r'class="tick"', figure)) >= 4
        assert re.search(r'class="unit"[^>]*>[^<]*(?:0 to 1|seconds|US dollars|LM calls)', figure)


def test_a_failed_side_is_named_failed_in_plots_and_tables_and_has_no_score() -> None:
    page = report_page("rows", mixed_rows())
    assert "failed: all 4 questions" in page
    assert "dspy.RLM failed: an error ended every question, so it has no score." in page
    assert "direct: an error ended 1 of 4 questions; each counts as 0." in page
    assert '<th scope="row">score</th><td>0.625</td><td>0.750</td><td class="bad">failed</td>' in page
    assert "0.000" not in page.split("<h2>Questions")[0]


def test_a_row_shows_question_answers_mark_and_figures() -> None:
    page = report_page("rows", mixed_rows(), facts={"model": "m/x", "limits": "max-iters 4", "fallback": ""})
    text = Reader(page).text
    for shown in (
        "What is 1?",
        "✗ wrong",
        "✗ partly wrong",
        "✓ right",
        "! failed",
        "LMError: gone",
        "m/x",
        "max-iters 4",
    ):
        assert shown in text
    assert "fallback" not in text
    assert page.count(" data-wrong>") == 7
    assert "run</th>" not in page  # there are no runs to link to


def test_long_texts_are_folded_and_the_page_says_what_it_leaves_out() -> None:
    rows = [row("a", 0, answer="x" * 1_000), row("a", 1, answer="y" * 50_000_000), row("a", 2, answer="short")]
    began = time.thread_time()
    page = report_page("rows", rows)
    assert time.thread_time() - began < 5
    assert len(page) < 100_000
    assert "… 1,000 characters" in page
    assert "… 50,000,000 characters" in page
    assert "1 text is cut: 49,979,700 characters are not on this page." in page
    texts = page_parts.TextAllowance(allowance=500)
    first, second = (texts.text_html("z" * 1_000) for _ in range(2))
    assert first.count("z") == 800
    assert second.count("z") == 300
    assert "2 texts are cut: 900 characters" in texts.cut_note()


def test_hostile_texts_stay_texts_on_both_pages() -> None:
    fields = ("side", "id", "question", "expected", "answer", "error", "task")
    rows = [row("a", 0), row("b", 1, 0.0).model_copy(update=dict.fromkeys(fields, HOSTILE * 20))]
    clean, page = Reader(report_page("t", [row("a", 0), row("b", 1, 0.0)])), report_page(HOSTILE, rows)
    found = [page]
    tried = outcome()["candidates"]
    tried[1]["instructions"] = {HOSTILE: HOSTILE}
    hostile = dict.fromkeys(("optimizer", "model", "prompt_model", "metric", "ended", "dspy"), HOSTILE)
    found.append(
        outcome_page(outcome(tried, diff=f"+{HOSTILE}", demos={"before": {HOSTILE: 1}, "after": {}}, **hostile))
    )
    assert Reader(page).count("script") == clean.count("script") == 1
    for text in found:
        reader = Reader(text)
        assert reader.count("img") == 0
        assert "]]>" not in text
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\ud800]", text)
        assert "\\u202egnp.exe" in reader.text
        assert text.encode()


def test_no_rows_and_unknown_costs_make_a_page_too() -> None:
    page = report_page("rows", [row("a", 0, cost=None), row("a", 1, cost=None)])
    assert "unknown" in page
    assert "Cost by side" not in page
    empty = figures.side_figures([])
    found = outcome_page(outcome([], after=empty, gain={"mean": None, "interval": None, "questions": 0}, diff=""))
    assert "test after: not measured" in found
    assert "unknown: one of the two was not measured" in found
    assert "The instructions are unchanged." in found


@pytest.mark.parametrize("high", [1e-9, 0.004, 0.9, 1.0, 7.3, 99, 12_345.6, 3e9])
def test_ticks_are_round_and_inside_the_axis(high: float) -> None:
    ticks = plots.Axis(high, 0, 100).tick_values()
    assert 4 <= len(ticks) <= 7
    assert ticks[0] == 0
    assert ticks[-1] <= high * 1.002
    assert len({plots.tick_text(tick) for tick in ticks}) == len(ticks)


def test_the_tree_of_candidates_shows_parents_changes_and_the_chosen() -> None:
    page = outcome_page(outcome())
    reader = Reader(page)
    assert reader.count("li") == 3
    assert page.index("<b>0</b>") < page.index("<b>1</b>") < page.index("<b>2</b>")
    assert "changes against its parent 0" in page
    assert "changes against its parent 1" in page
    assert '<span class="removed">-Look.</span>' in page
    assert '<span class="added">+Look twice.</span>' in page
    assert page.count('class="badge"') == 1
    assert "measured after 70 calls" in page
    assert "1 more ran on training questions only." in page
    assert "test before: 0.500" in page
    assert "test after: 0.833" in page
    assert page.count('<circle class="candidate') == 3 + 2  # and two in the legend


def test_a_tree_of_any_depth_or_with_a_circle_is_drawn_whole() -> None:
    template = outcome()["candidates"][1]
    chain = [{**template, "number": n, "parent": n - 1 if n else 5} for n in range(500)]
    page = outcome_page(outcome(chain))
    assert Reader(page).count("li") == 500
    assert page.count("<ul") == page.count("</ul>") == optimize_page.MAX_DEPTH + 1
    assert page.count("<li>") == page.count("</li>")
    assert len(candidate_tree(chain)) == 500


def test_instructions_of_any_length_make_a_page_that_opens() -> None:
    template = outcome()["candidates"][1]
    texts = ["a\n" * 200_000, "b" * 5_000_000, "\n".join(map(str, range(100_000))), "short"]
    tried = []
    for number in range(1_100):
        text = texts[number % 4] if number < 100 else "short"
        tried.append({**template, "number": number, "parent": number - 1, "instructions": {"act": text}})
    began = time.thread_time()
    page = outcome_page(outcome(tried))
    assert time.thread_time() - began < 60
    assert len(page) < 40_000_000
    assert "100 more candidates left out of this page" in page
    assert "more lines not compared" in page
    assert "more characters are not on this page" in page


def test_a_report_of_an_earlier_version_makes_a_page() -> None:
    old = outcome()
    for one in old["candidates"]:
        del one["calls"], one["cost"]
    page = outcome_page(old)
    assert "3 candidates are not in this plot: " in page
    assert "dspy 3.4.1" in page


# --- in a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with opened_browser() as browser:
        yield browser


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """Return a function that opens a page, and notes what it says in its console and asks of the network."""
    tabs = []

    def show(text: str, **options: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        tab = chromium.new_page(**options)
        tab.said, tab.asked = [], []
        tab.on("console", lambda message: tab.said.append(message.text))
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.on("dialog", lambda dialog: (tab.said.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.goto(path.as_uri())
        tabs.append(tab)
        return tab

    yield show
    for tab in tabs:
        tab.close()


def shown_rows(tab: Any) -> list[str]:
    return [each.inner_text().split()[0] for each in tab.locator("#rows tbody tr:visible td.question b").all()]


@needs_browser
def test_rows_are_sorted_by_click_and_by_enter(opened: Any) -> None:
    tab = opened(report_page("rows", mixed_rows()))
    tokens = tab.get_by_role("columnheader", name="tokens")
    tab.get_by_role("button", name="tokens").click()
    assert tokens.get_attribute("aria-sort") == "ascending"
    assert shown_rows(tab)[:3] == ["q0", "q0", "q0"]
    tab.get_by_role("button", name="tokens").focus()
    tab.keyboard.press("Enter")
    assert tokens.get_attribute("aria-sort") == "descending"
    assert shown_rows(tab)[:3] == ["q3", "q3", "q3"]
    tab.get_by_role("button", name="question").click()
    assert tokens.get_attribute("aria-sort") is None
    assert shown_rows(tab)[0] == "q0"
    assert tab.said == []


@needs_browser
def test_rows_are_filtered_by_text_side_and_mark(opened: Any) -> None:
    tab = opened(report_page("rows", mixed_rows()))
    assert tab.locator("#count").inner_text() == "12 of 12 rows"
    tab.get_by_label("wrong only").check()
    assert tab.locator("#count").inner_text() == "7 of 12 rows"
    tab.locator("#side").select_option("rlm")
    assert shown_rows(tab) == ["q1", "q2"]
    tab.get_by_label("Text").fill("WHAT IS 2")
    assert shown_rows(tab) == ["q2"]
    tab.get_by_label("wrong only").uncheck()
    tab.locator("#side").select_option("")
    tab.get_by_label("Text").fill("lmerror")
    assert len(shown_rows(tab)) == 4
    assert tab.said == []


@needs_browser
def test_the_page_is_complete_without_its_script(chromium: Any, opened: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    page = report_page("rows", [row("a", n, answer="long " * 100) for n in range(3)])
    tab.set_content(page)
    assert tab.locator("#rows tbody tr:visible").count() == 3
    assert not tab.locator("#filters").is_visible()
    tab.locator("summary").first.click()
    assert tab.locator(".long").first.is_visible()
    context.close()


@needs_browser
@pytest.mark.parametrize("name", ["eval", "optimize"])
def test_hostile_texts_run_nothing_in_a_browser(name: str, opened: Any) -> None:
    hostile = f"{HOSTILE}<a href='javascript:alert(3)'>x</a>" * 9
    rows = [
        row(f"a{HOSTILE}", n, 0.0, question=hostile, answer=hostile, error=hostile, status="failed") for n in range(3)
    ]
    tried = outcome()["candidates"]
    tried[1]["instructions"] = {"act": hostile}
    made = {"eval": report_page(HOSTILE, rows), "optimize": outcome_page(outcome(tried, model=hostile))}
    tab = opened(made[name])
    for summary in tab.locator("summary").all()[:5]:
        summary.click()
    assert tab.said == []
    assert [url for url in tab.asked if not url.startswith("file:")] == []
    assert len(tab.asked) == 1
    if name == "eval":
        tab.locator("#side").select_option(index=1)
        assert tab.locator("#count").inner_text() == "3 of 3 rows"


@needs_browser
def test_ten_thousand_rows_sort_and_filter_in_time(opened: Any) -> None:
    rows = [row("a", n, float(n % 3 > 0), answer="some words " * 20) for n in range(10_000)]
    tab = opened(report_page("rows", rows))
    took = tab.evaluate(
        """() => { const began = performance.now();
        document.querySelector('#rows th:nth-child(2) button').click();
        const text = document.getElementById('text'); text.value = 'q99'; text.dispatchEvent(new Event('input'));
        return performance.now() - began; }"""
    )
    assert took < 5_000
    assert tab.locator("#count").inner_text() == "111 of 10,000 rows"
