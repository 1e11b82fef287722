"""However much a cell hands on, the host stays alive: frames are bounded in bytes, in values and in time."""

import gc
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_dspy.garbage_pause import paused_garbage_collection
from rlm_dspy.sandbox import Sandbox
from rlm_dspy.sandbox.link import parse_frame
from rlm_dspy.sandbox.process import ProtocolError
from rlm_dspy.sandbox.worker.wire import MAX_VALUES, count_values

# Writes a frame past everything that the worker itself would refuse.
FORGED = """
import struct, time
body = {body}
SUBMIT.__self__.wire.write(memoryview(struct.pack("<I", len(body)) + body))
time.sleep(60)
"""


@pytest.fixture
def stalls():
    """The longest time, in seconds, that no other thread could run."""
    longest, over = [0.0], threading.Event()

    def watch():
        last = time.monotonic()
        while not over.wait(0.005):
            now = time.monotonic()
            longest[0] = max(longest[0], now - last)
            last = now

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    yield longest
    over.set()
    watching.join()


@pytest.mark.parametrize(
    "items",
    [
        "b'[],' * 10_600_000 + b'0'",
        "b'{},' * 10_600_000 + b'0'",
        "b'0,' * 16_000_000 + b'0'",
        "b'\"\",' * 10_600_000 + b'0'",
        "b'[' * 16_000_000",
        "b'\"' + b'\\\\\\\\\"' * 10_000_000",
        "(b'[' * 50 + b']' * 50 + b',') * 300_000 + b'0'",
    ],
)
def test_a_frame_of_millions_of_values_is_refused_before_it_is_parsed(items, stalls):
    body = 'b\'{"t":"result","n":1,"data":[\' + ' + items + " + b']}'"
    with Sandbox(timeout=5.0) as sandbox:
        begun = time.monotonic()
        done = sandbox.run(FORGED.format(body=body))
        assert time.monotonic() - begun < 6.0
        assert "broke the sandbox's protocol" in done.exception
        assert sandbox.run("6 * 7").value == "42"
    assert stalls[0] < 1.0


@pytest.mark.parametrize(
    "value",
    [
        "[[]] * 1_000_000",
        "[0] * 1_000_000",
        "{f'{i}': i for i in range(600_000)}",
        "set(range(600_000))",
        "[('a',)] * 400_000",
    ],
)
def test_the_model_is_told_how_many_values_are_too_many(value):
    with Sandbox(timeout=20.0, tools={"tool": len}) as sandbox:
        for call in ("SUBMIT", "tool"):
            done = sandbox.run(f"{call}({value})")
            assert "values; the limit is 500,000" in done.exception, done.text
        assert sandbox.run("6 * 7").value == "42"


def test_many_values_and_long_texts_below_the_bound_cross():
    with Sandbox(timeout=20.0, tools={"tool": len}) as sandbox:
        assert sandbox.run("tool([0] * 400_000)").value == "400000"
        assert sandbox.run("tool('[,{' * 9_000_000)").value == "27000000"
        assert sandbox.run("SUBMIT('[,{' * 5_000_000)").final["output"] == "[,{" * 5_000_000


def test_a_value_with_a_short_repr_of_its_own_costs_nothing(sandbox):
    sandbox.run("class Long(list):\n def __repr__(self): return 'long'")
    done = sandbox.run("Long([0]) * 1 if False else Long(range(300_000))")
    assert (done.value, done.result, done.exception) == ("long", None, None)


def test_what_the_host_reads_while_a_call_waits_is_the_cells_time():
    flood = (
        "import threading, struct, time\nthreading.Thread(target=slow, daemon=True).start()\ntime.sleep(0.2)\n"
        'body = b\'{"t":"call","id":%d,"name":"none","a":[\' + b\'0,\' * 400_000 + b\'0],"k":{}}\'\n'
        "for i in range(1000, 3000):\n"
        " frame = body % i\n"
        " SUBMIT.__self__.wire.write(memoryview(struct.pack('<I', len(frame)) + frame))"
    )
    with Sandbox(timeout=2.0, tools={"slow": lambda: time.sleep(20)}) as sandbox:
        begun = time.monotonic()
        assert sandbox.run(flood).timed_out
        assert time.monotonic() - begun < 15


@given(
    st.recursive(
        st.none() | st.integers() | st.text(alphabet='[]{},:"\\\x00a é'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='[,"\\a'), inner),
    )
)
@settings(max_examples=200, deadline=None)
def test_values_are_counted_without_parsing(value):
    import json

    def counted(item):
        parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        return 1 + sum(map(counted, parts))

    body = json.dumps(value, separators=(",", ":")).encode()
    assert count_values(body) >= counted(value)
    padded = b"[" + body + b',"' + b"," * (MAX_VALUES + 1) + b'"]'
    assert count_values(padded) == counted(value) + 2


def test_collection_goes_on_when_the_last_reader_is_done():
    with paused_garbage_collection():
        with paused_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ProtocolError):
        parse_frame(b"[" * 100_000)
    assert gc.isenabled()
