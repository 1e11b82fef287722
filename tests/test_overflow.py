"""If a server rejects a prompt as too long, the conversation is compacted and the run continues."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy import lm15

import rlm_dspy
from rlm_dspy import errors
from rlm_dspy.dspy_errors import is_overflow
from rlm_dspy.lms import lm as routed
from rlm_dspy.testing import Script, action, fields, texts
from servers.local import LocalServer, plain

SAYS = [action(f"print('{number}123456789 ' * 150)") for number in range(8)]
ENDS = action("print(past_steps[0]['output'][:10])\nSUBMIT(answer='found')")


class Narrow(Script):
    """Rejects prompts of more than ``most`` characters, whatever window it reports."""

    def __init__(self, *replies: Any, most: int) -> None:
        super().__init__(*replies)
        self.most = most
        self.refused = 0

    def complete(self, request: Any) -> Any:
        """Perform one request, if it is short enough."""
        if sum(map(len, texts(request))) > self.most:
            self.refused += 1
            raise lm15.ContextLengthError("too long")
        return super().complete(request)


def ask(script: Script, **options: Any) -> Any:
    with dspy.context(lm=dspy.LM("scripted/model", engine=script, cache=False, num_retries=0)):
        return rlm_dspy.RLM("context, question -> answer", **options)(context="c" * 50, question="q")


def first_prompt() -> int:
    script = Script(action("SUBMIT(answer='x')"))
    ask(script)
    return sum(map(len, texts(script.requests[0])))


def test_a_run_whose_prompt_is_refused_goes_on_with_a_shorter_one() -> None:
    most = first_prompt() + 8_000
    script = Narrow(*SAYS, ENDS, most=most)
    found = ask(script, max_iters=12)
    assert found.answer == "found"
    assert found.run.status == "submitted"
    assert len(found.run.steps) == 9
    assert found.run.steps[-1].error is None
    assert 1 <= script.refused <= 3  # what was learnt of the window holds for later steps


async def test_an_async_run_does_too() -> None:
    script = Narrow(*SAYS, ENDS, most=first_prompt() + 8_000)
    with dspy.context(lm=dspy.LM("scripted/model", engine=script, cache=False, num_retries=0)):
        found = await rlm_dspy.RLM("context, question -> answer", max_iters=12).acall(context="c", question="q")
    assert found.answer == "found"


def test_a_first_prompt_that_is_too_long_ends_the_run_with_its_error() -> None:
    with pytest.raises(errors.LMContextWindowError) as caught:
        ask(Narrow(*SAYS, most=100))
    assert isinstance(caught.value, dspy.ContextWindowExceededError)
    assert caught.value.run is not None
    assert caught.value.run.steps == ()


def test_what_cannot_be_made_shorter_ends_the_run_with_its_error() -> None:
    with pytest.raises(errors.LMContextWindowError) as caught:
        ask(Narrow(*SAYS, most=first_prompt() + 1_000))
    assert caught.value.run is not None
    assert len(caught.value.run.steps) == 1


def test_an_answer_is_extracted_from_less_where_all_is_too_much() -> None:
    class NarrowAtTheEnd(Narrow):
        def complete(self, request: Any) -> Any:
            self.most = 8_000 if len(self.requests) == 8 else 10**6
            return super().complete(request)

    script = NarrowAtTheEnd(*SAYS, fields(answer="extracted"), most=0)
    found = ask(script, max_iters=8)
    assert found.answer == "extracted"
    assert found.run.status == "extracted"
    assert script.refused >= 1


@pytest.mark.parametrize("make", ["ours", "dspy's"])
def test_a_servers_refusal_is_known_whatever_engine_hears_it(make: str) -> None:
    with LocalServer(plain("m"), models=("m",), window=10) as server:
        options: dict[str, Any] = {"api_base": f"{server.url}/v1", "api_key": "none", "cache": False}
        lm = routed("openai/m", **options) if make == "ours" else dspy.LM("openai/m", num_retries=0, **options)
        with dspy.context(lm=lm), pytest.raises(errors.LMContextWindowError, match="available context size"):
            rlm_dspy.RLM("context, question -> answer")(context="c", question="q")


@pytest.mark.parametrize(
    "told",
    [
        "This model's maximum context length is 8192 tokens",
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input length",
        "prompt is too long: 250000 tokens > 200000 maximum",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Input is too long for requested model.",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
        "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 512 `max_new_tokens`",
        "Range of input length should be [1, 30720]",
        "Invalid request: Your request exceeded model token limit: 8192",
        "too many tokens: size limit exceeded by 1234 tokens. Try using shorter or fewer inputs.",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        "the request exceeds the available context size, try increasing it",
        "Please reduce the length of the messages or completion.",
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_what_servers_say(told: str) -> None:
    assert is_overflow(dspy.LMInvalidRequestError(told, status=400))
    assert not is_overflow(dspy.LMInvalidRequestError(told, status=403))


@pytest.mark.parametrize(
    "told",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for this model",
        "`max_tokens` must be less than or equal to `8192`, the maximum value is less than the `context_window`",
        "Invalid value for temperature: expected at most 2",
        "The model `m` does not exist",
    ],
)
def test_another_refusal_is_not_taken_for_a_prompt_that_is_too_long(told: str) -> None:
    assert not is_overflow(dspy.LMInvalidRequestError(told, status=400))
