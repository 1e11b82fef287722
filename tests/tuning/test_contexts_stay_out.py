"""No context reaches a saved program, a demo, a trace or an optimizer's own prompt, whatever form it was given in."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy import data, metrics
from rlm_dspy.rlm.predictor import (
    KEPT_OF_TURN,
    MAX_KEPT_CHARS,
    MAX_KEPT_TURNS,
    compact_inputs,
    demo_turns,
    portable_demo,
)
from rlm_dspy.testing import action, scripted, texts
from rlm_dspy.tuning import Tunable, program, ran
from tuning.student import Engine, examples, student, teacher

SIGNATURE = "context, question -> answer"
MARK = "MARKOFTHECONTEXT"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    yield
    logging.disable(before)


def long_examples(count: int, seed: int) -> list[dspy.Example]:
    """Examples whose contexts are plain texts of 120,000 characters with marks in them, but not near the ends."""
    made = examples(count, seed)
    for one in made:
        one["context"] = "-" * 5_000 + "\n" + f"{MARK}\n" * 6_500 + one["context"] + "\n" + "-" * 5_000
    return made


INLINE, DEV = long_examples(6, 1), long_examples(6, 2)
HANDLED = data.handles(INLINE)


def labelled(lm: Any, prompt_lm: Any, train: list[dspy.Example]) -> dspy.Module:
    return dspy.LabeledFewShot(k=4).compile(Tunable(SIGNATURE, max_iters=4), trainset=train)


def bootstrap(lm: Any, prompt_lm: Any, train: list[dspy.Example]) -> dspy.Module:
    made = dspy.BootstrapFewShot(metric=metrics.exact, max_bootstrapped_demos=2, max_labeled_demos=4, max_rounds=2)
    return made.compile(Tunable(SIGNATURE, max_iters=4), trainset=train)


def mipro(lm: Any, prompt_lm: Any, train: list[dspy.Example]) -> dspy.Module:
    made = dspy.MIPROv2(
        metric=metrics.exact,
        prompt_model=prompt_lm,
        task_model=lm,
        auto=None,
        num_candidates=2,
        max_bootstrapped_demos=1,
        max_labeled_demos=1,
        num_threads=2,
        verbose=False,
    )
    rlm = Tunable(SIGNATURE, max_iters=4)
    return made.compile(rlm, trainset=train, valset=data.handles(DEV[:3]), num_trials=2, minibatch=False)


def simba(lm: Any, prompt_lm: Any, train: list[dspy.Example]) -> dspy.Module:
    made = dspy.SIMBA(
        metric=metrics.exact.explained,
        bsize=4,
        num_candidates=2,
        max_steps=2,
        max_demos=1,
        prompt_model=prompt_lm,
        num_threads=2,
    )
    return made.compile(Tunable(SIGNATURE, max_iters=4), trainset=train)


def gepa(lm: Any, prompt_lm: Any, train: list[dspy.Example]) -> dspy.Module:
    made = dspy.GEPA(
        metric=metrics.exact, max_metric_calls=12, reflection_lm=prompt_lm, component_selector=ran, num_threads=2
    )
    return made.compile(Tunable(SIGNATURE, max_iters=4), trainset=train, valset=DEV[:3])


CASES = [
    (labelled, INLINE),
    (labelled, HANDLED),
    (bootstrap, INLINE),
    (mipro, HANDLED),
    (simba, HANDLED),
    (gepa, INLINE),
]


@pytest.mark.parametrize(
    ("compile_", "train"), CASES, ids=["labelled", "labelled handles", "bootstrap", "mipro", "simba", "gepa"]
)
def test_an_optimizer_never_shows_or_saves_a_context(
    compile_: Callable[..., dspy.Module], train: list[dspy.Example], tmp_path: Path
) -> None:
    (lm, seen), (prompt_lm, asked) = student(), teacher()
    with dspy.context(lm=lm):
        made = compile_(lm, prompt_lm, train)
        made.save(tmp_path / "dspy.json")
        program.save(made, tmp_path / "ours.json")
        made(**DEV[0].inputs())
    for name in ("dspy.json", "ours.json"):
        text = (tmp_path / name).read_text()
        assert MARK not in text
        assert len(text) < 60_000
    for engine in (seen, asked):
        assert not any(MARK in text for text in prompts(engine))
        assert not engine.requests or engine.longest < 60_000


def prompts(engine: Engine) -> list[str]:
    return [text for request in engine.requests for text in texts(request)]


def test_a_demo_from_a_run_is_shown_as_the_turns_of_that_run() -> None:
    lm, script = scripted(
        action("n = len(context)\nprint(n)", "count"),
        action("SUBMIT(answer=str(n))", "done"),
        action("SUBMIT(answer='new')"),
    )
    rlm = rlm_dspy.RLM(SIGNATURE)
    with dspy.context(lm=lm, trace=[]):
        rlm(context="abc", question="how long?")
        _, inputs, outputs = dspy.settings.trace[-1]
    rlm.generate_action.demos = [dspy.Example(augmented=True, **inputs, **outputs)]
    with dspy.context(lm=lm, trace=[]):
        rlm(context="abcdef", question="and this?")
        _, inputs, _ = dspy.settings.trace[-1]
    shown = texts(script.requests[-1])
    assert [text.partition(":")[0] for text in shown[1:]] == ["user", "assistant"] * 2 + ["user"]
    assert "a worked example of another task" in shown[1]
    assert "n = len(context)" in shown[2]
    assert "SUBMIT(answer=str(n))" in shown[4]
    assert "and this?" in shown[5]
    assert not inputs["history"].messages  # a demo of a demo would grow without end


def test_labelled_examples_are_shown_as_lines_without_their_contexts() -> None:
    lm, script = scripted(action("SUBMIT(answer='x')"))
    rlm = dspy.LabeledFewShot(k=2).compile(rlm_dspy.RLM(SIGNATURE), trainset=INLINE)
    with dspy.context(lm=lm):
        rlm(context="abc", question="q")
    system = texts(script.requests[0])[0]
    assert "Examples of inputs and their right outputs" in system
    assert system.count("; answer: QX") == 2
    assert MARK not in system


def test_a_labelled_example_with_a_short_context_is_shown_without_it() -> None:
    lm, script = scripted(action("SUBMIT(answer='x')"))
    rlm = dspy.LabeledFewShot(k=2).compile(rlm_dspy.RLM(SIGNATURE), trainset=examples(3, 1))
    with dspy.context(lm=lm):
        rlm(context="abc", question="q")
    lines = [line for line in texts(script.requests[0])[0].splitlines() if "; answer: QX" in line]
    assert len(lines) == 2
    assert all(line.strip().startswith("- question: Which tag") and len(line) < 100 for line in lines)


def test_a_trace_keeps_a_long_run_short() -> None:
    turn = {"observation": "o" * 9_000, "reasoning": "r" * 9_000, "code": "c" * 9_000}
    kept = compact_inputs({"history": dspy.History(messages=[turn] * 20), "observation": "o" * 90_000, "n": 3})
    assert len(kept["history"].messages) == MAX_KEPT_TURNS
    assert len(str(kept)) < MAX_KEPT_TURNS * 3 * (KEPT_OF_TURN + 100) + MAX_KEPT_CHARS + 200
    assert kept["n"] == 3


def test_a_saved_demo_is_json_and_reads_back_as_it_was_shown(tmp_path: Path) -> None:
    turn = {"observation": "[step 1/20]\nseen", "reasoning": "r", "code": "print(1)"}
    demo = dspy.Example(history=dspy.History(messages=[turn]), observation="then", reasoning="r", code="SUBMIT(1)")
    rlm, loaded = rlm_dspy.RLM(SIGNATURE), rlm_dspy.RLM(SIGNATURE)
    rlm.generate_action.demos = [demo]
    program.save(rlm, tmp_path / "p.json")
    program.load(loaded, tmp_path / "p.json")
    assert demo_turns(loaded.generate_action.demos[0]) == demo_turns(demo)
    assert len(demo_turns(demo)) == 2


def test_a_corpus_and_a_handle_are_one_line_of_a_saved_demo() -> None:
    corpus = rlm_dspy.Corpus.from_texts({"a.txt": MARK * 100})
    demo = {"context": rlm_dspy.Context(MARK * 100), "question": "q", "docs": corpus, "other": MARK}
    saved = json.dumps(portable_demo(demo, ("context", "question", "docs")))
    assert MARK not in saved
    assert "Corpus(1 file" in saved
