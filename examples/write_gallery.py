"""Run every example, and write examples/README.md: what each one prints, and what it would cost with a model.

    python examples/write_gallery.py            writes the gallery
    python examples/write_gallery.py NAME.py    runs one example, and prints its output and figures as JSON

The cost is the package's own estimate of a usual question, the one of ``rlm-dspy ask --dry-run``, for each question
that the example asked. It needs the development dependencies of this project.
"""

import ast
import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MODEL = "groq/openai/gpt-oss-20b"
EXAMPLES = (
    ("Ask", ("quickstart", "typed_output", "many_questions", "notebook")),
    ("Real input", ("book", "codebase", "conflicting_documents", "large_report", "logs", "tables", "typed_records")),
    ("Compose", ("composed", "react_agent", "recursive_summary")),
    ("Your own", ("own_interpreter", "own_reader", "own_metric")),
    ("Improve and test", ("optimizing", "testing_a_program")),
    ("Many machines, and a service", ("cluster_dask", "cluster_slurm", "cluster_kubernetes", "service")),
)
NO_MODEL = {"own_reader", "testing_a_program"}
ELSEWHERE = {"cluster_dask": 8}  # questions that are asked in other processes
NOT_RUN = {"cluster_slurm": "a Slurm cluster", "cluster_kubernetes": "a Kubernetes cluster", "service": "a client"}
GENERATORS = {"book": "make_novel.py", "large_report": "make_report.py"}
HEAD = f"""# Examples

Each is a whole program, run as `python examples/NAME.py [MODEL]` from the root of the repository. Without MODEL it
needs no key and no network: the built-in extractive engine answers, or a scripted model, which writes the code that a
model would write. `react_agent.py` needs numpy and `cluster_dask.py` Dask, which the extra `dev` has. That code runs in
the real sandbox over the real input, and the answer is what it computes.

`Cost` is what the questions of the example would usually cost with {MODEL}, as estimated by
`rlm-dspy ask --dry-run`: three to eight steps for each question, with up to ten sub-calls. Calls of other modules
around them come on top. This page is written by `python examples/write_gallery.py`.
"""


def example_path(name: str) -> Path:
    """Return the file of an example."""
    script = FOLDER / f"{name}.py"
    return script if script.exists() else FOLDER / f"{name}.ipynb"


def run_notebook(path: Path) -> list[str]:
    """Run the code cells of a notebook in IPython, and return what they display as HTML."""
    from IPython.core import display_functions
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    displayed: list[str] = []
    display_functions.publish_display_data = lambda data, *args, **more: displayed.append(data["text/html"])
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            shell.run_cell("".join(cell["source"]), silent=True).raise_error()
    return displayed


def run_here(path: Path) -> dict[str, Any]:
    """Run an example in this process, and return its output, its questions and the errors of its cells."""
    import dspy
    from dspy.utils.callback import BaseCallback

    runs: list[Any] = []
    displayed: list[str] = []

    class Runs(BaseCallback):
        def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
            answer = outputs[0] if isinstance(outputs, tuple) else outputs  # optimizers trace: (answer, trace)
            run = getattr(answer, "run", None)
            if run is not None and all(run is not known for known in runs):
                runs.append(run)

    dspy.configure(callbacks=[Runs()])
    sys.argv = [str(path)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if path.suffix == ".ipynb":
            displayed = run_notebook(path)
        else:
            runpy.run_path(str(path), run_name="__main__")
    outputs = [step.output for run in runs for step in run.steps]
    errors = [output for output in outputs if output.startswith("[Error]")]
    return {"output": printed.getvalue(), "questions": len(runs), "errors": errors, "displayed": displayed}


def run_example(name: str) -> dict[str, Any]:
    """Run an example in a process of its own, with a temporary home."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"RLM_DSPY_HOME": home, "IPYTHONDIR": home}
        command = [sys.executable, __file__, str(example_path(name))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout))


def title_of(name: str) -> str:
    """Return the first paragraph of an example's docstring, or of the notebook's first cell."""
    path = example_path(name)
    if path.suffix == ".ipynb":
        return "".join(json.loads(path.read_text())["cells"][0]["source"]).split("\n\n")[1]
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
    return " ".join(first.removesuffix(":").split()).replace("``", "`")


def cost_text(questions: int) -> str:
    """Return what so many usual questions would cost."""
    from rlm_dspy.cli.question import estimated_facts
    from rlm_dspy.corpus import Corpus
    from rlm_dspy.counting import counted_noun
    from rlm_dspy.report import render

    if questions == 0:
        return "nothing, no model is asked."
    facts = estimated_facts(Corpus.from_texts({"a.txt": "a"}), "rlm", MODEL, max_iters=20, max_calls=50)
    low, high = (render.cost_text(questions * cost) for cost in facts["cost"])
    least, most = (questions * tokens for tokens in facts["prompt_tokens"])
    asked = counted_noun(questions, "question")
    return f"{low}–{high} with {MODEL} ({asked}, {least:,}–{most:,} prompt tokens)."


def section_text(name: str) -> str:
    """Return the section of one example."""
    path = example_path(name)
    lines = [f"### `{path.name}`", "", title_of(name), ""]
    if name in GENERATORS:
        lines += [f"The input is written by `{GENERATORS[name]}`, which knows the true answer.", ""]
    if name in NOT_RUN:
        lines += [f"It needs {NOT_RUN[name]}: no output is shown.", "", f"Cost: {cost_text(1)}"]
        return "\n".join([*lines, ""])
    found = run_example(name)
    command = f"$ python examples/{path.name}" if path.suffix == ".py" else "(what the cells print)"
    questions = ELSEWHERE.get(name, found["questions"])
    if name in NO_MODEL:
        questions = 0
    cost = cost_text(questions)
    return "\n".join([*lines, "```text", command, found["output"].strip(), "```", "", f"Cost: {cost}", ""])


def main() -> None:
    """Write the gallery."""
    parts = [HEAD]
    for title, names in EXAMPLES:
        parts += [f"## {title}\n", *(section_text(name) for name in names)]
    (FOLDER / "README.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(run_here(Path(sys.argv[1]))))
    else:
        main()
