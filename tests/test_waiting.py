"""Waiting: resources shared by all calls of a process, and threads that its exit must not wait for."""

from __future__ import annotations

import gc
import subprocess
import sys

from rlm_dspy.garbage_pause import paused_garbage_collection

# A thread that ends in the midst of an import leaves Python's lock on imports taken; the object's end then imports.
ENDING = """
import _imp, asyncio, threading, time
from rlm_dspy import deadlines

class Last:
    def __del__(self):
        import colorsys

begun = threading.Event()

async def import_slowly():
    _imp.acquire_lock()
    begun.set()
    time.sleep(0.2)
    _imp.release_lock()

asyncio.kept = Last()
deadlines._submit_to_loop(import_slowly())
begun.wait()
"""


def test_the_process_ends_while_its_loop_imports() -> None:
    subprocess.run([sys.executable, "-c", ENDING], capture_output=True, timeout=30, check=True)


def test_collection_is_off_while_modules_are_imported() -> None:
    with paused_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collection_is_on_again_whichever_of_two_imports_ends_first() -> None:
    first, second = paused_garbage_collection(), paused_garbage_collection()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_collection_stays_off_where_it_was() -> None:
    gc.disable()
    try:
        with paused_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_litellm_as_an_engine_of_dspy_is_loaded_before_the_clock_starts() -> None:
    code = (
        "import sys, dspy; from rlm_dspy import deadlines; lm = dspy.LM('openai/m', engine='litellm'); "
        "before = 'litellm' in sys.modules; deadlines.load_engines(lm); print(before, 'litellm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
