"""The viewer's page: what is in the file, and what it does in a real browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from run_viewer import BROWSER_FLAGS, make_run

import rlm_dspy
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import MASK, Redactor
from rlm_dspy.report.viewer import chrome_trace, static_page
from rlm_dspy.report.viewer.page import html_page
from rlm_dspy.run import Message, Run, Span, Step, SubCall, Usage
from rlm_dspy.testing import action, scripted

HOSTILE = (
    "</script><script>alert(1)</script>]]><!--<img src=x onerror=alert(2)>\u202eabc\u200e\x1b[31m{{7*7}}</noscript>"
)
GATES = "\n".join(f"Line {number}: gate {number} opens at {number % 24} hours." for number in range(120))


class Asked(dspy.Signature):
    """Answer."""

    context: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()
    evidence: list[rlm_dspy.Evidence] = dspy.OutputField()


@pytest.fixture(scope="module")
def recorded() -> Run:
    """A run with a failed cell, sub-calls side by side and a child."""
    lm, _ = scripted(
        action(
            "import re\n# look\nfor line in context.split('\\n'):\n    if '77' in line:\n        print(line)", "Look."
        ),
        action(
            "print(llm_query_batched([f'When does gate {n} open?' for n in range(4)]))\n"
            "print(subcall('one\\ntwo', 'How many lines are there?'))\n1 / 0",
            "Ask about several.",
        ),
        *["at some hour"] * 4,
        action("SUBMIT(output='two lines')", "Count."),
        action("SUBMIT(answer='5', evidence=[{'quote': 'gate 77 opens at 5 hours'}])", "The line says it."),
    )
    with dspy.context(lm=lm):
        run: Run = rlm_dspy.RLM(Asked, max_depth=1)(context=GATES, question="When does gate 77 open?").run
    return run


def made_run(**facts: Any) -> Run:
    return Run(**{"id": "a" * 12, "status": "submitted", "model": "m", **facts})


def deep_run(depth: int) -> Run:
    """A run whose child has a child, and so on; built from the innermost."""
    spans = [Span(id=1, kind="run", started=1.0, seconds=1.0)]
    for level in range(1, depth):
        at = {"parent": len(spans), "started": 1.0, "seconds": 1.0, "depth": level}
        spans.append(Span(id=len(spans) + 1, kind="sub_call", name="recursive", **at))
        spans.append(Span(id=len(spans) + 1, kind="run", run=f"r{level}", **{**at, "parent": len(spans)}))
    run = None
    for level in range(depth - 1, -1, -1):
        calls = (SubCall(kind="recursive", prompt="deeper", run=run),) if run else ()
        run = Run(id=f"r{level}", status="submitted", depth=level, steps=(Step(index=1, sub_calls=calls),))
    assert run is not None
    return run.model_copy(update={"spans": tuple(spans)})


def built(*runs: Run, environ: dict[str, str] | None = None) -> str:
    return html_page(runs, Redactor(environ or {}))


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_policy_allows_exactly_the_script_and_the_style_of_the_page(recorded: Run) -> None:
    page = built(recorded)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    (style,), (script,) = (
        re.findall(r"<style>(.*?)</style>", page, re.S),
        re.findall(r"<script>(.*?)</script>", page, re.S),
    )
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert page.count("<script") == 2
    assert " style=" not in page
    assert "innerHTML" not in script


def test_the_page_names_no_address(recorded: Run) -> None:
    assert not re.search(r"https?://|url\(|@import| src=| href=", built(recorded))


def test_each_text_is_kept_once() -> None:
    long = "print('a long text')\n" * 1_000
    spans = (
        Span(id=1, kind="run", started=1.0, seconds=3.0),
        Span(id=2, kind="step", parent=1, started=1.0, seconds=1.0, step=1),
        Span(id=3, kind="cell", parent=2, started=1.0, seconds=1.0, step=1, input=long, output=long),
    )
    page = built(made_run(spans=spans, steps=tuple(Step(index=n, code=long, span=2) for n in range(1, 300))))
    assert page.count("print('a long text')") == 1_000


def test_a_long_text_is_cut_and_the_page_says_so() -> None:
    page = built(made_run(steps=(Step(index=1, output="x" * 50_000_000),)))
    assert len(page) < 1_300_000
    assert "49,000,000 more characters are not in this page" in page


def test_hostile_text_stays_text() -> None:
    step = Step(index=1, reasoning=HOSTILE, code=HOSTILE, output=HOSTILE, error=HOSTILE,
                sub_calls=(SubCall(kind="plain", prompt=HOSTILE, output=HOSTILE, model=HOSTILE),))  # fmt: skip
    texts = {"inputs": {HOSTILE: HOSTILE}, "outputs": {HOSTILE: [HOSTILE]}, "warnings": (HOSTILE,), "model": HOSTILE}
    facts = {"evidence": ({"quote": HOSTILE, "source": HOSTILE, "match": HOSTILE, "place": HOSTILE},), "id": HOSTILE}
    page = built(made_run(**texts, **facts, steps=(step,), stopped_by=HOSTILE, probe=HOSTILE, error=HOSTILE))
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert page.count("</noscript>") == 1
    assert "<img" not in page
    assert "<!--" not in page
    for character in "\u202e\u200e\x1b":
        assert character not in page
    assert data_of(page)["texts"]


def test_secrets_are_masked_in_every_part_even_where_a_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sk-0123456789"
    monkeypatch.setattr(static_page, "MAX_CHARS", 100)
    run = made_run(
        steps=(Step(index=1, output="x" * 95 + secret, code=secret),),
        outputs={secret: secret},
        spans=(Span(id=1, kind="run", started=1.0, name=secret, output="y" * 196 + secret, error=secret),),
    )
    page = html_page([run], Redactor({"SOME_API_KEY": secret}))
    trace = chrome_trace.chrome_trace(run, Redactor({"SOME_API_KEY": secret}))
    for made in (page, trace):
        assert MASK in made
        assert "sk-0" not in made


def test_a_record_without_spans_has_rows_for_its_steps_calls_and_children() -> None:
    child = made_run(id="c" * 12, depth=1, steps=(Step(index=1, code="c"),))
    calls = (SubCall(kind="plain", prompt="p"), SubCall(kind="recursive", prompt="q", run=child))
    run = made_run(format=1, steps=(Step(index=1, code="x", sub_calls=calls), Step(index=2, code="y")))
    rows = data_of(built(run))["runs"][0]["rows"]
    assert [(row["kind"], row["parent"], row["step"], row["depth"]) for row in rows] == [
        ("run", None, 0, 0), ("step", 0, 1, 0), ("sub_call", 1, 1, 0), ("sub_call", 1, 1, 0), ("child", 3, 1, 1),
        ("step", 4, 1, 1), ("step", 0, 2, 0),
    ]  # fmt: skip
    assert {row["start"] for row in rows} == {None}


def test_damaged_spans_are_rows_all_the_same() -> None:
    spans = (
        Span(id=1, kind="run", started=1.0, parent=2),
        Span(id=2, kind="step", started=float("nan"), parent=1, seconds=float("inf")),
        Span(id=3, kind="lm", started=2.0, parent=99, previous=4, same_messages=3),
        Span(id=4, kind="lm", started=2.0, parent=4, previous=3, same_messages=3),
    )
    rows = data_of(built(made_run(spans=spans, seconds=float("nan"))))["runs"][0]["rows"]
    assert sorted(row["kind"] for row in rows) == ["child", "lm", "lm", "step"]
    assert all(row["parent"] is None or row["parent"] < number for number, row in enumerate(rows))


def test_an_unknown_cost_is_not_a_number() -> None:
    unknown = Usage(calls=1, prompt_tokens=5, cost=None)
    data = data_of(built(made_run(usage=unknown, steps=(Step(index=1, usage=unknown),))))
    assert data["runs"][0]["heads"][0]["usage"][3] is None
    assert data["runs"][0]["rows"][1]["usage"][3] is None


def test_a_tree_of_2000_children_meets_no_recursion_limit() -> None:
    run = deep_run(2_000)
    assert built(run).count("Without scripts, runs of up to 200 steps are shown") == 1
    rows = data_of(built(run.model_copy(update={"spans": ()})))["runs"][0]["rows"]
    assert len(rows) == 3 * 2_000 - 1


def test_without_scripts_200_steps_are_shown_and_one_more_is_one_line() -> None:
    steps = tuple(Step(index=number, code=f"code_{number}") for number in range(1, 202))
    shown, refused = built(made_run(steps=steps[:200])), built(made_run(steps=steps))
    assert shown.partition("</noscript>")[0].count("<details") == 200
    assert refused.partition("</noscript>")[0].count("<details") == 0
    assert "This run has 201 steps." in refused


# --- the trace for Perfetto -------------------------------------------------------------------------------------------


def test_a_trace_has_an_event_for_each_span_in_lanes_without_overlap(recorded: Run) -> None:
    events = json.loads(chrome_trace.chrome_trace(recorded, Redactor({})))["traceEvents"]
    bars = [event for event in events if event["ph"] == "X"]
    assert len(bars) == len(recorded.spans)
    assert {event["name"] for event in events if event["ph"] == "M"} == {"process_name", "thread_name"}
    for lane in {bar["tid"] for bar in bars}:
        ours = sorted((bar["ts"], bar["ts"] + bar["dur"]) for bar in bars if bar["tid"] == lane)
        assert all(before[1] <= after[0] + 1 for before, after in itertools.pairwise(ours))
    assert max(len(str(text)) for bar in bars for text in bar["args"].values()) <= 250


def test_what_did_not_end_reaches_to_the_end_of_the_trace() -> None:
    spans = (Span(id=1, kind="run", started=10.0), Span(id=2, kind="cell", started=11.0, seconds=2.0, input="\u202e"))
    made = chrome_trace.chrome_trace(made_run(spans=spans), Redactor({}))
    bars = [event for event in json.loads(made)["traceEvents"] if event["ph"] == "X"]
    assert [(bar["ts"], bar["dur"]) for bar in bars] == [(0, 3_000_000), (1_000_000, 2_000_000)]
    assert bars[0]["args"]["unfinished"] is True
    assert bars[1]["args"]["input"] == "\\u202e"


def test_a_record_without_times_has_no_trace() -> None:
    with pytest.raises(RLMError, match="has no times"):
        chrome_trace.chrome_trace(made_run(), Redactor({}))


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs a Chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=list(BROWSER_FLAGS))
        yield found
        found.close()


Opened = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """Open a page of runs; no error and no request may come of it, then or later."""
    problems: list[str] = []
    contexts = []

    def load(*runs: Run, **options: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_text(built(*runs), encoding="utf-8")
        contexts.append(browser.new_context(**{"viewport": {"width": 1400, "height": 1400}, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda request: request.url != path.as_uri() and problems.append(request.url))
        page.goto(path.as_uri())
        return page

    yield load
    for context in contexts:
        context.close()
    assert problems == []


def titles(page: Any) -> list[str]:
    rows: list[str] = page.evaluate(
        "[...document.querySelectorAll('.tree .row')].sort((a, b) => a.offsetTop - b.offsetTop)"
        ".map((row) => row.querySelector('.kind').textContent + ' ' + row.querySelector('.name').textContent)"
    )
    return rows


def selected(page: Any) -> str:
    row = page.locator('.tree .row[aria-selected="true"] .title').first
    return f"{row.locator('.kind').text_content()} {row.locator('.name').text_content()}"


def test_the_page_opens_with_its_header_tree_and_details(opened: Opened, recorded: Run) -> None:
    page = opened(recorded)
    header = page.locator("header").inner_text()
    for part in (
        recorded.id,
        "submitted",
        "scripted/model",
        "UTC",
        "3 steps",
        "5 sub-calls",
        "When does gate 77 open?",
    ):
        assert part in header, part
    shown = titles(page)
    assert len(shown) == len(recorded.spans)
    assert [title for title in shown if title.startswith("step")] == [
        "step 1  Look.", "step 2  Ask about several.", "step 1  Count.", "step 3  The line says it.",
    ]  # fmt: skip
    details = page.locator(".details").inner_text()
    assert "in its source:" in details
    assert page.locator(".evidence mark").text_content() == "gate 77 opens at 5 hours"
    assert page.locator(".evidence pre").text_content().count("\n") == 9
    assert page.locator("canvas").count() == 1


def test_the_keys_move_fold_search_and_find_errors(opened: Opened, recorded: Run) -> None:
    page = opened(recorded)
    press = page.keyboard.press
    press("j")
    assert selected(page) == "step 1  Look."
    press("ArrowLeft")
    assert len(titles(page)) == len(recorded.spans) - 2
    press("ArrowRight")
    assert len(titles(page)) == len(recorded.spans)
    press("k")
    assert selected(page).startswith("run")
    press("e")
    assert selected(page) == "step 2  Ask about several."
    press("e")
    assert selected(page).startswith("cell print(llm_query_batched")
    assert "ZeroDivisionError" in page.locator(".details pre.error").text_content()
    assert "division by zero" in page.locator(".details .trace-error").text_content()
    press("ArrowLeft")
    press("ArrowLeft")
    assert selected(page) == "step 2  Ask about several."
    press("/")
    page.keyboard.type("two lines")
    press("Enter")
    assert page.locator(".tools output").text_content().endswith("rows found")
    assert "SUBMIT(output='two lines')" in "".join(titles(page))
    assert "step 1  Look." not in titles(page)
    press("Escape")
    assert "step 1  Look." in titles(page)


def test_filters_keep_the_rows_that_match_and_those_above_them(opened: Opened, recorded: Run) -> None:
    page = opened(recorded)
    page.get_by_label("Kind", exact=True).select_option("sub_call")
    assert [title.split()[0] for title in titles(page)] == ["run", "step", "cell", *["sub-call"] * 5]
    page.get_by_label("Kind", exact=True).select_option("")
    page.get_by_label("Depth", exact=True).select_option("1")
    assert [title.split()[0] for title in titles(page)][-4:] == ["child", "step", "model", "cell"]
    page.get_by_label("Depth", exact=True).select_option("")
    page.get_by_label("Model", exact=True).select_option("scripted/model")
    assert "cell import re" not in titles(page)
    page.get_by_label("Model", exact=True).select_option("")
    page.get_by_role("button", name="2 errors").click()
    assert [title.split()[0] for title in titles(page)] == ["run", "step", "cell"]
    page.get_by_label("Search in all texts").fill("no such text at all")
    page.get_by_text("No row matches.").wait_for()
    assert titles(page) == []


def test_a_prompt_is_rebuilt_whole_and_its_shared_messages_are_shaded(opened: Opened, recorded: Run) -> None:
    page = opened(recorded)
    calls = [span for span in recorded.spans if span.kind == "lm" and not span.depth]
    step = page.locator(".tree .row", has_text="The line says it.")
    step.click()
    page.keyboard.press("j")
    for more in page.locator(".message .more:visible").all():
        more.click()
    shown = page.evaluate(
        "[...document.querySelectorAll('.message')].map((one) => [one.querySelector('h3').textContent,"
        " one.querySelector('pre').textContent, one.classList.contains('shared')])"
    )
    last = calls[-1]
    whole = recorded.prompt_of(last)
    assert [(role, text) for role, text, _ in shown] == [(one.role, one.content) for one in whole]
    assert [shared for *_, shared in shown] == [True] * last.same_messages + [False] * len(last.messages)
    assert last.same_messages


def test_cached_tokens_are_shown_with_the_prompt(opened: Opened) -> None:
    page = opened(make_run(30))
    page.get_by_label("Kind", exact=True).select_option("lm")
    page.keyboard.press("Tab")
    page.locator(".tree .row .dot.lm").last.click()
    title = page.locator(".prompt > h3").text_content()
    assert re.fullmatch(
        r"prompt: \d+ messages, \d+ shared with the call before \(shaded\); 1,500 of 2,000 tokens came from the cache",
        title,
    )
    page.locator(".prompt > .more").click()
    assert page.locator(".message").count() == int(title.split()[1])


def test_long_texts_are_folded_and_unfolded(opened: Opened) -> None:
    lines = "\n".join(f"line {number}" for number in range(1_000))
    page = opened(made_run(steps=(Step(index=1, code="x = 1", output=lines),)))
    page.keyboard.press("j")
    output = page.locator(".details pre").last
    assert output.text_content().count("\n") < 30
    page.locator(".details .more:visible").click()
    assert output.text_content() == lines
    page.get_by_label("Search in all texts").fill("line 777")
    page.get_by_text("1 row found").wait_for()
    assert "line 777" in page.locator(".details pre").last.text_content()


def test_hostile_text_does_nothing_in_the_browser(opened: Opened) -> None:
    steps = (Step(index=1, reasoning=HOSTILE, code=HOSTILE, output=HOSTILE, error=HOSTILE),)
    page = opened(made_run(id=HOSTILE, steps=steps, model=HOSTILE, inputs={HOSTILE: HOSTILE}, warnings=(HOSTILE,)))
    page.keyboard.press("j")
    assert "</script><script>alert(1)</script>" in page.locator(".details").inner_text()
    assert "\\u202eabc" in page.locator(".details").inner_text()
    assert page.locator("img").count() == 0


def test_two_runs_stand_side_by_side_step_by_step(opened: Opened, recorded: Run) -> None:
    other = make_run(5)
    page = opened(recorded, other)
    assert page.locator("header .summary").count() == 2
    assert page.locator("canvas").count() == 2
    rows = page.locator(".tree .row")
    numbers = [
        [name.split()[0] for name in row.locator(".name").all_text_contents()]
        for row in rows.all()
        if (row.locator(".kind").first.text_content(), row.get_attribute("aria-level")) == ("step", "2")
    ]
    assert numbers == [["1", "1"], ["2", "2"], ["3", "3"], ["4"], ["5"]]
    page.locator(".tree .row", has_text="Look at piece 5").click()
    assert "This run has no such row." in page.locator(".details .column").first.inner_text()
    assert "piece = context[2500:3000]" in page.locator(".details .column").last.inner_text()


def test_ten_thousand_steps_open_and_few_rows_exist_at_a_time(opened: Opened) -> None:
    page = opened(make_run(10_000))
    assert page.locator(".tree .row").count() < 200
    page.locator("button", has_text="open all").click()
    for share in (0.25, 0.5, 1):
        page.evaluate(
            "(share) => { const t = document.querySelector('.tree'); t.scrollTop = t.scrollHeight * share; }", share
        )
        page.wait_for_timeout(50)
        assert 10 < page.locator(".tree .row").count() < 200
    page.keyboard.press("End")
    assert selected(page) == "sub-call plain  Read piece 10000"
    page.keyboard.press("Home")
    page.keyboard.press("e")
    assert selected(page) == "step 100  Look at piece 100."


def test_2000_children_are_shown(opened: Opened) -> None:
    page = opened(deep_run(2_000).model_copy(update={"steps": ()}))
    page.locator("button", has_text="open all").click()
    page.keyboard.press("End")
    assert page.locator('.tree .row[aria-selected="true"]').get_attribute("aria-level") == "3999"


def test_what_has_not_ended_is_shown_as_unfinished(opened: Opened) -> None:
    spans = (
        Span(id=1, kind="run", started=100.0, name="q -> a", run="a" * 12),
        Span(id=2, kind="step", parent=1, started=100.0, step=1, name="step"),
        Span(
            id=3, kind="lm", parent=2, started=100.5, step=1, name="m", messages=(Message(role="user", content="hi"),)
        ),
    )
    page = opened(made_run(spans=spans, status="stopped", stopped_by="unfinished"))
    assert page.locator(".mark", has_text="unfinished").count() == 3
    page.keyboard.press("j")
    assert "unfinished: it has no end" in page.locator(".details").inner_text()


def test_a_damaged_record_opens_all_the_same(opened: Opened) -> None:
    spans = (
        Span(id=1, kind="run", started=float("nan"), seconds=1e308),
        Span(id=2, kind="lm", started=1e300, parent=1, same_messages=-5, messages=(Message(role="user", content="x"),)),
        Span(id=3, kind="lm", started=-1e300, parent=1, previous=2, same_messages=500),
        Span(id=4, kind="cell", started=1.0, parent=4),
    )
    page = opened(made_run(spans=spans, seconds=float("inf"), usage=Usage(cost=float("nan"))))
    for _ in spans:
        page.keyboard.press("j")
    page.locator(".tree .row .dot.lm").last.click()
    assert "The record lacks the first 499 messages" in page.locator(".details").inner_text()


def test_a_record_of_an_earlier_version_is_shown_without_times(opened: Opened) -> None:
    page = opened(made_run(format=1, steps=(Step(index=1, code="x = 1", output="1", seconds=2.0),)))
    assert titles(page) == ["run ", "step 1  x = 1"]
    assert "No timeline" in page.locator(".timeline").inner_text()


def test_the_timeline_zooms_and_selects(opened: Opened, recorded: Run) -> None:
    page = opened(recorded)
    canvas = page.locator("canvas")
    whole = page.locator(".zoom output").text_content()
    page.get_by_label("zoom in").click()
    assert page.locator(".zoom output").text_content() != whole
    page.get_by_label("whole run").click()
    assert page.locator(".zoom output").text_content() == whole
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] - 8, "y": 6})
    assert selected(page) == "step 3  The line says it."


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_follow_the_system_and_the_button(opened: Opened, recorded: Run, scheme: str) -> None:
    page = opened(recorded, color_scheme=scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    colours = [page.evaluate(ground)]
    page.locator("button", has_text="dark / light").click()
    colours.append(page.evaluate(ground))
    light, dark = colours if scheme == "light" else reversed(colours)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(22, 24, 28)")


def test_without_scripts_the_run_can_be_read(opened: Opened, recorded: Run) -> None:
    page = opened(recorded, java_script_enabled=False)
    text = page.locator("body").inner_text()
    for part in (recorded.id, "step 3", "Look.", "gate 77 opens at 5 hours", "ZeroDivisionError"):
        assert part in text, part
