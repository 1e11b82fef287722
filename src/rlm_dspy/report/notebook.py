"""Show a run in a notebook while it is in progress."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass, field
from typing import Any

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.redact import Redactor
from rlm_dspy.report.live import status_line, step_line
from rlm_dspy.report.render import printable_text
from rlm_dspy.run import Event

WIDTH = 110  # characters of a line
MIN_SECONDS = 0.25  # seconds between two updates, except at the end of a step


@dataclass
class _ShownRun:
    """A run that goes on, and the display that shows it."""

    handle: Any = None
    lines: list[str] = field(default_factory=list)
    status: str = ""
    started: float = field(default_factory=time.monotonic)
    shown: float = 0.0  # when the display was updated


class LiveCell:
    """Shows the steps of a run, as they finish, below the notebook cell that started it.

    Concurrent runs have one display each.

    Raises:
        ConfigurationError: IPython is not installed.

    Example:
        >>> rlm = rlm_dspy.RLM("context, question -> answer", on_event=rlm_dspy.LiveCell())
        >>> await rlm.acall(context=text, question="…")
    """

    def __init__(self) -> None:
        try:
            from IPython.core.getipython import get_ipython
            from IPython.display import HTML, display
        except ImportError as error:
            raise ConfigurationError("LiveCell shows runs in notebooks, and IPython is not installed here") from error
        if get_ipython() is None:
            raise ConfigurationError("LiveCell shows runs in notebooks only; elsewhere use verbose=True or on_event=")
        self._make_html: Any = HTML
        self._display: Any = display
        self._redactor = Redactor()
        self._runs: dict[str, _ShownRun] = {}

    def __call__(self, event: Event) -> None:
        """Show an event; those of children only change the figures."""
        run = self._runs.setdefault(event.run_id, _ShownRun())
        is_over = event.kind == "final" and not event.depth
        if event.kind == "output" and not event.depth:
            run.lines.append(step_line(self._masked(event), WIDTH))
        elif event.kind != "final" and time.monotonic() - run.shown < MIN_SECONDS:
            return
        if event.depth == 0 or run.status:
            run.status = status_line(event, time.monotonic() - run.started)
        self._show(run, is_over=is_over)
        if is_over:
            del self._runs[event.run_id]

    def _masked(self, event: Event) -> Event:
        texts = {name: getattr(event, name) for name in ("text", "reasoning", "error")}
        shown = {name: printable_text(self._redactor.text(text)) for name, text in texts.items() if text}
        return event.model_copy(update=shown)

    def _show(self, run: _ShownRun, *, is_over: bool) -> None:
        text = "\n".join(run.lines if is_over else [*run.lines, run.status])
        shown = self._make_html(f"<pre>{html.escape(text)}</pre>")
        run.shown = time.monotonic()
        if run.handle is None:
            run.handle = self._display(shown, display_id=True)
        else:
            run.handle.update(shown)
