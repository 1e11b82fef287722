"""A run in a notebook while it goes on."""

from __future__ import annotations

import html
import time
from typing import Any

from rlm_dspy.errors import ConfigurationError
from rlm_dspy.redact import Redactor
from rlm_dspy.report.live import status_line, step_line
from rlm_dspy.report.render import printable_text
from rlm_dspy.run import Event

WIDTH = 110  # characters of a line
MIN_SECONDS = 0.25  # seconds between two updates, except at the end of a step


class LiveCell:
    """Shows the steps of a run below the notebook cell that started it, each when it ends.

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
        self._handle: Any = None
        self._lines: list[str] = []
        self._status = ""
        self._started, self._shown = time.monotonic(), 0.0

    def __call__(self, event: Event) -> None:
        """Show an event; those of children only change the figures."""
        if event.kind == "probe" and not event.depth:  # a run begins, and perhaps in another cell of the notebook
            self._handle, self._lines, self._status = None, [], ""
            self._started, self._shown = time.monotonic(), 0.0
        if event.kind == "output" and not event.depth:
            self._lines.append(step_line(self._masked(event), WIDTH))
        elif event.kind != "final" and time.monotonic() - self._shown < MIN_SECONDS:
            return
        if event.depth == 0 or self._status:
            self._status = status_line(event, time.monotonic() - self._started)
        self._show(is_over=event.kind == "final" and not event.depth)

    def _masked(self, event: Event) -> Event:
        texts = {name: getattr(event, name) for name in ("text", "reasoning", "error")}
        shown = {name: printable_text(self._redactor.text(text)) for name, text in texts.items() if text}
        return event.model_copy(update=shown)

    def _show(self, *, is_over: bool) -> None:
        lines = self._lines if is_over else [*self._lines, self._status]
        shown = self._make_html(f"<pre>{html.escape(chr(10).join(lines))}</pre>")
        self._shown = time.monotonic()
        if self._handle is None:
            self._handle = self._display(shown, display_id=True)
        else:
            self._handle.update(shown)
