"""A reader of your own: a function of bytes and a name, registered by the packaging of the project that holds it.

In your project's ``pyproject.toml``:

    [project.entry-points."rlm_dspy.readers"]
    memo = "own_reader:read_memo"
    msg = "own_reader:read_with_xberg"      # Outlook messages
    png = "own_reader:read_with_xberg"      # OCR

After ``pip install .`` of it, files that end with these names are read by these functions, before any reader of ours.
Here the metadata that pip would write are written by hand.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import rlm_dspy


def read_memo(data: bytes, name: str) -> str:
    """Return the text of a memo, whose lines are kept from the last to the first."""
    return "\n".join(reversed(data.decode("utf-8").splitlines()))


def read_with_xberg(data: bytes, name: str) -> str:
    """Return the text of a file as the library xberg reads it (tried with 1.3.9); it is given bytes, and no path."""
    import xberg

    given = xberg.ExtractInput(kind=xberg.ExtractInputKind.BYTES, bytes=data, filename=name)
    found = asyncio.run(xberg.extract(given, xberg.ExtractionConfig()))
    if found.errors:
        raise ValueError(str(found.errors[0]))  # becomes the reason why the file was not read
    return "\n\n".join(document.content for document in found.results)


def main() -> None:
    """Read a folder with a memo in it."""
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder, "installed", "own_reader-1.0.dist-info")
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-reader\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[rlm_dspy.readers]\nmemo = own_reader:read_memo\n")
        sys.path += [str(metadata.parent), str(Path(__file__).parent)]
        Path(folder, "today.memo").write_text("at nine\nThe gate opens\n")
        print(rlm_dspy.read([Path(folder, "today.memo")])["today.memo"])


if __name__ == "__main__":
    main()
