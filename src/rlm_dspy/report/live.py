"""Progress on a terminal: the status line and the steps of a question, and the progress bar of a batch."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner
from rich.text import Text

from rlm_dspy.counting import counted_noun
from rlm_dspy.lms.streams import answer_so_far
from rlm_dspy.report.render import cost_text, printable_text
from rlm_dspy.run import Event, error_text

if TYPE_CHECKING:
    from rlm_dspy.batch import Progress as BatchProgress


MAX_ANSWER_LINES = 6  # lines of an answer while it arrives
MIN_PLAN_CELLS = 16
MIN_ERROR_CELLS = 12
MAX_ERROR_CELLS = 40  # columns of a step's error


class QuestionRate(ProgressColumn):
    """Questions per minute so far, without those reused from the file."""

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before the first question is finished."""
        asked = task.completed - task.fields["reused"]
        seconds = task.elapsed or 0.0
        return Text(f"{60 * asked / seconds:,.1f}/min" if asked > 0 and seconds > 0 else "-/min")


class Bar:
    """A context manager that shows answered, failed, rate, time left and cost; call it with each progress."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[state]}"),
            BarColumn(),
            MofNCompleteColumn(),
            QuestionRate(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[money]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, state="[yellow]asking", money="", reused=0)

    def __call__(self, progress: BatchProgress) -> None:
        """Show the progress: yellow while running, green when done, red once something failed."""
        colour = "green" if progress.done == progress.total else "yellow"
        state = f"[{colour}]{progress.answered} answered"
        if progress.failed:
            state = f"[red]{progress.answered} answered, {progress.failed} failed"
        cost = cost_text(progress.cost)
        self._progress.update(
            self._task, total=progress.total, completed=progress.done, state=state, money=cost, reused=progress.reused
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


_DOING = {
    "probe": "looking at the inputs",
    "step": "thinking",
    "code": "running code",
    "output": "thinking",
    "sub_call": "asking the sub-model",
    "final": "finishing",
}


def status_line(event: Event | None, seconds: float, waiting: str = "") -> str:
    """Return the line for the latest event (None before the first), or for the current wait."""
    if event is None:
        return f"{waiting or 'loading'} · {seconds:.0f} s"
    parts = [waiting or _DOING.get(event.kind, event.kind)]
    if event.max_steps > 1:
        parts.append(f"step {min(event.step, event.max_steps)}/{event.max_steps}")
    parts.append(counted_noun(event.sub_calls, "sub-call"))
    parts.append(counted_noun(event.usage.total_tokens, "token"))
    parts.append(cost_text(event.usage.cost))
    parts.append(f"{seconds:.0f} s")
    return " · ".join(parts)


_HIT = re.compile(r"(?:\S+:)?\d+: ")  # how the toolkit prints a hit: its file, its line


def step_line(event: Event, width: int) -> str:
    """Return the line for a finished step: the model's plan, the outcome, the seconds and the tokens.

    Args:
        event: the step's ``output`` event.
        width: columns of the terminal; the plan is cut to fit.
    """
    spent = counted_noun(event.step_usage.total_tokens, "token")
    head, rest = f"{event.step:>2}  ", f"{event.seconds:.1f} s · {spent}"
    outcome_cells = width - cell_len(f"{head} ·  · {rest}") - MIN_PLAN_CELLS
    outcome = cut_cells(_outcome_text(event), max(MIN_ERROR_CELLS, outcome_cells))
    facts = f"{outcome} · {rest}"
    plan_cells = width - cell_len(f"{head} · {facts}")
    return f"{head}{cut_cells(_plan_text(event), max(MIN_PLAN_CELLS, plan_cells))} · {facts}"


def _plan_text(event: Event) -> str:
    """Return the first sentence of the model's reasoning, or the first line of its code, on one line."""
    words = " ".join(event.reasoning.split())
    sentence = re.match(r".{20,}?[.!?:](?=\s|$)", words)
    if words:
        return (sentence.group() if sentence else words).rstrip(".:")
    return next((line.strip() for line in event.text.splitlines() if line.strip()), "(no words)")


def _outcome_text(event: Event) -> str:
    if event.error:
        return cut_cells(error_text(event.error).splitlines()[0], MAX_ERROR_CELLS)
    lines = [line for line in event.text.splitlines() if line.strip()]
    last_line = lines[-1] if lines else ""
    if event.text.startswith("FINAL: ") or last_line.startswith("FINAL: "):
        return "answered"
    hits = sum(bool(_HIT.match(line)) for line in lines)
    if hits and 2 * hits >= len(lines):
        return counted_noun(hits, "hit")
    if lines:
        return counted_noun(len(lines), "line")
    return "no output"


def cut_cells(text: str, width: int) -> str:
    """Return a text cut to a number of terminal columns, with an ellipsis if it was longer."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, width - 1).rstrip()}…"


class StatusLine:
    """A context manager that shows each finished step as a line, and the latest event below; call it with each event.

    Thread-safe. Shows nothing unless the output is a terminal; the status line itself disappears at the end.

    Args:
        console: the console to print to; stderr by default.
        clock: returns seconds.
        clean: masks secrets and control characters in a text before it is shown.
        answer: the name of the output that is shown while it arrives.
    """

    def __init__(
        self,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        clean: Callable[[str], str] = printable_text,
        answer: str = "answer",
    ) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._clean = clean
        self._answer = answer
        self._started = clock()
        self._event: Event | None = None
        self._waiting = ("", 0.0)
        self._text = ""  # of the reply that is arriving
        self._spinner = Spinner("dots")
        self._live: Live | None = None

    @property
    def wants_text(self) -> bool:
        """Whether to stream replies: only a terminal shows them as they arrive."""
        return self._live is not None

    def __call__(self, event: Event) -> None:
        """Show an event; a child's steps do not replace those of the root run."""
        if event.kind == "text":
            if event.text:
                self._text += event.text
            else:  # another reply begins
                self._text = ""
            return
        if event.kind == "wait":
            self._waiting = (event.text, self._clock() + event.seconds)
            return
        if event.kind == "output" and not event.depth and self._live:
            self.note(step_line(event.model_copy(update=self._cleaned_texts(event)), self._console.width))
        if event.depth and self._event is not None:
            event = self._event.model_copy(update={"usage": event.usage, "sub_calls": event.sub_calls})
        self._event = event

    def _cleaned_texts(self, event: Event) -> dict[str, str]:
        cleaned: dict[str, str] = {}
        for name in ("text", "reasoning", "error"):
            if text := getattr(event, name):
                cleaned[name] = self._clean(text)
        return cleaned

    def note(self, text: str) -> None:
        """Print a text above the status line, or on its own if no status line is shown."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._updated_spinner, console=self._console, transient=True, refresh_per_second=8
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def line(self) -> str:
        """Return the current line; a wait counts down in it."""
        now = self._clock()
        provider, until = self._waiting
        if until > now:
            waiting = f"waiting {until - now:.0f} s for {provider}"
        else:
            waiting = ""
        return status_line(self._event, now - self._started, waiting)

    def _updated_spinner(self) -> Group | Spinner:
        text = Text(self.line(), no_wrap=True, overflow="ellipsis")
        self._spinner.update(text=text)
        answer = self._clean(answer_so_far(self._text, self._answer))
        if not answer:
            return self._spinner
        lines = Text(answer).wrap(self._console, self._console.width)[-MAX_ANSWER_LINES:]
        return Group(*lines, self._spinner)
