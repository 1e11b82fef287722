"""Plan and run an optimization within a number of calls: rollouts, optimizer settings, cost and time."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from rlm_dspy import safe_files
from rlm_dspy._dspy import questions_asked_once
from rlm_dspy.budget import Budget
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError, RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.tuning import contenders, data, program, scoring
from rlm_dspy.tuning.audit import check_leaks
from rlm_dspy.tuning.candidate_log import CandidateLog, LoggedTunable
from rlm_dspy.tuning.evaluation import Evaluation, Row
from rlm_dspy.tuning.metered_engine import FAILURES, FINISHED, BudgetPhase, CapReachedError, SharedBudget, metered_lm
from rlm_dspy.tuning.metrics import Metric

GUESSED_CALLS = 6.0  # LM calls per question, if nothing has been measured
FINAL_CALLS_FACTOR = 1.25  # the last evaluation may need this many times the calls of the first


@dataclass(frozen=True)
class UsageRate:
    """The average usage per question, and how many questions it was measured on."""

    calls: float = GUESSED_CALLS
    cost: float | None = None
    seconds: float | None = None
    measured: int = 0

    @classmethod
    def of(cls, rows: Sequence[Row]) -> UsageRate:
        """Measure the rate from rows of an evaluation, but not from those that DSPy's cache answered."""
        asked = [row for row in rows if row.calls and not row.cached_calls]
        if not asked:
            return cls()
        costs = [row.cost for row in asked]
        cost = None
        if None not in costs:
            cost = scoring.mean([each or 0.0 for each in costs])
        return cls(
            calls=scoring.mean([row.calls for row in asked]),
            cost=cost,
            seconds=scoring.percentile([row.seconds for row in asked], 0.5),
            measured=len(asked),
        )


@dataclass(frozen=True)
class Plan:
    """How the calls are spent: on the first and last evaluation, and on the rollouts between them."""

    optimizer: str
    train: int
    val: int
    test: int
    max_calls: int
    rate: UsageRate
    rollouts: int
    settings: dict[str, Any] = field(default_factory=dict)

    def lines(self, max_cost: float | None, per_minute: int | None, threads: int) -> list[str]:
        """Return the plan as readable lines."""
        rate = self.rate
        how = "a guess; `rlm-dspy eval` measures it"
        if rate.measured:
            how = f"measured on {counted_noun(rate.measured, 'question')}"
        said = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [
            f"{self.optimizer}: {said}",
            f"questions: {self.train} training, {self.val} validation, {self.test} test (asked twice)",
            f"rollouts: about {self.rollouts + 2 * self.test} × {rate.calls:.1f} calls ({how}), at most "
            f"{counted_noun(self.max_calls, 'call')}",
        ]
        total = min(self.max_calls, (self.rollouts + 2 * self.test) * rate.calls)
        if rate.cost is None:
            cost = "unknown"
        else:
            cost = f"about ${total / rate.calls * rate.cost:.4f}"
        lines.append(f"cost: {cost}{'' if max_cost is None else f', at most ${max_cost:.4f}'}")
        waits = []
        if per_minute:
            waits.append(f"at least {total / per_minute:.0f} min at {per_minute} calls a minute")
        if rate.seconds is not None:
            waits.append(f"about {total / rate.calls * rate.seconds / threads / 60:.1f} min as measured")
        return [*lines, f"time: {', '.join(waits) or 'unknown: there is no rate limit and no measurement'}"]


def plan(optimizer: str, max_calls: int, *, train: int, val: int, test: int, rate: UsageRate) -> Plan:
    """Fit an optimizer's settings into a number of calls.

    Raises:
        ConfigurationError: the optimizer is unknown, or the calls are not enough.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigurationError(f"{optimizer!r} is not an optimizer; choose from {', '.join(OPTIMIZERS)}")
    judged = test * (1 + FINAL_CALLS_FACTOR)
    left = int(max_calls / rate.calls - judged)
    recipe = OPTIMIZERS[optimizer]
    least = recipe.least(train, val)
    if left < least:
        needed = round((least + judged) * rate.calls + 1)
        raise ConfigurationError(
            f"max-calls {max_calls:,} is too little for {optimizer} on {train} + {val} + {test} questions at "
            f"{rate.calls:.1f} calls each: give at least {needed:,}, or fewer questions (--limit)"
        )
    rollouts, settings = recipe.fit(left, train, val)
    return Plan(optimizer, train, val, test, max_calls, rate, rollouts, settings)


def _fit_gepa(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    return left, {"max_metric_calls": left, "reflection_minibatch_size": min(3, train)}


def _fit_mipro(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    # Each candidate set of demos runs the teacher on a few questions; each trial runs a candidate on the whole val set.
    candidates = max(2, min(8, left // (4 * max(1, val))))
    sets = candidates * min(train, 4)
    trials = max(1, min(40, (left - sets) // val - 1))
    return sets + (trials + 1) * val, {"num_candidates": candidates, "num_trials": trials}


def _fit_bootstrap(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    each = val + min(train, 8)
    candidates = max(0, min(16, left // each - 3))
    return (candidates + 3) * each, {"num_candidate_programs": candidates}


def _fit_simba(left: int, train: int, val: int) -> tuple[int, dict[str, Any]]:
    # A step runs a batch with several programs, twice; at the end the winners run on all questions.
    batch, candidates, whole = min(8, train), 3, train + val
    step = batch * (2 * candidates + 1)
    steps = max(1, min(8, (left - (candidates + 1) * whole) // step))
    return steps * step + (min(steps, candidates) + 1) * whole, {
        "bsize": batch,
        "num_candidates": candidates,
        "max_steps": steps,
    }


def measured_rate(place: Path, model: str) -> UsageRate:
    """Return the rate that earlier evaluations of a model measured, if their journal exists."""
    rows = safe_files.read_rows(place, Row.model_validate_json)
    return UsageRate.of([row for row in rows if row.side == "rlm" and row.model == model])


@dataclass(frozen=True)
class OptimizationJob:
    """An optimization to run: the program, the optimizer, the data and the caps."""

    optimizer: str
    train: Sequence[dspy.Example]
    val: Sequence[dspy.Example]
    test: Sequence[dspy.Example]
    metric: Metric
    lm: dspy.LM
    folder: Path
    max_calls: int
    max_cost: float | None = None
    prompt_lm: dspy.LM | None = None
    sub_lm: dspy.LM | None = None
    budget: Budget = field(default_factory=Budget)
    signature: Any = None
    threads: int = 4
    seed: int = 0
    redactor: Redactor = field(default_factory=Redactor)

    def identity(self) -> dict[str, Any]:
        """Return everything that must be unchanged to resume an earlier attempt."""
        models = [lm.model if lm else "" for lm in (self.lm, self.prompt_lm, self.sub_lm)]
        questions = []
        for part in (self.train, self.val, self.test):
            questions.append([f"{example.get('id')} {question_digest(example)}" for example in part])
        return {
            "optimizer": self.optimizer,
            "models": models,
            "metric": self.metric.__name__,
            "questions": questions,
            "limits": self.budget.model_dump(exclude_defaults=True),
            "seed": self.seed,
            "dspy": dspy.__version__,
        }


def question_digest(example: dspy.Example) -> str:
    """Return a digest of a question with its context, answer and scorer."""
    text = json.dumps([data.inputs_key(example), example.get("answer"), example.get("scorer")], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[: data.DIGEST_DIGITS]


@dataclass
class Outcome:
    """The result: the program, the rows before and after, the candidates, the cost, and how it ended.

    ``ended`` is "finished", the name of a cap, or "failures" if too many questions in a row failed.
    """

    program: dspy.Module
    base: dspy.Module
    before: list[Row]
    after: list[Row]
    candidate_log: CandidateLog
    calls: int
    cost: float | None
    ended: str
    parents: dict[str, str] = field(default_factory=dict)


class CandidateParents:
    """Learns from GEPA's callbacks which instructions each proposal was made from, also if a cap ends the run."""

    def __init__(self) -> None:
        self.by_text: dict[str, str] = {}
        self._known: set[str] = set()  # the first parent wins, which keeps the graph acyclic
        self._parent: dict[str, str] = {}

    def record(self, text: str, parent: str) -> None:
        """Record the parent of instructions, which are JSON, if they are new."""
        if text not in self._known:
            self._known.add(text)
            self.by_text[text] = parent

    def on_optimization_start(self, event: Any) -> None:
        """Learn the instructions at the start, which have no parent."""
        self._known.add(json.dumps(event["seed_candidate"], sort_keys=True))

    def on_proposal_start(self, event: Any) -> None:
        """Learn what the next proposal is made from."""
        self._parent = dict(event["parent_candidate"])

    def on_proposal_end(self, event: Any) -> None:
        """Record a proposal."""
        proposed = {**self._parent, **event["new_instructions"]}
        self.record(json.dumps(proposed, sort_keys=True), json.dumps(self._parent, sort_keys=True))


STATE = "state.json"


def plan_for(job: OptimizationJob, rate: UsageRate) -> Plan:
    """Fit the optimizer's settings into the cap; a resumed optimization keeps its original settings.

    Raises:
        ConfigurationError: the calls are not enough.
    """
    path = job.folder / STATE
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8")).get("plan") or {}
        if saved and saved["max_calls"] == job.max_calls and saved["optimizer"] == job.optimizer:
            return Plan(**{**saved, "rate": UsageRate(**saved["rate"])})
        rate = UsageRate(**saved["rate"]) if saved else rate
    sizes = {"train": len(job.train), "val": len(job.val), "test": len(job.test)}
    return plan(job.optimizer, job.max_calls, rate=rate, **sizes)


class Optimization:
    """One job with its budget; ``resume`` continues the attempt in its folder.

    Raises:
        ConfigurationError: the folder cannot be written, or holds a different optimization, or an earlier attempt that
            ``resume`` was not set for.
    """

    def __init__(
        self,
        job: OptimizationJob,
        plan: Plan,
        *,
        resume: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.job = job
        self.plan = plan
        self.say = say
        self._claim_folder(resume)
        self.shared_budget = SharedBudget(job.max_calls, job.max_cost, job.folder / "calls.jsonl")
        self.candidate_log = CandidateLog(
            [str(example.get("id")) for example in job.val],
            lambda: self.shared_budget.calls,
            job.folder / "candidates.jsonl",
        )
        self.parents = CandidateParents()
        self._open_phase()

    def _open_phase(self) -> None:
        """Make the models of the next part, charged to the budget."""
        job = self.job
        self.phase = BudgetPhase(self.shared_budget)
        self.lm = metered_lm(job.lm, self.phase)
        if job.prompt_lm:
            self.prompt_lm = metered_lm(job.prompt_lm, self.phase)
        else:
            self.prompt_lm = self.lm
        if job.sub_lm:
            self.sub_lm = metered_lm(job.sub_lm, self.phase)
        else:
            self.sub_lm = None

    def _claim_folder(self, resume: bool) -> None:
        path, wanted = self.job.folder / STATE, json.loads(json.dumps(self.job.identity()))
        if path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            if not resume:
                raise ConfigurationError(
                    f"{self.job.folder} holds an optimization: continue it with --resume, or choose another --out"
                )
            if different := [name for name in wanted if saved.get(name) != wanted[name]]:
                raise ConfigurationError(
                    f"{self.job.folder} holds an optimization with a different {', '.join(different)}: "
                    "resume it with its original settings, or choose another folder"
                )
        text = json.dumps({**wanted, "plan": dataclasses.asdict(self.plan)}, indent=2)
        try:
            self.job.folder.mkdir(parents=True, exist_ok=True)
            safe_files.replace_file(path, [text.encode() + b"\n"])
        except OSError as error:
            raise ConfigurationError(
                f"{self.job.folder} cannot be written: {error.strerror}; choose another folder"
            ) from error

    def run(self) -> Outcome:
        """Evaluate, compile, evaluate again, and save the program.

        If a cap is reached while compiling, the result is the best program that ran on the whole validation set.

        Raises:
            ConfigurationError: the program contains answers of the test set; it is not saved.
            RLMError: every question of the first evaluation failed, so there is nothing to learn from.
        """
        with replay_cache(self.job.folder / "cache"):
            base = self._make_program()
            before, ended = self._evaluate_program("before", base)
            if before and all(row.status == "failed" for row in before):
                raise RLMError(
                    f"every question failed, so there is nothing to learn from; the first: {before[0].error}"
                )
            tuned: Any = base
            if not ended:
                self._keep_back(before)
                tuned, ended = self._compile_program(base)
            self.phase.close()
            self.candidate_log.counts_failures = False
            self._open_phase()
            tuned.sub_lm = self.sub_lm
            self.shared_budget.kept_back, self.shared_budget.kept_back_cost = 0, 0.0
            seen = [*self.job.train, *self.job.val]
            check_leaks(tuned, self.job.test, known=seen, base=base, field=self.job.metric.field)
            program.save(tuned, self.job.folder / "program.json", self.job.redactor)
            after, cut = self._evaluate_program("after", tuned)
        return Outcome(
            program=tuned,
            base=base,
            before=before,
            after=after,
            candidate_log=self.candidate_log,
            calls=self.shared_budget.calls,
            cost=self.shared_budget.cost,
            ended=ended or cut or FINISHED,
            parents=self.parents.by_text,
        )

    def _keep_back(self, before: Sequence[Row]) -> None:
        """Keep back what the last evaluation will need, as the first one did."""
        calls = round(sum(row.calls for row in before) * FINAL_CALLS_FACTOR)
        self.shared_budget.kept_back = min(calls, self.job.max_calls // 2)
        cost = sum(row.cost or 0.0 for row in before) * FINAL_CALLS_FACTOR
        self.shared_budget.kept_back_cost = min(cost, (self.job.max_cost or 0.0) / 2)

    def _make_program(self) -> LoggedTunable:
        signature = self.job.signature or contenders.signature()
        return LoggedTunable(signature, self.candidate_log, sub_lm=self.sub_lm, budget=self.job.budget)

    def _evaluate_program(self, name: str, candidate: dspy.Module) -> tuple[list[Row], str]:
        """Return the rows on the test set, and the cap that ended the evaluation, if any."""
        journal = self.job.folder / f"{name}.jsonl"
        identity = json.dumps(program.state_of(candidate), sort_keys=True, default=repr)
        evaluation = Evaluation(
            self.job.test,
            self.job.metric,
            journal=journal,
            threads=self.job.threads,
            identity=identity,
            redactor=self.job.redactor,
            label=f"test_{name}",
        )
        self.say(f"{name}: {counted_noun(len(self.job.test), 'question')}")
        with dspy.context(lm=self.lm):
            try:
                return evaluation.run([contenders.Contender("rlm", candidate)]), ""
            except CapReachedError as reached:
                return evaluation.saved_rows(contenders.Contender("rlm", candidate)), reached.cap

    def _compile_program(self, base: LoggedTunable) -> tuple[dspy.Module, str]:
        plan = self.plan
        random.seed(self.job.seed)  # some of DSPy's proposers use the global generator
        budget = self.shared_budget
        left = counted_noun(budget.max_calls - budget.calls - budget.kept_back, "call")
        self.say(f"compile: {plan.optimizer}, {left} left")
        metric = self.candidate_log.metric(self.job.metric)
        self.candidate_log.counts_failures = True
        log = redirect_output(self.job.folder / "log.txt", self.job.redactor)
        with dspy.context(lm=self.lm), log, questions_asked_once():
            try:
                compiled = OPTIMIZERS[plan.optimizer].compile(self, base, metric, plan.settings)
            except CapReachedError as reached:
                return self._best_program(), reached.cap
            except Exception:  # DSPy's evaluations give up after some failures, with a plain Exception
                if not self.candidate_log.failed_questions:
                    raise
                return self._best_program(), FAILURES
        return compiled, ""

    def _best_program(self) -> LoggedTunable:
        """Return the best program that ran on the whole validation set, or the one at the start."""
        best = self.candidate_log.best([str(example.get("id")) for example in self.job.val])
        restored = self._make_program()
        if best is not None:
            restored.load_state(best.state)
        return restored

    # --- the optimizers ----------------------------------------------------------------------------------------

    def _compile_gepa(self, base: Any, metric: Metric, settings: dict[str, Any]) -> Any:
        job = self.job
        compiled = dspy.GEPA(
            metric=metric,
            reflection_lm=self.prompt_lm,
            component_selector=program.ran,
            num_threads=job.threads,
            seed=job.seed,
            track_stats=True,
            gepa_kwargs={"callbacks": [self.parents]},
            **settings,
        ).compile(base, trainset=list(job.train), valset=list(job.val))
        results = compiled.detailed_results
        texts = [json.dumps(program.instructions(candidate), sort_keys=True) for candidate in results.candidates]
        for text, above in zip(texts, results.parents, strict=True):
            if above and above[0] is not None:  # those of merges; the others are known already
                self.parents.record(text, texts[above[0]])
        return compiled

    def _compile_mipro(self, base: Any, metric: Metric, settings: dict[str, Any]) -> Any:
        job, trials = self.job, settings["num_trials"]
        return dspy.MIPROv2(
            metric=metric,
            prompt_model=self.prompt_lm,
            task_model=self.lm,
            auto=None,
            num_candidates=settings["num_candidates"],
            max_bootstrapped_demos=2,
            max_labeled_demos=2,
            num_threads=job.threads,
            seed=job.seed + 1,  # DSPy treats 0 as no seed
            verbose=False,
        ).compile(base, trainset=list(job.train), valset=list(job.val), num_trials=trials, minibatch=False)

    def _compile_bootstrap(self, base: Any, metric: Metric, settings: dict[str, Any]) -> Any:
        job = self.job
        return dspy.BootstrapFewShotWithRandomSearch(
            metric=metric, max_bootstrapped_demos=3, max_labeled_demos=4, num_threads=job.threads, **settings
        ).compile(base, trainset=list(job.train), valset=list(job.val))

    def _compile_simba(self, base: Any, metric: Metric, settings: dict[str, Any]) -> Any:
        job = self.job
        return dspy.SIMBA(
            metric=metric.explained, max_demos=2, prompt_model=self.prompt_lm, num_threads=job.threads, **settings
        ).compile(base, trainset=[*job.train, *job.val], seed=job.seed)


@dataclass(frozen=True)
class Recipe:
    """How to plan and run an optimizer."""

    least: Callable[[int, int], int]  # the fewest rollouts for a number of training and of validation questions
    fit: Callable[[int, int, int], tuple[int, dict[str, Any]]]
    compile: Callable[[Optimization, Any, Metric, dict[str, Any]], Any]
    required_modules: tuple[str, ...] = ()  # modules that DSPy does not install


OPTIMIZERS = {
    "gepa": Recipe(lambda train, val: val + 6, _fit_gepa, Optimization._compile_gepa),
    "mipro": Recipe(
        lambda train, val: 2 * min(train, 4) + 2 * val, _fit_mipro, Optimization._compile_mipro, ("optuna", "numpy")
    ),
    "bootstrap": Recipe(lambda train, val: min(train, 8) + 2 * val, _fit_bootstrap, Optimization._compile_bootstrap),
    "simba": Recipe(
        lambda train, val: 7 * min(8, train) + 2 * (train + val), _fit_simba, Optimization._compile_simba, ("numpy",)
    ),
}


@contextlib.contextmanager
def replay_cache(folder: Path) -> Iterator[None]:
    """Cache every reply in a separate folder, which answers the calls of a resumed attempt."""
    before = dspy.cache
    dspy.configure_cache(disk_cache_dir=str(folder))
    try:
        yield
    finally:
        own, dspy.cache = dspy.cache, before
        if close := getattr(getattr(own, "disk_cache", None), "close", None):
            close()


class _Log(io.TextIOWrapper):
    """A text file with secrets masked, provided each secret is written in one piece."""

    def __init__(self, path: Path, redactor: Redactor) -> None:
        super().__init__(path.open("ab"), encoding="utf-8", errors="replace")
        self._redactor = redactor

    def write(self, text: str) -> int:
        return super().write(self._redactor.text(text))


@contextlib.contextmanager
def redirect_output(path: Path, redactor: Redactor) -> Iterator[None]:
    """Redirect DSPy's output, progress bars and logs from the terminal to a file, with secrets masked."""
    logger = logging.getLogger("dspy")
    with _Log(path, redactor) as file:
        handler = logging.StreamHandler(file)
        handlers, level, propagates = logger.handlers, logger.level, logger.propagate
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            logger.handlers, logger.propagate = handlers, propagates
            logger.setLevel(level)
