"""The offline engine plays the protocol with the real RLM, sandbox and evidence check, and never invents."""

from __future__ import annotations

import datetime
import json
from typing import Literal

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy import RLM, Evidence
from rlm_dspy.corpus import read
from rlm_dspy.lms import offline_lm
from rlm_dspy.lms.offline import OfflineEngine, explorer, prompt, question_terms
from rlm_dspy.rlm.direct import Direct
from rlm_dspy.sandbox import toolkit
from rlm_dspy.sandbox.toolkit import CorpusTexts

APP = '''"""An engine."""

LIMIT_BYTES = 2048


class SpeedError(ValueError):
    """Raised when the speed is negative."""


class Engine(Machine):
    """Turns cranks."""

    def start(
        self,
        speed: float = 2.5,
        *,
        retries=4,
    ) -> bool:
        """Start turning.

        More text.
        """
        if speed < 0:
            raise SpeedError("negative")
        return True


def other(retries=9):
    return Engine().start(retries=retries)
'''
NOTES = """# History

The server was started by Ada Lovelace on 12 March 1843.
It listens on port 8080 and accepts at most 250 connections, which is enough for the small
offices that use it every day.

## Settings

| setting | default | meaning |
|---|---|---|
| `cull_size` | 10 | entries removed at once |

The log level defaults to "warning".
"""
FILES = {"src/app.py": APP, "docs/notes.md": NOTES}

LOOK_UPS = [
    ("what is the default of speed in Engine.start?", "2.5", "src/app.py", 15),
    ("What is the default value of retries in Engine?", "4", "src/app.py", 17),
    ("which class raises SpeedError?", "Engine", "src/app.py", 24),
    ("where is Engine defined?", "src/app.py:10", "src/app.py", 10),
    ("what is the base class of SpeedError?", "ValueError", "src/app.py", 6),
    ("what does the start method return?", "bool", "src/app.py", None),
    ("what is the value of LIMIT_BYTES?", "2048", "src/app.py", 3),
    ("when was the server started?", "The server was started by Ada Lovelace on 12 March 1843.", "docs/notes.md", 3),
    ("what is the default cull_size?", "10", "docs/notes.md", 11),
    ("what does the log level default to?", '"warning"', "docs/notes.md", 13),
]


class Texts(CorpusTexts):
    """A corpus of texts as callers hand one over."""

    def sandbox_index(self) -> dict[str, object]:
        return {"files": [entry._asdict() for entry in self.files]}


@pytest.fixture(autouse=True)
def _offline() -> object:
    with dspy.context(lm=offline_lm()):
        yield


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return read([tmp_path])


@pytest.mark.parametrize(("asked", "answer", "source", "line"), LOOK_UPS, ids=[row[0] for row in LOOK_UPS])
def test_a_look_up_in_a_folder_is_answered_with_checked_evidence(folder, asked, answer, source, line) -> None:
    found = RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")(context=folder, question=asked)
    assert found.answer == answer
    assert found.run.status == "submitted"
    first = found.evidence[0]
    assert (first.source, first.match) == (source, "exact")
    assert line is None or first.line == line
    assert first.quote in FILES[source]


@pytest.mark.parametrize(
    "asked",
    ["who wrote War and Peace?", "what is the default of frobnication in Zorblax?", "which class raises QuuxError?"],
)
def test_what_is_not_there_is_said_to_be_not_found(folder, asked) -> None:
    found = RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")(context=folder, question=asked)
    assert found.answer.startswith("Nothing was found")
    assert found.evidence == []


@pytest.mark.parametrize(
    "line",
    [
        "When was the old bridge opened?",
        "3. when was the old bridge opened",
        '{"id": "q3", "question": "When was the old bridge opened?"}',
        '{"question": "When was the old bridge opened?", "id": 3}',
        "id,question\n3,When was the old bridge opened?",
    ],
)
@pytest.mark.parametrize("mode", ["rlm", "direct"])
def test_the_question_itself_in_a_file_of_questions_is_no_answer(tmp_path, line: str, mode: str) -> None:
    (tmp_path / "questions.txt").write_text(f"{line}\n")
    signature = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"
    program = RLM(signature) if mode == "rlm" else Direct(signature)
    found = program(context=read([tmp_path]), question="When was the old bridge opened?")
    assert found.answer.startswith("Nothing was found")
    assert found.evidence == []
    (tmp_path / "town.md").write_text("The old bridge was opened by the mayor in 1904.\n")
    found = program(context=read([tmp_path]), question="When was the old bridge opened?")
    assert found.answer == "The old bridge was opened by the mayor in 1904."
    assert [quote.source for quote in found.evidence] == ["town.md"]


def test_a_question_with_its_answer_is_an_answer(tmp_path) -> None:
    (tmp_path / "faq.md").write_text("# When was the old bridge opened?\n\nIn 1904, by the mayor.\n")
    (tmp_path / "known.jsonl").write_text('{"question": "Who is the old mayor of Ely?", "answer": "Ada"}\n')
    program = Direct("context, question -> answer, evidence: list[rlm_dspy.Evidence]")
    assert "In 1904" in program(context=read([tmp_path]), question="When was the old bridge opened?").answer
    assert "Ada" in program(context=read([tmp_path]), question="Who is the old mayor of Ely?").answer


def test_a_single_text_gives_lines() -> None:
    found = RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")(
        context=NOTES, question="Who started the server?"
    )
    assert "Ada Lovelace" in found.answer
    assert found.evidence[0].line == 3


def test_typed_outputs_are_filled_from_the_passage() -> None:
    class Facts(dspy.Signature):
        """Find."""

        context: str = dspy.InputField()
        question: str = dspy.InputField()
        when: datetime.date = dspy.OutputField()
        who: str = dspy.OutputField()
        role: Literal["server", "client"] = dspy.OutputField()
        count: int | None = dspy.OutputField()
        evidence: list[Evidence] = dspy.OutputField()

    found = RLM(Facts)(context=NOTES, question="When was the server started?")
    assert found.when == datetime.date(1843, 3, 12)
    assert found.role == "server"
    assert found.evidence[0].quote in NOTES


def test_what_cannot_be_filled_is_left_empty_and_said() -> None:
    found = RLM("context, question -> answer, size: int")(context=NOTES, question="what is the mass of tungsten?")
    assert found.size == 0
    assert "Nothing was found for size" in found.final_reasoning


def test_a_list_of_texts_is_searched() -> None:
    found = RLM("docs: list[str], question -> answer")(docs=["alpha is one", "beta is two"], question="what is beta?")
    assert found.answer == "beta is two"


def test_without_a_context_it_finds_nothing() -> None:
    assert RLM("question -> answer")(question="what is 2+2?").answer.startswith("Nothing was found")


def test_a_run_ended_by_a_limit_is_extracted_from_what_it_printed() -> None:
    found = RLM("context, question -> answer", max_iters=1)(context=NOTES, question="Who started the server?")
    assert found.run.status == "extracted"
    assert "Ada Lovelace" in found.answer


def test_a_refused_submit_is_followed_by_a_plainer_one() -> None:
    given = prompt.Play(
        variables=(
            prompt.Variable("question", "str", "who started it?", True),
            prompt.Variable("context", "str; the main context, also `P`", "x", False),
        ),
        outputs=(prompt.Field("answer", "str"), prompt.Field("evidence", "list[Evidence]"), prompt.Field("n", "int")),
        observations=(
            json.dumps({"missing": [], "passages": 1})
            + "\n"
            + json.dumps({"text": "Ada started it", "start": 5, "has": [0]}),
            "[SUBMIT refused] evidence 1: not found",
            "[SUBMIT refused] n: not a number",
            "[SUBMIT refused] again",
        ),
    )
    from rlm_dspy.lms.offline import offline_engine

    codes = [
        offline_engine._choose_move(prompt.Play(given.variables, given.outputs, given.observations[:n]))[1]
        for n in (1, 2, 4)
    ]
    assert "'start': 5" in codes[0]
    assert "'start': 5" not in codes[1]
    assert "Ada" in codes[1]
    assert "evidence=[]" in codes[2]


def test_other_interpreters_get_plain_python_when_the_tools_are_missing() -> None:
    first = prompt.Play(
        (prompt.Variable("question", "str", "what is beta?", True), prompt.Variable("notes", "str", "…", False)), (), ()
    )
    from rlm_dspy.lms.offline import offline_engine

    failed = prompt.Play(first.variables, first.outputs, ("NameError: name 'grep' is not defined",))
    assert "def grep" in offline_engine._choose_move(failed)[1]
    assert "def grep" not in offline_engine._choose_move(first)[1]


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_any_dspy_program_runs_on_it(adapter) -> None:
    context = "".join(f"=== {name} (9 lines) ===\n{text}\n" for name, text in FILES.items())
    with dspy.context(adapter=adapter):
        found = dspy.ChainOfThought("context, question -> answer, port: int")(
            context=context, question="Which port does the server listen on?"
        )
        label = dspy.Predict("text -> tone: Literal['kind', 'rude']")(text="A kind word.")
    assert found.port == 8080
    assert "without a language model" in found.reasoning
    assert label.tone == "kind"


def test_a_sub_call_is_answered_from_the_text_in_its_prompt() -> None:
    lm = offline_lm()
    assert lm(f"How many connections does it accept?\n\n{NOTES}")[0].startswith("It listens on port 8080 and accepts")
    assert lm("hello")[0].startswith("Nothing was found")


async def test_the_async_engine_says_the_same() -> None:
    lm = offline_lm()
    asked = f"Who started the server?\n\n{NOTES}"
    assert await lm.acall(asked) == lm(asked)


def test_it_costs_nothing_and_counts_what_it_reads() -> None:
    lm = offline_lm()
    lm("x" * 400)
    entry = lm.history[-1]
    assert entry["usage"]["prompt_tokens"] == 100
    assert entry["response"].provider_data == {"cost": 0.0}


def test_a_saved_program_keeps_it(tmp_path) -> None:
    program = dspy.Predict("a -> b")
    program.set_lm(offline_lm())
    program.save(tmp_path / "p.json")
    again = dspy.Predict("a -> b")
    again.load(tmp_path / "p.json", allow_unsafe_lm_state=True)
    assert isinstance(again.lm.engine, OfflineEngine)


def test_the_same_question_gets_the_same_prompts_twice(folder) -> None:
    def codes() -> list[str]:
        found = RLM("context, question -> answer")(context=folder, question="what is the default of speed?")
        return [step.code + step.output for step in found.run.steps]

    assert codes() == codes()


@pytest.mark.parametrize("often", [1, 500], ids=["rare words", "no rare word"])
def test_a_corpus_too_large_for_all_patterns_is_swept_for_a_few_words(often) -> None:
    texts = {f"{number}.log": "the needle is here\n" * often + "a line\n" for number in range(3)}
    texts["1.log"] += "the needle in the haystack is called kumquat\n" + "one haystack\n" * often
    namespace: dict = {"context": toolkit.CorpusTexts.from_texts(texts)}
    toolkit.bind(namespace, "context")
    patterns = []

    def grep(pattern, **more):
        patterns.append(pattern)
        return namespace["grep"](pattern, **more)

    plan = question_terms.read("how is the needle in the haystack called?").plan() | {"reach": 1}
    _, found = explorer.explore(plan, namespace["context"], grep, None)
    assert "haystack is called kumquat" in found[0]["text"]
    assert len(patterns) <= 4
    assert not any("\\" in pattern for pattern in patterns)


@given(st.text(max_size=200))
def test_any_question_can_be_read(text: str) -> None:
    made = question_terms.read(text)
    assert question_terms.widen_question(made, [term.pattern for term in made.terms]) is None or made.terms
    json.dumps(made.plan())


@given(st.dictionaries(st.sampled_from(["context", "question", "n"]), st.text(max_size=100), min_size=1))
def test_the_fields_of_a_chat_prompt_are_found_again(values: dict[str, str]) -> None:
    text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in values.items())
    found = prompt.field_sections(text, list(values))
    assert list(found) == list(values)
    marked = any("[[ ##" in value or "Respond with" in value for value in values.values())
    assert marked or all(found[name].strip() == value.strip() for name, value in values.items())


def test_a_probe_is_read_with_values_that_hold_bars() -> None:
    probe = (
        "Variables:\n`question`: str, 9 characters, 3 lines, whole:\n| a\n| | `context`: no\n|\n|  b\n"
        "`context`: CorpusTexts, 2 files; the main context, also `P`, begins and ends:\n| x\n[… 9 characters …]\n| y"
    )
    first, second = prompt.variables(probe)
    assert (first.name, first.text, first.whole) == ("question", "a\n| `context`: no\n\n b", True)
    assert second.text == "x\n[… 9 characters …]\ny"
    assert (second.main, second.whole) == (True, False)
    assert rlm_dspy.Evidence is Evidence
