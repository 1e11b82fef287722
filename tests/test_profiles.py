"""Small models get a shorter protocol with an example, fewer calls and capped replies."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

import rlm_dspy
from rlm_dspy.lms import windows
from rlm_dspy.rlm import small_prompts, submit_checks
from rlm_dspy.testing import action, scripted, texts


def named(model: str, *replies: Any, window: int | None = None) -> Any:
    lm, script = scripted(*replies, model=model)
    script.window = window
    return lm, script


@pytest.mark.parametrize(
    ("model", "window", "small"),
    [
        ("ollama_chat/qwen3:8b", None, True),
        ("ollama_chat/llama3.2:3b", None, True),
        ("ollama_chat/qwen3:32b", None, False),
        ("groq/openai/gpt-oss-20b", None, False),
        ("groq/llama-3.1-8b-instant", None, True),
        ("openai/gpt-4o-mini", None, False),
        ("scripted/model", None, False),
        ("scripted/model", 8192, True),
        ("scripted/model", 65_536, False),
    ],
)
def test_the_profile_goes_by_weights_and_window(model: str, window: int | None, small: bool) -> None:
    lm, _ = named(model, "x", window=window)
    assert windows.is_small(lm) is small


def test_a_published_window_is_used() -> None:
    lm, _ = named("openai/gpt-4o-mini", "x")
    assert windows.window_tokens(lm) == 128_000


def run(lm: dspy.LM, **options: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return rlm_dspy.RLM("context, question -> answer", **options)(context="c", question="q")


def test_a_small_model_gets_a_shorter_protocol_and_fewer_calls() -> None:
    submit = action("SUBMIT(answer='x')")
    small, seen = named("ollama_chat/qwen3:8b", submit)
    large, seen_large = named("ollama_chat/qwen3:32b", submit)
    run(small)
    run(large)
    prompt, large_prompt = texts(seen.requests[0])[0], texts(seen_large.requests[0])[0]
    assert len(prompt) < len(large_prompt) / 2
    assert "at most 16 times" in prompt
    assert "subcall" not in prompt
    assert small_prompts.STRATEGY in prompt
    assert seen.requests[0].config.max_tokens == 2048
    assert seen_large.requests[0].config.max_tokens is None


def protocol(**facts: Any) -> str:
    signature = dspy.Signature("context, question -> answer")
    given = {"toolkit": True, "main": "context", "interpreter": "No files."}
    given |= {"task": "", "corpus": False}
    given |= facts
    return small_prompts.protocol_text(signature, calls=9, room=9, tools={}, evidence=False, **given)


def test_a_small_model_is_told_of_no_function_that_is_not_there() -> None:
    assert "search(" in protocol()
    assert "search(" not in protocol(toolkit=False)
    assert "No files." in protocol()


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("id,city,price\n1,Rome,3\n2,Ulm,4\n3,Ulm,5\n", ","),
        ("name;age;team\nann;20;red\nbob;21;red\ncid;22;blue\n", ";"),
        ("a\tb\n1\t2\n3\t4\n5\t6\n", "\t"),
        ("Anna met Ben, in Ulm.\nThey opened, a shop.\nIt closed, later.\nThe end, then.\n", None),
        ("2026-01-01,INFO\n2026-01-02,INFO\n2026-01-03,INFO\n2026-01-04,INFO\n", None),
        ("by: Ann; for: Bob\nby: Cid; for: Ann\nby: Bob; for: Cid\nby: Ann; for: Cid\n", None),
        ("a=1,b=x\na=2,b=y\na=3,b=z\na=4,b=w\n", None),
        ("", None),
    ],
)
def test_a_table_is_told_by_its_header(text: str, delimiter: str | None) -> None:
    assert small_prompts.delimiter_of(text) == delimiter


def test_the_hosts_own_search_stands_in_the_first_observation_of_a_small_model() -> None:
    lm, script = named("ollama_chat/qwen3:8b", action("SUBMIT(answer='48213')"))
    context = "\n".join(f"line {n} about stones" for n in range(500)) + "\nThe gate code is 48213.\n"
    with dspy.context(lm=lm):
        run = rlm_dspy.RLM("context, question -> answer")(context=context, question="What is the gate code?").run
    assert "| 501: The gate code is 48213." in run.probe
    assert run.probe in texts(script.requests[0])[-1]


def asked(model: str, *replies: Any, context: str = "Anna met Ben in Ulm.") -> Any:
    lm, _ = named(model, *replies)
    with dspy.context(lm=lm):
        return rlm_dspy.RLM("context, question -> answer", max_iters=5)(context=context, question="Where?").run


def test_an_answer_that_nothing_shows_is_asked_back_once_from_a_tiny_model() -> None:
    made_up = action("SUBMIT(answer='Paris')")
    run = asked("openai/qwen2.5-coder-1.5b", made_up, made_up)
    assert "`Paris` is in no output and no input" in run.steps[0].output
    assert (run.outputs["answer"], len(run.steps)) == ("Paris", 2)
    number = asked("openai/qwen2.5-coder-1.5b", action("SUBMIT(answer='1421')"), action("SUBMIT(answer='Ulm')"))
    assert (number.outputs["answer"], len(number.steps)) == ("Ulm", 2)


@pytest.mark.parametrize("code", ["SUBMIT(answer='Ulm')", "SUBMIT(answer='no')", "n = 7 * 200\nSUBMIT(answer=str(n))"])
def test_what_was_seen_or_computed_is_taken_at_once(code: str) -> None:
    assert len(asked("openai/qwen2.5-coder-1.5b", action(code)).steps) == 1


def test_a_larger_model_is_not_asked_back() -> None:
    assert len(asked("ollama_chat/qwen3:8b", action("SUBMIT(answer='Paris')")).steps) == 1


def test_a_tiny_model_that_repeats_itself_is_ended_and_its_answer_extracted() -> None:
    again = action("print(len(context))")
    answer = "[[ ## answer ## ]]\nUlm\n\n[[ ## completed ## ]]"
    run = asked("openai/qwen2.5-coder-1.5b", again, again, answer)
    assert (run.status, run.stopped_by, run.outputs["answer"]) == ("extracted", "repeats", "Ulm")
    words = asked("openai/qwen2.5-coder-1.5b", "not there", "not there", answer)
    assert (words.status, words.stopped_by, len(words.steps)) == ("extracted", "repeats", 2)


def test_a_small_model_is_reminded_of_its_question_under_each_output() -> None:
    lm, script = named("ollama_chat/qwen3:8b", action("print(7)"), action("SUBMIT(answer='x')"))
    run(lm)
    assert texts(script.requests[1])[-1].endswith(small_prompts.reminder_text("q", FINAL))
    assert "Question again: q" in small_prompts.reminder_text("q", FINAL)
    assert small_prompts.reminder_text("q" * 1_000, FINAL) == ""


def test_a_tuned_strategy_is_given_to_a_small_model_as_it_is() -> None:
    lm, script = named("ollama_chat/qwen3:8b", action("SUBMIT(answer='x')"))
    rlm = rlm_dspy.RLM("context, question -> answer")
    rlm.generate_action.signature = rlm.generate_action.signature.with_instructions("Be brilliant.")
    with dspy.context(lm=lm):
        rlm(context="c", question="q")
    system = texts(script.requests[0])[0]
    assert system.startswith("Be brilliant.")
    assert small_prompts.STRATEGY not in system


def test_the_profile_can_be_chosen() -> None:
    lm, script = named("ollama_chat/qwen3:8b", action("SUBMIT(answer='x')"))
    run(lm, profile="standard")
    assert "predict(" in texts(script.requests[0])[0]
    with pytest.raises(ValueError, match="profile"):
        rlm_dspy.RLM("a -> b", profile="tiny")  # type: ignore[arg-type]


def test_a_storm_of_sub_calls_ends_at_the_small_models_limit() -> None:
    storm = "n = 0\ntry:\n    while True:\n        llm_query('q')\n        n += 1\n"
    code = f"{storm}except Exception:\n    SUBMIT(answer=str(n))"
    lm, _ = named("ollama_chat/qwen3:8b", action(code), "ok")
    assert run(lm).answer == "16"


def test_a_prompt_beyond_the_sub_models_window_is_refused_with_advice() -> None:
    lm, script = named("scripted/model", action("llm_query('x' * 100_000)"), action("SUBMIT('x')"), window=8192)
    result = run(lm)
    assert "cut it into pieces" in result.trajectory[0]["output"]
    assert "up to 19,660 characters" in texts(script.requests[0])[0] or "at most 19,660" in texts(script.requests[0])[0]
    assert len(script.requests) == 2


FINAL = 'SUBMIT(answer="...")'
EVIDENCE = "context, question -> answer, evidence: list[rlm_dspy.Evidence]"
SHIP = "Nothing is said here.\n" * 400 + "The captain of the ship is Ahab.\nIts port is 9.\n"


@pytest.mark.parametrize(
    ("answer", "quotes"),
    [
        ("'Ahab'", ["The captain of the ship is Ahab."]),
        ("'Ahab', evidence=[]", ["The captain of the ship is Ahab."]),
        ("'Ahab', evidence=['Its port is 9.']", ["Its port is 9."]),
        ("'9'", []),  # perhaps a count
        ("'Ishmael'", []),
    ],
)
def test_a_small_model_may_leave_the_quotes_to_the_host(answer: str, quotes: list[str]) -> None:
    lm, _ = scripted(action("for hit in grep('captain|port'): print(hit)"), *[action(f"SUBMIT(answer={answer})")] * 2)
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM(EVIDENCE, profile="small")(context=SHIP, question="Who?")
    assert [item.quote for item in result.evidence] == quotes
    assert result.run.status == "submitted"


def test_outputs_with_a_default_may_be_left_out() -> None:
    class Found(dspy.Signature):
        """Find it."""

        context: str = dspy.InputField()
        answer: str = dspy.OutputField()
        doubts: list[str] = dspy.OutputField(default_factory=list)

    lm, _ = scripted(action("SUBMIT('Ahab')"))
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM(Found)(context=SHIP)
    assert (result.answer, result.doubts, len(result.run.steps)) == ("Ahab", [], 1)


def test_an_answer_without_any_quote_is_reported() -> None:
    code = action("n = 7 * 200\nSUBMIT(answer=str(n))")
    lm, _ = named("openai/qwen2.5-coder-1.5b", code)
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM("context, question -> answer, evidence: list[rlm_dspy.Evidence]")
        run = rlm(context="Anna met Ben in Ulm.", question="How much is 7 times 200?").run
    assert (run.outputs["answer"], run.outputs["evidence"]) == ("1400", [])
    assert submit_checks.NO_QUOTES in run.warnings


@pytest.mark.parametrize(("answer", "quotes"), [("Ahab", ["The captain is Ahab."]), ("Nobody", [])])
def test_an_extract_without_evidence_is_reported(answer: str, quotes: list[str]) -> None:
    lm, _ = scripted(action("print(grep('captain')[0].text)"), f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm):
        rlm = rlm_dspy.RLM(EVIDENCE, budget=rlm_dspy.Budget(max_iters=1))
        result = rlm(context="A ship.\nThe captain is Ahab.\nIt rains.", question="Who?")
    assert (result.answer, [item.quote for item in result.evidence]) == (answer, quotes)
    assert (submit_checks.NO_QUOTES in result.run.warnings) == (not quotes)
    assert result.run.status == "extracted"
