"""The command ``eval``: the questions, the sides, the journal, the report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rlm_dspy.batch import waves_path
from rlm_dspy.batch.plan import plan_calls, plan_runs
from rlm_dspy.batch.provider_batch import CALLS_AT_ONCE, RUNS_AT_ONCE, SUB_CALLS_AT_ONCE
from rlm_dspy.budget import Budget
from rlm_dspy.cli import exit_codes, model_choice, provider_batches, settings
from rlm_dspy.cli.options import check_writable, find_metric
from rlm_dspy.cli.own_outputs import check_replaceable, remember_output
from rlm_dspy.cli.program_source import find_program
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms.provider_batches import Waves, batched_lm
from rlm_dspy.report import render
from rlm_dspy.tuning import contenders, data, metrics
from rlm_dspy.tuning.evaluation import Evaluation, Row
from rlm_dspy.tuning.report import eval_page, figures, page_parts
from rlm_dspy.tuning.report.figure_tables import differences, figure_cells, score_bar, task_cells


@dataclass(frozen=True)
class EvalRequest:
    """The arguments of the command line."""

    data: Path
    flags: Mapping[str, Any]
    compare: str
    program: str | None
    metric: str
    limit: int | None
    threads: int
    provider_batch: bool
    deadline: float | None
    as_json: bool
    html: Path | None
    journal: Path | None
    fresh: bool


def run(request: EvalRequest, terminal: Terminal) -> int:
    """Evaluate, print, and return the exit code."""
    chosen_metric = find_metric(request.metric)
    examples = data.load(request.data, limit=request.limit)
    metrics.check_answers(examples, request.metric)
    values, chosen = model_choice.prepare_model(request.flags, terminal)
    check_writable(request.html, "--html")
    check_replaceable(request.html, "--html")
    check_writable(request.journal, "--journal")
    runs = _runs_folder(request)
    names = list(dict.fromkeys(name.strip() for name in request.compare.split(",") if name.strip()))
    if not names:
        raise click.UsageError(f"--compare is empty; choose from {', '.join(contenders.CONTENDER_NAMES)}.")
    if request.program and "rlm" not in names:
        raise click.UsageError("--program applies to the side rlm; add rlm to --compare.")
    program = find_program(request.program, values.home, terminal) if request.program else None
    place = request.journal or values.home / "eval" / f"{request.data.stem}.jsonl"
    if request.fresh:
        chosen = chosen.with_lms(lambda lm: lm.copy(cache=False))
    waves = _make_waves(request, values, place, terminal)
    budget = values.budget
    if waves is not None:
        terminal.note(_plan_text(names, chosen, examples))
        chosen = chosen.with_lms(lambda lm: batched_lm(lm, waves))
        budget = budget.model_copy(update={"max_concurrency": SUB_CALLS_AT_ONCE})
    asked = [_make_contender(name, program, budget, chosen) for name in names]
    for side in asked:
        if side.note:
            terminal.note(f"{side.note}.")
    identity = _row_identity(program, values, chosen)
    for written in filter(None, (place, runs)):
        remember_output(written)
    progress = EvalProgress(terminal, len(examples) * len(asked))
    evaluation = Evaluation(
        examples,
        chosen_metric,
        journal=place,
        threads=_threads(request, names),
        on_row=progress,
        identity=identity,
        redactor=terminal.redactor,
        runs=runs,
        asking=None if waves is None else waves.asking,
        fresh=request.fresh,
    )
    rows, was_interrupted = _ask_all(evaluation, asked, chosen, waves, terminal)
    progress.close()
    if evaluation.resumed:
        terminal.note(f"{evaluation.resumed} of {len(rows)} rows were reused from {place} (--fresh asks them again).")
    if strangers := _fallback_notice(rows, chosen):
        terminal.note(strangers)
    if cached := _cache_notice(rows):
        terminal.note(cached)
    code = _print_report(request, terminal, rows, chosen.name)
    facts = _page_facts(request, values, chosen, len(examples))
    if request.html and not _write_page(request.html, terminal, rows, facts, runs):
        return exit_codes.FAILED
    return exit_codes.INTERRUPTED if was_interrupted else code


def _make_waves(request: EvalRequest, values: settings.Settings, place: Path, terminal: Terminal) -> Waves | None:
    """Return what collects the calls for provider batches, with its journal next to the rows' journal."""
    where = waves_path(place)
    if not request.provider_batch:
        provider_batches.check_no_waves(where)
        return None
    if values.budget.max_seconds is not None:
        raise ConfigurationError("max_seconds ends a question before a provider batch does; use --deadline instead")
    where.parent.mkdir(parents=True, exist_ok=True)
    return provider_batches.make_waves(where, request.deadline, terminal.note)


def _threads(request: EvalRequest, names: list[str]) -> int:
    """Return how many questions to ask at once: in provider batches as many as may wait together."""
    if not request.provider_batch:
        return request.threads
    one_call = {"direct", "retrieve"}
    return max(request.threads, CALLS_AT_ONCE if set(names) <= one_call else RUNS_AT_ONCE)


def _plan_text(names: list[str], chosen: model_choice.ChosenModels, examples: list[Any]) -> str:
    """Return what each side would cost in batches and in ordinary calls."""
    contexts = [example.get("context") or "" for example in examples]
    chars = sum(getattr(one, "chars", len(one)) for one in contexts) // len(contexts)
    digests = {str(getattr(one, "digest", one)) for one in contexts}
    lines = []
    for name in names:
        if name == "direct":
            plan = plan_calls(chosen.name, len(examples), chars, is_shared=len(digests) == 1)
        elif name == "retrieve":
            plan = plan_calls(chosen.name, len(examples), 0)
        else:
            plan = plan_runs(chosen.name, len(examples))
        lines.append(f"{name}: {plan.text}")
    return "\n".join(lines)


def _ask_all(
    evaluation: Evaluation,
    asked: list[contenders.Contender],
    chosen: model_choice.ChosenModels,
    waves: Waves | None,
    terminal: Terminal,
) -> tuple[list[Row], bool]:
    """Return the rows, and whether Ctrl-C ended the wait for provider batches."""
    with chosen.active():
        if waves is None:
            return evaluation.run(asked), False
        rows: list[Row] = []
        try:
            with provider_batches.WaveInterrupts(waves, terminal.note, "repeat the command") as interrupts:
                rows = evaluation.run(asked)
        finally:
            waves.close(forget=bool(rows) and all(row.status != "failed" for row in rows))
        return rows, interrupts.was_interrupted


def _make_contender(
    name: str, program: Path | None, budget: Budget, chosen: model_choice.ChosenModels
) -> contenders.Contender:
    path = program if name == "rlm" else None
    return contenders.make_contender(name, budget, sub_lm=chosen.sub_lm, path=path)


def _row_identity(program: Path | None, values: settings.Settings, chosen: model_choice.ChosenModels) -> str:
    """Return what a row depends on besides side, metric and example."""
    text = program.read_text(encoding="utf-8") if program else ""
    sub = chosen.sub_lm.model if chosen.sub_lm else ""
    sampling = [] if values.temperature is None else [values.temperature]
    return json.dumps([chosen.name, sub, values.budget.model_dump(exclude_defaults=True), text, *sampling])


class EvalProgress:
    """Counts rows on one line of a terminal; silent if there is no terminal."""

    def __init__(self, terminal: Terminal, total: int) -> None:
        self.live = sys.stderr.isatty() and not terminal.quiet and not terminal.verbose
        self.total = total
        self.done = 0
        self.score = 0.0

    def __call__(self, row: Row) -> None:
        self.done += 1
        self.score += row.score
        if self.live:
            mean = self.score / self.done
            print(f"\r{self.done}/{self.total} {score_bar(mean)} {mean:.2f}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Clear the line."""
        if self.live and self.done:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _fallback_notice(rows: list[Row], chosen: model_choice.ChosenModels) -> str:
    """Return a note on how many questions a fallback answered, fully or in part; empty if none."""
    asked = {chosen.name}
    if chosen.sub_lm:
        asked.add(chosen.sub_lm.model)
    mixed = [set(row.models) - asked for row in rows if set(row.models) - asked]
    if not mixed:
        return ""
    names = " and ".join(sorted(set().union(*mixed)))
    return f"{len(mixed)} of {len(rows)} questions were answered by {names}: the score is not that of {chosen.name}."


def _cache_notice(rows: list[Row]) -> str:
    """Return a note on how many calls DSPy's cache answered; empty if none."""
    cached = sum(row.cached_calls for row in rows)
    if not cached:
        return ""
    return (
        f"{cached} of {sum(row.calls for row in rows)} calls were answered by DSPy's cache: they add nothing to tokens "
        "and cost, and the times are not those of a model (--fresh asks again)."
    )


def _print_report(request: EvalRequest, terminal: Terminal, rows: list[Row], model: str) -> int:
    by_side = figures.compare_sides(rows)
    if request.as_json:
        whole: dict[str, Any] = {"data": str(request.data), "model": model, "metric": request.metric, "sides": by_side}
        whole["rows"] = [row.model_dump() for row in rows]
        terminal.answer_json(whole)
    else:
        terminal.answer(
            "\n".join(render.table_lines(figure_cells(by_side), right=frozenset(range(1, len(by_side) + 1))))
        )
        if by := task_cells(by_side):
            terminal.answer("\n" + "\n".join(render.table_lines(by, right=frozenset(range(1, len(by_side) + 1)))))
        for line in differences(by_side):
            terminal.answer(f"\n{line}")
    for status, ended in (("failed", "failed"), ("stopped", "ended without an answer")):
        matching = [row for row in rows if row.status == status]
        if matching:
            terminal.error(
                f"{len(matching)} of {len(rows)} questions {ended}; the first, {matching[0].id}: {matching[0].error}"
            )
    has_answer = any(row.status in ("submitted", "extracted") for row in rows)
    if has_answer:
        return exit_codes.ANSWERED
    return exit_codes.FAILED


def _runs_folder(request: EvalRequest) -> Path | None:
    """Return the folder beside the page for the records of the runs, if there is to be a page that is a file.

    Raises:
        click.UsageError: there is a file of that name.
    """
    folder = eval_page.runs_folder(request.html) if request.html else None
    if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
        raise click.UsageError(f"--html {request.html}: the runs go to {folder}, which is a file; use another name.")
    return folder


def _page_facts(
    request: EvalRequest, values: settings.Settings, chosen: model_choice.ChosenModels, questions: int
) -> dict[str, str]:
    """Return the facts for the head of the page."""
    limits = values.budget.model_dump(exclude_none=True)
    return {
        "date": page_parts.time_stamp(),
        "model": chosen.name,
        "sub-call model": chosen.sub_lm.model if chosen.sub_lm else "",
        "fallback": values.fallback or "",
        "temperature": "" if values.temperature is None else f"{values.temperature:g}",
        "program": str(request.program or ""),
        "data": str(request.data),
        "questions": f"{questions:,}",
        "metric": request.metric,
        "limits per question": ", ".join(f"{name.replace('_', '-')} {value:,}" for name, value in limits.items()),
        "threads": str(request.threads),
        "seed of the intervals": "0",
        "versions": page_parts.package_versions(),
    }


def _write_page(page: Path, terminal: Terminal, rows: list[Row], facts: dict[str, str], runs: Path | None) -> bool:
    """Write the page with secrets masked, and return whether that worked."""
    links = eval_page.find_run_links(rows, runs) if runs else {}
    clean = [Row.model_validate(terminal.redactor.value(row.model_dump())) for row in rows]
    title = f"{Path(facts['data']).name} · {facts['model']} · {facts['metric']}"
    text = eval_page.report_page(
        terminal.redactor.text(title), clean, facts=terminal.redactor.value(facts), run_links=links
    )
    try:
        page.write_text(text, encoding="utf-8")
        remember_output(page)
    except OSError as error:
        terminal.error(f"{page} cannot be written: {error.strerror}")
        return False
    if links:
        terminal.note(f"{page}, and {counted_noun(len(links), 'run')} in {runs}")
    return True
