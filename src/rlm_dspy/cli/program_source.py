"""``--program``: a file, a folder, or a pinned commit on the Hugging Face Hub; shown before its first use."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlm_dspy import safe_files
from rlm_dspy.cli.out_option import EVIDENCE, ask_signature
from rlm_dspy.errors import ConfigurationError, RLMError
from rlm_dspy.tuning import program_folder
from rlm_dspy.tuning.program import MAX_PROGRAM_BYTES, read_state

if TYPE_CHECKING:
    from rlm_dspy.cli.terminal import Terminal

HUB = "hf://"
_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})")


def find_program(place: str | Path, home: Path, terminal: Terminal, out: str | None = None) -> Path:
    """Return the file of a program, downloaded if need be, after its instructions were shown.

    Args:
        place: a file, a folder or an address on the Hub.
        home: the folder of caches.
        terminal: where the instructions are shown.
        out: the outputs of ``ask`` that the program has to fit.

    Raises:
        ConfigurationError: the program is refused.
        RLMError: it cannot be downloaded.
        click.Abort: the user does not want it.
    """
    if str(place).startswith(HUB):
        path = hub_program(str(place), home)
        state = program_folder.checked_state(path)
    else:
        path = program_folder.program_file(place)
        state = read_state(path)
    if out is not None:
        check_fit(path, state, out)
    show_once(path, state, home, terminal)
    return path


def check_fit(path: Path, state: Mapping[str, Any], out: str) -> None:
    """Refuse a program that was saved for other fields than those that ``ask`` has with these outputs.

    Raises:
        ConfigurationError: the message has both signatures and says what to do.
    """
    metadata = state.get("metadata")
    if isinstance(metadata, Mapping):
        saved = str(metadata.get("signature") or "")
    else:
        saved = ""
    wanted = str(ask_signature(out).signature)
    if not saved or saved == wanted:  # without a signature, loading it compares the fields
        return
    raise ConfigurationError(f"{path} was saved for '{saved}', but ask has '{wanted}' here. {_fit_advice(saved, path)}")


def _fit_advice(saved: str, path: Path) -> str:
    inputs, _, outputs = saved.partition(" -> ")
    names = [name for name in outputs.split(", ") if name != EVIDENCE]
    if inputs == "context, question" and names and outputs.endswith(f", {EVIDENCE}"):
        return f"Ask for its outputs: --out '{', '.join(names)}', with their types."
    return f"Use it in Python: rlm = rlm_dspy.RLM('{saved}'); rlm.load('{path}')."


def hub_program(address: str, home: Path) -> Path:
    """Return the file of a program on the Hub, from the cache if this commit was downloaded before.

    Raises:
        ConfigurationError: the address has no pinned commit, or the file is too large.
        RLMError: it cannot be downloaded.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ConfigurationError(
            f"--program {address}: write hf://user/repo@COMMIT with the 40 digits of a commit. A branch or a tag can "
            "change, and a program is a prompt."
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    wanted: dict[str, Any] = {
        "repo_id": match["repo"],
        "filename": program_folder.PROGRAM,
        "revision": match["commit"],
        "cache_dir": home / "programs",
        "endpoint": os.environ.get("HF_ENDPOINT"),
        "token": os.environ.get("HF_TOKEN") or False,  # False: a token saved on this machine is not sent either
    }
    try:
        safe_files.make_private(home)
        size = hf_hub_download(**wanted, dry_run=True).file_size
        if size > MAX_PROGRAM_BYTES:
            message = f"the program {address} has {size:,} bytes; a program has at most {MAX_PROGRAM_BYTES:,}"
            raise ConfigurationError(message)
        return Path(hf_hub_download(**wanted))
    except (OSError, ValueError, httpx.HTTPError) as error:
        if isinstance(error, RLMError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise RLMError(f"the program {address} cannot be downloaded: {reason}") from error


def show_once(path: Path, state: dict[str, Any], home: Path, terminal: Terminal) -> None:
    """Show the instructions of a program before its first use on this machine; on a terminal, ask.

    Raises:
        click.Abort: the user does not want it.
    """
    try:
        facts = program_folder.program_facts(path, state)
    except (KeyError, TypeError, AttributeError):  # not a program: loading it says what is wrong
        return
    folder = home / "programs" / "shown"
    seen = folder / facts["digest"]
    if os.path.exists(seen) or terminal.quiet:
        return
    terminal.note(f"The program {path} is used for the first time. It tells the model:")
    terminal.note(program_folder.instructions_text(facts, state))
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm("Use it?", default=True, err=True, abort=True)
    try:
        safe_files.make_private(home)
        folder.mkdir(parents=True, exist_ok=True)
        seen.touch()
    except OSError as error:
        terminal.note(f"warning: it will be shown again: {folder} cannot be written: {error.strerror}")
