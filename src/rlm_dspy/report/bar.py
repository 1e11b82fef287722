"""The progress bar of a batch, on stderr, and only on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from rlm_dspy.report.render import money

if TYPE_CHECKING:
    from rlm_dspy.batch import Progress as Reached


class Rate(ProgressColumn):
    """Questions per minute so far, those from the file not counted."""

    def render(self, task: Task) -> Text:
        """Return the rate, or a dash before the first question is over."""
        asked = task.completed - task.fields["reused"]
        seconds = task.elapsed or 0.0
        return Text(f"{60 * asked / seconds:,.1f}/min" if asked > 0 and seconds > 0 else "-/min")


class Bar:
    """Shows answered, failed, rate, time left and cost while it is entered; call it with each progress."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[state]}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[money]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, state="[yellow]asking", money="", reused=0)

    def __call__(self, reached: Reached) -> None:
        """Show how far the batch is: yellow while it runs, green when done, red once something failed."""
        colour = "red" if reached.failed else "green" if reached.done == reached.total else "yellow"
        state = f"[{colour}]{reached.answered} answered" + (f", {reached.failed} failed" if reached.failed else "")
        cost = money(reached.cost)
        self._progress.update(
            self._task, total=reached.total, completed=reached.done, state=state, money=cost, reused=reached.reused
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
