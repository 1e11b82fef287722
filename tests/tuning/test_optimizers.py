"""Each DSPy optimizer compiles an RLM: saved, loaded in a fresh process, and scored before and after by a student."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dspy
import pytest

from rlm_dspy import data, metrics
from rlm_dspy.tuning import Tunable, program, ran
from tuning import fresh
from tuning.student import Student, Teacher, examples, student, teacher
from warm import warm_python

TRAIN, DEV = data.handles(examples(8, 1)), data.handles(examples(8, 2))
METRIC = metrics.exact


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    yield
    logging.disable(before)


@pytest.fixture(scope="module")
def before() -> float:
    """The score of the student that nobody has taught."""
    return fresh.score(fresh.build("rlm", 1))


class Bench:
    """A student, a teacher and a program to compile."""

    def __init__(self) -> None:
        self.lm, self.student = student()
        self.prompt_lm, self.teacher = teacher()
        self.program = Tunable(fresh.SIGNATURE, max_iters=4)


def labelled(bench: Bench) -> dspy.Module:
    return dspy.LabeledFewShot(k=4).compile(bench.program, trainset=TRAIN)


def bootstrap(bench: Bench) -> dspy.Module:
    # DSPy chooses one step of each run, by a hash that depends on Python's version: some are last steps.
    made = dspy.BootstrapFewShot(metric=METRIC, max_bootstrapped_demos=6, max_labeled_demos=0, max_rounds=3)
    return made.compile(bench.program, trainset=TRAIN)


def random_search(bench: Bench) -> dspy.Module:
    made = dspy.BootstrapFewShotWithRandomSearch(
        metric=METRIC, max_bootstrapped_demos=2, max_labeled_demos=2, num_candidate_programs=2, num_threads=2
    )
    return made.compile(bench.program, trainset=TRAIN, valset=DEV)


def mipro(bench: Bench) -> dspy.Module:
    made = dspy.MIPROv2(
        metric=METRIC,
        prompt_model=bench.prompt_lm,
        task_model=bench.lm,
        auto=None,
        num_candidates=5,
        max_bootstrapped_demos=1,
        max_labeled_demos=1,
        num_threads=2,
        verbose=False,
    )
    return made.compile(bench.program, trainset=TRAIN, valset=DEV, num_trials=5, minibatch=False)


def simba(bench: Bench) -> dspy.Module:
    made = dspy.SIMBA(
        metric=METRIC.explained,
        bsize=6,
        num_candidates=3,
        max_steps=2,
        max_demos=1,
        prompt_model=bench.prompt_lm,
        num_threads=2,
    )
    return made.compile(bench.program, trainset=TRAIN, seed=1)


def copro(bench: Bench) -> dspy.Module:
    made = dspy.COPRO(prompt_model=bench.prompt_lm, metric=METRIC, breadth=3, depth=1)
    options = {"num_threads": 2, "display_progress": False}
    return made.compile(bench.program, trainset=TRAIN[:3], eval_kwargs=options)


def gepa(bench: Bench) -> dspy.Module:
    made = dspy.GEPA(
        metric=METRIC,
        max_metric_calls=30,
        reflection_lm=bench.prompt_lm,
        component_selector=ran,
        num_threads=2,
    )
    return made.compile(bench.program, trainset=TRAIN, valset=DEV)


def better_together(bench: Bench) -> dspy.Module:
    demos = dspy.BootstrapFewShot(metric=METRIC, max_bootstrapped_demos=1, max_labeled_demos=0, max_rounds=2)
    rules = dspy.GEPA(metric=METRIC, max_metric_calls=25, reflection_lm=bench.prompt_lm, component_selector=ran)
    bench.program.set_lm(bench.lm)  # it asks for an LM on each predictor; what is saved has none
    made = dspy.BetterTogether(metric=METRIC, rules=rules, demos=demos)
    return made.compile(bench.program, trainset=TRAIN, valset=DEV, strategy="rules -> demos", num_threads=2, seed=0)


def ensemble(bench: Bench) -> dspy.Module:
    made = fresh.build("ensemble", 3)
    made.programs = [bootstrap(bench) for _ in range(3)]
    return made


def unchanged(bench: Bench) -> dspy.Module:
    return bench.program


# The optimizer, how its program is built again, how many programs or tries that has, the score it must reach.
CASES: list[tuple[Callable[[Bench], dspy.Module], str, int, float]] = [
    (labelled, "rlm", 1, 0.3),
    (bootstrap, "rlm", 1, 0.9),
    (random_search, "rlm", 1, 0.9),
    (mipro, "rlm", 1, 0.9),
    (simba, "rlm", 1, 0.9),
    (copro, "rlm", 1, 0.3),
    (gepa, "rlm", 1, 0.9),
    (better_together, "rlm", 1, 0.9),
    (ensemble, "ensemble", 3, 0.9),
    (unchanged, "best", 4, 0.4),
    (unchanged, "refine", 4, 0.4),
]


class Elsewhere:
    """A process that loads and scores programs, and has seen none of them compiled."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors
        with errors.open("w") as stderr:
            self._process = subprocess.Popen(
                [*warm_python(), fresh.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def score(self, kind: str, count: int, path: Path) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{kind} {count} {path}\n")
        self._process.stdin.flush()
        late = threading.Timer(120, self._process.kill)
        late.start()
        try:
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):  # dspy.Evaluate prints a line of its own
                    return float(line)
            raise AssertionError(self._errors.read_text()[-3000:])
        finally:
            late.cancel()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    made = Elsewhere(tmp_path_factory.mktemp("elsewhere") / "errors.txt")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize(("compile_", "kind", "count", "least"), CASES, ids=lambda v: getattr(v, "__name__", None))
def test_what_an_optimizer_found_holds_in_a_fresh_process(
    compile_: Callable[[Bench], dspy.Module],
    kind: str,
    count: int,
    least: float,
    before: float,
    elsewhere: Elsewhere,
    tmp_path: Path,
) -> None:
    bench = Bench()
    with dspy.context(lm=bench.lm):
        made = compile_(bench)
    after = elsewhere.score(kind, count, program.save(made, tmp_path / "program.json"))
    print(f"{compile_.__name__} {kind}: {before:.2f} -> {after:.2f}, {bench.student.calls} calls")
    assert before < 0.3
    assert after >= least
    assert max(longest(bench.student), longest(bench.teacher)) < 60_000


def longest(engine: Student | Teacher) -> int:
    return engine.longest if engine.requests else 0
