"""Programs are saved without keys, addresses or engines, and refused with one line where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.rlm import small_prompts
from rlm_dspy.testing import action, fields, scripted
from rlm_dspy.tuning import program

SIGNATURE = "context, question -> answer"


def test_a_saved_program_names_its_model_but_not_its_key_or_address(tmp_path: Path) -> None:
    rlm = rlm_dspy.RLM(SIGNATURE)
    lm = dspy.LM("openai/some-model", api_key="sk-very-secret-key", api_base="http://10.0.0.7:8000/v1")
    rlm.set_lm(lm)
    text = program.save(rlm, tmp_path / "deep/p.json").read_text()
    assert "openai/some-model" in text
    assert "secret" not in text
    assert "10.0.0.7" not in text
    assert rlm.generate_action.lm is lm


def test_instructions_and_demos_come_back(tmp_path: Path) -> None:
    rlm, loaded = rlm_dspy.RLM(SIGNATURE), rlm_dspy.RLM(SIGNATURE)
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions("Be brilliant.")
    rlm.extract.demos = [dspy.Example(question="q", answer="a")]
    program.load(loaded, program.save(rlm, tmp_path / "p.json"))
    assert program.instructions(loaded) == program.instructions(rlm)
    assert program.demos(loaded) == program.demos(rlm)


@pytest.mark.parametrize("task", ["", "Answer in German."])
def test_an_optimizer_starts_from_what_a_small_student_is_shown(task: str) -> None:
    signature = dspy.Signature(SIGNATURE, task)
    shown = []
    for make in (rlm_dspy.RLM, program.Tunable):
        lm, script = scripted(action("SUBMIT(answer='blue')"), model="openai/student-1b")
        with dspy.context(lm=lm):
            rlm = make(signature)
            rlm(context="The sky is blue. " * 300, question="Which colour is the sky?")
        shown.append(script.requests[0].system)
    assert small_prompts.STRATEGY in rlm.generate_action.signature.instructions
    assert task in rlm.generate_action.signature.instructions
    assert sorted(shown[0].split()) == sorted(shown[1].split())


def test_a_saved_program_has_no_secret_in_its_demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret-key")
    rlm = rlm_dspy.RLM(SIGNATURE)
    rlm.extract.demos = [dspy.Example(question="q", answer="it is sk-very-secret-key")]
    assert "secret" not in program.save(rlm, tmp_path / "p.json").read_text()


def test_a_program_with_a_lone_surrogate_is_saved_and_loaded(tmp_path: Path) -> None:
    rlm, loaded = rlm_dspy.RLM(SIGNATURE), rlm_dspy.RLM(SIGNATURE)
    rlm.extract.demos = [dspy.Example(question="q", answer="\ud800 blue")]
    program.load(loaded, program.save(rlm, tmp_path / "p.json"))
    assert loaded.extract.demos[0]["answer"] == "? blue"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a saved program"),
        ("[]", "is not a program of this kind: it is not a JSON object"),
        ('{"generate_action": {}}', "lacks the predictor extract"),
    ],
)
def test_a_file_that_is_no_program_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        program.load(rlm_dspy.RLM(SIGNATURE), tmp_path / "p.json")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        program.load(rlm_dspy.RLM(SIGNATURE), tmp_path / "gone.json")


def test_a_program_of_another_signature_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    saved = program.save(rlm_dspy.RLM("context, question -> answer, score: int"), tmp_path / "p.json")
    rlm = rlm_dspy.RLM(SIGNATURE)
    before = program.instructions(rlm)
    with pytest.raises(ConfigurationError, match="another signature: context, question -> answer, score; here"):
        program.load(rlm, saved)
    assert program.instructions(rlm) == before


def test_a_program_that_dspy_saved_is_checked_by_its_fields(tmp_path: Path) -> None:
    rlm_dspy.RLM("context, question -> answer, score: int").save(tmp_path / "p.json")
    with pytest.raises(ConfigurationError, match="extract has the fields variables info, repl history, answer, score"):
        program.load(rlm_dspy.RLM(SIGNATURE), tmp_path / "p.json")


def test_a_program_of_another_version_of_dspy_is_refused(tmp_path: Path) -> None:
    path = program.save(rlm_dspy.RLM(SIGNATURE), tmp_path / "p.json")
    state = json.loads(path.read_text())
    del state["generate_action"]["signature"]
    path.write_text(json.dumps(state))
    with pytest.raises(ConfigurationError, match="another version of DSPy"):
        program.load(rlm_dspy.RLM(SIGNATURE), path)


def test_a_program_file_never_chooses_the_model(tmp_path: Path) -> None:
    rlm, loaded = rlm_dspy.RLM(SIGNATURE), rlm_dspy.RLM(SIGNATURE)
    rlm.set_lm(dspy.LM("openai/somebody-elses"))
    rlm.save(tmp_path / "p.json")
    state = json.loads((tmp_path / "p.json").read_text())
    assert state["generate_action"]["lm"]["model"] == "openai/somebody-elses"
    del state["extract"]["lm"]
    (tmp_path / "p.json").write_text(json.dumps(state))
    program.load(loaded, tmp_path / "p.json")
    assert [predictor.lm for _, predictor in loaded.named_predictors()] == [None] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": ["a"]}, "its metadata is not an object"),
        ({"extract": {"demos": [1, 2]}}, "extract has demos that are not objects"),
        ({"extract": {"demos": {"a": 1}}}, "extract has demos that are not objects"),
        ({"extract": {"signature": {"fields": [1, 2, 3]}}}, "extract has no signature or demos"),
    ],
)
def test_a_program_that_somebody_broke_is_refused_in_one_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = program.save(rlm_dspy.RLM(SIGNATURE), tmp_path / "p.json")
    state = json.loads(path.read_text())
    for name, broken in change.items():
        state[name] = {**state[name], **broken} if isinstance(broken, dict) else broken
    path.write_text(json.dumps(state))
    with pytest.raises(ConfigurationError, match=message):
        program.load(rlm_dspy.RLM(SIGNATURE), path)


def test_a_program_that_is_running_keeps_its_models_while_its_state_is_told() -> None:
    rlm = rlm_dspy.RLM(SIGNATURE)
    rlm.set_lm(dspy.LM("openai/some-model"))
    seen: list[object] = []

    class Demos(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:  # DSPy reads the demos while it dumps the state
            seen.append(rlm.generate_action.lm)
            return super().__iter__()

    rlm.generate_action.demos = Demos()
    assert program.state_of(rlm)["generate_action"]["lm"] is None
    assert seen
    assert None not in seen


def test_typed_sub_calls_and_children_are_in_the_trace_that_optimizers_read() -> None:
    code = "a = predict('doc -> label: str', doc='x')\nb = subcall('some text', 'summarise it')\nprint(a, b)"
    lm, _ = scripted(
        action(code), fields(label="good"), action("SUBMIT(output='short')"), action("SUBMIT(answer='done')")
    )
    rlm = rlm_dspy.RLM(SIGNATURE, tune_children=True)
    with dspy.context(lm=lm, trace=[]):
        rlm(context="c", question="q")
        trace = list(dspy.settings.trace)
    names = {id(predictor): name for name, predictor in rlm.named_predictors()}
    assert [names.get(id(call[0])) for call in trace] == [
        "generate_action",
        None,
        "child.generate_action",
        "generate_action",
    ]
    assert list(trace[1][0].signature.output_fields) == ["label"]
