"""Write ``docs/images/run.svg``, the picture of a run in the README, as ``rlm-dspy trace`` prints it.

python docs/write_picture.py            the run in docs/images/run.json, as it was recorded
python docs/write_picture.py RUN.json   another one, written by ``rlm-dspy ask --trace RUN.json``
"""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlm_dspy.report.tree import tree_lines
from rlm_dspy.run import Run

FOLDER = Path(__file__).parent / "images"
COLUMNS = 110


def main(path: str = str(FOLDER / "run.json")) -> None:
    """Render a run."""
    run = Run.model_validate_json(Path(path).read_bytes())
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(Text("\n".join(tree_lines(run))), no_wrap=True, overflow="ellipsis")
    console.save_svg(str(FOLDER / "run.svg"), title="rlm-dspy trace")


if __name__ == "__main__":
    main(*sys.argv[1:])
