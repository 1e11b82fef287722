"""What a session is given it has: once, unchanged, and again after a loss."""

import io
import pathlib

import pytest

from rlm_dspy.sandbox import Sandbox
from rlm_dspy.sandbox.errors import HandoverError
from sandbox import hosts

CRASH = "import sys; sys.modules['os']._exit(1)"


class Shouted:
    """One of DSPy's serialisable types, as far as the sandbox sees it."""

    def __init__(self, assignment="{} = {}.upper()"):
        self.assignment, self.sent = assignment, 0

    def sandbox_setup(self):
        return ""

    def to_sandbox(self):
        self.sent += 1
        return b"original"

    def sandbox_assignment(self, name, raw):
        return self.assignment.format(name, raw)


def test_a_serialisable_value_is_handed_over_once_and_stays_as_the_code_leaves_it(sandbox):
    value = Shouted()
    assert sandbox.run("df, sorted(k for k in globals() if 'df' in k)", {"df": value}).value == "('ORIGINAL', ['df'])"
    sandbox.run("df = 'changed'")
    assert sandbox.run("df").value == "'changed'"
    assert value.sent == 1


def test_a_serialisable_value_is_there_again_after_a_loss():
    with Sandbox(checkpoint="never") as sandbox:
        sandbox.run("df", {"df": Shouted()})
        assert sandbox.run(CRASH).kind == "died"
        assert sandbox.run("df").value == "'ORIGINAL'"


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (lambda: 1, "tools=[function]"),
        (io.StringIO("text"), "file.read()"),
        (iter([1]), "list(value)"),
        (pathlib.Path("x"), "rlm_dspy.read(path)"),
        ([lambda: 1], "plain data"),
    ],
)
def test_a_value_that_cannot_be_handed_over_says_what_to_pass(sandbox, value, advice):
    with pytest.raises(HandoverError) as caught:
        sandbox.run("1", {"x": value})
    assert "'x' cannot be handed to the sandbox: a value of type" in str(caught.value)
    assert advice in str(caught.value)


def test_a_value_that_is_refused_leaves_the_others_as_they_were(sandbox):
    sandbox.run("1", {"kept": "k"})
    with pytest.raises(HandoverError, match="ZeroDivisionError"):
        sandbox.run("print(1)", {"new": "n", "df": Shouted("1/0")})
    assert sandbox.run("kept").value == "'k'"
    sandbox.run(CRASH)
    assert sandbox.run("kept").value == "'k'"


def test_a_value_that_may_have_changed_is_sent_again(sandbox):
    data = [1]
    assert sandbox.run("n += 1; data.append(9); data, n", {"data": data, "n": 5}).value == "([1, 9], 6)"
    data.append(2)
    assert sandbox.run("data, n", {"data": data, "n": 5}).value == "([1, 2], 5)"


def test_hostile_code_cannot_say_that_a_variable_was_refused(sandbox):
    forge = (
        "import gc, time\nsession = SUBMIT.__self__\n"
        "session.wire.send({'t': 'result', 'n': NUMBER, 'kind': 'handover', 'name': 'x', 'exc': 'your disk is full'})\n"
        "time.sleep(9)"
    )
    sandbox.run("kept = 1")
    done = sandbox.run(forge.replace("NUMBER", "2"))
    assert "broke the sandbox's protocol" in done.exception
    assert sandbox.run("kept").value == "1"
    assert sandbox.run(forge.replace("NUMBER", "4"), {"y": 1}).kind == "error"


def test_a_corpus_that_cannot_be_listed_leaves_no_descriptor(sandbox):
    class Broken:
        def sandbox_index(self):
            raise OSError("no index")

        def sandbox_chunks(self):
            yield b"x"

    sandbox.run("1")
    before = hosts.descriptors()
    for _ in range(3):
        with pytest.raises(OSError, match="no index"):
            sandbox.run("1", {"first": "x" * 100_000, "c": Broken()})
    assert hosts.descriptors() <= before


def test_after_a_renewal_inputs_tools_and_functions_are_bound_anew_and_other_names_stay():
    with Sandbox(main="context") as sandbox:
        text = "the real text " * 10_000
        sandbox.tools["tool"] = lambda: "first"
        poison = "mine = 1; context = P = 'poison'; grep = tool = SUBMIT = lambda *a, **k: ['fake']"
        sandbox.run(poison, {"context": text})
        sandbox.renew()
        assert sandbox.tools == {}
        sandbox.tools["other"] = lambda: "second"
        done = sandbox.run("print(context is P, len(P), mine, other(), 'tool' in globals())", {"context": text})
        assert done.stdout == "True 140000 1 second False\n"
        assert "fake" not in sandbox.run("print(grep('real', max_matches=1))").stdout
        assert sandbox.run("SUBMIT('x')").final == {"output": "x"}
