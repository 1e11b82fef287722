"""Whatever a worker says, the host takes it as data, or ends that worker."""

import contextlib
import json
import os
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_dspy.sandbox import Sandbox, execution
from rlm_dspy.sandbox.cell import CellEnding, _arguments_by_name, without_paths
from rlm_dspy.sandbox.link import parse_frame
from rlm_dspy.sandbox.process import ProtocolError
from sandbox.fuzz import Tape, frame, fuzz, torment

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
FIELDS = ["t", "n", "out", "err", "exc", "value", "cut", "names", "final", "kind", "crowd", "copies"]


def test_hostile_frames_end_the_worker_never_the_host():
    ends = fuzz(20_000, seed=int(os.environ.get("FUZZ_SEED", "1")))
    assert ends["ProtocolError"] > 1000
    assert ends["call"] > 100


def test_hostile_commands_end_a_worker_or_are_ignored():
    chance = random.Random(int(os.environ.get("FUZZ_SEED", "1")))
    frames, kinds = 0, Counter()
    for _ in range(150):
        with Sandbox(tools={"tool": lambda: 1}, memory_mb=64) as sandbox:
            sandbox.run("tool()")
            before = sandbox._link.zygote.denied
            forks = sandbox._link.grant.used
            sent, ended, written = torment(sandbox._link, chance, chance.randint(1, 4))
            assert ended, "the worker hangs"
            assert sandbox._link.grant.used == forks
            frames += sent
            kinds.update(written)
            kinds["denied"] += sandbox._link.zygote.denied - before
    assert set(kinds) <= {"result", "call", "denied", "refused"}
    assert frames > 300
    assert kinds["result"] > 10
    assert kinds["call"] > 3


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_body_parses_or_is_a_protocol_error(body):
    with contextlib.suppress(ProtocolError):
        assert isinstance(parse_frame(body)["t"], str)


@pytest.mark.parametrize("body", [b'\xef\xbb\xbf{"t": "x"}', '{"t": "x"}'.encode("utf-16"), b'{"t": "\xed\xa0\x80"}'])
def test_a_frame_in_another_encoding_is_a_protocol_error(body):
    with pytest.raises(ProtocolError):
        parse_frame(body)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
@settings(max_examples=100, deadline=None)
def test_any_result_becomes_an_execution_or_is_called_malformed(message):
    try:
        done = execution.from_result(CellEnding("result", message), 1.0, 64, 1000)
    except execution.MalformedError:
        return
    assert isinstance(done.text, str)
    assert isinstance(done.stdout, str)


def test_a_frame_may_arrive_in_any_pieces():
    tape = Tape()
    whole = frame(json.dumps({"t": "result", "n": 1}).encode()) * 3
    for at in range(len(whole)):
        tape._far.send(whole[at : at + 1])
        tape._read_frames()
    assert len(tape._frames) == 3
    tape.let_go()


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 100, b"\xff" * 100, b"\x02\x00\x00\x00{}", b"\x04\x00\x00\x00null"])
def test_garbage_from_the_host_ends_a_worker_and_the_next_cell_has_a_session(garbage):
    with Sandbox(timeout=2.0) as sandbox:
        sandbox.run("x = 1")
        sandbox._link._channel.send(garbage)
        sandbox.run("x", timeout=0.5)
        assert sandbox.run("6 * 7").value == "42" or sandbox.run("6 * 7").value == "42"


def test_output_is_credited_to_its_own_cell(sandbox):
    for number in range(50):
        assert sandbox.run(f"print({number})").stdout == f"{number}\n"
        if number % 10 == 0:
            sandbox.run("import sys\nprint('lost')\nsys.modules['os']._exit(1)")


def test_paths_are_shortened_and_addresses_kept():
    assert without_paths("no /home/me/project/file.py here") == "no …/file.py here"
    assert without_paths("see https://host/a/b/c and 1/2/3 and a/b") == "see https://host/a/b/c and 1/2/3 and a/b"


def test_arguments_by_position_become_arguments_by_name():
    def tool(a, b=2, *, c=3):
        return a, b, c

    assert _arguments_by_name(tool, [1, 5], {"c": 7}) == ([], {"a": 1, "b": 5, "c": 7})
    with pytest.raises(TypeError, match="too many"):
        _arguments_by_name(tool, [1, 2, 3], {})
    with pytest.raises(TypeError, match="multiple values"):
        _arguments_by_name(tool, [1], {"a": 2})
    assert _arguments_by_name(print, [1], {}) == ([1], {})


def test_a_malformed_result_tells_what_is_lost_with_it(sandbox):
    forge = (
        "import gc, time\nsession = SUBMIT.__self__\n"
        "session._report = lambda result: session.wire.send({**result, 'names': 5})\nx = 1"
    )
    done = sandbox.run(forge)
    assert "broke the sandbox's protocol" in done.exception
    assert "all names are kept" in done.note
    assert sandbox.run("x").exception is not None  # the copy was made after the cell, and is as hostile
