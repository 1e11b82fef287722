"""``rlm-dspy init``: ask for a model, its key and a folder, test each answer, and write the user's settings."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
import dspy

from rlm_dspy import lms, safe_files
from rlm_dspy.cli import exit_codes, input_paths, key_store, settings
from rlm_dspy.cli.home_files import user_toml
from rlm_dspy.cli.keys import check_key, read_secret
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import counted_noun, estimate_tokens
from rlm_dspy.errors import ConfigurationError, CorpusError
from rlm_dspy.evidence.absence import is_absent
from rlm_dspy.lms import ollama
from rlm_dspy.lms.model_list import list_models, probe_provider
from rlm_dspy.lms.providers import PROVIDERS
from rlm_dspy.local_servers import (
    OPENAI,
    Access,
    LocalServer,
    ServerUnreachableError,
    ask_server,
    chosen_address,
    shown_address,
)
from rlm_dspy.rlm.direct import Direct

NO_CHOICE = {"include": (), "exclude": (), "hidden": False, "no_ignore": False, "include_secrets": False}
KEEP_ANYWAY = "It does not work. Keep this answer anyway?"
MAX_OFFERED = 20  # models to list
MAX_SEARCHED_FILES = 20  # whose beginnings are searched for a question to suggest
MAX_FILE_CHARS = 5_000
MAX_TRIES = 8
OLLAMA = "ollama_chat/"
OPENAI_KEY = "OPENAI_API_KEY"
_TABLE = re.compile(r"\s*\[")
_DEFINITION = re.compile(r"^\s*(?:class|def)\s+([A-Za-z]\w{4,})", re.M)
_HEADING = re.compile(r"^#{1,6}\s+(.{4,60}?)\s*$", re.M)
_WORD = re.compile(r"\b[A-Za-z][a-z]{3,}\b")


@dataclass(frozen=True)
class ModelAnswer:
    """The answer to the first two questions: a model, its key if one was typed, and where its server is."""

    model: str
    variable: str  # of the key
    key: str
    server: Mapping[str, str]  # the setting with the server's address
    is_working: bool


def set_up(terminal: Terminal) -> int:
    """Ask, test and write; return the exit code."""
    loaded = settings.load_for(terminal)
    origins = settings.key_origins(loaded, os.environ)
    settings.export_for(loaded, terminal)
    choice = lms.choose(loaded.settings.model, os.environ, loaded.settings.named_by)
    try:
        chosen = _ask_model(choice, loaded.settings.model is None, origins, terminal)
        folder, corpus = _ask_folder(terminal)
    except click.Abort:
        terminal.note("Nothing was written.")
        raise
    values = {"model": chosen.model, "folder": str(folder.resolve()), **chosen.server}
    _write_settings(updated_toml(_user_text(), values))
    if chosen.key:
        place = key_store.put_key(chosen.variable, chosen.key)
        terminal.answer(f"{chosen.variable} is kept in {place}")
    terminal.answer(f"written: {user_toml()}")
    _note_address(chosen, terminal)
    command = 'rlm-dspy "What is this about?"'
    if chosen.model == lms.OFFLINE and corpus is not None:
        command = first_command(corpus)
    terminal.answer(f"Now ask: {command}")
    if chosen.is_working and corpus is not None:
        return exit_codes.ANSWERED
    return exit_codes.FAILED


def _ask_model(choice: lms.ModelChoice, is_unset: bool, origins: Mapping[str, str], terminal: Terminal) -> ModelAnswer:
    """Ask for a model or a server until one works or the user keeps it anyway."""
    listed = list_models(os.environ).rows
    for row in listed[:MAX_OFFERED]:
        terminal.note(f"found    {row.name} ({row.provider})")
    if is_unset and choice.offline and listed:
        suggested = listed[0].name
    else:
        suggested = choice.model
    before = dict(os.environ)
    while True:
        os.environ.clear()
        os.environ.update(before)
        answer = click.prompt("1. Which model, or a server's address?", default=suggested, err=True).strip()
        is_address = "://" in answer
        model, key = answer, ""
        if is_address:
            model, key = _ask_server(answer, terminal)
        if not model:
            continue
        variable = _key_variable(model)
        if is_address and variable in before and origins.get(variable, "environment") != "environment":
            os.environ[variable] = before[variable]  # a kept key goes to the server that is kept
        if not key:
            key = _ask_key(variable, origins, terminal, is_new_server=is_address)
        if key:
            os.environ[variable] = key
        is_working = _test_model(model, terminal)
        if is_working or click.confirm(KEEP_ANYWAY, default=False, err=True):
            return ModelAnswer(model, variable, key, _server_setting(model), is_working)


def _ask_server(answer: str, terminal: Terminal) -> tuple[str, str]:
    """Return a model of the server at an address and the key that was typed for it; no model where none answers.

    The address is set in the environment for the tests. The key that is there belongs to another address.
    """
    key = ""
    try:
        address = ollama.base_url({}, answer)
        if _is_ollama(address):
            os.environ["OLLAMA_HOST"] = address
            prefix, kind = OLLAMA, "Ollama"
            names = [model.name for model in ollama.models(address) if model.chats]
        else:
            os.environ.pop(OPENAI_KEY, None)
            if urlsplit(answer).path.strip("/"):
                address = answer.rstrip("/")
            else:
                address = f"{answer.rstrip('/')}/v1"
            os.environ["OPENAI_API_BASE"] = address
            prefix = OPENAI
            server, key = _models_at(address, terminal)
            names, kind = [model.name for model in server.models], server.kind
    except (ConfigurationError, ServerUnreachableError, ollama.OllamaUnreachableError) as error:
        what = str(error).rstrip(".")
        terminal.note(f"failure  {what}. Start the server, or type another address or a model's name.")
        return "", ""
    if not names:
        terminal.note(f"failure  {shown_address(address)} lists no models. Load one there, or type another address.")
        return "", ""
    for name in names[:MAX_OFFERED]:
        terminal.note(f"found    {name} ({kind})")
    name = names[0]
    if len(names) > 1:
        name = click.prompt("   Which of them?", default=name, type=click.Choice(names), show_choices=False, err=True)
    return f"{prefix}{name}", key


def _is_ollama(address: str) -> bool:
    try:
        return ollama.version(address) != "unknown"
    except ollama.OllamaUnreachableError:
        return False


def _models_at(address: str, terminal: Terminal) -> tuple[LocalServer, str]:
    """Return what a server lists, and the key that was typed if it refused to list anything without one.

    Raises:
        ServerUnreachableError: it lists no models.
    """
    try:
        return ask_server(Access(address)), ""
    except ServerUnreachableError as error:
        if not error.has_answered:
            raise
        terminal.note(f"failure  {error}")
    key = _type_key(OPENAI_KEY, terminal)
    return ask_server(Access(address, key)), key


def _key_variable(model: str) -> str:
    """Return the variable with the key of a model's provider, empty if it needs none."""
    for provider in PROVIDERS:
        if model.startswith(provider.prefix):
            return provider.key or ""
    return ""


def _server_setting(model: str) -> dict[str, str]:
    """Return the setting with the address of a model's server, if a setting can hold it."""
    addresses = {}
    if model.startswith(OLLAMA):
        addresses["ollama_host"] = os.environ.get("OLLAMA_HOST", "")
    if model.startswith(OPENAI):
        addresses["openai_api_base"] = chosen_address(OPENAI, None) or ""
    return {name: address for name, address in addresses.items() if address and not settings.is_of_project(address)}


def _note_address(chosen: ModelAnswer, terminal: Terminal) -> None:
    """Say where the address of the model's server is kept, or that it is not."""
    for name, address in chosen.server.items():
        terminal.note(f"{name} is {shown_address(address)}, for all models under {chosen.model.partition('/')[0]}/.")
    if chosen.server:
        return
    provider = chosen.model.partition("/")[0].upper()
    names = [f"{provider}_{name}" for name in ("API_BASE", "BASE_URL")]
    if variable := next((name for name in names if os.environ.get(name)), ""):
        terminal.note(
            f"warning: the server's address is that of {variable}, which the file cannot hold. Set it in each shell, "
            f"such as by a line `export {variable}=…` in ~/.profile: without it the usual address is asked."
        )


def _ask_key(variable: str, origins: Mapping[str, str], terminal: Terminal, *, is_new_server: bool) -> str:
    """Return the key that was typed, empty if there is no need for one."""
    if not variable:
        terminal.note("2. Which key? This model needs none, or its provider's own variable.")
        return ""
    place = origins.get(variable)
    if place and not (is_new_server and place == "environment"):
        terminal.note(f"2. Which key? {variable} is there already: {place}. It is sent to the model's server.")
        return ""
    if place:
        terminal.note(f"The environment's {variable} is not sent to this server.")
    return _type_key(variable, terminal)


def _type_key(variable: str, terminal: Terminal) -> str:
    """Return the key that was typed, empty for none; ask again if it cannot be a key."""
    terminal.note(f"2. Which key? Type or paste {variable}; it is not shown. Enter for none.")
    while key := read_secret(f"{variable}: "):
        terminal.redactor.learn([key])
        try:
            check_key(key)
        except ConfigurationError as error:
            terminal.note(f"failure  {error}")
        else:
            return key
    return ""


def _ask_folder(terminal: Terminal) -> tuple[Path, Corpus | None]:
    """Ask for a folder until it can be read or the user keeps it anyway; return what it holds too."""
    while True:
        answer = click.prompt("3. Which folder are the questions about?", default=".", err=True)
        folder = Path(os.path.expanduser(answer))
        corpus = _read_folder(folder, terminal)
        if corpus is not None or click.confirm(KEEP_ANYWAY, default=False, err=True):
            return folder, corpus


def _test_model(model: str, terminal: Terminal) -> bool:
    if model == lms.OFFLINE:
        terminal.note("ok       the offline engine looks up passages by keyword; it is not a language model")
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


def _read_folder(folder: Path, terminal: Terminal) -> Corpus | None:
    try:
        corpus = input_paths.read([str(folder)], NO_CHOICE)
    except CorpusError as error:
        terminal.note(f"failure  {error}")
        return None
    size = estimate_tokens(corpus.chars)
    terminal.note(f"ok       {folder.resolve()}: {counted_noun(len(corpus), 'file')}, about {size:,} tokens")
    return corpus


def first_command(corpus: Corpus) -> str:
    """Return a command with a question that the offline engine answers from the corpus, a pattern if it finds none."""
    beginnings = {}
    for name, text in itertools.islice(corpus.items(), MAX_SEARCHED_FILES):
        beginnings[name] = text[:MAX_FILE_CHARS]
    sample = Corpus.from_texts(beginnings)
    with dspy.context(lm=lms.lm(lms.OFFLINE)):
        ask = Direct("context, question -> answer")
        for question in itertools.islice(_possible_questions(beginnings), MAX_TRIES):
            if not is_absent(ask(context=sample, question=question).answer):
                return f"rlm-dspy {shlex.quote(question)}"
    return "rlm-dspy 'a question with words of the files'"


def _possible_questions(texts: dict[str, str]) -> Iterator[str]:
    """Yield questions about what the files name: cells of tables, definitions, headings, then their longest words."""
    for name, text in texts.items():
        if name.endswith(".csv"):
            yield from _table_question(text)
        if match := _DEFINITION.search(text):
            yield f"Where is {match[1]} defined?"
        if match := _HEADING.search(text):
            yield f"What does it say about {match[1]}?"
    for text in texts.values():
        words = sorted(set(_WORD.findall(text)), key=lambda word: (-len(word), word))
        if words:
            yield f"What does it say about {words[0]}?"


def _table_question(text: str) -> Iterator[str]:
    try:
        rows = list(itertools.islice(csv.reader(text.splitlines()), 2))
    except csv.Error:
        return
    if len(rows) == 2 and min(map(len, rows)) > 1:
        yield f"What is the {rows[0][1]} of {rows[1][0]}?"


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
        safe_files.write_private(user_toml(), text)
    except OSError as error:
        raise ConfigurationError(f"{user_toml()} cannot be written: {error.strerror}.") from error
