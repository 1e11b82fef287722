"""The command ``optimize``: the questions, the plan, the confirmation, the run, the report."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import click
import dspy

from rlm_dspy import lms
from rlm_dspy.cli import exit_codes, model_choice, settings
from rlm_dspy.cli.options import find_metric
from rlm_dspy.cli.own_outputs import remember_output
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms.model_list import check_name
from rlm_dspy.metering import token_cost
from rlm_dspy.report import json_output
from rlm_dspy.tuning import contenders, data, metrics, optimization, program_folder
from rlm_dspy.tuning.metered_engine import FAILURES, FINISHED
from rlm_dspy.tuning.report import figure_tables, optimize_page
from rlm_dspy.tuning.report.outcome import failure_lines, outcome_report, report_markdown


@dataclass(frozen=True)
class OptimizeRequest:
    """The arguments of the command line."""

    data: Path
    flags: Mapping[str, Any]
    optimizer: str
    max_calls: int
    max_cost: float | None
    val: Path | None
    test: Path | None
    limit: int | None
    prompt_model: str | None
    metric: str
    threads: int
    seed: int
    out: Path | None
    resume: bool
    yes: bool
    as_json: bool

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.out or Path(f"{self.data.stem}-{self.optimizer}")


def run(request: OptimizeRequest, terminal: Terminal) -> int:
    """Plan, confirm, optimize, report, and return the exit code."""
    metric = find_metric(request.metric)
    if request.max_cost is not None and not request.max_cost > 0:
        raise click.UsageError("--max-cost must be greater than 0.")
    if request.prompt_model and request.optimizer == "bootstrap":
        message = "--prompt-model does nothing with --optimizer bootstrap, which proposes no instructions."
        raise click.UsageError(message)
    required = optimization.OPTIMIZERS[request.optimizer].required_modules
    missing = [name for name in required if util.find_spec(name) is None]
    if missing:
        raise click.UsageError(
            f"--optimizer {request.optimizer} needs {' and '.join(missing)}: pip install {' '.join(missing)}."
        )
    train, val, test = split_questions(request)
    # A fallback's replies would be cached and scored as the model's.
    values, chosen = model_choice.prepare_model(request.flags, terminal, fallback=False)
    if request.prompt_model:
        check_name(request.prompt_model)
    job = optimization.OptimizationJob(
        optimizer=request.optimizer,
        train=train,
        val=val,
        test=test,
        metric=metric,
        lm=chosen.lm,
        folder=request.folder,
        max_calls=request.max_calls,
        max_cost=request.max_cost,
        prompt_lm=lms.lm(request.prompt_model) if request.prompt_model else None,
        sub_lm=chosen.sub_lm,
        budget=values.budget,
        threads=request.threads,
        seed=request.seed,
        redactor=terminal.redactor,
    )
    plan = optimization.plan_for(job, rate_of(request, values, chosen))
    for line in plan.lines(request.max_cost, per_minute(chosen.lm), request.threads):
        terminal.note(line)
    for lm in filter(None, (job.lm, job.prompt_lm, job.sub_lm)):
        if request.max_cost is not None and token_cost(lm.model, 1, 1) is None:
            terminal.note(f"the price of {lm.model} is unknown, so only --max-calls limits it, not --max-cost.")
    if not confirm_spending(request):
        terminal.note("cancelled; nothing was spent.")
        return exit_codes.FAILED
    is_new = not os.path.exists(job.folder)
    optimizing = optimization.Optimization(job, plan, resume=request.resume, say=terminal.note)
    if is_new:  # an existing folder may hold the user's own files
        remember_output(job.folder)
    if optimizing.shared_budget.calls:
        terminal.note(
            f"resuming: {counted_noun(optimizing.shared_budget.calls, 'call')} already paid for, not repeated."
        )
    return write_reports(request, terminal, job, optimizing.run())


def split_questions(request: OptimizeRequest) -> list[list[dspy.Example]]:
    """Return the training, validation and test sets; no question is in two of them.

    Raises:
        ConfigurationError: there are too few questions, a question is in two sets, or an answer cannot be scored.
    """
    rows = data.load(request.data, limit=request.limit)
    val = _load_part("val", request.val, request) if request.val else None
    test = _load_part("test", request.test, request) if request.test else None
    shares = {(False, False): (0.4, 0.3, 0.3), (True, False): (0.6, 0.4), (False, True): (0.5, 0.5), (True, True): (1,)}
    metrics.check_answers([*rows, *(val or ()), *(test or ())], request.metric)
    own = iter(data.split(rows, shares[val is not None, test is not None], seed=request.seed))
    parts = [next(own)]
    parts.append(next(own) if val is None else val)
    parts.append(next(own) if test is None else test)
    seen: dict[str, tuple[str, str]] = {}
    for name, part in zip(("train", "val", "test"), parts, strict=True):
        for example in part:
            for key in (str(example.id), data.inputs_key(example)):
                other, known = seen.setdefault(key, (name, str(example.id)))
                if other != name:
                    same = "" if known == str(example.id) else f", as {known},"
                    raise ConfigurationError(f"question {example.id} is in {name} and{same} in {other} too")
    return parts


def _load_part(name: str, path: Path, request: OptimizeRequest) -> list[dspy.Example]:
    """Return the questions of a set; generated ids begin with its name if another file has the same stem."""
    others = [
        other for other in (request.data, request.val, request.test) if other and other.resolve() != path.resolve()
    ]
    is_shared = path.stem in [other.stem for other in others]
    return data.load(path, limit=request.limit, prefix=f"{name}-{path.stem}" if is_shared else "")


def rate_of(
    request: OptimizeRequest, values: settings.Settings, chosen: model_choice.ChosenModels
) -> optimization.UsageRate:
    """Return the usage per question, as measured by this optimization or an evaluation of the same data."""
    for place in (request.folder / "before.jsonl", values.home / "eval" / f"{request.data.stem}.jsonl"):
        rate = optimization.measured_rate(place, chosen.name)
        if rate.measured:
            return rate
    return optimization.UsageRate()


def per_minute(lm: Any) -> int | None:
    """Return the rate limit of a model, if it is known."""
    route = getattr(lm.engine, "route", None)
    return getattr(route, "requests_per_minute", None)


def confirm_spending(request: OptimizeRequest) -> bool:
    """Ask for confirmation before spending, if on a terminal."""
    if request.yes or not sys.stdin.isatty() or not sys.stderr.isatty():
        return True
    return click.confirm("Continue?", default=True, err=True)


def write_reports(
    request: OptimizeRequest, terminal: Terminal, job: optimization.OptimizationJob, outcome: optimization.Outcome
) -> int:
    """Write the reports and print the result."""
    result = outcome_report(job, outcome)
    clean = terminal.redactor
    (job.folder / "report.json").write_text(json_output.redacted_json(result, clean, indent=2) + "\n", encoding="utf-8")
    (job.folder / "report.md").write_text(clean.text(report_markdown(result)), encoding="utf-8")
    page = optimize_page.outcome_page(clean.value(result), data=clean.text(str(request.data)))
    (job.folder / "report.html").write_text(page, encoding="utf-8")
    (job.folder / program_folder.CARD).write_text(clean.text(card_of(request, result, outcome)), encoding="utf-8")
    if request.as_json:
        terminal.answer_json({**result, "folder": str(job.folder)})
    else:
        for line in result_lines(result):
            terminal.answer(line)
    terminal.note(f"{job.folder}/program.json, card.md, report.html, report.md, report.json, log.txt")
    everything: Sequence[Any] = [*outcome.before, *outcome.after]
    failed = [row for row in everything if row.status == "failed"]
    if failed and len(failed) == len(everything):
        terminal.error(f"every question failed; the first: {failed[0].error}")
        return exit_codes.FAILED
    for line in failure_lines(result):
        terminal.note(f"warning: {line}")
    if outcome.ended == FAILURES:
        terminal.note("stopped, because too many questions failed; continue with --resume.")
        return exit_codes.FAILED
    if outcome.ended != FINISHED:
        terminal.note(f"stopped by {outcome.ended}; continue with --resume and a higher limit.")
        return exit_codes.BUDGET
    return exit_codes.ANSWERED


def card_of(request: OptimizeRequest, result: dict[str, Any], outcome: optimization.Outcome) -> str:
    """Return the card of the program."""
    signature = contenders.signature()
    asked: Any = getattr(outcome.program, "signature", signature)
    digest = hashlib.sha256(request.data.read_bytes()).hexdigest()
    return program_folder.card_text(
        result, task=str(signature.instructions), signature=asked.signature, data_digest=digest
    )


def result_lines(result: dict[str, Any]) -> list[str]:
    """Return the result as three lines."""
    if result["cost"] is None:
        cost = "unknown cost"
    else:
        cost = f"${result['cost']:.4f}"
    return [
        *(f"{name}  {figure_tables.score_interval_text(result[name])}" for name in ("before", "after")),
        f"gain    {figure_tables.gain_text(result['gain'])}; {counted_noun(result['calls'], 'call')}, {cost}",
    ]
