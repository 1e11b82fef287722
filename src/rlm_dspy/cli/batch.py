"""The command ``batch``: answer a file of questions, show progress, and report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rlm_dspy.cli import exit_codes, input_paths, logs, out_option, settings
from rlm_dspy.cli.interrupts import Interrupts
from rlm_dspy.cli.own_outputs import BESIDE_PATTERNS, is_output_or_beside, remember_output
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import CorpusError
from rlm_dspy.report import json_output, render

QUESTION_FORMAT = 'Each line is {"question": "…", "id": …} or "…".'


@dataclass(frozen=True)
class BatchRequest:
    """The arguments of the command line."""

    questions: str
    paths: tuple[str, ...]
    answers: Path
    resume: bool
    concurrency: int | None
    provider_batch: bool
    deadline: float | None
    flags: Mapping[str, Any]
    choice: Mapping[str, Any]
    fields: str
    as_json: bool
    log_json: bool


def answer_all(request: BatchRequest, terminal: Terminal) -> int:
    """Answer all questions and return the exit code."""
    loaded = settings.load_for(terminal, request.flags)
    logs.configure(terminal, request.log_json)
    out_option.output_names(request.fields)
    if not request.paths:
        raise click.UsageError("Missing PATH: name the files or folders to answer from.")
    questions = list(read_questions(request.questions))
    corpus = _read_corpus(request)
    input_paths.note_unused_excludes(corpus, request.choice, terminal)
    settings.export_for(loaded, terminal)
    report = _run_batch(request, terminal, loaded.settings, corpus, questions)
    logs.configure(terminal, request.log_json)
    return _print_report(report, request, terminal)


def _read_corpus(request: BatchRequest) -> Corpus:
    """Read the paths, excluding the files of questions and answers (answers would change the corpus)."""
    answers = request.answers.resolve()
    named = [path for path in request.paths if not is_output_or_beside(Path(path).resolve(), answers)]
    leave = input_paths.leaving_out(answers, named)
    leave += [f"{pattern}{beside}" for pattern in leave for beside in BESIDE_PATTERNS]
    if request.questions != "-":
        leave += input_paths.leaving_out(Path(request.questions), named)
    return input_paths.read(named, {**request.choice, "exclude": (*request.choice["exclude"], *leave)})


def read_questions(place: str) -> Iterator[dict[str, Any]]:
    """Yield the questions of a JSONL file (``-`` is stdin).

    Raises:
        CorpusError: the file cannot be read, or a line is not a question.
    """
    try:
        if place == "-":
            data = sys.stdin.buffer.read()
        else:
            data = Path(place).read_bytes()
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise CorpusError(f"{place} cannot be read: {error.strerror}. Name a JSONL file of questions.") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{place} is not UTF-8 (at byte {error.start}). Save it as UTF-8.") from error
    has_question = False
    for number, line in enumerate(lines, 1):
        if line.strip():
            has_question = True
            yield _parse_question(line, f"{place}:{number}")
    if not has_question:
        raise CorpusError(f"{place} contains no questions. {QUESTION_FORMAT}")


def _parse_question(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
        row = {"question": value} if isinstance(value, str) else value
        text = row["question"]
        text.encode()
    except (TypeError, KeyError, AttributeError, UnicodeEncodeError) as error:
        raise CorpusError(f"{where} is not a question. {QUESTION_FORMAT}") from error
    except (ValueError, RecursionError) as error:  # also for numbers that are too long and nesting that is too deep
        reason = getattr(error, "msg", str(error))
        raise CorpusError(f"{where} is not JSON: {reason}. {QUESTION_FORMAT}") from error
    if not text.strip():
        raise CorpusError(f"{where}: the question is empty. {QUESTION_FORMAT}")
    return {"question": text, "id": row.get("id")}


def _run_batch(
    request: BatchRequest,
    terminal: Terminal,
    values: settings.Settings,
    corpus: Corpus,
    questions: list[dict[str, Any]],
) -> Any:
    """Run the batch with one LM for all questions; DSPy is imported here."""
    from rlm_dspy.batch import Answers, Program
    from rlm_dspy.cli import model_choice

    # Again, because DSPy configures logging on import.
    logs.configure(terminal, request.log_json)
    chosen = model_choice.choose_and_note(values, terminal)
    budget = values.budget.model_copy(update={"max_cost": None})  # which is for the whole batch
    signature = out_option.ask_signature(request.fields)
    program = Program(
        signature, corpus, chosen.lm, chosen.sub_lm, values.mode, direct_tokens=values.direct_tokens, budget=budget
    )
    answers = Answers(request.answers, resume=request.resume, redactor=terminal.redactor)
    remember_output(request.answers)  # not before: a file of somebody else is refused
    with closing(answers), _show_progress(request, terminal) as bar:
        prepared = _PreparedBatch(request, terminal, program, answers, questions, values.max_cost, bar)
        if request.provider_batch:
            report = prepared.ask_in_waves()
        else:
            report = prepared.ask_directly()
    if answers.backup:
        terminal.note(f"{request.answers} had rows of other questions, files or settings; copied to {answers.backup}")
    return report


@dataclass(frozen=True)
class _PreparedBatch:
    """A batch whose questions can be asked."""

    request: BatchRequest
    terminal: Terminal
    program: Any
    answers: Any
    questions: list[dict[str, Any]]
    max_cost: float | None
    bar: Any

    def ask_directly(self) -> Any:
        """Run the batch with ordinary calls."""
        from rlm_dspy.batch import waves_path
        from rlm_dspy.cli.provider_batches import check_no_waves

        check_no_waves(waves_path(self.answers.path))
        batch = self._make_batch()
        line = "Finishing the questions in flight; Ctrl-C again stops at once."
        with Interrupts(batch.stop, lambda: self._note(line)):
            return batch.run(self.questions)

    def ask_in_waves(self) -> Any:
        """Show the plan, and run the batch with provider batches."""
        from rlm_dspy.batch import make_plan, waves_path
        from rlm_dspy.batch.plan import CONCURRENCY
        from rlm_dspy.cli.provider_batches import WaveInterrupts, make_waves

        waves = make_waves(waves_path(self.answers.path), self.request.deadline, self._note)
        batch = self._make_batch(waves)
        questions = len({item["question"] for item in self.questions})
        self._note(make_plan(self.program, questions, concurrency=self.request.concurrency or CONCURRENCY).text)
        with WaveInterrupts(waves, self._note, "repeat the command with --resume", batch.stop):
            report = batch.run(self.questions)
        if waves.strange_batches:
            names = ", ".join(waves.strange_batches)
            self.terminal.note(
                f"{waves.journal.path} has open batches of another model: {names}. Use it to get their results."
            )
        return report

    def _make_batch(self, waves: Any = False) -> Any:
        from rlm_dspy.batch import Batch

        return Batch(
            self.program,
            out=self.answers,
            concurrency=self.request.concurrency,
            max_cost=self.max_cost,
            on_progress=self.bar,
            provider_batch=waves,
        )

    def _note(self, line: str) -> None:
        if not self.terminal.quiet:
            self.bar.note(line)


@contextmanager
def _show_progress(request: BatchRequest, terminal: Terminal) -> Iterator[Any]:
    from rich.console import Console

    from rlm_dspy.report.live import Bar

    silent = terminal.quiet or terminal.verbose or request.log_json
    with Bar(Console(file=sys.stderr, force_terminal=False) if silent else None) as bar:
        yield bar


def _print_report(report: Any, request: BatchRequest, terminal: Terminal) -> int:
    """Print the report and return the exit code."""
    for row in report.failed[:20]:
        name = row["question"] if row["id"] is None else str(row["id"])
        terminal.note(f"failed: {render.quoted_line(name, 80)}: {' '.join(row['error']['message'].split())[:300]}")
    if len(report.failed) > 20:
        terminal.note(f"… and {len(report.failed) - 20:,} more; see the rows of {request.answers}.")
    facts = {
        "questions": len(report.rows),
        "answered": report.answered,
        "not_found": report.not_found,
        "failed": len(report.failed),
        "success_rate": round(report.success_rate, 4),
        "reused": report.reused,
        "cost": report.cost,
        "seconds": round(report.seconds, 3),
        "stopped_by": report.stopped_by,
    }
    if report.unsaved:
        terminal.error(f"{report.disk_error}. The rows that could not be saved are on stdout: {len(report.unsaved):,}.")
        facts["unsaved"] = report.unsaved
    if request.as_json:
        terminal.answer_json(facts, indent=None)
    else:
        parts = [
            f"{report.answered:,} of {counted_noun(len(report.rows), 'question')} answered",
            f"{report.success_rate:.1%}",
        ]
        if report.not_found:
            parts.append(f"{report.not_found:,} of them found nothing")
        parts += [f"{report.reused:,} reused", render.cost_text(report.cost), f"{report.seconds:.1f} s"]
        terminal.note(" · ".join(parts))
        for row in report.unsaved:
            terminal.answer(json_output.redacted_json(row, terminal.redactor))
    if report.disk_error and not report.unsaved:
        terminal.error(f"{report.disk_error}.")
    elif report.disk_error:
        terminal.error("Free some disk space and repeat the command with --resume; finished calls are not repeated.")
    elif report.stopped_by:
        reason = {"stop": "Ctrl-C", "max_cost": "--max-cost"}.get(report.stopped_by, report.stopped_by)
        first = ""
        if any(row["error"]["type"] == report.stopped_by for row in report.failed):
            reason, first = "the error above", "fix it, then "
        terminal.error(f"stopped by {reason}; {first}repeat the command with --resume for the remaining questions.")
    return _exit_code(report)


def _exit_code(report: Any) -> int:
    if report.stopped_by == "stop":
        return exit_codes.INTERRUPTED
    if report.stopped_by == "max_cost":
        return exit_codes.BUDGET
    if not report.failed and not report.disk_error:
        return exit_codes.ANSWERED
    kinds = {row["error"]["type"] for row in report.failed} - {"NotAsked"}
    if len(kinds) == 1 and not report.answered:
        return exit_codes.code_of(kinds.pop())
    return exit_codes.FAILED
