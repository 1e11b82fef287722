"""No path of the host is to be seen inside: not in names, code, frames, tracebacks or modules."""

import sys
from pathlib import Path

import pytest

import rlm_dspy
from rlm_dspy.sandbox import Sandbox

LOOK = r"""
import gc, sys, types
found, places = set(), tuple(places)

def look(value, where, depth=0):
    if isinstance(value, bytes):
        value = value.decode('latin-1')
    if isinstance(value, str):
        if value != LOOKING and any(place in value for place in places):
            found.add((where, value[:100]))
    elif isinstance(value, (list, tuple, set, frozenset)) and depth < 4:
        for item in list(value):
            look(item, where, depth + 1)
    elif isinstance(value, dict) and depth < 4:
        for key, item in list(value.items()):
            look(key, where, depth + 1)
            look(item, where, depth + 1)

def look_into(code, where):
    look(code.co_filename, where)
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            look_into(part, where)

look({key: value for key, value in vars(sys).items() if key != 'modules'}, 'sys')
look(vars(sys.implementation), 'sys.implementation')
for name, module in list(sys.modules.items()):
    if not isinstance(module, types.ModuleType) or name == '__main__':
        continue
    spec = module.__spec__
    if not name.endswith('evaluate') and name != 'linecache':  # which have the lines of this very cell
        look({key: value for key, value in vars(module).items() if key != '__builtins__'}, name)
    look(repr(module), name)
    for one in (spec, getattr(spec, 'loader', None), getattr(module, '__loader__', None)):
        look(repr(one), name + ' spec')
        look(getattr(one, '__dict__', {}), name + ' spec')
for function in gc.get_objects():
    if isinstance(function, types.FunctionType):
        look_into(function.__code__, 'code of ' + str(function.__module__))
frame = sys._getframe()
while frame is not None:
    look(frame.f_code.co_filename, 'frame')
    frame = frame.f_back
look(dict(sys.modules['os'].environ), 'environment')
sorted(found)[:20]
"""

IMPORTED = (
    "import asyncio, csv, email.message, fractions, hashlib, inspect, json, logging, statistics, typing, urllib.parse"
)


@pytest.fixture(scope="module")
def places():
    here = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, str(Path(rlm_dspy.__file__).parents[1])}
    return [place for place in here if len(place) > 4]


@pytest.mark.parametrize("imported", ["", IMPORTED])
def test_no_attribute_code_or_frame_tells_a_path(places, imported):
    with Sandbox(timeout=20) as sandbox:
        sandbox.run(imported or "0")
        done = sandbox.run(LOOK, {"places": places, "LOOKING": LOOK})
    assert (done.value, done.exception) == ("[]", None)


def test_a_third_party_module_tells_no_path_either(places):
    pytest.importorskip("numpy")
    with Sandbox(timeout=30, modules=("numpy",)) as sandbox:
        assert sandbox.run("import numpy\nnumpy.arange(3).sum()").value in ("3", "np.int64(3)")
        done = sandbox.run(LOOK, {"places": places, "LOOKING": LOOK})
    assert (done.value, done.exception) == ("[]", None)


def test_tracebacks_name_modules_instead_of_files(sandbox):
    code = "import json, traceback\ntry: json.loads('{')\nexcept ValueError: print(traceback.format_exc())"
    told = sandbox.run(code).stdout
    assert 'File "<json.decoder>"' in told
    assert "/" not in told


@pytest.mark.parametrize("name", ["maps", "environ", "cmdline", "exe", "status", "mem", "fd/0", "root/etc/passwd"])
def test_the_process_cannot_look_at_itself(sandbox, name):
    done = sandbox.run(f"import io\nio.FileIO('/proc/self/{name}')")
    assert "PermissionError" in done.exception
