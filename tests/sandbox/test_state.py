"""The session's names survive whatever a cell does."""

import random

import pytest

from rlm_dspy.errors import SandboxDiedError
from rlm_dspy.sandbox import Sandbox, cell

OS = "import sys; os = sys.modules['os']; "


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(cell, "GRACE_SECONDS", 0.3)


def test_names_assigned_before_an_exception_stay(sandbox):
    sandbox.run("a = 1\nb = 2\n1/0\nc = 3")
    assert sandbox.run("a + b, 'c' in globals()").value == "(3, False)"


BAD = {
    "exit": "exit()",
    "system exit": "raise SystemExit(3)",
    "os exit": OS + "os._exit(0)",
    "kill": OS + "os.abort()",
    "segfault": "import sys; sys.modules['rlm_worker.confine'].ctypes.string_at(0)",
    "hang": "while True: pass",
    "hang that catches all": "while True:\n try:\n  while True: pass\n except BaseException: pass",
    "hang in C": "sum(range(10**12))",
    "power": "10**10**8",
    "memory": "'a' * 10**10",
    "slow memory": "x = []\nwhile True: x.append('y' * 10**6)",
    "recursion": "def f(): f()\nf()",
    "C stack": "import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
    "closed descriptors": OS + "os.closerange(0, 64)",
    "cleared modules": "import sys\nsys.modules.clear()",
    "odd exception": "class E(BaseException):\n def __str__(self): raise self\nraise E",
    "syntax": "def",
    "forbidden": "import os",
}


@pytest.mark.parametrize("name", BAD)
def test_the_next_cell_sees_the_names_of_before(name):
    with Sandbox(timeout=0.4, memory_mb=64) as sandbox:
        sandbox.run("kept = ['before']\ndef twice(x): return x * 2")
        bad = sandbox.run(BAD[name])
        assert bad.exception is not None or name == "cleared modules"
        assert sandbox.run("twice(kept)", timeout=5).value == "['before', 'before']"
        assert sandbox.run("kept.append(1); kept", timeout=5).value == "['before', 1]"


def test_a_long_row_of_crashes_loses_nothing(sandbox):
    sandbox.run("n = 0")
    for count in range(1, 8):
        sandbox.run("n += 1")
        assert "put back" in sandbox.run(OS + "n = 'lost'; os._exit(1)").note
        assert sandbox.run("n").value == str(count)


def test_a_copy_that_speaks_late_does_not_replace_a_later_one():
    for _ in range(60):  # the copies made before and after a cell may speak in either order
        with Sandbox() as sandbox:
            sandbox.run("kept = 1")
            sandbox.run(OS + "os._exit(0)")
            assert sandbox.run("kept").value == "1"


def test_inputs_and_tools_are_there_after_a_rollback_and_after_a_restart():
    for checkpoint in ("auto", "never"):
        with Sandbox(tools={"tool": lambda: "told"}, checkpoint=checkpoint, main="text") as sandbox:
            text = "some text " * 10_000
            sandbox.run("x = 1", {"text": text})
            done = sandbox.run(OS + "os._exit(1)", {"more": "given with the crash"})
            assert done.kind == ("died" if checkpoint == "never" else "error")
            seen = sandbox.run("len(text), tool(), P == text, more", {"text": text, "more": "given again"})
            assert seen.value == "(100000, 'told', True, 'given again')"


def test_without_checkpoints_the_model_is_told_that_all_is_lost():
    with Sandbox(checkpoint="never") as sandbox:
        sandbox.run("x = 1")
        done = sandbox.run(OS + "os._exit(1)")
        assert "every other name is lost" in done.text
        assert "NameError" in sandbox.run("x").exception


def test_execute_ends_the_session_when_its_state_is_lost():
    sandbox = Sandbox(checkpoint="never")
    sandbox.execute("x = 1")
    with pytest.raises(SandboxDiedError):
        sandbox.execute(OS + "os._exit(1)")


def test_always_keeps_a_copy_even_after_a_cell_that_only_looks():
    with Sandbox(checkpoint="always") as sandbox:
        sandbox.run("x = []")
        first = sandbox._link.standby.pid
        sandbox.run("x")
        assert sandbox._link.standby.pid != first


def test_auto_keeps_its_copy_when_a_cell_only_looks(sandbox):
    sandbox.run("x = []")
    first = sandbox._link.standby.pid
    sandbox.run("print(x, len(x))")
    assert sandbox._link.standby.pid == first
    sandbox.run("x.append(1)")
    assert sandbox._link.standby.pid != first


def test_the_hash_seed_and_random_numbers_are_the_same_in_every_session():
    def look():
        with Sandbox() as sandbox:
            return sandbox.run("import random\nhash('a'), random.random(), {'b', 'c', 'd'}, object()").value

    assert look() == look()


def test_random_numbers_go_on_as_they_would_have_after_going_back():
    def numbers(back):
        with Sandbox() as sandbox:
            sandbox.run("import random\nrandom.random()")
            back(sandbox)
            return [sandbox.run("random.random()").value for _ in range(2)]

    straight = numbers(lambda sandbox: None)
    assert numbers(lambda sandbox: sandbox.run(OS + "os._exit(1)")) == straight


STATE = "buf.getvalue(), seen, dict(groups), dict(nested['a']), left(), [o.n for o in objects]"
CHANGES = [
    "print('hello', file=buf)",
    "print('hello', **{'file': buf})",
    "search('x')",
    "groups['new']",
    "print(len(groups['new']), 1)",
    "nested['a']['new']",
    "'a' in lines",
    "select(spans)",
    "'a' in objects[0]",
]


@pytest.mark.parametrize("code", CHANGES)
def test_what_a_cell_that_seems_to_look_has_changed_is_kept(code):
    with Sandbox(main="text") as sandbox:
        sandbox.run(
            "import io, copy\nfrom collections import defaultdict\nbuf = io.StringIO()\nseen = []\n"
            "def search(q): seen.append(q); return len(seen)\n"
            "groups = defaultdict(list)\nnested = {'a': defaultdict(list)}\nlines, spans = iter('ab'), iter([(0, 1)])\n"
            "def left(): return list(copy.copy(lines)), list(copy.copy(spans))\n"
            "class O:\n n = 0\n def __contains__(self, x): self.n += 1; return True\nobjects = [O()]\n",
            {"text": "some text"},
        )
        before = sandbox.run(STATE).value
        assert sandbox.run(code).exception is None
        sandbox.run(OS + "os._exit(1)")
        assert sandbox.run(STATE).value != before


LOOKS = [
    "x", "print(x[:2], len(x))", "hits[0]['text'][:4]", "d['k'][-1]", "d['k'][n]", "P[:3]", "text[n:]", "d[1, 2]",
    "print(f'{n:>3}', d, sep='-')", "n in x", "hits[:1]", "type(x)", "isinstance(x, list) and not x == [1]",
    "grep('text', max_matches=1)", "peek(0, 3) + 'x'", "counts['none']",
]  # fmt: skip


@pytest.mark.parametrize("code", LOOKS)
def test_a_cell_that_only_looks_needs_no_copy(code):
    with Sandbox(main="text") as sandbox:
        sandbox.run(
            "from collections import Counter\nx = [1, 2, 3]\nn = 1\nd = {'k': [1, 2], (1, 2): 3}\n"
            "counts = Counter('aab')\nhits = grep('text')",
            {"text": "some text"},
        )
        first = sandbox._link.standby.pid
        assert sandbox.run(code).exception is None
        assert sandbox._link.standby.pid == first


def test_an_exception_with_a_number_for_a_file_name_costs_only_its_cell(sandbox):
    sandbox.run("kept = 1")
    done = sandbox.run("raise SyntaxError('x', (5, 1, 1, 't'))")
    assert (done.kind, done.note) == ("error", None)
    assert sandbox.run("kept").value == "1"


@pytest.mark.parametrize("threads", [0, 3])
def test_what_a_fork_renews_is_renewed_where_there_were_threads(sandbox, threads):
    sandbox.run(
        "import logging, random, threading, time\nrandom.seed(7)\n"
        "def log():\n while True: logging.getLogger('busy').debug('x'); time.sleep(.001)\n"
        f"for _ in range({threads}): threading.Thread(target=log, daemon=True).start()"
    )
    expected = random.Random(7).random()
    assert "all earlier names are kept" in sandbox.run(OS + "os._exit(1)").note
    assert sandbox.run("threading.active_count()").value == "1"
    assert sandbox.run("random.random()").value == repr(expected)
    again = "done = []\nt = threading.Thread(target=lambda: done.append(logging.getLogger('again').isEnabledFor(50)))"
    assert sandbox.run(f"{again}\nt.start(); t.join(); done").value == "[True]"


def test_compiled_code_of_the_host_runs_as_a_cell(sandbox):
    done = sandbox.run(cell.Compiled("repl['a'] = repl['given'] + 1\nprint(repl['a'])\n1/0"), {"given": 1})
    assert (done.stdout, done.kind, done.names) == ("2\n", "error", ("a",))
    assert "ZeroDivisionError" in done.exception
    sandbox.run(OS + "os._exit(1)")
    assert sandbox.run("a").value == "2"
    assert sandbox.run(cell.Compiled("while True: pass"), timeout=0.2).timed_out
    assert sandbox.run("a").value == "2"
