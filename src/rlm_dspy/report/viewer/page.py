"""Builds the viewer's page: one HTML file with its data, one script and one style, that requests nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from rlm_dspy.redact import Redactor
from rlm_dspy.report.html_policy import content_policy, package_text
from rlm_dspy.report.viewer.rows import RunRows, TextTable
from rlm_dspy.report.viewer.static_page import static_lines
from rlm_dspy.run import Run

_SCRIPTS = ("nodes.js", "tree.js", "details.js", "timeline.js", "window.js")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{style}</style></head><body>
<noscript>
{static}
</noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body></html>
"""


def html_page(runs: Sequence[Run], redactor: Redactor) -> str:
    """Return the HTML file of one run, or of two side by side."""
    texts = TextTable(redactor)
    script, style = joined_script(), _viewer_file("viewer.css")
    title = texts.shown_text(" and ".join(f"run {run.id}" for run in runs))
    static = "\n".join(line for run in runs for line in static_lines(run, texts))
    data = [_run_data(run, texts) for run in runs]
    return _PAGE.format(
        title=escape(title),
        policy=content_policy(style, script),
        style=style,
        static=static,
        data=embedded_json({"runs": data, "texts": texts.texts}),
        script=script,
    )


def joined_script() -> str:
    """Return the one script of the page, in a scope of its own."""
    return "\n".join(['"use strict";', "(() => {", *map(_viewer_file, _SCRIPTS), "})();", ""])


def _run_data(run: Run, texts: TextTable) -> dict[str, Any]:
    run_rows = RunRows(run, texts)
    return {"rows": run_rows.rows, "heads": run_rows.heads}


def embedded_json(value: Any) -> str:
    """Return JSON that is safe in a script element: without `<`, no text can end the element or open a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _viewer_file(name: str) -> str:
    return package_text("rlm_dspy.report.viewer", name)
