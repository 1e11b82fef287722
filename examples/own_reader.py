"""Your own reader: a function of bytes and a name, registered in its project's ``pyproject.toml``:

    [project.entry-points."rlm_dspy.readers"]
    memo = "own_reader:read_memo"
    msg = "own_reader:read_with_xberg"      # Outlook messages; for OCR: png and the like

This example writes by hand the metadata that ``pip install`` would generate.

Cost: nothing, no model is asked.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import rlm_dspy


def read_memo(data: bytes, name: str) -> str:
    return "\n".join(reversed(data.decode("utf-8").splitlines()))  # a memo starts with its last line


def read_with_xberg(data: bytes, name: str) -> str:
    """Return the text of a file, extracted from its bytes by the library xberg (tested with 1.3.9)."""
    import xberg

    given = xberg.ExtractInput(kind=xberg.ExtractInputKind.BYTES, bytes=data, filename=name)
    found = asyncio.run(xberg.extract(given, xberg.ExtractionConfig()))
    return "\n\n".join(document.content for document in found.results)


with tempfile.TemporaryDirectory() as folder:
    metadata = Path(folder, "own_reader-1.0.dist-info")
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-reader\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[rlm_dspy.readers]\nmemo = own_reader:read_memo\n")
    sys.path.append(folder)
    sys.modules["own_reader"] = sys.modules["__main__"]
    Path(folder, "today.memo").write_text("at nine\nThe gate opens\n")
    print(rlm_dspy.read([Path(folder, "today.memo")])["today.memo"])
