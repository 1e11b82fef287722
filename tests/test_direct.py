"""The direct mode as a module: called like an RLM, one call, a run of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Annotated, Any, Literal

import dspy
import pydantic
import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy.budget import Budget
from rlm_dspy.corpus import Corpus
from rlm_dspy.errors import ActionError, BudgetExceededError, ConfigurationError
from rlm_dspy.rlm.adapters import answer_adapter
from rlm_dspy.rlm.direct import Direct, prompt_text
from rlm_dspy.rlm.reply_outputs import with_plain_markers
from rlm_dspy.rlm.subcalls import explain_unread
from rlm_dspy.rlm.submit_checks import OFFLINE_ANSWER, OFFLINE_PASSAGES
from rlm_dspy.run import Event
from rlm_dspy.testing import AsyncScript, Script, action, fields, scripted, texts
from servers.openai import OpenAIServer

SIGNATURE = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"
TEXT = "one\nthe bridge was opened in 1932\nthree\n"


def reply(quote: str) -> str:
    return fields(answer="1932", evidence=json.dumps([{"quote": quote}]))


def ask(program: Direct, quote: str, context: object = TEXT) -> tuple[dspy.Prediction, list[str]]:
    lm, script = scripted(reply(quote))
    with dspy.context(lm=lm):
        prediction = program(context=context, question="When was the bridge opened, in 1932?")
    return prediction, texts(script.requests[0])


def test_one_call_has_the_whole_text_and_its_evidence_is_located() -> None:
    prediction, sent = ask(Direct(SIGNATURE), "opened in 1932")
    assert prediction.answer == "1932"
    assert prediction.evidence[0].where == "line 2"
    assert TEXT.strip() in sent[-1]
    run = prediction.run
    assert (run.status, run.usage.calls, run.model, run.usage.cost) == ("submitted", 1, "scripted/model", 0.001)
    assert run.outputs["answer"] == "1932"
    assert run.evidence[0]["line"] == 2


MARKED = {
    "the end on the line of the answer": "[[ ## answer ## ]]\nParis[[ ## completed ## ]]",
    "the end after a blank": "[[ ## answer ## ]]\nParis [[ ## completed ## ]]\n",
    "the end before a closing sentence": "[[ ## answer ## ]] Paris [[ ## completed ## ]]\nLet me know!",
    "a blank too few": "[[ ## answer ##]] Paris\n[[ ## completed ##]]",
    "bold": "**[[ ## answer ## ]]**\nParis\n**[[ ## completed ## ]]**",
    "a colon": "[[ ## answer ## ]]: Paris\n[[ ## completed ## ]]",
    "a capital letter": "[[ ## Answer ## ]]\nParis\n[[ ## Completed ## ]]",
    "a heading": "### [[ ## answer ## ]]\nParis\n",
    "after a sentence": "Here it is: [[ ## answer ## ]] Paris [[ ## completed ## ]]",
}
ASK = "print(predict('question -> answer', question='Capital?'))"


@pytest.mark.parametrize("form", MARKED)
def test_no_marker_becomes_a_part_of_an_answer(form: str) -> None:
    lm, _ = scripted(MARKED[form], action(ASK), MARKED[form], MARKED[form])
    with dspy.context(lm=lm):
        asked = {"context": "Paris is the capital", "question": "Capital?"}
        assert Direct("context, question -> answer")(**asked).answer == "Paris"
        rlm = rlm_dspy.RLM("context, question -> answer", budget=Budget(max_iters=1))
        extracted = rlm(**asked)
    assert (extracted.answer, extracted.run.status) == ("Paris", "extracted")
    assert "answer='Paris'" in extracted.run.steps[0].output


def test_a_marker_that_an_answer_mentions_stays() -> None:
    told = "It ends with [[ ## completed ## ]] after [[ ## answer ## ]] and [[ ## code ## ]]."
    lm, _ = scripted(f"[[ ## answer ## ]]\n{told}\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm):
        assert Direct("context, question -> answer")(context="c", question="How does a reply end?").answer == told


END = "\n\n[[ ## completed ## ]]"
NOTE = "        # note: the value you produce must adhere to the JSON schema: {}"


class Invoice(pydantic.BaseModel):
    number: str
    total: float


INVOICES = [Invoice(number="A-17", total=1), Invoice(number="A-18", total=2)]
READ = [
    (float, "1,250.50", 1250.5),
    (int, "**1,250**", 1250),
    (float | None, "`3`", 3.0),
    (bool, "No.", False),
    (bool, f"True{NOTE}", True),
    (Literal["card", "cash"], "Card.", "card"),
    (list[str], f'["A-17", "A-18"]{NOTE}', ["A-17", "A-18"]),
    (list[str], "```json\n['a', 'b']\n```", ["a", "b"]),
    (list[int], "[1, 250]", [1, 250]),
    (dict[str, int | str], '{"a": "costs 1,250 EUR", "b": 3}', {"a": "costs 1,250 EUR", "b": 3}),
    (tuple[int, int], "[1,250]", (1, 250)),
    (list[str], "- A-17\n- A-18, paid\n", ["A-17", "A-18, paid"]),
    (list[str], "1. A-17\n2. A-18", ["A-17", "A-18"]),
    (str | None, "None", None),
    (str | None, "42", "42"),
    (Literal["none", "some"] | None, "none", "none"),
    (list[Invoice], '[{"number": "A-17", "total": 1250.5}]', [Invoice(number="A-17", total=1250.5)]),
    (list[Invoice], '{"number": "A-17", "total": 1}\n{"number": "A-18", "total": 2}', INVOICES),
    (list[Invoice], '{"number": "A-17", "total": 1}, {"number": "A-18", "total": 2}', INVOICES),
    (list[int], "1, 2, 3", [1, 2, 3]),
    (list[int], "[1, 2, 3].", [1, 2, 3]),
    (list[int], "- 1\n- 2", [1, 2]),
    (list[int], "[1_000, 2]", [1000, 2]),
    (list[list[int]], "[1, 2], [3, 4]", [[1, 2], [3, 4]]),
    (list[tuple[int, int]], "[(1, 2), (3, 4)]", [(1, 2), (3, 4)]),
    (list[str], "[Smith, Jane]", ["Smith", "Jane"]),
    (list[str], '["1. a" "b"]', ["1. a", "b"]),
]
REFUSED = [
    (list[float], "[1,250.50, 80, 3,400]", "without separators of thousands"),
    (list[int], "1,250", "without separators of thousands"),
    (list[str], '["A-17"]\n["A-18"]', "write one list"),
    (list[str], "Invoice A-17: [see note]", "write one list"),
    (list[str], '["A-17"] and ["A-18"]', "write one list"),
    (list[str], "[A-17 (paid, late), A-18]", "write one list"),
    (list[int], "[1, 2, ...]", "write one list"),
    (list[int], "[12 km, 3 km]", "write one list"),
    (list[int], "[1 000, 2]", "plain numbers"),
    (list[float], "[1,5; 2,5]", "plain numbers"),
    (dict[str, int], '{"a": 12%}', "plain numbers"),
    (str | None, f"{NOTE}", "a note of the prompt"),
    (str | None, '{"type": "string"}', "the schema of the value"),
]


def answer_of(kind: Any, *replies: str) -> Any:
    lm, script = scripted(*replies)
    signature = dspy.Signature({"context": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())})
    with dspy.context(lm=lm):
        answer = Direct(signature)(context="c").answer
    assert len(script.requests) == len(replies)
    return answer


@pytest.mark.parametrize(("kind", "text", "value"), READ)
def test_a_value_with_one_meaning_is_read_in_one_call(kind: Any, text: str, value: Any) -> None:
    assert answer_of(kind, f"[[ ## answer ## ]]\n{text}{END}") == value


@pytest.mark.parametrize(("kind", "text", "why"), REFUSED)
def test_a_value_that_nobody_wrote_is_no_answer(kind: Any, text: str, why: str) -> None:
    reply = f"[[ ## answer ## ]]\n{text}{END}"
    with pytest.raises(ActionError, match="cannot be read"):
        answer_of(kind, reply, "nothing")
    signature = dspy.Signature({"q": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())})
    with pytest.raises(AdapterParseError) as told:
        answer_adapter().parse(signature, reply)
    assert why in explain_unread(told.value)


@pytest.mark.parametrize("reply", ["The number is 555.", "Answer: 555", '{"reply": "555"}'])
def test_a_reply_without_the_outputs_is_not_none(reply: str) -> None:
    for adapter in (None, dspy.JSONAdapter(), dspy.XMLAdapter()):
        with dspy.context(adapter=adapter), pytest.raises(ActionError, match="answer"):
            answer_of(str | None, reply, reply)


class ArrowAdapter(dspy.ChatAdapter):
    """Reads ``name -> value``."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        name, _, value = completion.partition(" -> ")
        return {name: value}


def test_an_adapter_of_the_user_reads_its_own_form() -> None:
    with dspy.context(adapter=ArrowAdapter()):
        assert answer_of(str, "answer -> 5") == "5"


async def test_a_call_can_be_awaited() -> None:
    lm, _ = scripted(reply("opened in 1932"))
    with dspy.context(lm=lm):
        found = await Direct(SIGNATURE).acall(context=TEXT, question="When?")
    assert (found.answer, found.run.status) == ("1932", "submitted")


class Endless(AsyncScript):
    """Never replies; tells when a request begins and when it is cancelled."""

    def __init__(self) -> None:
        super().__init__(Script("never"))
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def complete(self, request: Any) -> Any:
        """Wait."""
        self.begun.set()
        try:
            return await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def test_a_cancelled_call_ends_its_request() -> None:
    engine = Endless()
    with dspy.context(lm=dspy.LM("scripted/model", engine=engine.script, async_engine=engine, cache=False)):
        asked = asyncio.create_task(Direct(SIGNATURE).acall(context=TEXT, question="When?"))
        await asyncio.to_thread(engine.begun.wait, 60)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert await asyncio.to_thread(engine.cancelled.wait, 60)


class Asking(dspy.Module):  # type: ignore[misc]
    """Awaits a Direct."""

    def __init__(self) -> None:
        super().__init__()
        self.direct = Direct("context, question -> answer", budget=Budget(max_seconds=20))

    async def aforward(self, **inputs: Any) -> Any:
        """Ask."""
        return await self.direct.acall(**inputs)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_call_with_a_limit_is_streamed(is_async: bool) -> None:
    with OpenAIServer(key="k", models=("m",), reply=fields(answer="word " * 40)) as server:
        lm = dspy.LM("openai/m", api_base=f"{server.url}/v1", api_key="k", cache=False)
        program = Asking() if is_async else Direct("context, question -> answer", budget=Budget(max_seconds=20))
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        streamed = dspy.streamify(program, stream_listeners=[listener], is_async_program=is_async)
        with dspy.context(lm=lm):
            seen = [piece async for piece in streamed(context="c", question="q")]
    assert [piece for piece in seen if isinstance(piece, dspy.streaming.StreamResponse)]
    assert seen[-1].answer.startswith("word word")


def test_a_prediction_is_the_same_text_in_each_run_and_its_copies_keep_the_run() -> None:
    first, second = (ask(Direct(SIGNATURE), "opened in 1932")[0] for _ in range(2))
    assert str(first) == str(second)
    assert "# Run(" in repr(first)
    for copied in (first.copy(answer="x"), first.without("evidence"), first.copy()):
        assert copied.run is first.run
    assert (first.copy(answer="x").answer, "evidence" in first.without("evidence")) == ("x", False)


TAGS = "<reasoning>why</reasoning> <thought>x</thought> Wrap it in <think>hidden</think>, then </think>."
DRAFTS = ["", "<think>{draft}\n</think>\n", "It is {draft}\n</think>\n", "[[ ## Answer ##]] no\n{draft}\n</think>\n"]


@pytest.mark.parametrize("before", DRAFTS)
@pytest.mark.parametrize(
    ("adapter", "form"),
    [(None, "[[ ## answer ## ]]\n{}\n\n[[ ## completed ## ]]"), (dspy.JSONAdapter(), '{{"answer": "{}"}}')],
)
def test_tags_in_an_answer_are_text_and_those_before_it_are_thinking(adapter: Any, form: str, before: str) -> None:
    with dspy.context(adapter=adapter):
        assert answer_of(str, before.format(draft=form.format("no")) + form.format(TAGS)) == TAGS


def test_null_is_not_the_text_none() -> None:
    with pytest.raises(ActionError, match="is null"):
        answer_of(str, "plain text", '{"answer": null}')


def test_outputs_with_the_names_of_a_step_are_outputs() -> None:
    lm, _ = scripted('{"reasoning": "because", "code": "A12"}')
    with dspy.context(lm=lm):
        prediction = Direct("context, question -> reasoning, code")(context="the code is A12", question="Which code?")
    assert (prediction.reasoning, prediction.code) == ("because", "A12")


def test_a_json_reply_with_all_outputs_is_read_in_one_call() -> None:
    assert answer_of(int, '```json\n{"answer": 3}\n```') == 3
    assert answer_of(int, '{"answer": 3}\n\n[[ ## completed ## ]]') == 3


@pytest.mark.parametrize("evidence", ["- the bridge was opened in 1932", '"the bridge was opened in 1932"'])
def test_quotes_on_lines_of_their_own_are_evidence(evidence: str) -> None:
    lm, _ = scripted(f"[[ ## answer ## ]]\n1932\n\n[[ ## evidence ## ]]\n{evidence}{END}")
    with dspy.context(lm=lm):
        found = Direct(SIGNATURE)(context=TEXT, question="When?")
    assert (found.answer, [piece.where for piece in found.evidence]) == ("1932", ["line 2"])


@pytest.mark.parametrize("reply", [f"[[ ## answer ## ]]\n1932{END}", '{"answer": "1932"}'])
def test_an_answer_without_evidence_is_kept(reply: str) -> None:
    lm, _ = scripted(reply)
    with dspy.context(lm=lm):
        found = Direct(SIGNATURE)(context=TEXT, question="When?")
    assert (found.answer, found.evidence) == ("1932", [])
    assert "the model's reply has no evidence: the answer stands alone" in found.run.warnings


def test_the_replies_of_an_extraction_model_are_cleaned() -> None:
    extractor, _ = scripted("[[ ## answer ## ]]\n5[[ ## completed ## ]]")
    with dspy.context(adapter=dspy.TwoStepAdapter(extractor)):
        assert answer_of(str, "It is five.") == "5"


MARKS = ("[[ ## answer ## ]]", "[[ ## proof ## ]]", "[[ ## completed ## ]]", "[[ ## Answer ##]]", "[[ ## other ## ]]")
TEXTS = st.lists(st.sampled_from([*MARKS, "**", "> ", "a", " ", "\n"])).map("".join)


@given(TEXTS, TEXTS)
def test_a_reply_that_dspy_reads_is_read_the_same(answer: str, proof: str) -> None:
    signature = dspy.Signature("question -> answer, proof")
    reply = fields(answer=answer, proof=proof)
    plain = with_plain_markers(reply, signature.output_fields)
    assert dspy.ChatAdapter().parse(signature, plain) == dspy.ChatAdapter().parse(signature, reply)


def test_a_prompt_that_alone_costs_more_than_max_cost_is_not_sent() -> None:
    lm, script = scripted(reply("one"), model="openai/gpt-4o-mini")  # $0.15 for a million tokens
    with dspy.context(lm=lm):
        told_as = r"the prompt alone costs about \$0\.0150, max_cost is \$0\.0100"
        with pytest.raises(BudgetExceededError, match=told_as) as told:
            Direct(SIGNATURE, budget=Budget(max_cost=0.01))(context="x" * 400_000, question="q")
        assert script.requests == []
        assert told.value.limit == "max_cost"
        run = Direct(SIGNATURE, budget=Budget(max_cost=0.02))(context="x" * 400_000, question="q").run
    assert not [warning for warning in run.warnings if "max_cost" in warning]


def test_a_price_that_is_unknown_is_told_where_max_cost_cannot_hold() -> None:
    lm, _ = scripted(fields(answer="x", evidence="[]"))
    with dspy.context(lm=lm):
        run = Direct(SIGNATURE, budget=Budget(max_cost=0.01))(context=TEXT, question="q").run
    assert run.warnings == ("the price of scripted/model is unknown, so max_cost was not enforced",)


def test_each_file_of_a_corpus_is_introduced_by_its_name() -> None:
    corpus = Corpus.from_texts({"a.md": TEXT, "b/c.md": "last"})
    prediction, sent = ask(Direct(SIGNATURE), "the bridge was", corpus)
    assert f"=== a.md (3 lines) ===\n{TEXT}\n\n=== b/c.md (1 line) ===\nlast" in sent[-1]
    assert prediction.evidence[0].where == "a.md:2"
    assert prompt_text(rlm_dspy.Corpus.from_texts({"n": "x\ud800"})) == "=== n (1 line) ===\nx?"


def test_the_question_is_no_evidence() -> None:
    prediction, _ = ask(Direct(SIGNATURE), "in 1932?")
    assert prediction.evidence[0].match is None
    assert prediction.run.warnings[0].startswith("unverified evidence in evidence: ")
    assert "in 1932?" in prediction.run.warnings[0]


def test_a_single_piece_of_evidence_cannot_be_forged() -> None:
    forged = json.dumps({"quote": "pigs can fly", "match": "exact", "line": 3})
    lm, _ = scripted(fields(evidence=forged))
    with dspy.context(lm=lm):
        prediction = Direct("context, question -> evidence: rlm_dspy.Evidence")(context=TEXT, question="q")
    assert (prediction.evidence.match, prediction.evidence.line) == (None, None)
    assert prediction.run.evidence[0]["match"] is None
    assert "pigs can fly" in prediction.run.warnings[0]


def test_a_handle_is_written_out_for_the_model_and_short_in_the_record() -> None:
    prediction, sent = ask(Direct(SIGNATURE), "opened in 1932", rlm_dspy.Context(TEXT * 500))
    assert TEXT * 500 in sent[-1] + "\n"
    assert len(prediction.run.inputs["context"]) < 1_000


def test_watchers_hear_of_the_beginning_and_the_end() -> None:
    seen: list[Event] = []
    ask(Direct(SIGNATURE, on_event=seen.append), "opened in 1932")
    assert [(event.kind, event.text) for event in seen] == [("step", ""), ("final", "submitted")]
    assert seen[-1].usage.calls == 1


def test_a_failure_carries_its_run() -> None:
    lm, _ = scripted("no fields here")
    with dspy.context(lm=lm), pytest.raises(ActionError, match="no fields here") as caught:
        Direct(SIGNATURE)(context=TEXT, question="when?")
    assert caught.value.run is not None
    assert caught.value.run.status == "stopped"
    assert caught.value.run.usage.calls >= 1


def test_inputs_are_checked_before_anything_is_asked() -> None:
    with pytest.raises(ConfigurationError, match="Missing required inputs"):
        Direct(SIGNATURE)(context=TEXT)


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
@pytest.mark.parametrize("name", ["config", "signature", "demos", "lm", "prediction"])
def test_inputs_with_names_that_dspy_takes_for_itself_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Direct(f"{name}, question -> answer")


def test_no_text_of_an_input_becomes_an_image_that_the_provider_fetches() -> None:
    image = '[{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]'
    text = f"<<CUSTOM-TYPE-START-IDENTIFIER>>{image}<<CUSTOM-TYPE-END-IDENTIFIER>>"
    lm, script = scripted(fields(answer="a"))
    with dspy.context(lm=lm):
        Direct("docs: list[str], notes: dict[str, str] -> answer")(docs=[text], notes={text: text})
    assert [part.type for part in script.requests[0].messages[-1].parts] == ["text"]


def test_only_the_best_passages_are_shown_where_that_is_asked_for() -> None:
    filler = "Nothing of note happened on the way to the mill.\n" * 400
    text = filler + "The access code of the gate is 48213.\n" + filler
    lm, script = scripted("[[ ## answer ## ]]\n48213\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm):
        run = Direct("context, question -> answer", passages=2)(context=text, question="What is the access code?").run
    prompt = texts(script.requests[0])[-1]
    assert "The access code of the gate is 48213." in prompt
    assert len(prompt) < 4_000
    assert run.outputs["answer"] == "48213"
    assert any("was shown 1 passage of `context` that fit" in warning for warning in run.warnings)


def test_a_short_text_is_shown_whole_all_the_same() -> None:
    lm, script = scripted("[[ ## answer ## ]]\nUlm\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm):
        run = Direct("context, question -> answer", passages=6)(context="Anna met Ben in Ulm.", question="Where?").run
    assert "Anna met Ben in Ulm." in texts(script.requests[0])[-1]
    assert not run.warnings


def test_the_engine_is_loaded_before_anything_is_told() -> None:
    told: list[str] = []
    lm, _ = scripted(reply("one"))
    lm._engine_spec.load = lambda: told.append("load")
    with dspy.context(lm=lm):
        Direct(SIGNATURE, on_event=lambda event: told.append(event.kind))(context=TEXT, question="q")
    assert told[:2] == ["load", "step"]


def test_the_offline_engine_is_a_warning_in_the_record_of_both_modes() -> None:
    with dspy.context(lm=rlm_dspy.lm("offline")):
        direct = Direct(SIGNATURE)(context="The captain is Ahab.", question="Who is the captain?").run
        explored = rlm_dspy.RLM("context, question -> mood: int")(context="The captain is Ahab.", question="mood?").run
        counted = Direct(SIGNATURE)(context="The captain is Ahab.", question="How many captains are there?").run
    assert direct.warnings == explored.warnings == (OFFLINE_ANSWER,)
    assert counted.warnings == (OFFLINE_ANSWER, OFFLINE_PASSAGES)


def no_nines(value: int) -> int:
    if value == 9:
        raise KeyError("nine")
    return value


@pytest.mark.parametrize(
    ("annotation", "said", "problem"),
    [
        (Annotated[int, pydantic.Field(le=5)], "7", "Input should be less than or equal to 5"),
        (Annotated[int, pydantic.AfterValidator(no_nines)], "9", "KeyError: 'nine'"),
        (Annotated[int, pydantic.Field(le=5)], "4", None),
    ],
)
def test_an_answer_beyond_its_limits_is_kept_with_a_warning(annotation: Any, said: str, problem: str | None) -> None:
    inputs = {"context": (str, dspy.InputField()), "question": (str, dspy.InputField())}
    lm, _ = scripted(fields(answer=said))
    with dspy.context(lm=lm):
        done = Direct(dspy.Signature({**inputs, "answer": (annotation, dspy.OutputField())}))(
            context="4 7 9", question="q"
        )
    assert done.answer == int(said)
    told = [warning for warning in done.run.warnings if "does not keep to its limits" in warning]
    assert told == ([] if problem is None else [f"answer does not keep to its limits: {problem}"])
