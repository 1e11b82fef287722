"""One question of ``ask`` or ``chat``: estimate its cost, answer it, print and save the run."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rlm_dspy.cli import exit_codes, input_paths, model_choice, out_option, resume, settings
from rlm_dspy.cli.ask_request import AskRequest
from rlm_dspy.cli.interrupts import Interrupts
from rlm_dspy.cli.notices import note_daily
from rlm_dspy.cli.own_outputs import remember_output
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import counted_noun, estimate_tokens
from rlm_dspy.errors import BudgetExceededError, RLMError
from rlm_dspy.evidence.absence import is_miss
from rlm_dspy.lms.replay_engine import replaying_lm
from rlm_dspy.metering import token_cost
from rlm_dspy.replay import REPLAY, Replay
from rlm_dspy.report import json_output, live, render
from rlm_dspy.report.events import EventLines
from rlm_dspy.report.render import jsonable
from rlm_dspy.report.run_log import RunLog
from rlm_dspy.report.run_store import RunStore
from rlm_dspy.rlm.answerer import Answerer
from rlm_dspy.rlm.mcp_tools import mcp_tools
from rlm_dspy.rlm.modes import (
    OUTPUT_TOKENS,
    PASSAGES_TOKENS,
    PROTOCOL_TOKENS,
    REPLY_TOKENS,
    SUB_PROMPT_TOKENS,
    USUAL_STEPS,
    asks_about_all,
)
from rlm_dspy.rlm.module import RLM
from rlm_dspy.rlm.submit_checks import OFFLINE_ANSWER, OFFLINE_PASSAGES
from rlm_dspy.run import Event, Run
from rlm_dspy.safe_files import entry_error
from rlm_dspy.spans import listening
from rlm_dspy.tuning import program


def estimated_facts(corpus: Corpus, mode: str, model: str, *, max_iters: int, max_calls: int) -> dict[str, Any]:
    """Return files, tokens, mode and model, and the calls and cost of a typical question, low and high."""
    size = estimate_tokens(corpus.chars)
    if mode == "direct":
        spent = [(1, size + PROTOCOL_TOKENS, REPLY_TOKENS)] * 2
    elif mode == "retrieve":
        spent = [(1, PASSAGES_TOKENS + PROTOCOL_TOKENS, REPLY_TOKENS)] * 2
    else:
        low, high = (min(steps, max_iters) for steps in USUAL_STEPS)
        spent = [_exploration_estimate(low, 0), _exploration_estimate(high, min(10, max_calls))]
    costs = [token_cost(model, prompt, reply) for _, prompt, reply in spent]
    return {
        "files": len(corpus),
        "characters": corpus.chars,
        "tokens": size,
        "kinds": dict(Counter(document.kind for document in corpus.documents).most_common()),
        "skipped": len(corpus.skipped),
        "mode": mode,
        "model": model,
        "calls": [calls for calls, _, _ in spent],
        "prompt_tokens": [prompt for _, prompt, _ in spent],
        "cost": costs if None not in costs else None,
    }


def estimate_text(facts: dict[str, Any]) -> str:
    """Render the facts for a terminal."""
    files = counted_noun(facts["files"], "file")
    calls, tokens = _range_text(facts["calls"]), _range_text(facts["prompt_tokens"])
    if facts["cost"] is None:
        cost = "cost unknown"
    else:
        cost = _money_range(facts["cost"])
    return "\n".join(
        (
            f"{files}, about {facts['tokens']:,} tokens; mode {facts['mode']}; model {facts['model']}",
            f"{facts['skipped']:,} skipped; kinds: {', '.join(f'{k} {n:,}' for k, n in facts['kinds'].items())}",
            f"estimated: {calls} model calls, {tokens} prompt tokens, {cost}",
        )
    )


def _exploration_estimate(steps: int, sub_calls: int) -> tuple[int, int, int]:
    """Return calls, prompt tokens and reply tokens; a step's prompt contains all earlier steps."""
    prompt = (
        sum(PROTOCOL_TOKENS + step * (OUTPUT_TOKENS + REPLY_TOKENS) for step in range(steps))
        + sub_calls * SUB_PROMPT_TOKENS
    )
    return steps + sub_calls, prompt, (steps + sub_calls) * REPLY_TOKENS


def _range_text(pair: list[int]) -> str:
    low, high = pair
    if low == high:
        return f"{low:,}"
    return f"{low:,}–{high:,}"


def _money_range(pair: list[float]) -> str:
    low, high = (render.cost_text(value) for value in pair)
    if low == high:
        return low
    return f"{low}–{high}"


logger = logging.getLogger(__name__)

OFFLINE_RESULT = (
    "The offline engine does not count, add or compare: these are some passages with the words of the question, not a "
    "result. A model computes one (-m, or `rlm-dspy init`)."
)
OFFLINE_MISS = (
    "The offline engine found no passage with the words of the question; it is not a language model. Name things that "
    "the files name, or set a model with -m (`rlm-dspy models` lists them)."
)


class Asking:
    """One question being answered."""

    def __init__(self, request: AskRequest, terminal: Terminal, values: settings.Settings, corpus: Corpus) -> None:
        self.request = request
        self.terminal = terminal
        self.values = values
        self.corpus = corpus
        self.mode = request.first_mode(values, corpus)
        self.signature = out_option.ask_signature(request.out)
        self.result: Run | None = None
        self._asked: dict[str, Any] | None = None
        self._replay: Replay | None = None  # of a resumed question
        self._log = RunLog(values.home / "runs", terminal.redactor)
        self._events = EventLines(terminal.answer, terminal.redactor) if request.events else None

    def run(self) -> int:
        """Ask, print, and return the exit code."""
        self.terminal.start_tracing()
        chosen = model_choice.choose(self.values)
        if chosen.unused_model:
            self.terminal.note(chosen.unused_model)
        elif chosen.is_offline:
            note_daily(self.terminal, self.values.home, chosen.notice, self.request.paths)
        elif chosen.notice:  # where the files are sent
            self.terminal.note(chosen.notice)
        if self.request.dry_run:
            self._print_estimate(chosen)
            return exit_codes.ANSWERED
        return self.answer(chosen)

    def answer(self, chosen: model_choice.ChosenModels) -> int:
        """Ask a chosen model, print, keep the run as ``result``, and return the exit code."""
        if self.request.index and not self.corpus.index.build():
            self.terminal.note("The search index could not be built; -v shows why.")
        logger.info(
            "asking",
            extra={"model": chosen.name, "mode": self.mode, "files": len(self.corpus), "characters": self.corpus.chars},
        )
        with ExitStack() as stack:
            tools = stack.enter_context(self._mcp_tools())
            chosen = stack.enter_context(self._replayed_models(chosen))
            stack.enter_context(chosen.active())
            stack.enter_context(self._save_run_on_error())
            watch = stack.enter_context(self._show_progress())
            self._asked = self._log.asked = self.asked_facts(chosen)
            if entry_error(self.values.home) is None:  # else saving the run will say why it cannot
                stack.enter_context(listening(self._log))
            answerer = self._answerer(watch, chosen, tools)
            answered = answerer.answer(self.corpus, self.request.question, **self.more_inputs())
        run = self._completed_run(answered.run)
        self.result, self.mode = run, answered.mode
        self.keep_prediction(answered.prediction)
        filed = self._try_save_run(run)
        values = {
            name: answered.prediction.get(name) for name in self.signature.output_fields if name != out_option.EVIDENCE
        }
        self._print_answer(run, values)
        if not filed:
            return exit_codes.FAILED
        if self._is_miss(run, values):
            if chosen.is_offline:  # every time, because it says little about the files
                self.terminal.note(OFFLINE_MISS)
            elif not any(values.values()):
                self.terminal.note("The model's answer is empty.", always=True)
            self._note_missed()
            return exit_codes.NOT_FOUND
        if chosen.is_offline and asks_about_all(self.request.question):
            self.terminal.note(OFFLINE_RESULT, always=True)  # no exit code says it
        if run.status == "extracted":
            return exit_codes.BUDGET
        return exit_codes.ANSWERED

    def asked_facts(self, chosen: model_choice.ChosenModels) -> dict[str, Any] | None:
        """Return what the record needs so that the run can be resumed, None if it cannot be."""
        return resume.recorded_facts(self.request, self.values, self.corpus, chosen.name)

    @contextmanager
    def _replayed_models(self, chosen: model_choice.ChosenModels) -> Iterator[model_choice.ChosenModels]:
        """Let the record of a resumed run answer the calls of the models that it holds."""
        resumed = self.request.resumed
        if resumed is None:
            yield chosen
            return
        self._replay = resumed.make_replay(
            self.terminal.redactor,
            limits_changed=self.request.limits_changed,
            on_end=lambda warning: self.terminal.note(f"warning: {warning}"),
        )
        self._log.resumed = resumed.run_ids
        token = REPLAY.set(self._replay)
        try:
            yield chosen.with_lms(replaying_lm)
        finally:
            REPLAY.reset(token)

    def _completed_run(self, run: Run) -> Run:
        """Return the run with what was asked, and with what a resumed one paid for calls that answered nothing."""
        if self._asked is not None:
            asked = {name: value for name, value in self._asked.items() if name != "files"}
            run = run.model_copy(update={"asked": jsonable(asked)})
        if self._replay is None:
            return run
        warnings = (*run.warnings, *self._replay.warnings)
        return run.model_copy(update={"usage": run.usage + self._replay.unused_usage(), "warnings": warnings})

    @contextmanager
    def _mcp_tools(self) -> Iterator[list[Any]]:
        """Connect to the servers of ``--mcp`` and yield their tools."""
        servers = [{"name": name, **self.values.mcp[name]} for name in self.request.mcp]
        if not servers:
            yield []
            return
        with mcp_tools(*servers) as tools:
            yield tools

    def _is_miss(self, run: Run, values: Mapping[str, Any]) -> bool:
        """Whether the answer says explicitly that nothing was found, and no quote backs it."""
        return len(values) == 1 and is_miss(next(iter(values.values())), run.evidence)

    def _note_missed(self) -> None:
        """List unread files that could contain the answer that was not found."""
        missed = [problem for problem in self.corpus.problems if problem.unread]
        if not missed:
            return
        kinds = Counter(Path(problem.name).suffix.lower() or "other" for problem in missed)
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5))
        files = counted_noun(len(missed), "file")
        first = input_paths.problem_text(self.corpus, missed[0])
        self.terminal.note(f"warning: it could be in {files} not read ({counts}), such as {first}")

    def _answerer(
        self, watch: Callable[[Event], None], chosen: model_choice.ChosenModels, tools: Sequence[Any]
    ) -> Answerer:
        return Answerer(
            self.signature,
            mode=self.values.mode,
            budget=self.values.budget,
            sub_lm=chosen.sub_lm,
            direct_tokens=self.values.direct_tokens,
            tools=tools,
            compile_rlm=partial(program.load, path=self.request.program) if self.request.program else None,
            explore=partial(self._explore_corpus, watch),
            on_event=watch,
            on_note=self.terminal.note,
        )

    def more_inputs(self) -> dict[str, Any]:
        """Return the inputs besides the context and the question."""
        return {}

    def call_rlm(self, rlm: RLM, inputs: Mapping[str, Any]) -> Any:
        """Call the RLM that explores."""
        return rlm(**inputs)

    def keep_prediction(self, prediction: Any) -> None:
        """Do nothing: a single question has no next one."""

    def _explore_corpus(self, watch: Callable[[Event], None], rlm: RLM, inputs: Mapping[str, Any]) -> Any:
        """Run the RLM; the first Ctrl-C asks it for the best answer so far, the second ends it.

        Raises:
            KeyboardInterrupt: with the run; on a second Ctrl-C, or a first one before any step ran.
        """
        if isinstance(watch, live.StatusLine):
            note = watch.note
        else:
            note = self.terminal.note
        rlm.stop = threading.Event()
        with Interrupts(rlm.stop, lambda: note("Asking for the best answer so far; Ctrl-C again stops at once.")):
            try:
                return self.call_rlm(rlm, inputs)
            except BudgetExceededError as error:
                if error.limit != "stop":
                    raise
                interrupt = KeyboardInterrupt()
                interrupt.run = error.run  # type: ignore[attr-defined]
                raise interrupt from error

    @contextmanager
    def _show_progress(self) -> Iterator[Callable[[Event], None]]:
        """Show the live status line, unless ``-q``, ``-v``, ``--log-json`` or ``--events`` is given."""
        if self._events:
            yield self._events
            return
        if self.terminal.quiet or self.terminal.verbose or self.request.log_json:
            yield _log_event
            return
        first = next(iter(self.signature.output_fields))
        with live.StatusLine(clean=self.terminal.printable_text, answer=first) as line:
            yield line

    @contextmanager
    def _save_run_on_error(self) -> Iterator[None]:
        """Save the partial run if an exception or Ctrl-C ends it early."""
        try:
            yield
        except BaseException as error:
            if self._events:
                if isinstance(error, RLMError):
                    code = exit_codes.code(error)
                else:
                    code = exit_codes.INTERRUPTED
                self._events.fail(error, code)
                self.terminal.shows_events = False
            self._keep_unfinished(error)
            raise

    def _keep_unfinished(self, error: BaseException) -> None:
        """Keep what there is of a run without an answer: its log if it can be resumed, else the partial run."""
        run: Run | None = getattr(error, "run", None)
        if self._replay or (run and run.steps):
            log = resume.resumable_log(self._log.path)
        else:
            log = None
        # A run without steps is not worth a file, unless --trace asks for one.
        if run and (self.request.trace or isinstance(error, KeyboardInterrupt) or run.steps):
            self._save_partial_run(run, log)
        elif log is None:
            self._log.discard()
        if log is not None:
            self.terminal.error(f"the finished calls are kept: `rlm-dspy ask --resume {log.stem}` continues the run.")

    def _save_partial_run(self, run: Run, log: Path | None) -> None:
        try:
            if self.request.trace or log is None:
                place = self._save_run(run)
            else:
                place = log
        except OSError as error:
            self.terminal.error(f"the partial run could not be saved: {error}")
            return
        if log is None:
            self._log.discard()
        if not self.request.trace or not self.terminal.quiet:
            self.terminal.error(f"the partial run is in {place} (`rlm-dspy trace {run.id}`)")

    def _try_save_run(self, run: Run) -> bool:
        """Save a finished run; return False if the file of ``--trace`` could not be written."""
        if not self.request.trace and settings.has_told_unsaved(self.values.home):
            return True
        try:
            self._save_run(run)
            self._log.discard()
        except OSError as error:
            if not self.request.trace:
                folder = self.values.home / "runs"
                why = f"{folder}: {error.strerror}. Set RLM_DSPY_HOME to a writable folder."
                self.terminal.note(f"warning: the run could not be saved in {why}")
            else:
                self.terminal.error(f"the run could not be saved in {self.request.trace}: {error.strerror}")
                return False
        return True

    def _save_run(self, run: Run) -> Path:
        if self.request.trace:
            place = json_output.save_run(run, self.request.trace, self.terminal.redactor)
            remember_output(self.request.trace)
        else:
            place = RunStore(self.values.home / "runs").put(run, self.terminal.redactor)
        return place

    def _print_estimate(self, chosen: model_choice.ChosenModels) -> None:
        limits = {"max_iters": self.values.max_iters, "max_calls": self.values.max_calls}
        facts = estimated_facts(self.corpus, self.mode, chosen.name, **limits)
        if self.request.as_json:
            self.terminal.answer_json(facts, indent=None)
        else:
            self.terminal.answer(estimate_text(facts))

    def _print_answer(self, run: Run, values: Mapping[str, Any]) -> None:
        terminal = self.terminal
        summary = {
            "question": self.request.question,
            **json_output.answer_summary(run, values, mode=self.mode, corpus=self.corpus),
        }
        if self._events:
            self._events.end(summary)
            self.terminal.shows_events = False
        elif self.request.as_json:
            terminal.answer_json(summary, indent=None)
        else:
            terminal.answer(render.outputs_text(values))
            rows = [json_output.evidence_row(item, self.corpus) for item in run.evidence]
            rows = [row for row in rows if row["verified"]]
            if rows:
                lines = [render.evidence_line(row) for row in rows]
                terminal.answer("\n" + "\n".join(lines))
        if self.values.fallback and (others := set(run.usage_by_model) - {run.model, run.sub_model}):
            terminal.note(f"{run.model} could not answer; {', '.join(sorted(others))} answered instead.")
        warnings = self._replay.warnings if self._replay else ()
        for warning in run.warnings:
            if warning in (*warnings, OFFLINE_ANSWER, OFFLINE_PASSAGES):  # which notes say
                continue
            terminal.note(f"warning: {' '.join(warning.split())}")
        if run.status == "extracted":
            reasons = {"stop": "Ctrl-C", "repeats": "a repeated step"}
            reason = reasons.get(str(run.stopped_by), run.stopped_by)
            terminal.note(f"Stopped by {reason}; this is the best answer so far.")
        if replayed := run.usage.replayed_calls:
            terminal.note(
                f"{replayed} of {run.usage.calls} calls came from the record and cost nothing again; in all: "
                f"{render.cost_text(run.usage.cost)}."
            )
        if sys.stderr.isatty() or terminal.verbose:
            terminal.note(_usage_line(run, self.mode))


def _log_event(event: Event) -> None:
    """Log an event: figures at INFO, text at DEBUG."""
    facts = {"step": event.step, "depth": event.depth, "sub_calls": event.sub_calls, "usage": event.usage.model_dump()}
    logger.info("%s", event.kind, extra=facts)
    if event.text:
        logger.debug("%s of step %d:\n%s", event.kind, event.step, event.text)


def _usage_line(run: Run, mode: str) -> str:
    parts = [
        f"{run.model} ({mode})",
        counted_noun(len(run.steps), "step"),
        counted_noun(run.sub_calls, "sub-call"),
        counted_noun(run.usage.total_tokens, "token"),
        render.cost_text(run.usage.cost),
        f"{run.seconds:.1f} s",
    ]
    return " · ".join(parts)
