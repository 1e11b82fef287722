"""Write ``docs/images/run.svg``, the picture of a run in the README, as ``rlm-dspy trace`` prints it.

python docs/write_picture.py                        the run in docs/images/run.json, as it was recorded
python docs/write_picture.py -m MODEL [OPTION …]    a new run: a model counts lines of a generated table of 1 MB; the
                                                    options are those of ``rlm-dspy ask``
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlm_dspy.report.tree import tree_lines
from rlm_dspy.run import Run
from rlm_dspy.tuning import data

FOLDER = Path(__file__).parent / "images"
COLUMNS = 120
TOKENS = 300_000  # of the table


def main(options: list[str]) -> None:
    """Ask if there are options, and render the run."""
    if options:
        ask(options)
    (FOLDER / "run.svg").write_text(picture(), encoding="utf-8")


def ask(options: list[str]) -> None:
    """Record a run on a generated table, and check its answer."""
    row = data.generated("logs", "train", range(1), tokens=TOKENS)[0]
    example = data.example(row, Path(), row["id"])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "requests.csv").write_text(example.context.text, encoding="utf-8")
        command = [sys.executable, "-m", "rlm_dspy", "ask", "--mode", "rlm", "--temperature", "0", *options]
        command += ["--trace", str(FOLDER / "run.json"), example.question, "requests.csv"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    if done.stdout.split() != [str(example.answer)]:
        sys.exit(f"wrong: {done.stdout.strip()} instead of {example.answer}")


def picture() -> str:
    """Return the recorded run as SVG."""
    run = Run.model_validate_json((FOLDER / "run.json").read_bytes())
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(Text("\n".join(tree_lines(run))), no_wrap=True, overflow="ellipsis")
    return console.export_svg(title="rlm-dspy trace", unique_id="run")


if __name__ == "__main__":
    main(sys.argv[1:])
