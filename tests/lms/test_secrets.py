"""A program that uses the library finds no key in what it may print, save or send on."""

from __future__ import annotations

import io
import json
import logging
import traceback

import dspy
import pytest

from rlm_dspy import RLM
from rlm_dspy.lms import lm
from rlm_dspy.testing import action, scripted
from servers.openai import OpenAIServer, error
from servers.wire import Fault

KEY, HEADER = "canary-key-of-the-option-0815", "canary-header-value-0815"
SUBMIT = "[[ ## reasoning ## ]]\nseen\n\n[[ ## code ## ]]\n```python\nSUBMIT(answer=str(len(context)))\n```\n"
ECHO = error(f"you sent {KEY} and {HEADER}", "x")
FAULTS = [
    Fault(400, ECHO),
    Fault(401, ECHO),
    Fault(404, ECHO),
    Fault(429, ECHO, {"retry-after": "9999"}),
    Fault(200, f'{{"echo": "{KEY} {HEADER}"}}'),
    Fault(200, f"not json {KEY} {HEADER}"),
]


def made(server: OpenAIServer) -> dspy.LM:
    headers = {"X-Gateway-Token": HEADER}
    return lm("groq/openai/gpt-oss-20b", api_base=server.url, api_key=KEY, headers=headers, cache=False, num_retries=0)


def clean(*texts: str) -> bool:
    return not [text for text in texts for canary in (KEY, HEADER) if canary in text]


def test_the_headers_are_sent() -> None:
    with OpenAIServer(key=KEY) as server:
        assert made(server)("hi") == ["hello"]
        assert server.posts[0].headers["X-Gateway-Token"] == HEADER


@pytest.mark.parametrize("status", [400, 401, 413])
def test_a_key_that_a_server_sends_back_is_masked_with_an_lm_of_dspy(status: int) -> None:
    code = "got = llm_query_batched(['a'])\nprint(got)\nSUBMIT(answer=str(got))"
    with OpenAIServer(Fault(status, ECHO), key=KEY) as server:
        told = {"api_base": f"{server.url}/v1", "api_key": KEY, "headers": {"X-T": HEADER}, "num_retries": 0}
        bad = dspy.LM("openai/m", cache=False, **told)
        with dspy.context(lm=scripted(action(code))[0]):
            result = RLM("context, question -> answer", sub_lm=bad)(context="c", question="q")
        with dspy.context(lm=bad), pytest.raises(dspy.LMError) as caught:
            RLM("context, question -> answer")(context="c", question="q")
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
    for text in (result.answer, result.run.model_dump_json(), shown, caught.value.run.model_dump_json()):
        assert KEY not in text
        assert HEADER not in text
    assert "********" in result.answer


@pytest.mark.parametrize("fault", FAULTS, ids=["400", "401", "404", "429", "no completion", "no json"])
def test_no_exception_shows_what_the_server_sent_back(fault: Fault) -> None:
    with OpenAIServer(fault, key=KEY) as server, pytest.raises(dspy.LMError) as caught:
        made(server)("hi")
    assert clean(str(caught.value), repr(caught.value), str(vars(caught.value)))
    assert clean("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize("before", range(270, 300, 4))
def test_no_half_of_a_key_is_left_where_a_long_message_is_cut(before: int) -> None:
    fault = Fault(400, error("x" * before + KEY, "x"))
    with OpenAIServer(fault, key=KEY) as server, pytest.raises(dspy.LMError) as caught:
        made(server)("hi")
    assert KEY[:8] not in str(caught.value)


def test_a_server_that_sends_only_the_token_of_a_header_back_is_masked_too() -> None:
    fault = Fault(401, error(f"incorrect: {HEADER}", "x"))
    with OpenAIServer(fault, key=KEY) as server, pytest.raises(dspy.LMError) as caught:
        lm("openai/m", api_base=server.url, api_key=KEY, headers={"X-T": f"Token {HEADER}"}, cache=False)("hi")
    assert HEADER not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("fault", FAULTS, ids=["400", "401", "404", "429", "no completion", "no json"])
async def test_no_async_exception_does_either(fault: Fault) -> None:
    with OpenAIServer(fault, key=KEY) as server, pytest.raises(dspy.LMError) as caught:
        await made(server).acall("hi")
    assert clean(str(caught.value), "".join(traceback.format_exception(caught.value)))


def test_neither_record_nor_history_nor_saved_program_nor_log_holds_a_key() -> None:
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logging.getLogger().addHandler(handler)
    try:
        with OpenAIServer(key=KEY, reply=SUBMIT) as server, dspy.context(lm=made(server)):
            model = dspy.settings.lm
            rlm = RLM("context, question -> answer")
            found = rlm(context="word", question="how long is it?")
            rlm.set_lm(model)
            state = json.dumps(rlm.dump_state(), default=str)
    finally:
        logging.getLogger().removeHandler(handler)
    shown = io.StringIO()
    model.inspect_history(10, file=shown)
    assert model.history
    assert clean(found.run.model_dump_json(), repr(model.history), json.dumps(model.history, default=repr), state)
    assert clean(shown.getvalue(), heard.getvalue(), repr(model), repr(model.engine), repr(vars(model)))


def test_a_failed_run_holds_no_key() -> None:
    rlm = RLM("context, question -> answer")
    with (
        OpenAIServer(Fault(400, ECHO), key=KEY) as server,
        dspy.context(lm=made(server)),
        pytest.raises(dspy.LMError) as caught,
    ):
        rlm(context="word", question="how long is it?")
    assert clean(caught.value.run.model_dump_json(), "".join(traceback.format_exception(caught.value)))
