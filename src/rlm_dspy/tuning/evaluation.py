"""Evaluation: ask one or more sides the same questions, and write each row to a journal at once.

Each question is asked once: slow ones are never resubmitted, and an existing journal is continued. Rows distinguish how
a run ended: submitted, extracted because a limit ended it, stopped without an answer, failed by an error. DSPy's
callbacks see each side as one ``dspy.Evaluate``, with its questions below it.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.evaluate.evaluate import EvaluationResult
from dspy.utils.callback import with_callbacks
from pydantic import BaseModel, ConfigDict

from rlm_dspy import deadlines, safe_files
from rlm_dspy.context import Context
from rlm_dspy.errors import ConfigurationError, LMAuthError, LMError, RLMError
from rlm_dspy.evidence import Evidence, check
from rlm_dspy.redact import Redactor
from rlm_dspy.report import json_output
from rlm_dspy.rlm.inputs import quotable_inputs
from rlm_dspy.rlm.prediction import run_of
from rlm_dspy.run import Run, replace_surrogates
from rlm_dspy.tuning import feedback, scoring
from rlm_dspy.tuning.contenders import Contender
from rlm_dspy.tuning.data import inputs_of
from rlm_dspy.tuning.metered_engine import PrefixMeter
from rlm_dspy.tuning.metrics import Metric, evidence_of

Status = Literal["submitted", "extracted", "stopped", "failed"]

# Characters of a row's texts; what is longer is cut in the middle, and says so.
MAX_QUESTION_CHARS = 4_000
MAX_ANSWER_CHARS = 20_000
MAX_ERROR_CHARS = 2_000
MAX_NAME_CHARS = 80  # of a run's file


class Row(BaseModel):
    """The result of one question on one side."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    side: str
    model: str = ""
    models: tuple[str, ...] = ()  # the models that answered, which may include a fallback
    id: str
    question: str = ""
    run: str = ""  # the id of the run, if the side keeps a record
    task: str = ""
    score: float = 0.0
    status: Status
    answer: str | None = None
    expected: str = ""
    error: str | None = None
    calls: int = 0
    cached_calls: int = 0  # those that DSPy's cache answered, without tokens and cost
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    seconds: float = 0.0
    prefix_share: float | None = None
    steps: int = 0
    quotes: int = 0
    verified: int = 0


class Evaluation:
    """A set of questions, a metric, and a journal for resuming after an interruption.

    Args:
        examples: the questions.
        metric: scores each prediction.
        journal: questions with a row in it are not asked again; None keeps no journal.
        threads: questions asked at once.
        on_row: called with each new row.
        identity: everything a row depends on besides side and example: model, limits, program.
        redactor: masks secrets in the journal; by default those of the environment.
        runs: the folder for the record of each run, see :func:`run_file_name`; None saves none.
        label: what DSPy's callbacks call the score (``metric_key``); by default ``eval_`` and the side.
        asking: returns a context for asking a question, given its text, such as ``Waves.asking``.
        fresh: ask questions again that have a row in the journal; the new row replaces it.
    """

    def __init__(
        self,
        examples: Sequence[dspy.Example],
        metric: Metric,
        *,
        journal: Path | None = None,
        threads: int = 4,
        on_row: Callable[[Row], None] | None = None,
        identity: str = "",
        redactor: Redactor | None = None,
        runs: Path | None = None,
        label: str = "",
        asking: Callable[[str], AbstractContextManager[None]] | None = None,
        fresh: bool = False,
    ) -> None:
        if not examples:
            raise ConfigurationError("there is nothing to evaluate: the dataset is empty")
        self.examples = list(examples)
        self.metric = metric
        self.journal = journal
        self.threads = threads
        self.on_row = on_row
        self.identity = identity
        self.redactor = redactor or Redactor()
        self.runs = runs
        self.label = label
        self.asking = asking or nullcontext
        self.fresh = fresh
        self.resumed = 0
        self._lock = threading.Lock()

    def run(self, sides: Iterable[Contender]) -> list[Row]:
        """Ask the questions missing from the journal; return all rows by side, in the order of the examples."""
        sides = list(sides)
        saved = self._journal_rows()  # read even when unused, so that a file of another kind is refused
        done = {} if self.fresh else {row.key: row for row in saved}
        wanted = []
        for side in sides:
            wanted += [(side, example, self._row_key(side, example)) for example in self.examples]
        self.resumed = sum(key in done for *_, key in wanted)
        deadlines.load_engines(dspy.settings.lm)  # now, so that the time of the first questions does not include it
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="eval")
        try:
            for side in sides:
                keyed = {key: example for own, example, key in wanted if own is side}
                self._evaluate_side(pool, side, keyed, done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return [done[key] for *_, key in wanted]

    def _evaluate_side(
        self, pool: ThreadPoolExecutor, side: Contender, keyed: Mapping[str, Any], done: dict[str, Row]
    ) -> None:
        """Add the missing rows of a side to ``done``; DSPy's callbacks see the start and the end."""

        def ask_missing() -> EvaluationResult:
            missing = {key: (side, example) for key, example in keyed.items() if key not in done}
            done.update((row.key, row) for row in self._ask_all(pool, missing))
            done.update((key, _with_question(done[key], example)) for key, example in keyed.items())
            return self._result_of([(example, done[key]) for key, example in keyed.items()])

        evaluate = ObservedEvaluate(ask_missing, self.examples, self.metric, self.threads)
        evaluate(side.program, callback_metadata={"metric_key": self.label or f"eval_{side.name}"})

    def _result_of(self, answered: Sequence[tuple[Any, Row]]) -> EvaluationResult:
        """Return the rows in the form of DSPy's evaluations."""
        results = [
            (example, dspy.Prediction(**{self.metric.field: row.answer}), row.score) for example, row in answered
        ]
        return EvaluationResult(round(100 * scoring.mean([row.score for _, row in answered]), 2), results)

    def saved_rows(self, side: Contender) -> list[Row]:
        """Return a side's rows from the journal, in the order of the examples."""
        done = {row.key: row for row in self._journal_rows()}
        return [done[key] for example in self.examples if (key := self._row_key(side, example)) in done]

    def _ask_all(self, pool: ThreadPoolExecutor, todo: Mapping[str, tuple[Contender, Any]]) -> Iterable[Row]:
        futures: dict[Future[Row], str] = {}
        for key, (side, example) in todo.items():
            futures[pool.submit(contextvars.copy_context().run, self._evaluate_example, side, example, key)] = key
        for future in as_completed(futures):
            row = future.result()
            if self.on_row:
                self.on_row(row)
            yield row

    def _evaluate_example(self, side: Contender, example: Any, key: str) -> Row:
        """Ask one question and write the row at once, so that an interruption loses no finished row."""
        meter, started = PrefixMeter(), time.perf_counter()
        error: Exception | None = None
        prediction: Any = None
        try:
            prediction = self._predict_answer(side, example, meter)
        except LMAuthError:
            raise
        except Exception as failure:  # the program may raise anything, and one bad row never ends the others
            error = failure
        seconds = time.perf_counter() - started
        if prediction is None:
            run = getattr(error, "run", None)
        else:
            run = run_of(prediction)
        row = Row(
            key=key,
            side=side.name,
            model=str(getattr(dspy.settings.lm, "model", "")),
            models=tuple(sorted(meter.by_model)),
            id=replace_surrogates(str(key if example.get("id") is None else example["id"])),
            task=str(example.get("task") or ""),
            question=_question_text(example),
            expected=shorten_text(example.get(self.metric.field), MAX_QUESTION_CHARS),
            run=run.id if isinstance(run, Run) else "",
            seconds=seconds,
            prefix_share=meter.prefix_share,
            calls=meter.usage.calls,
            cached_calls=meter.usage.cached_calls,
            tokens=meter.usage.total_tokens,
            prompt_tokens=meter.usage.prompt_tokens,
            cached_tokens=meter.usage.cached_tokens,
            completion_tokens=meter.usage.completion_tokens,
            cost=meter.usage.cost,
            steps=len(run.steps) if isinstance(run, Run) else len((prediction or {}).get("trajectory") or []),
            **(_failure_facts(error, run) if prediction is None else self._score_facts(prediction, example, run)),
        )
        self._write_row(row)
        if self.runs is not None and isinstance(run, Run):
            json_output.save_run(run, self.runs / run_file_name(row), self.redactor)
        return row

    def _score_facts(self, prediction: Any, example: Any, run: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "answer": _answer_text(prediction.get(self.metric.field)),
            **_count_quotes(prediction, example),
        }
        try:
            score = self.metric.score(example, prediction)
        except Exception as wrong:  # a metric of the user may raise anything; its row says so
            why = f"the metric {self.metric.__name__} raised {type(wrong).__name__}: {wrong}"
            return {**facts, "status": "failed", "error": why}
        if isinstance(run, Run):
            status = run.status
        else:  # dspy.RLM keeps no record
            forced = prediction.get("final_reasoning") == "Extract forced final output"
            status = "extracted" if forced else "submitted"
        return {**facts, "status": status, "score": score}

    def _predict_answer(self, side: Contender, example: Any, meter: PrefixMeter) -> Any:
        settings = dspy.context(callbacks=[*dspy.settings.callbacks, meter], trace=None)
        with settings, self.asking(_question_text(example)):
            return side.ask(inputs_of(example))

    # --- the journal -------------------------------------------------------------------------------------------

    def _row_key(self, side: Contender, example: Any) -> str:
        inputs = {name: _input_identity(value) for name, value in example.items()}
        facts = json.dumps([self.identity, side.name, self.metric.__name__, inputs], sort_keys=True, default=repr)
        return hashlib.sha256(facts.encode()).hexdigest()[:20]

    def _journal_rows(self) -> list[Row]:
        """Return the journal's rows that need not be asked again; an incomplete last row is dropped."""
        if self.journal:
            rows = safe_files.read_rows(self.journal, Row.model_validate_json, repair=True)
        else:
            rows = []
        return [row for row in rows if row.status != "failed"]

    def _write_row(self, row: Row) -> None:
        if self.journal is None:
            return
        with self._lock:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            safe_files.append_row(self.journal, json_output.redacted_json(row.model_dump(), self.redactor))


class ObservedEvaluate(dspy.Evaluate):  # type: ignore[misc]
    """An evaluation of ours as DSPy's callbacks see one: ``on_evaluate_start`` and ``on_evaluate_end``."""

    def __init__(
        self, ask: Callable[[], EvaluationResult], devset: list[Any], metric: Metric, num_threads: int
    ) -> None:
        super().__init__(devset=devset, metric=metric, num_threads=num_threads)
        self._ask = ask

    @with_callbacks  # type: ignore[untyped-decorator]
    def __call__(self, program: Any, callback_metadata: dict[str, Any] | None = None) -> EvaluationResult:
        """Evaluate, and return DSPy's form of the result."""
        return self._ask()


def shorten_text(value: Any, limit: int) -> str:
    """Return a value as text of about ``limit`` characters: head, tail, and how many are cut between them."""
    text, half = str(value), limit // 2
    if len(text) > limit:
        text = f"{text[:half]}\n… {len(text) - 2 * half:,} characters cut …\n{text[-half:]}"
    shown: str = replace_surrogates(text)
    return shown


def run_file_name(row: Row) -> str:
    """Return the file name for the record of a row's run: ``<side>-<question id>.json``.

    Names that no file should have are changed, and end with the beginning of the row's key.
    """
    wanted = f"{row.side}-{row.id}"
    safe = re.sub(r"[^\w.-]", "_", wanted, flags=re.ASCII).lstrip(".")[:MAX_NAME_CHARS]
    if safe == wanted:
        return f"{safe}.json"
    return f"{safe}-{row.key[:8]}.json"


def _input_identity(value: Any) -> Any:
    if isinstance(value, Context) or hasattr(value, "sandbox_index"):
        return value.digest
    return value


def _with_question(row: Row, example: Any) -> Row:
    """Return a row with its question, which rows of earlier versions do not have."""
    if row.question:
        return row
    return row.model_copy(update={"question": _question_text(example)})


def _question_text(example: Any) -> str:
    return shorten_text(feedback.asked_text(inputs_of(example)), MAX_QUESTION_CHARS)


def _answer_text(value: Any) -> str | None:
    if value is None:
        return None
    return shorten_text(value, MAX_ANSWER_CHARS)


def _failure_facts(error: BaseException | None, run: Any) -> dict[str, Any]:
    """Return the fields of a failed row: stopped without an answer, or failed by an external error."""
    is_external = isinstance(error, LMError | ConfigurationError)
    stopped = isinstance(run, Run) and isinstance(error, RLMError) and not is_external
    return {
        "status": "stopped" if stopped else "failed",
        "error": shorten_text(f"{type(error).__name__}: {error}", MAX_ERROR_CHARS),
    }


def _count_quotes(prediction: Any, example: Any) -> dict[str, int]:
    """Count the quotes, and how many of them are in the context, the same way for every side."""
    quotes = [item for item in evidence_of(prediction) if isinstance(item, Evidence)]
    values = inputs_of(example)
    for name, value in values.items():
        if isinstance(value, Context):
            values[name] = value.text
    checked, _ = check(quotes, quotable_inputs(values))
    return {"quotes": len(quotes), "verified": sum(quote.match is not None for quote in checked)}
