"""What a cell changes in the standard library is its own affair: later cells run and report, and so does the copy."""

import pytest

from rlm_dspy.sandbox import Sandbox

EACH = "\nfor module in modules:\n for name in list(vars(module)):\n  if name[:2] != '__': setattr(module, name, None)"
PATCHES = {
    "json.dumps": "import json\njson.dumps = json.loads = None",
    "json": "import json, json.encoder, json.decoder\nmodules = json, json.encoder, json.decoder" + EACH,
    "ast.walk": "import ast\nast.walk = None",
    "ast": "import ast\nmodules = [ast]" + EACH,
    "threading": "import threading\nmodules = [threading]" + EACH,
    "os": "import sys\nmodules = [sys.modules['os']]" + EACH,
    "signal": "import sys\nmodules = [sys.modules['_signal']]" + EACH,
    "time": "import time\nmodules = [time]" + EACH,
    "re": "import re\nmodules = [re]" + EACH,
    "traceback": "import traceback, linecache\nmodules = traceback, linecache" + EACH,
    "collections": "import collections, contextlib, types\nmodules = collections, contextlib, types" + EACH,
    "numbers": "import decimal, datetime, enum, math, itertools\nmodules = decimal, datetime, enum, math, itertools"
    + EACH,
    "limits": "import sys\nmodules = [sys.modules['resource'], sys.modules['select'], sys.modules['marshal']]" + EACH,
    "some builtins": "import builtins\nbuiltins.len = builtins.isinstance = builtins.getattr = builtins.type = None",
    "all builtins": "import builtins\nvars(builtins).clear()",
    "its own builtins": "__builtins__.clear()",
    "globals": "globals().clear()",
    "sys.modules": "import sys\nsys.modules.clear()",
    "sys": "import sys\nsys.modules = sys.stdout = sys.stderr = sys.exc_info = sys.meta_path = None",
    "the finders": "import sys\nsys.meta_path[:] = []\nsys.path_hooks[:] = []",
    "a trace": "import sys\nsys.settrace(lambda *about: 1 / 0)",
    "a profile": "import sys\nsys.setprofile(lambda *about: 1 / 0)",
    "the recursion limit": "import sys\nsys.setrecursionlimit(30)",
    "SUBMIT": "SUBMIT = None",
}


def works(sandbox):
    """Return whether cells print, fail, call, import and submit as they should."""
    printed = sandbox.run("print(2 + 3)")
    failed = sandbox.run("1 / 0")
    called = sandbox.run("def f(): return tool([1, (2,)])\nf()")
    imported = sandbox.run("import csv\nx = [i for i in range(3)]\nx")
    submitted = sandbox.run("SUBMIT(answer={'a': (1, 2)})")
    seen = (printed.stdout, failed.exception.rpartition("\n")[2], called.value, imported.value, submitted.final)
    return seen == ("5\n", "ZeroDivisionError: division by zero", "[1, (2,)]", "[0, 1, 2]", {"answer": {"a": (1, 2)}})


@pytest.fixture
def equipped():
    fields = [{"name": "answer"}]
    with Sandbox(timeout=5, tools={"tool": lambda value: value}, output_fields=fields) as made:
        yield made


@pytest.mark.parametrize("patch", PATCHES)
def test_later_cells_run_and_so_does_the_copy(equipped, patch):
    assert works(equipped)
    done = equipped.run(PATCHES[patch])
    assert done.kind in ("ok", "error"), done.text
    assert "crashed" not in done.text
    assert works(equipped)
    assert "crashed" in equipped.run("import sys\nsys.modules['posix']._exit(1)").exception
    assert works(equipped)


# Changes the worker's own objects, so that each later cell of this session and of its copy ends it.
FATAL = """
session = SUBMIT.__self__
type(session).configure = lambda self, message: __import__('sys').modules['posix']._exit(1)
"""


def test_a_session_that_is_broken_for_good_begins_anew_and_says_so():
    with Sandbox(timeout=5) as sandbox:
        sandbox.run("kept = 1", {"text": "an input"})
        sandbox.run(FATAL)
        first, second = sandbox.run("1"), sandbox.run("2")
        assert "crashed" in first.exception
        assert "a new one begins" in second.note
        assert sandbox.run("text, 'kept' in globals()").value == "('an input', False)"
