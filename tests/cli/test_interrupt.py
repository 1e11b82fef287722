"""Ctrl-C: the first asks once for the best answer so far, the second stops at once, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rlm_dspy.cli.interrupts import Interrupts
from rlm_dspy.report.run_store import load_run
from rlm_dspy.run import Run
from warm import warm_python

PROGRAM = """
import os, sys, time
from rlm_dspy.testing import action, fields, scripted
from rlm_dspy.cli import model_choice
from rlm_dspy.cli.commands import main

kind = os.environ["KIND"]

def tell():
    print("hanging", file=sys.stderr, flush=True)

def hang(message):
    if "[[ ## trajectory" in message and kind != "extract":
        return fields(answer="best so far", evidence="[]")
    tell()
    time.sleep(120)

def slow(message):
    tell()
    return action("for number in range(1200):\\n    time.sleep(0.1)")

first = action("import time\\nprint(1 + 1)")
replies = {"model": [first, hang], "cell": [first, slow, hang], "extract": [first, hang], "first": [hang]}
lm, script = scripted(*replies[kind])
model_choice.choose = lambda values: model_choice.ChosenModels(lm=lm, sub_lm=None)
sys.argv[1:] = ["ask", "what?", ".", *sys.argv[1:]]
sys.exit(main())
"""


class Command:
    """An ``ask`` in a session of its own, interrupted as a terminal does it: every process of the group is told."""

    def __init__(self, kind: str, *args: str) -> None:
        paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        self.process = subprocess.Popen(
            [*warm_python(), "-c", PROGRAM, *(args or ("--mode", "rlm"))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "KIND": kind},
            start_new_session=True,
        )
        self.err = ""

    def until(self, word: str, times: int = 1) -> None:
        assert self.process.stderr is not None
        while self.err.count(word) < times:
            line = self.process.stderr.readline()
            assert line, self.err
            self.err += line

    def interrupt(self) -> None:
        self.started = time.monotonic()
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=60)
        self.err += err
        self.seconds = time.monotonic() - self.started
        _, left = psutil.wait_procs(self.children, timeout=10)
        assert left == []
        return self.process.returncode, out

    def kept(self) -> Run:
        place = re.search(r"the partial run is in (\S+)", self.err)
        assert place, self.err
        return load_run(Path(place.group(1))).run


@pytest.fixture
def start(home: Path, write: Callable) -> Iterator[Callable[..., Command]]:
    write("notes.md", "One and one is two.\n")
    begun: list[Command] = []

    def begin(*args: str) -> Command:
        begun.append(Command(*args))
        return begun[-1]

    yield begin
    for command in begun:
        command.process.kill()
        command.process.communicate()


@pytest.mark.parametrize("kind", ["model", "cell"])
def test_the_first_ctrl_c_prints_the_best_answer_so_far(start: Callable, kind: str) -> None:
    command = start(kind)
    command.until("hanging")
    command.interrupt()
    code, out = command.end()
    assert (code, out) == (3, "best so far\n"), command.err
    assert "Asking for the best answer so far" in command.err
    assert "Stopped by Ctrl-C; this is the best answer so far." in command.err
    assert "Traceback" not in command.err
    assert command.seconds < 60  # the model hangs for two minutes more, and nobody waits for it


def test_a_stopped_run_says_so_in_json_and_in_its_record(start: Callable, home: Path) -> None:
    command = start("model", "--mode", "rlm", "--json", "-q", "--trace", "run.json")
    command.until("hanging")
    command.interrupt()
    code, out = command.end()
    shown = json.loads(out)
    assert (code, shown["status"], shown["stopped_by"]) == (3, "extracted", "stop")
    assert command.err == "hanging\n"
    assert Run.model_validate_json((home / "run.json").read_bytes()).id == shown["run_id"]


def test_the_second_ctrl_c_stops_at_once_and_keeps_the_run(start: Callable) -> None:
    command = start("extract")
    command.until("hanging")
    command.interrupt()
    command.until("hanging", times=2)
    command.interrupt()
    code, out = command.end()
    assert (code, out) == (130, "")
    assert "interrupted" in command.err
    assert "Traceback" not in command.err
    run = command.kept()
    assert run.status == "stopped"
    assert run.steps[0].output.strip() == "2"


@pytest.mark.parametrize("mode", ["rlm", "direct"])
def test_before_anything_was_seen_there_is_no_answer_to_give(start: Callable, mode: str) -> None:
    command = start("first", "--mode", mode)
    command.until("hanging")
    command.interrupt()
    code, out = command.end()
    assert (code, out) == (130, "")
    assert "rlm-dspy: interrupted" in command.err
    assert "Traceback" not in command.err
    assert command.kept().status == "stopped"


# --- the switch itself -----------------------------------------------------------------------------------------------


def test_the_first_signal_sets_the_flag_and_the_second_raises() -> None:
    event, told = threading.Event(), threading.Event()
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(event, told.set):
        signal.raise_signal(signal.SIGINT)
        assert event.is_set()
        assert told.wait(5)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_where_nobody_interrupts_nothing_is_told() -> None:
    told = threading.Event()
    with Interrupts(threading.Event(), told.set):
        pass
    assert not told.is_set()
    assert not any(thread.name == "rlm-interrupts" for thread in threading.enumerate())
