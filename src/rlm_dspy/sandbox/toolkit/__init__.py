"""Text tools that run where the data is: peek, grep, chunk, select, search, outline, and the corpus handle.

The files here import only each other and the standard library (and google-re2 if installed). ``source()`` joins
them into one program for any other interpreter: execute it, then call ``bind(globals(), "context")``. The program
runs in its own namespace, in which each top-level name must be unique, and classes may not be dataclasses (which
need a registered module).

All ranges are character offsets, end exclusive. On a corpus they count within one file (the match has its
``source``), or, if no file is named, within the concatenated texts of all files.
"""

import ast
import os

from .corpus_handle import CorpusTexts, FileInfo, count_lines, label
from .hits import Hit, Matches
from .tools import INDEXED, Toolkit, bind

__all__ = ["INDEXED", "CorpusTexts", "FileInfo", "Hit", "Matches", "Toolkit", "bind", "count_lines", "label", "source"]

_PARTS = ("delimited", "corpus_handle", "patterns", "hits", "scopes", "matching", "cutting", "ranking", "tools")


def source() -> str:
    """Return the toolkit as a program that defines ``Corpus`` and ``bind``."""
    program = "\n".join(_without_own_imports(_module_source(part)) for part in _PARTS)
    return (
        f"_toolkit = {{'__name__': 'toolkit'}}\nexec({program!r}, _toolkit)\n"
        "Corpus, bind = _toolkit['CorpusTexts'], _toolkit['bind']\n"
    )


def _module_source(part: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), f"{part}.py"), encoding="utf-8") as file:
        return file.read()


def _without_own_imports(text: str) -> str:
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            for at in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[at] = ""
    return "\n".join(lines) + "\n"
