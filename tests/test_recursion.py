"""Recursive and typed sub-calls: children with REPLs of their own, one ledger, typed answers, and limits that hold."""

from __future__ import annotations

import threading
import time
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms import windows
from rlm_dspy.rlm.children import cut_into_pieces
from rlm_dspy.rlm.signatures import parse_untrusted_signature
from rlm_dspy.testing import action, fields, scripted, texts


def ask(lm: dspy.LM, *, context: str = "the sky is blue", **options: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return rlm_dspy.RLM("context, question -> answer", **options)(context=context, question="which colour?")


def by_role(**replies: Any) -> Any:
    """Reply to the root, the child and plain calls by what the prompt shows."""

    def reply(message: str) -> Any:
        role = "plain"
        if message.startswith("[step "):
            role = "child" if "`instruction`" in message else "root"
        elif "[[ ## " in message or "starting with the field" in message:
            role = "typed"
        found = replies[role]
        return found(message) if callable(found) else found

    return reply


def test_a_child_explores_its_text_in_a_repl_of_its_own() -> None:
    lm, script = scripted(
        action("x = 'parent'\nSUBMIT(answer=subcall(context[:7], 'Summarise'))"),
        action("try:\n    x\nexcept NameError:\n    SUBMIT(output=f'child read {text!r}')"),
    )
    result = ask(lm)
    assert result.answer == "child read 'the sky'"
    (call,) = result.run.steps[0].sub_calls
    assert (call.kind, call.run.status, call.run.depth) == ("recursive", "submitted", 1)
    assert call.run.steps[0].submitted
    child_prompt = "\n".join(texts(script.requests[1]))
    assert "Summarise" in child_prompt
    assert "which colour?" not in child_prompt


def test_map_and_reduce_over_children() -> None:
    code = "r = subcall_batched([(t, 'Summarise') for t in ['one', 'two', 'three']])\nSUBMIT(answer=' '.join(r))"
    lm, _ = scripted(by_role(root=action(code), child=action("SUBMIT(output=text.upper())")))
    result = ask(lm)
    assert result.answer == "ONE TWO THREE"
    assert result.run.sub_calls == 3
    assert result.run.usage.calls == 4


def test_a_typed_answer_of_a_child_is_checked_and_fed_back() -> None:
    call = "n = subcall(context, 'Count', output='count: int, words: list[str]')"
    lm, script = scripted(
        action(f"{call}\nSUBMIT(answer=f'{{n.count}} {{n.words}}')"),
        action("SUBMIT(count='many', words=[])"),
        action("SUBMIT(count=4, words=text.split())"),
    )
    assert ask(lm).answer == "4 ['the', 'sky', 'is', 'blue']"
    assert "count: expected int" in texts(script.requests[2])[-1]


def test_a_large_piece_of_the_context_travels_as_its_place() -> None:
    text = "".join(f"line {i}\n" for i in range(200_000))
    lm, _ = scripted(
        action("SUBMIT(answer=subcall(context[1000:2_000_000], 'Measure it'))"),
        action("SUBMIT(output=f'{len(text)} {text[:4]!r}')"),
    )
    assert ask(lm, context=text).answer == f"1999000 {text[1000:1004]!r}"


def test_a_piece_of_what_the_code_made_of_the_context_travels_as_it_is() -> None:
    lm, script = scripted(
        action("P = P.upper()\nSUBMIT(answer=subcall(P[:150_000], 'Which case are these letters?'))"), "upper"
    )
    assert ask(lm, context="alpha " * 50_000, max_depth=0).answer == "upper"
    assert "ALPHA ALPHA" in texts(script.requests[1])[1]


def test_sub_calls_are_there_again_after_the_session_was_lost() -> None:
    lm, _ = scripted(
        action("import sys\nsys.modules['os']._exit(1)"),
        action("SUBMIT(answer=predict('doc -> n: int', doc=P).n)"),
        fields(n="41"),
    )
    factory = lambda: rlm_dspy.Sandbox(checkpoint="never")  # noqa: E731
    result = ask(lm, interpreter_factory=factory)
    assert result.answer == "41"


def test_a_remark_about_a_cell_is_no_error() -> None:
    lm, _ = scripted(action("for i in range(11_000): globals()[f'n{i}'] = i"), action("SUBMIT(answer='x')"))
    first = ask(lm).run.steps[0]
    assert "names" in first.output
    assert first.error is None


def test_an_output_called_ok_may_be_false() -> None:
    lm, _ = scripted(action("SUBMIT(answer=str(predict('doc -> ok: bool', doc=context).ok))"), fields(ok="False"))
    assert ask(lm).answer == "False"


def test_a_class_with_a_field_called_ok_may_be_a_childs_answer() -> None:
    code = (
        "from dataclasses import dataclass\n@dataclass\nclass Verdict:\n    ok: bool\n"
        "SUBMIT(answer=str(subcall('a text', 'Is it well?', output='verdict: Verdict')))"
    )
    lm, _ = scripted(action(code), action("SUBMIT(verdict={'ok': False})"))
    assert ask(lm).answer == "Verdict(ok=False)"


def test_at_the_depth_limit_a_plain_call_answers() -> None:
    lm, script = scripted(action("SUBMIT(answer=subcall('some text', 'Shout'))"), "SOME TEXT")
    result = ask(lm, max_depth=0)
    assert result.answer == "SOME TEXT"
    assert texts(script.requests[1])[1] == "user: Shout\n\nsome text"
    assert result.run.steps[0].sub_calls[0].kind == "plain"


def test_at_the_depth_limit_a_text_beyond_the_window_is_read_in_pieces_and_that_is_said() -> None:
    seen: list[str] = []

    def plain(message: str) -> str:
        seen.append(message)
        return "combined" if "From piece 1" in message else f"part {len(seen)}"

    root = action("x = subcall('word ' * 40_000, 'Shout')\nprint(x)")
    lm, script = scripted(by_role(root=root, plain=plain, typed=fields(answer="a")))
    script.window = 8192
    result = ask(lm, max_depth=0, max_iters=1)
    assert all(len(prompt) <= windows.prompt_capacity_chars(lm) + 100 for prompt in seen)
    assert "combined" in result.trajectory[0]["output"]
    assert "plain calls answered over" in result.trajectory[0]["output"]


def test_at_the_depth_limit_the_call_is_refused_by_policy() -> None:
    lm, _ = scripted(action("subcall('text', 'Shout')"), action("SUBMIT('x')"))
    result = ask(lm, max_depth=0, depth_policy="raise")
    assert "DepthExceededError: Depth 1 exceeds max 0" in result.trajectory[0]["output"]


def test_a_model_that_only_recurses_ends_at_the_depth_limit() -> None:
    def reply(message: str) -> str:
        if not message.startswith("[step "):
            return "flat"
        name = "text" if "`instruction`" in message else "context"
        answer = "output" if name == "text" else "answer"
        return action(f"SUBMIT({answer}=subcall({name}[30:-30], 'Look at depth ' + str(len({name}))))")

    lm, _ = scripted(reply)
    result = ask(lm, max_depth=3, context="blue " * 100)
    assert result.answer == "flat"
    depths = []
    run = result.run
    while run:
        depths.append(run.depth)
        run = next((call.run for step in run.steps for call in step.sub_calls if call.run), None)
    assert depths == [0, 1, 2, 3]


def test_handing_over_ones_own_task_is_refused_with_advice() -> None:
    lm, script = scripted(action("subcall(context, 'which colour?')"), action("SUBMIT('x')"))
    result = ask(lm, context="blue " * 1000)
    assert "divides nothing" in result.trajectory[0]["output"]
    assert len(script.requests) == 2


def test_children_are_charged_to_the_tree_and_a_refusal_reaches_the_code() -> None:
    code = (
        "try:\n    for i in range(99):\n        llm_query(f'q{i}')\n"
        "except Exception as error:\n    SUBMIT(output=type(error).__name__)"
    )
    lm, _ = scripted(by_role(root=action("SUBMIT(answer=subcall(context, 'Go'))"), child=action(code), plain="ok"))
    result = ask(lm, max_llm_calls=10)
    assert result.answer == "BudgetExceededError"
    assert result.run.sub_calls <= 10


def test_a_child_that_never_submits_still_answers_within_the_trees_limit() -> None:
    lm, script = scripted(
        by_role(
            root=action("SUBMIT(answer=subcall(context, 'Go'))"),
            child=action("print('still looking')"),
            typed=fields(output="what was seen"),
        )
    )
    result = ask(lm, max_llm_calls=6)
    assert result.answer == "what was seen"
    child = result.run.steps[0].sub_calls[0].run
    assert (child.status, child.stopped_by) == ("extracted", "max_llm_calls")
    assert result.run.sub_calls == 6
    assert len(script.requests) == 7


def test_a_failing_child_of_a_batch_is_an_error_object() -> None:
    def child(message: str) -> Any:
        return dspy.lm15.ServerError("down") if "bad" in message else action("SUBMIT(output='fine')")

    code = "r = subcall_batched(['good', 'bad'], 'Read it')\nSUBMIT(answer=f'{r[0]} {r[1].ok} {r[1].kind}')"
    lm, _ = scripted(by_role(root=action(code), child=child))
    assert ask(lm).answer == "fine False LMUnavailableError"


def test_typed_calls_give_typed_outputs() -> None:
    call = "r = predict(\"doc, q -> label: Literal['a', 'b'], n: int\", doc=context, q='?')"
    code = f"{call}\nSUBMIT(answer=f'{{r.label}} {{r.n + 1}} {{r.ok}}')"
    lm, script = scripted(action(code), fields(label="b", n="41"))
    result = ask(lm)
    assert result.answer == "b 42 True"
    assert "[[ ## doc ## ]]\nthe sky is blue" in texts(script.requests[1])[1]
    assert result.run.steps[0].sub_calls[0].kind == "typed"


def test_a_slot_of_a_typed_batch_that_cannot_be_parsed_is_an_error_object() -> None:
    def typed(message: str) -> str:
        return fields(n="7") if "good" in message else fields(n="seven")

    call = "r = predict_batched('doc -> n: int', [{'doc': 'good'}, {'doc': 'bad'}])"
    code = f"{call}\nSUBMIT(answer=f'{{r[0].n}} {{r[1].ok}} {{r[1].kind}}')"
    lm, _ = scripted(by_role(root=action(code), typed=typed))
    assert ask(lm).answer == "7 False AdapterParseError"


MODELS = """
from pydantic import BaseModel
class Pet(BaseModel):
    name: str
class Person(BaseModel):
    name: str
    age: int = 0
    pets: list[Pet] = []
"""
DATACLASSES = """
from dataclasses import dataclass, field
@dataclass
class Pet:
    name: str
@dataclass
class Person:
    name: str
    age: int = 0
    pets: list[Pet] = field(default_factory=list)
"""


FIELDS = """
from pydantic import BaseModel, Field
class Pet(BaseModel):
    name: str = Field(description='what it is called')
    tags: list[str] = Field(default_factory=lambda: ['tame'])
    legs: int = Field(4, ge=0)
"""


def test_fields_are_required_unless_they_have_a_default() -> None:
    code = (
        f"{FIELDS}\nr, bad = predict_batched('doc -> pet: Pet', [{{'doc': 'a'}}, {{'doc': 'b'}}])\nrex = r.pet\n"
        "Pet(name='Tom').tags.append('x')\ntry: Pet()\nexcept TypeError as error:\n"
        "    SUBMIT(answer=f'{rex} {bad.kind} {Pet(name=1).tags} {error} {rex.model_dump()}')"
    )
    typed = lambda text: fields(pet='{"name": "Rex"}' if "\na\n" in text else '{"tags": ["x"]}')  # noqa: E731
    lm, _ = scripted(by_role(root=action(code), typed=typed))
    rex = "{'name': 'Rex', 'tags': ['tame'], 'legs': 4}"
    told = "Pet(name='Rex', tags=['tame'], legs=4) AdapterParseError ['tame'] Pet misses ['name']"
    assert ask(lm).answer == f"{told} {rex}"


@pytest.mark.parametrize("declared", [MODELS, DATACLASSES])
def test_classes_of_the_repl_may_type_an_answer(declared: str) -> None:
    code = (
        f"{declared}\nr = predict('doc -> people: list[Person]', doc=context).people\n"
        "SUBMIT(answer=f'{type(r[0]).__name__} {r[0].age + 1} {r[0].pets[0].name}')"
    )
    people = '[{"name": "Ann", "age": 6, "pets": [{"name": "Rex"}]}]'
    lm, _ = scripted(action(code), fields(people=people))
    assert ask(lm).answer == "Person 7 Rex"


HOSTILE = ["doc -> x: os.system", "doc -> x: antigravity", "doc", "-> x", "doc -> x: list[", 5]
MEANINGLESS = ["Literal", "Optional", "Union", "list[5]", "list[Literal]", "Literal[()]", "tuple[..., str]"]


@pytest.mark.parametrize("signature", [*HOSTILE, *(f"doc -> x: {kind}" for kind in MEANINGLESS)])
def test_a_signature_of_the_model_cannot_name_what_the_host_has(signature: Any) -> None:
    with pytest.raises(ConfigurationError):
        parse_untrusted_signature(signature, {})


@pytest.mark.parametrize("shape", [{"values": []}, {"fields": {"a": "5"}}, {"fields": {"a": "Literal"}}])
def test_a_class_of_the_model_that_means_nothing_is_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        parse_untrusted_signature("doc -> x: A", {"A": shape})


SHAPES = st.dictionaries(st.text(max_size=8), st.recursive(st.text(max_size=8), st.lists, max_leaves=3))


@given(st.text(max_size=60), SHAPES)
def test_any_signature_text_is_read_or_refused(text: str, shapes: dict[str, Any]) -> None:
    try:
        read = parse_untrusted_signature(text, shapes)
    except ConfigurationError:
        return
    assert read.output_fields


@given(st.text(), st.integers(1, 50))
def test_pieces_cover_a_text_exactly(text: str, room: int) -> None:
    pieces = cut_into_pieces(text, room)
    assert "".join(pieces) == text
    assert all(len(piece) <= room for piece in pieces)


@pytest.mark.parametrize("tuned", [False, True])
def test_typed_calls_are_in_dspys_trace_once_each_and_those_of_tuned_children_too(tuned: bool) -> None:
    lm, _ = scripted(
        action("predict('doc -> n: int', doc='x')\nSUBMIT(answer=subcall('t', 'Go'))"),
        fields(n="1"),
        action("SUBMIT(output='done')"),
    )
    rlm = rlm_dspy.RLM("context, question -> answer", tune_children=tuned)
    with dspy.context(lm=lm, trace=[]):
        rlm(context="c", question="q")
        called = [predictor for predictor, _, _ in dspy.settings.trace]
    assert rlm.generate_action in called
    assert len(called) == 2 + tuned
    assert not tuned or rlm.child.generate_action in called


def test_sub_calls_are_concurrent_up_to_the_cap() -> None:
    flying, most, lock = [0], [0], threading.Lock()

    def plain(message: str) -> str:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        time.sleep(0.02)
        with lock:
            flying[0] -= 1
        return message

    code = "SUBMIT(answer=str(len(llm_query_batched([f'q{i}' for i in range(24)]))))"
    lm, _ = scripted(by_role(root=action(code), plain=plain))
    assert ask(lm, max_concurrency=6).answer == "24"
    assert most[0] == 6


def test_threads_of_a_cell_may_ask_at_the_same_time() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(4) as pool:\n    r = list(pool.map(llm_query, ['a', 'b', 'c', 'd']))\n"
        "SUBMIT(answer=''.join(r))"
    )
    lm, _ = scripted(by_role(root=action(code), plain=lambda message: message), delay=0.02)
    assert ask(lm).answer == "abcd"


def test_sixty_four_calls_at_once_never_pass_the_limit() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\ndef one(i):\n    try:\n        return llm_query(str(i))\n"
        "    except Exception as error:\n        return type(error).__name__\n"
        "with ThreadPoolExecutor(16) as pool:\n    r = list(pool.map(one, range(64)))\n"
        "SUBMIT(answer=str(r.count('BudgetExceededError')))"
    )
    lm, script = scripted(by_role(root=action(code), plain="ok"))
    assert ask(lm, max_llm_calls=20, max_concurrency=16).answer == "44"
    assert len(script.requests) == 21


def test_a_signature_too_long_or_with_too_many_fields_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="more than 200 fields"):
        parse_untrusted_signature(", ".join(f"a{n}" for n in range(300)) + " -> b", {})
    shape = {"fields": {f"a{n}": "int" for n in range(150)}}
    with pytest.raises(ConfigurationError, match="more than 200 fields"):
        parse_untrusted_signature("doc -> x: A, y: B", {"A": shape, "B": shape})
    with pytest.raises(ConfigurationError, match=r"the limit is 50,000"):
        parse_untrusted_signature(f"doc -> x: Literal['{'a' * 50_000}']", {})


def test_a_child_whose_answer_cannot_be_read_says_why_and_is_recorded() -> None:
    child = [action("SUBMIT(other='x')")] * 4  # two steps, the extract, and the extract again in JSON
    lm, _ = scripted(action("print(subcall('a text', 'count it'))"), *child, action("SUBMIT(answer='x')"))
    step = ask(lm, max_iters=2).run.steps[0]
    assert "ActionError: max_iters ended the run" in step.output
    assert [(call.kind, call.run is not None) for call in step.sub_calls] == [("recursive", True)]
