"""Real model replies are parsed into the intended cells."""

from __future__ import annotations

import ast
import json
import time
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlm_dspy
from rlm_dspy.rlm.replies import IMAGINED_ANSWER, parse_code, parse_reply, read_plain, without_first_thinking
from rlm_dspy.rlm.reply_code import is_python
from rlm_dspy.testing import scripted

FENCED_STRING = 'x = """\n```json\n{}\n```\n"""\nprint(x)'


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("print(1)", ["print(1)"]),
        ("    x = 1\n    print(x)", ["x = 1\nprint(x)"]),
        ("```python\nprint(1)\n```", ["print(1)"]),
        ("```\nprint(1)\n```", ["print(1)"]),
        *[(f"```{label}\nprint(1)\n```", ["print(1)"]) for label in ("py", "python3", "Python", "repl", "tool_code")],
        ("Here's the code:\n```python\nx = 1\n```\nDone", ["x = 1"]),
        ("```python\nprint(1)\n```\n```", ["print(1)"]),
        ("```\n```python\nprint(1)\n```\n```", ["print(1)"]),
        ("```python\n```python\nprint(1)\n```\n```", ["print(1)"]),
        ("```python\na = 1\n```\nthen\n```py\nSUBMIT(answer=a)\n```", ["a = 1", "SUBMIT(answer=a)"]),
        ("```python\nprint(1)\n```[[ ## completed ## ]]", ["print(1)"]),
        ("print(1)\n[[ ## completed ## ]]", ["print(1)"]),
        ("```python print(1)```", ["print(1)"]),
        ("```python\nprint(1)```", ["print(1)"]),
        ("```python\nprint(1)", ["print(1)"]),
        (FENCED_STRING, [FENCED_STRING]),
        (f"```python\n{FENCED_STRING}\n```", [FENCED_STRING]),
        (f"```python\n{FENCED_STRING}\n```\nand\n```python\nprint(2)\n```", [FENCED_STRING, "print(2)"]),
        ("```python\nx = '```'\nprint(x)\n```", ["x = '```'\nprint(x)"]),
        ("r = await llm_query('a')", ["r = await llm_query('a')"]),
        ("from __future__ import annotations\nx: int = 1", ["from __future__ import annotations\nx: int = 1"]),
        ("```vb\nx = 1\nprint(x)\n```", ["x = 1\nprint(x)"]),
        ("```json\n{}\n```\n```python\nprint(1)\n```", ["print(1)"]),
        ("```python\nfor x in:\n```", ["for x in:"]),
        ("After analysis...\nFINAL: The answer is 42", ["SUBMIT(answer='The answer is 42')"]),
        ("FINAL(The answer is 42)", ["SUBMIT(answer='The answer is 42')"]),
        ("FINAL_VAR: result", ["SUBMIT(answer=result)"]),
        ("FINAL_VAR(`result`)", ["SUBMIT(answer=result)"]),
        ("x = 1\nFINAL_VAR: x", ["x = 1", "SUBMIT(answer=x)"]),
        ("FINAL_VAR('x')", ["FINAL_VAR('x')"]),
        ("```python\na = 1\n```python\nb = 2\n```", ["a = 1", "b = 2"]),
        ("```python\r\nprint(1)\r\n```", ["print(1)"]),
    ],
)
def test_code_becomes_the_cells_that_were_meant(text: str, cells: list[str]) -> None:
    assert list(parse_code(text, "answer").cells) == cells


@pytest.mark.parametrize("text", ["", "  \n", "```json\n{}\n```", "```python\n```"])
def test_code_without_python_says_what_is_missing(text: str) -> None:
    action = parse_code(text, "answer")
    assert not action.cells
    assert action.problem


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("I will look.\n```python\nprint(1)\n```", ["print(1)"]),
        ("I think so.\nFINAL: Paris", ["SUBMIT(answer='Paris')"]),
        ("x = len(context)", ["x = len(context)"]),
        ("Paris", []),
        ("I cannot help with that.", []),
        ("", []),
    ],
)
def test_a_reply_that_no_adapter_could_parse_is_read_all_the_same(text: str, cells: list[str]) -> None:
    assert list(parse_reply(text, "answer").cells) == cells


SNIPPETS = st.sampled_from(
    ["x = 1", "print(x)", "y = [i for i in range(3)]", "def f():\n    return 1", FENCED_STRING, "s = '```'", "# ```"]
)
CODE = st.lists(SNIPPETS, min_size=1, max_size=4).map("\n".join)
LABEL = st.sampled_from(["python", "py", "python3", "repl", "tool_code", ""])
PROSE = st.text(alphabet="abc .,\n", max_size=30)


@given(code=CODE, label=LABEL, before=PROSE, after=PROSE)
def test_one_fenced_block_comes_out_as_it_went_in(code: str, label: str, before: str, after: str) -> None:
    reply = f"{before} :\n```{label}\n{code}\n```\n{after} ."
    assert parse_code(reply, "answer").cells == (code,)


@given(code=CODE)
def test_bare_python_is_never_cut_at_a_fence(code: str) -> None:
    assert parse_code(code, "answer").cells == (code,)


@given(codes=st.lists(CODE, min_size=1, max_size=4), label=LABEL.filter(bool))
def test_all_blocks_come_out_in_order(codes: list[str], label: str) -> None:
    reply = "Plan :\n" + "\nthen :\n".join(f"```{label}\n{code}\n```" for code in codes)
    cells = parse_code(reply, "answer").cells
    assert "\n".join(cells).replace("\n", "") == "".join(codes).replace("\n", "")


@given(st.text())
def test_any_text_gives_cells_or_a_problem(text: str) -> None:
    for read in (parse_code, parse_reply):
        action = read(text, "answer")
        assert bool(action.cells) != bool(action.problem)


@given(st.text(min_size=1).filter(str.strip))
def test_a_final_answer_in_words_is_submitted_exactly(value: str) -> None:
    action = parse_reply(f"So:\nFINAL: {value}", "answer")
    if action.cells:
        tree = ast.parse(action.cells[-1])
        assert is_python(action.cells[-1])
        assert tree.body


def test_a_reply_of_fences_alone_is_read_in_bounded_work() -> None:
    action = parse_reply("```\n(\n" * 100_000, "answer")
    assert len(action.cells) <= 64


@pytest.mark.parametrize("text", ["hello" + " " * 200_000 + "x", "FINAL(x\n" * 40_000])
@pytest.mark.parametrize("read", [parse_code, parse_reply])
def test_long_runs_of_blanks_and_of_finals_are_read_in_one_pass(text: str, read: Any) -> None:
    started = time.thread_time()
    read(text, "answer")
    assert time.thread_time() - started < 10  # it takes milliseconds; looking again from each blank takes a minute


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ('Search for it. The answer is "48213". SUBMIT(answer="48213")', 'SUBMIT(answer="48213")'),
        ("So I give SUBMIT(answer=['a', 'b']).", "SUBMIT(answer=['a', 'b'])"),
        ('Once found, SUBMIT(answer="...").', None),
        ("Count them. SUBMIT(answer=str(count))", None),
        ('SUBMIT(answer="a") would be wrong, for it says b.', None),
        ('Either SUBMIT(answer="a") or SUBMIT(answer="b")', None),
    ],
)
def test_a_submit_that_ends_a_reply_in_words_is_meant(text: str, cell: str | None) -> None:
    parsed = parse_reply(text, "answer")
    assert parsed.cells == ((cell,) if cell else ())


GUESS = "```python\nSUBMIT(answer='99999')\n```"
LOOK = "print(grep('code is'))"


@pytest.mark.parametrize(
    "before",
    [
        f'<function_calls>\n<invoke name="python">\n<parameter name="code">{LOOK}</parameter>\n</invoke>\n'
        "</function_calls>\n<function_results>\n99999\n</function_results>\n\n",
        f"{LOOK}\n<|im_end|>\n<|im_start|>user\n99999<|im_end|>\n<|im_start|>assistant\n",
        f'<tool_call>\n{{"name": "python", "arguments": {{"code": "{LOOK}"}}}}\n</tool_call>\n'
        "<tool_response>\n99999\n</tool_response>\nSo:\n",
        f'{{"code": "{LOOK}"}}\n\nOutput: 99999\n\n',
    ],
)
def test_code_in_another_form_before_an_imagined_output_is_what_runs(before: str) -> None:
    assert read_plain(before + GUESS) is None
    assert parse_reply(before + GUESS, "answer").cells == (LOOK,)


@pytest.mark.parametrize(
    "call",
    [
        '<function_calls>\n<invoke name="SUBMIT">\n<parameter name="answer">it\'s 5 < 6</parameter>\n</invoke>\n'
        "</function_calls>",
        "<tool_call>\n<function=SUBMIT>\n<parameter=answer>\nit's 5 < 6\n</parameter>\n</function>\n</tool_call>",
    ],
)
def test_a_tool_call_of_submit_in_elements_is_one(call: str) -> None:
    assert parse_reply(f"Done.\n{call}", "answer").cells == ('SUBMIT(answer="it\'s 5 < 6")',)
    assert parse_reply(call.replace("SUBMIT", "other"), "answer").cells == ()


def test_many_unclosed_elements_are_read_in_linear_time() -> None:
    many = "<parameter=a>" * 30_000
    assert parse_reply(f'<invoke name="SUBMIT">{many}', "answer").cells == ()
    assert parse_reply(f'<invoke name="SUBMIT">{many}</invoke>', "answer").cells == ()


def test_a_transcript_runs_up_to_its_imagined_output() -> None:
    assert parse_reply(f"```python\n>>> {LOOK}\n['99999']\n>>> SUBMIT(answer='99999')\n```", "answer").cells == (LOOK,)


GUESS = "SUBMIT(answer='45')"
IMAGINED = {
    "a plan": f"Plan:\n1. grep the text for ERROR\n2. count the lines\n3. {GUESS}",
    "a notebook": f"In [1]: print(len(context))\nOut[1]: 45\nIn [2]: {GUESS}",
    "thoughts": f"Action: python\nAction Input: print(len(context))\nObservation: 45\n{GUESS}",
    "prose": f"Let me run print(len(context)).\nOutput: 45\n\n{GUESS}",
}
GUESSED = {
    "elements": f"<code>{LOOK}</code>\n<output>45</output>\n<code>{GUESS}</code>",
    "JSON": json.dumps({"code": LOOK}) + "\nOutput: 45\n" + json.dumps({"code": GUESS}),
    "a sentence between": f"```python\n{LOOK}\n```\nThe output is: 45\n```python\n{GUESS}\n```",
    "an element between": f"```python\n{LOOK}\n```\n<output>\n45\n</output>\n```python\n{GUESS}\n```",
    "nothing between": f"```python\n{LOOK}\n```\n```python\n{GUESS}\n```",
}


@pytest.mark.parametrize("form", IMAGINED)
def test_an_answer_in_a_plan_or_after_an_imagined_output_is_refused(form: str) -> None:
    parsed = parse_reply(IMAGINED[form], "answer")
    assert (parsed.cells, parsed.problem) == ((), IMAGINED_ANSWER)


@pytest.mark.parametrize("form", GUESSED)
def test_an_answer_written_out_after_other_code_is_held_back(form: str) -> None:
    parsed = parse_reply(GUESSED[form], "answer")
    assert (parsed.cells, parsed.held_back) == ((LOOK,), (GUESS,))


@pytest.mark.parametrize("text", ["I have seen line 3.\n", "Result: the count is 45.\n\n", "- 45 lines were found\n"])
def test_an_answer_in_words_counts(text: str) -> None:
    assert parse_reply(text + GUESS, "answer").cells == (GUESS,)


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("<longcat_think>", "</longcat_think>"),
        ("<unused94>thought\n", "<unused95>"),
        ("<mm:think>", "</mm:think>"),
        ("Thinking...\n", "\n...done thinking.\n"),
        ("<chain_of_thought>", "</chain_of_thought>"),
        ("<cot>", "</cot>"),
        ("<planning>", "</planning>"),
        ("<details><summary>Thought process</summary>", "</details>"),
    ],
)
def test_thinking_in_any_familys_marks_is_no_code(opens: str, closes: str) -> None:
    draft = "```python\nSUBMIT(answer='DRAFT')\n```"
    parsed = parse_reply(f"{opens}\nMaybe\n{draft}\nbut I must look.\n{closes}\n```python\n{LOOK}\n```", "answer")
    assert parsed.cells == (LOOK,)


@pytest.mark.parametrize(
    ("last", "cells", "held_back"),
    [
        ("FINAL_VAR(result)", ("result = 7", "SUBMIT(answer=result)"), ()),
        ("FINAL_VAR: result", ("result = 7", "SUBMIT(answer=result)"), ()),
        ("SUBMIT(answer=result)", ("result = 7", "SUBMIT(answer=result)"), ()),
        ("SUBMIT(answer=result2)", ("result = 7", "SUBMIT(answer=result2)"), ()),
        ("FINAL(48213)", ("result = 7",), ("SUBMIT(answer='48213')",)),
        ("SUBMIT(answer='x')", ("result = 7",), ("SUBMIT(answer='x')",)),
        ("Then I call SUBMIT(answer=result).", ("result = 7",), ()),
    ],
)
def test_a_final_call_after_the_last_block_counts(
    last: str, cells: tuple[str, ...], held_back: tuple[str, ...]
) -> None:
    parsed = parse_reply(f"I compute it.\n```repl\nresult = 7\n```\n{last}\n", "answer")
    assert (parsed.cells, parsed.held_back) == (cells, held_back)


@pytest.mark.parametrize(
    "reply",
    [
        '[TOOL_CALLS]SUBMIT[ARGS]{"answer": "x"}',
        "<|channel|>commentary to=functions.SUBMIT <|constrain|>json<|message|>" + '{"answer": "x"}<|call|>',
        '```tool_code\ndefault_api.SUBMIT(answer="x")\n```',
        '{"tool": "SUBMIT", "arguments": {"answer": "x"}}',
        '{"action": "SUBMIT", "action_input": {"answer": "x"}}',
        '<function=SUBMIT>{"answer": "x"}</function>',
        "<|tool_call_begin|>functions.SUBMIT:0<|tool_call_argument_begin|>" + '{"answer": "x"}<|tool_call_end|>',
        "<tool_call>SUBMIT\n<arg_key>answer</arg_key>\n<arg_value>x</arg_value>\n</tool_call>",
        'function<｜tool▁sep｜>SUBMIT\n```json\n{"answer": "x"}\n```<｜tool▁call▁end｜>',
        '[SUBMIT(answer="x")]',
        'Action: SUBMIT\nAction Input: {"answer": "x"}',
    ],
)
def test_a_tool_call_written_as_text_submits(reply: str) -> None:
    lm, _ = scripted(reply)
    with dspy.context(lm=lm):
        found = rlm_dspy.RLM("context, question -> answer", max_iters=1)(context="c", question="q")
    assert found.answer == "x"


def test_a_function_of_the_repl_called_as_a_tool_prints_its_result() -> None:
    call = '<tool_call>\n{"name": "grep", "arguments": {"pattern": "ERROR"}}\n</tool_call>'
    assert parse_reply(call, "answer").cells == ("print(grep(pattern='ERROR'))",)


def test_a_call_named_in_prose_before_other_json_is_not_a_call() -> None:
    reply = 'I will SUBMIT later. The data looks like {"answer": "x"}, so:\n```python\nprint(1)\n```'
    assert parse_reply(reply, "answer").cells == ("print(1)",)


@given(st.text(alphabet='SUBMIT[ARGS]{}":,<|>` \n=.0a', max_size=300))
def test_any_text_around_tool_calls_is_read_without_an_error(text: str) -> None:
    parse_reply(text, "answer")


@pytest.mark.parametrize(
    ("reply", "prompt", "kept"),
    [
        ("<think>maybe</think>\nREAL", "q", "REAL"),
        ("maybe</think>\nREAL", "q", "REAL"),
        ("<think>never closed", "q", None),
        ("<analysis>Late twice.</analysis>\n<verdict>late</verdict>", "write <analysis> and <verdict>", None),
        ("<order><reasoning>gift</reasoning><id>5</id></order>", "q", None),
        ("The file opens a <thinking> block that is never closed.", "q", None),
    ],
)
def test_an_answer_in_words_loses_only_the_thinking_before_it(reply: str, prompt: str, kept: str | None) -> None:
    read = without_first_thinking(reply, prompt)
    if kept is not None or reply == "<think>never closed":
        assert (read.strip() if read else read) == kept
    else:
        assert read == reply


@pytest.mark.parametrize("reply", ['{"answer": "45", "source": "report"}', '{"input": "How many lines are there?"}'])
def test_data_in_json_is_no_code(reply: str) -> None:
    assert parse_reply(reply, "answer").cells == ()


def test_a_literal_that_python_cannot_make_is_no_crash() -> None:
    assert parse_reply("So I answer now: SUBMIT({[]: 1})", "answer").problem
    assert parse_reply("FINAL: {[]: 1}, 'a'", "answer").cells == ("""SUBMIT(answer="{[]: 1}, 'a'")""",)
