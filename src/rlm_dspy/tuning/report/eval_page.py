"""The page of an evaluation: what was asked of whom, figures and plots by side, and every question to sort and filter.

Everything is readable without the script, which only adds the sorting and the filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from rlm_dspy.counting import counted_noun
from rlm_dspy.tuning.evaluation import Row, run_file_name
from rlm_dspy.tuning.report import plots
from rlm_dspy.tuning.report.figure_tables import differences, dollar_text, figure_cells, task_cells
from rlm_dspy.tuning.report.figures import compare_sides, rows_by_side
from rlm_dspy.tuning.report.page_parts import TextAllowance, facts_html, page_html, safe_text, table_html

MAX_ROWS = 20_000
ERROR_HEAD_CHARS = 120
_HEAD_BYTES = 200  # of a record, which begins with its format and its id
RIGHT_SCORE = 1.0  # a lower one is marked as wrong
_TEXTS = ("side", "question", "expected", "got", "result", "ended", "error", "run")  # columns that are sorted as text
_COLUMNS = (
    "side", "question", "expected", "got", "result", "score", "ended", "calls", "tokens", "cost", "seconds", "error",
    "run",
)  # fmt: skip


def report_page(
    title: str,
    rows: Sequence[Row],
    *,
    facts: Mapping[str, str] | None = None,
    run_links: Mapping[str, str] | None = None,
) -> str:
    """Return a self-contained HTML page with the figures, the plots, and every question.

    Args:
        title: the heading.
        rows: the results, without secrets.
        facts: what else the head tells, such as the models and the limits.
        run_links: the address of a row's run, by the row's key.
    """
    sides = compare_sides(rows)
    body = [facts_html(facts or {}), table_html(figure_cells(sides, bars=False), caption="Figures by side")]
    body += [f"<p>{safe_text(line)}</p>" for line in [*differences(sides), *failure_notes(rows)]]
    drawn = [plots.score_plot(sides), plots.time_plot(rows_by_side(rows)), plots.cost_plot(sides)]
    body.append(f'<div class="plots">{"".join(drawn)}</div>')
    if by_task := task_cells(sides):
        body.append(table_html(by_task, caption="Mean score by task"))
    return page_html(title, [*body, _questions_html(rows, run_links or {})], script="eval_page.js")


def failure_notes(rows: Sequence[Row]) -> list[str]:
    """Return one sentence for each side with failed rows: what its score counts."""
    notes = []
    for name, own in rows_by_side(rows).items():
        failed = sum(row.status == "failed" for row in own)
        if failed == len(own):
            notes.append(f"{name} failed: an error ended every question, so it has no score.")
        elif failed:
            notes.append(f"{name}: an error ended {failed:,} of {len(own):,} questions; each counts as 0.")
    return notes


def _questions_html(rows: Sequence[Row], run_links: Mapping[str, str]) -> str:
    texts = TextAllowance()
    shown = rows[:MAX_ROWS]
    columns = [name for name in _COLUMNS if name not in ("error", "run") or _has_column(name, shown, run_links)]
    lines = [_row_html(row, columns, texts, run_links.get(row.key, "")) for row in shown]
    sides = "".join(f'<option value="{safe_text(name)}">{safe_text(name)}</option>' for name in rows_by_side(rows))
    parts = [
        f'<h2>Questions</h2>{texts.cut_note()}<form id="filters" hidden>',
        '<label>Text <input id="text" type="search" autocomplete="off"></label>',
        f'<label>Side <select id="side"><option value="">all</option>{sides}</select></label>',
        '<label><input id="wrong" type="checkbox"> wrong only</label>',
        '<output id="count"></output></form>',
        _links_note(run_links),
        f'<div class="scroll"><table id="rows"><thead>{_head_html(columns)}</thead>',
        f"<tbody>{''.join(lines)}</tbody></table></div>",
    ]
    if left := len(rows) - len(shown):
        parts.append(f'<p class="cut">{counted_noun(left, "more row")} left out of this page; the journal has all.</p>')
    return "\n".join(parts)


def _has_column(name: str, rows: Sequence[Row], run_links: Mapping[str, str]) -> bool:
    if name == "run":
        return bool(run_links)
    return any(row.error for row in rows)


def _head_html(columns: Sequence[str]) -> str:
    cells = []
    for name in columns:
        kind = "text" if name in _TEXTS else "number"
        cells.append(f'<th scope="col" data-kind="{kind}">{name}</th>')
    return f"<tr>{''.join(cells)}</tr>"


def _links_note(run_links: Mapping[str, str]) -> str:
    if not run_links:
        return ""
    return (
        "<p>A link in the column run opens the record of that run: its steps, prompts and sub-calls, as JSON. "
        "<code>rlm-dspy trace FILE --html OUT</code> shows it as a page.</p>"
    )


def _row_html(row: Row, columns: Sequence[str], texts: TextAllowance, link: str) -> str:
    kind, mark = result_mark(row)
    run_link = ""
    if link:
        run_link = f'<a href="{escape(link)}">run<span class="unseen"> of {safe_text(row.id[:200])}</span></a>'
    cells = {
        "side": f"<td>{safe_text(row.side)}</td>",
        "question": _text_cell(row.question, texts, before=f"<b>{safe_text(row.id[:200])}</b>"),
        "expected": _text_cell(row.expected, texts),
        "got": _text_cell("" if row.answer is None else row.answer, texts),
        "result": f'<td class="{kind}">{mark}</td>',
        "score": _number_cell(row.score, "–" if row.status == "failed" else f"{row.score:.2f}"),
        "ended": f"<td>{row.status}</td>",
        "calls": _number_cell(row.calls, f"{row.calls:,}"),
        "tokens": _number_cell(row.tokens, f"{row.tokens:,}"),
        "cost": _number_cell(-1 if row.cost is None else row.cost, dollar_text(row.cost)),
        "seconds": _number_cell(row.seconds, f"{row.seconds:,.2f}"),
        "error": f'<td class="text error">{texts.text_html(row.error or "", head=ERROR_HEAD_CHARS)}</td>',
        "run": f"<td>{run_link}</td>",
    }
    wrong = "" if kind == "good" else " data-wrong"
    return (
        f'<tr class="{kind}" data-side="{safe_text(row.side)}"{wrong}>{"".join(cells[name] for name in columns)}</tr>\n'
    )


def result_mark(row: Row) -> tuple[str, str]:
    """Return the kind of a result, and its mark, which does not depend on colour."""
    if row.status == "failed":
        return "bad", "! failed"
    if row.score >= RIGHT_SCORE:
        return "good", "✓ right"
    if row.score > 0:
        return "partly", "✗ partly wrong"
    return "bad", "✗ wrong"


def _text_cell(text: str, texts: TextAllowance, *, before: str = "") -> str:
    kind = "text question" if before else "text"
    return f'<td class="{kind}">{before}<div dir="auto">{texts.text_html(text)}</div></td>'


def _number_cell(value: float, text: str) -> str:
    return f'<td class="number" data-value="{value:.9g}">{text}</td>'


def runs_folder(page: Path) -> Path | None:
    """Return the folder for the runs of a page: ``<page without suffix>-runs``; None if the page is not a file."""
    if page.is_file() or not page.exists():
        return page.with_name(f"{page.stem}-runs")
    return None


def find_run_links(rows: Iterable[Row], folder: Path) -> dict[str, str]:
    """Return the relative address of each row's run by the row's key, as far as the folder has that very run."""
    return {row.key: f"./{quote(f'{folder.name}/{run_file_name(row)}')}" for row in rows if _has_run(row, folder)}


def _has_run(row: Row, folder: Path) -> bool:
    path = folder / run_file_name(row)
    if not row.run or not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"id": "{row.run}"'.encode() in file.read(_HEAD_BYTES)
