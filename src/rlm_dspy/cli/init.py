"""``rlm-dspy init``: ask for a model, its key and a folder, test them, and write the user's settings."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click

from rlm_dspy import lms
from rlm_dspy.cli import exit_codes, key_store, reading, settings
from rlm_dspy.cli.keys_command import check_key, read_secret
from rlm_dspy.cli.startup import user_toml
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.errors import ConfigurationError, CorpusError
from rlm_dspy.lms.model_list import probe_provider
from rlm_dspy.lms.providers import PROVIDERS
from rlm_dspy.report import journal
from rlm_dspy.report.render import counted_noun

NO_CHOICE = {"include": (), "exclude": (), "hidden": False, "no_ignore": False, "include_secrets": False}
_TABLE = re.compile(r"\s*\[")


def set_up(terminal: Terminal) -> int:
    """Ask, test and write; return the exit code."""
    loaded = settings.load(trust_project=terminal.trusts_project)
    origins = settings.key_origins(loaded, os.environ)
    terminal.redactor.learn([*loaded.secrets(), *settings.export_credentials(loaded, os.environ)])
    suggested = lms.choose(loaded.settings.model, os.environ, loaded.settings.named_by).model
    model = click.prompt("1. Which model?", default=suggested, err=True).strip()
    variable = _key_variable(model)
    key = _ask_key(variable, origins, terminal)
    folder = Path(click.prompt("3. Which folder are the questions about?", default=".", err=True)).expanduser()
    if key:
        os.environ[variable] = key
    is_working = _test_model(model, terminal) & _test_folder(folder, terminal)
    if not is_working and not click.confirm("Not everything works. Write it anyway?", default=False, err=True):
        terminal.note("Nothing was written.")
        return exit_codes.FAILED
    text = updated_toml(_user_text(), {"model": model, "folder": str(folder.resolve())})
    _write_settings(text)
    if key:
        terminal.answer(f"{variable} is kept in {key_store.put_key(variable, key)}")
    terminal.answer(f"written: {user_toml()}")
    if address := _address_variable(model):
        terminal.note(
            f"warning: the server's address is that of {address}, which the file cannot hold. Set it in each shell, "
            f"such as by a line `export {address}=…` in ~/.profile: without it the usual address is asked."
        )
    terminal.answer('Now ask: rlm-dspy "What is this about?"')
    return exit_codes.ANSWERED if is_working else exit_codes.FAILED


def _key_variable(model: str) -> str:
    """Return the variable with the key of a model's provider, empty if it needs none."""
    for provider in PROVIDERS:
        if model.startswith(provider.prefix):
            return provider.key or ""
    return ""


def _address_variable(model: str) -> str:
    """Return the variable that sets the address of a model's server, empty if none does."""
    provider = model.partition("/")[0].upper().removesuffix("_CHAT")
    names = [f"{provider}_{name}" for name in ("API_BASE", "BASE_URL", "HOST")]
    return next((name for name in names if os.environ.get(name)), "")


def _ask_key(variable: str, origins: Mapping[str, str], terminal: Terminal) -> str:
    """Return the key that was typed, empty if there is no need for one."""
    if not variable:
        terminal.note("2. Which key? This model needs none, or its provider's own variable.")
        return ""
    if variable in origins:
        terminal.note(f"2. Which key? {variable} is there already: {origins[variable]}.")
        return ""
    terminal.note(f"2. Which key? Type or paste {variable}; it is not shown. Enter for none.")
    key = read_secret(f"{variable}: ")
    if key:
        terminal.redactor.learn([key])
        check_key(key)
    return key


def _test_model(model: str, terminal: Terminal) -> bool:
    if model == lms.OFFLINE:
        terminal.note("ok       the offline engine looks up passages by keyword; it is no language model")
        return True
    try:
        lines = probe_provider(model)
    except ConfigurationError as error:
        terminal.note(f"failure  {error}")
        return False
    for line in lines:
        terminal.note(f"{line.status:<8} {line.what}")
        if line.fix:
            terminal.note(f"         → {line.fix}")
    return all(line.status != "failure" for line in lines)


def _test_folder(folder: Path, terminal: Terminal) -> bool:
    try:
        corpus = reading.read([str(folder)], NO_CHOICE)
    except CorpusError as error:
        terminal.note(f"failure  {error}")
        return False
    size = reading.estimate_tokens(corpus.chars)
    terminal.note(f"ok       {folder.resolve()}: {counted_noun(len(corpus), 'file')}, about {size:,} tokens")
    return True


def updated_toml(text: str, values: Mapping[str, str]) -> str:
    """Return a settings file with these values; its other lines stay as they are."""
    lines = text.splitlines()
    first_table = next((number for number, line in enumerate(lines) if _TABLE.match(line)), len(lines))
    old = re.compile(rf"\s*(?:{'|'.join(values)})\s*=")
    kept = [line for line in lines[:first_table] if not old.match(line)]
    added = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join([*added, *kept, *lines[first_table:]]) + "\n"


def _user_text() -> str:
    try:
        return user_toml().read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _write_settings(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{user_toml()} cannot be changed: {error}. Edit it yourself.") from error
    try:
        journal.write_private(user_toml(), text)
    except OSError as error:
        raise ConfigurationError(f"{user_toml()} cannot be written: {error.strerror}.") from error
