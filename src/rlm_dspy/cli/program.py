"""``rlm-dspy program``: show, check and pack a program that optimize has made."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from rlm_dspy.cli.options import FILE_PATH, json_option, trust_option
from rlm_dspy.cli.terminal import Terminal

place_argument = click.argument("place", metavar="DIR|FILE|hf://…")
fields_option = click.option(
    "--fields", metavar="FIELDS", default="", help="Outputs that it has to have, as in ask --out."
)


@click.group()
def program() -> None:
    """Show, check and pack programs: folders with program.json and card.md."""


@program.command(short_help="Show what a program tells the model.")
@place_argument
@json_option("the program")
@trust_option
@click.pass_obj
def show(terminal: Terminal, /, place: str, as_json: bool) -> None:
    """Show the signature, the instructions and the card of a program."""
    from rlm_dspy.tuning import program_folder

    path, state = _checked_program(terminal, place)
    facts = program_folder.program_facts(path, state)
    if as_json:
        terminal.answer_json(facts)
        return
    card = path.parent / program_folder.CARD
    if os.path.isfile(card):
        terminal.answer(card.read_text(encoding="utf-8", errors="replace"))
    terminal.answer(f"signature: {facts['signature'] or 'unknown'}")
    terminal.answer(f"model: {facts['model'] or 'unknown'}")
    terminal.answer(f"SHA-256: {facts['digest']}")
    terminal.answer(program_folder.instructions_text(facts, state))


@program.command(short_help="Check that a program is safe to use and share.")
@place_argument
@fields_option
@click.option("--test", type=FILE_PATH, metavar="FILE", help="Test questions whose answers it must not hold (JSONL).")
@trust_option
@click.pass_obj
def check(terminal: Terminal, /, place: str, fields: str, test: Path | None) -> None:
    """Refuse a program that is a pickle, has more than 1 MB, holds more than prompts, or has another signature.

    With --test, also one whose instructions or demos hold answers of these questions.
    """
    path = _check_program(terminal, place, fields, test)
    terminal.answer(f"{path} is fine")


@program.command(short_help="Check a program's folder and print the command that uploads it.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option("--repo", metavar="USER/REPO", default="USER/REPO", help="Repository on the Hugging Face Hub.")
@click.option("--licence", metavar="NAME", default="", help="Licence to write into the card, e.g. mit.")
@click.option("--test", type=FILE_PATH, metavar="FILE", help="Test questions whose answers it must not hold (JSONL).")
@trust_option
@click.pass_obj
def pack(terminal: Terminal, /, folder: Path, repo: str, licence: str, test: Path | None) -> None:
    """Check DIR, complete its card, and print the command that uploads program.json and card.md; nothing is sent."""
    from rlm_dspy import safe_files
    from rlm_dspy.errors import ConfigurationError
    from rlm_dspy.tuning import program_folder

    _check_program(terminal, str(folder), "", test)
    card = folder / program_folder.CARD
    if not os.path.isfile(card):
        raise ConfigurationError(f"{folder} has no {program_folder.CARD}: optimize writes it; or write it yourself")
    text = card.read_text(encoding="utf-8")
    row = f"| licence | {program_folder.NO_LICENCE} |"
    if licence and row in text:
        text = text.replace(row, f"| licence | {licence} |")
        safe_files.write_private(card, text)
    if row in text:
        terminal.note("warning: the card gives no licence, so nobody may use the program; add --licence NAME.")
    command = ["hf", "upload", repo, str(folder), "."]
    for name in (program_folder.PROGRAM, program_folder.CARD):
        command += ["--include", name]
    terminal.answer(shlex.join(command))
    terminal.note(f"After the upload, others use it with ask --program hf://{repo}@COMMIT.")


def _checked_program(terminal: Terminal, place: str) -> tuple[Path, dict[str, Any]]:
    from rlm_dspy.cli import program_source, settings
    from rlm_dspy.tuning import program_folder

    loaded = settings.load_for(terminal)
    if place.startswith(program_source.HUB):
        path = program_source.hub_program(place, loaded.settings.home)
    else:
        path = program_folder.program_file(place)
    return path, program_folder.checked_state(path)


def _check_program(terminal: Terminal, place: str, fields: str, test: Path | None) -> Path:
    """Return the file of a program that passes every check.

    Raises:
        ConfigurationError: it does not; the message says what is wrong.
    """
    from rlm_dspy.cli import out_option
    from rlm_dspy.rlm.module import RLM
    from rlm_dspy.tuning import contenders, data
    from rlm_dspy.tuning import program as programs
    from rlm_dspy.tuning.audit import check_leaks

    path, state = _checked_program(terminal, place)
    if fields:
        loaded: Any = programs.load(RLM(out_option.ask_signature(fields)), path)
    elif (state.get("metadata") or {}).get(programs.TYPED):
        loaded = programs.restored_rlm(path)
    else:
        loaded = programs.load(RLM(contenders.signature()), path)
    if test is not None:
        check_leaks(loaded, data.load(test), base=RLM(loaded.signature))
    return path
