"""``rlm-dspy keys``: keep the keys of providers, so that they do not end up in shell history or a project."""

from __future__ import annotations

import getpass
import os
import sys

import click

from rlm_dspy.cli import key_store
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.safe_files import entry_error


@click.group(invoke_without_command=True, short_help="Keep the keys of providers.")
@click.pass_context
def keys(ctx: click.Context, /) -> None:
    """Keep the keys of providers in the system's keyring, or in a file that only you can read.

    The keyring is used if the package `keyring` is installed and the system has one. A key in the environment takes
    precedence over a kept one, and a kept one over the user's config.toml. Without a command, this help and the names
    of the kept keys are shown.
    """
    if ctx.invoked_subcommand is None:
        click.echo(f"{ctx.get_help()}\n")
        _list_names(ctx.obj)


@keys.command("set", short_help="Keep a key, which is read from the terminal or stdin.")
@click.argument("name", metavar="NAME")
@click.pass_obj
def set_key(terminal: Terminal, /, name: str) -> None:
    """Keep the key NAME, such as GROQ_API_KEY or groq. The key itself is typed unseen, or piped to stdin."""
    variable = key_store.key_name(name)
    value = read_secret(f"{variable}: ")
    terminal.redactor.learn([value])
    check_key(value)
    place = key_store.put_key(variable, value)
    terminal.answer(f"{variable} is kept in {_place_text(place)}")
    if os.environ.get(variable):
        terminal.note(f"{variable} is also set in the environment, which takes precedence.")


@keys.command("list", short_help="List the kept keys and where they are.")
@click.pass_obj
def list_keys(terminal: Terminal, /) -> None:
    """List the names of the kept keys and where each is, never a key."""
    _list_names(terminal)


def _list_names(terminal: Terminal) -> None:
    places = key_store.key_places()
    for name, place in places.items():
        over = ""
        if os.environ.get(name):
            over = " (the environment takes precedence)"
        terminal.answer(f"{name}  {_place_text(place)}{over}")
    if blocked := entry_error(key_store.keys_file().parent):
        terminal.note(f"warning: {blocked}. Set HOME or XDG_CONFIG_HOME.")
    elif not places:
        terminal.note("No keys are kept; `rlm-dspy keys set NAME` keeps one.")


@keys.command("remove", short_help="Remove a kept key.")
@click.argument("name", metavar="NAME")
@click.pass_obj
def remove_kept(terminal: Terminal, /, name: str) -> None:
    """Remove the key NAME from where it is kept."""
    variable = key_store.key_name(name)
    place = key_store.remove_key(variable)
    terminal.answer(f"{variable} is removed from {_place_text(place)}")


def read_secret(prompt: str) -> str:
    """Return one line typed without echo, or the first line of stdin if it is not a terminal."""
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass(prompt).strip()
    if sys.stdin is None:
        return ""
    return sys.stdin.readline().strip()


def check_key(value: str) -> None:
    """Refuse what cannot be a key.

    Raises:
        ConfigurationError: it is empty, or has blanks or characters that no header can carry.
    """
    if not value:
        raise ConfigurationError("the key is empty. Type it, or pipe it to stdin.")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError("the key has blanks or characters that no key has. Copy it again.")


def _place_text(place: str) -> str:
    if place == key_store.KEYRING:
        return "the system's keyring"
    return place
