"""``rlm-dspy demo``: three questions about a small folder with the offline engine, and one with the user's model."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import tempfile
from pathlib import Path

from rlm_dspy import lms
from rlm_dspy.cli import settings
from rlm_dspy.cli.ask import answer
from rlm_dspy.cli.ask_request import AskRequest
from rlm_dspy.cli.init import NO_CHOICE
from rlm_dspy.cli.terminal import Terminal

FILES = {
    "handbook.md": "# Handbook\n\nThe lighthouse opens at 9:30 and closes at dusk.\n\nThe keeper is Ada Quill.\n",
    "letters/1921.txt": "To the harbour master:\nThe lamp was replaced on 3 March 1921 by the men of the Petrel.\n",
    "visitors.csv": "month,visitors\nMay,412\nJune,530\nJuly,877\n",
    "lamp.py": 'FLASH_SECONDS = 7  # the lamp flashes every 7 seconds\n\n\ndef flash() -> str:\n    return "flash"\n',
}
PDF_LINE = "The foghorn sounds twice a minute."
QUESTIONS = ("Who is the keeper?", "When was the lamp replaced?", "When does the lamp flash?")
NEXT_QUESTION = "When does the lighthouse open?"
MODEL_SECONDS = 60.0  # at most, for the question that the user's model answers


def show_tour(terminal: Terminal) -> int:
    """Make the folder, ask the questions, and return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="rlm-dspy-demo-"))
    write_folder(folder)
    terminal.answer(f"A small folder to ask about, which you may delete: {folder}")
    codes = []
    for question in QUESTIONS:
        codes.append(_ask(question, folder, "offline", terminal))
    loaded = settings.load_for(terminal)
    settings.export_for(loaded, terminal)
    choice = lms.choose(loaded.settings.model, os.environ, loaded.settings.named_by)
    if choice.offline:
        terminal.answer(
            "\nThese answers came from the offline engine, which looks up passages by keyword. "
            "`rlm-dspy init` sets a model."
        )
    else:
        terminal.answer(f"\nAnd with your model ({choice.reason}):")
        codes.append(_ask(QUESTIONS[0], folder, choice.model, terminal))
    terminal.answer(f"\nAsk it more: {shlex.join(['rlm-dspy', NEXT_QUESTION, str(folder)])}")
    terminal.answer("Then ask your own files: rlm-dspy QUESTION FOLDER")
    return max(codes)


def write_folder(folder: Path) -> None:
    """Write the files of the tour, and a PDF if fpdf2 is installed."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if importlib.util.find_spec("fpdf") is not None:
        pdf = importlib.import_module("fpdf").FPDF()
        pdf.add_page()
        pdf.set_font("helvetica", size=12)
        pdf.cell(text=PDF_LINE)
        pdf.output(str(folder / "foghorn.pdf"))


def _ask(question: str, folder: Path, model: str, terminal: Terminal) -> int:
    """Print the command that asks a question, and its answer with the quotes."""
    words = ["rlm-dspy", "ask", "-m", model, "--mode", "direct", question, str(folder)]
    terminal.answer(f"\n$ {shlex.join(words)}")
    flags = {"model": model, "mode": "direct", "max_seconds": MODEL_SECONDS}
    return answer(AskRequest(question, (str(folder),), flags, NO_CHOICE), terminal)
