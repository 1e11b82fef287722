"""No payload of the attack corpus reaches a file, the network, a process, a secret or the host."""

import os
import re
import shutil
import socket
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path

import pytest

import rlm_dspy.sandbox
from rlm_dspy.sandbox import cell
from sandbox import corpus
from sandbox.attacks import ATTACKS

USERS = ["root", "nobody"] if os.geteuid() == 0 else ["myself"]
LEFT_OUT = (
    "test",
    "site-packages",
    "idlelib",
    "tkinter",
    "lib2to3",
    "ensurepip",
    "turtledemo",
    "pydoc_data",
    "config-*",
)


def test_the_corpus_is_large_and_broad():
    assert len(ATTACKS) >= 10
    assert sum(map(len, ATTACKS.values())) >= 150


def _kill(planted):
    planted.victim.kill()
    planted.victim.wait()


# What a tool of the *host* does here is what a payload would have done had it escaped.
CONTROLS = {
    "the secret was shown": ("print(harm())", lambda planted: planted.file.read_text()),
    "the secret was shown in a result": ("SUBMIT(harm())", lambda planted: os.environ["CANARY"]),
    "the secret was shown in an error": ("raise ValueError(harm())", lambda planted: planted.file.read_text()),
    "it succeeded": ("print('DONE')", None),
    "it failed by its own mistake": ("None.loader", None),
    "it failed by its own mistake at an import": ("import mmap", None),
    "the output is too long": ("SUBMIT('x' * 200_000)", None),
    "the session did not go on": ("globals()['print'] = lambda *a: None", None),
    "the victim died": ("harm()", _kill),
    "the file was touched": ("harm()", lambda planted: planted.file.write_text("other") and None),
    "the file was touched by a neighbour": ("harm()", lambda planted: Path(f"{planted.file}2").write_text("") and None),
    "the file was touched by deletion": ("harm()", lambda planted: planted.file.unlink()),
    "the file's mode was changed": ("harm()", lambda planted: planted.file.chmod(0o600)),
    "the listener was reached": (
        "harm()",
        lambda planted: socket.create_connection(planted.listener.getsockname()).close(),
    ),
}


@pytest.mark.parametrize("problem", CONTROLS)
def test_each_detector_fires_when_the_host_itself_exposes_a_canary(problem):
    code, harm = CONTROLS[problem]
    attacks = {"control": {"harmless": "print(tool())", "harmful": code}}

    def harms(planted):
        return {"harm": lambda: harm(planted)} if harm else {}

    found = corpus.run_all(attacks, harms).problems
    expected = re.sub(r" (by|in) an? .*| by deletion| at an import", "", problem)
    assert any(expected in told for told in found)
    assert corpus.run_all({"control": {"harmless": "print(tool())"}}).problems == []


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_nothing_escapes(user, monkeypatch):
    for name in ("GRACE_SECONDS", "COPY_SECONDS", "LATE_SECONDS"):
        monkeypatch.setattr(cell, name, getattr(cell, name))
    corpus.hurry()
    result = _as_nobody() if user == "nobody" else corpus.run_all().__dict__
    assert result["problems"] == []
    assert result["payloads"] == sum(map(len, ATTACKS.values()))
    assert (result["user"] == 0) == (user == "root")


def _as_nobody():
    """Run the corpus in a process of an ordinary user, from a Python and a worker that it can read."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that only root may enter
        folder = Path(name)
        folder.chmod(0o755)
        _copy_python(folder)
        shutil.copytree(Path(rlm_dspy.sandbox.__file__).parent, folder / "sandbox")
        for path in [*folder.rglob("*")]:
            path.chmod(0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is harmless here
            return corpus.as_nobody(folder)


def _copy_python(folder):
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shutil.copytree(library, folder / "lib" / library.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (folder / "bin").mkdir()
    program = shutil.copy(Path(sys.executable).resolve(), folder / "bin")
    for shared in library.parent.glob("libpython*.so*"):  # a Python that was built so finds it by a path of root's
        shutil.copy(shared, folder / "lib")
    start = folder / "start"
    start.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{folder}/lib" exec "{program}" "$@"\n')
