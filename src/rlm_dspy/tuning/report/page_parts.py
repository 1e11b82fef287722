"""The parts that pages share: a safe document, escaped texts that are cut, tables, facts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import metadata

from rlm_dspy._version import __version__
from rlm_dspy.report.html_policy import content_policy, package_text
from rlm_dspy.report.render import printable_text

CELL_CHARS = 300  # of a text that are always shown
MAX_TEXT_CHARS = 20_000  # of one text
MAX_PAGE_CHARS = 8_000_000  # of all texts that are folded up
_PACKAGES = ("dspy", "litellm", "gepa", "optuna")


class TextAllowance:
    """Turns texts into HTML, folds up long ones, and counts what is left out.

    Args:
        allowance: characters that all folded texts may have together.
    """

    def __init__(self, allowance: int = MAX_PAGE_CHARS) -> None:
        self.left = allowance
        self.cut_texts = 0
        self.cut_chars = 0

    def text_html(self, text: str, *, head: int = CELL_CHARS) -> str:
        """Return a text, with all but its first ``head`` characters folded up, and cut if it is very long."""
        if len(text) <= head:
            return safe_text(text)
        begin = safe_text(text[:head])
        shown, note = self.cut_text(text, head)
        return (
            f"{begin}<details><summary>… {len(text):,} characters</summary>"
            f'<div class="long">{safe_text(shown)}</div>{note}</details>'
        )

    def cut_text(self, text: str, begin: int = 0) -> tuple[str, str]:
        """Return as much of a text as is allowed from ``begin`` on, and a paragraph on what is missing."""
        shown = text[begin : begin + min(MAX_TEXT_CHARS, self.left)]
        self.left -= len(shown)
        missing = len(text) - begin - len(shown)
        if not missing:
            return shown, ""
        self.cut_texts += 1
        self.cut_chars += missing
        return shown, f'<p class="cut">{missing:,} more characters are not on this page.</p>'

    def cut_note(self) -> str:
        """Return a paragraph on what was cut; empty if nothing was."""
        if not self.cut_texts:
            return ""
        if self.cut_texts == 1:
            what = "1 text is"
        else:
            what = f"{self.cut_texts:,} texts are"
        return f'<p class="cut">{what} cut: {self.cut_chars:,} characters are not on this page.</p>'


def safe_text(text: str) -> str:
    """Return a text as HTML: no markup, control and bidirectional characters shown as escapes."""
    return escape(printable_text(text).encode("utf-8", "replace").decode())


def table_html(rows: Sequence[Sequence[str]], *, caption: str) -> str:
    """Return a table of plain texts; the first row is its head, the first column names each row."""
    head, *rest = rows
    lines = [f"<caption>{safe_text(caption)}</caption>"]
    lines.append("<tr>" + "".join(f'<th scope="col">{safe_text(cell)}</th>' for cell in head) + "</tr>")
    for name, *cells in rest:
        values = "".join(f"<td{_class_of(cell)}>{safe_text(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{safe_text(name)}</th>{values}</tr>')
    return f'<div class="scroll"><table class="figures">{"".join(lines)}</table></div>'


def _class_of(cell: str) -> str:
    if cell in ("failed", "not measured"):
        return ' class="bad"'
    return ""


def facts_html(facts: Mapping[str, str]) -> str:
    """Return names and values as a list; empty values are left out."""
    pairs = [
        f"<div><dt>{safe_text(name)}</dt><dd>{safe_text(value)}</dd></div>" for name, value in facts.items() if value
    ]
    return f"<dl>{''.join(pairs)}</dl>"


def page_html(title: str, body: Iterable[str], *, script: str = "") -> str:
    """Return the document.

    Args:
        title: its title and heading.
        body: parts of HTML.
        script: the name of a script of this package.
    """
    style = package_text("rlm_dspy.tuning.report", "page.css")
    code = package_text("rlm_dspy.tuning.report", script) if script else ""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy(style, code)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">',
        f"<title>{safe_text(title)}</title><style>{style}</style></head><body>",
        f"<main><h1>{safe_text(title)}</h1>",
        *body,
        "</main>",
        f"<script>{code}</script>" if code else "",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def time_stamp() -> str:
    """Return the date, time and time zone."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def package_versions() -> str:
    """Return the versions that a result depends on, as far as they are installed."""
    versions = [f"rlm-dspy {__version__}"]
    installed = {each.name for each in metadata.distributions() if each.name in _PACKAGES}
    versions += [f"{name} {metadata.version(name)}" for name in _PACKAGES if name in installed]
    return ", ".join([*versions, f"Python {platform.python_version()}"])
