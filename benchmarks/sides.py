"""The compared interpreters, by name.

``dspy.PythonInterpreter`` loads one module from deno.land. If that host is unreachable, set ``BENCH_IMPORT_MAP`` to a
Deno import map with a local file in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy

import rlm_dspy


def pyodide() -> dspy.PythonInterpreter:
    """Create DSPy's default interpreter, with the import map if set."""
    mapped = os.environ.get("BENCH_IMPORT_MAP")
    interpreter = dspy.PythonInterpreter()
    if not mapped:
        return interpreter
    command = list(interpreter.deno_command)
    command.insert(command.index("run") + 1, f"--import-map={mapped}")
    folder = str(Path(mapped).parent)
    return dspy.PythonInterpreter(
        deno_command=[f"{part},{folder}" if part.startswith("--allow-read") else part for part in command]
    )


SIDES: dict[str, Callable[[], Any]] = {
    "rlm_dspy.Sandbox": rlm_dspy.Sandbox,
    "dspy.PythonInterpreter": pyodide,
    "dspy.LocalInterpreter": dspy.LocalInterpreter,
}
