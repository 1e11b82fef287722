"""``rlm-dspy models``: list the available models and the default."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from rlm_dspy.cli.completion import keep_names
from rlm_dspy.cli.options import json_option, trust_option
from rlm_dspy.cli.terminal import Terminal

if TYPE_CHECKING:
    from rlm_dspy.lms.model_list import ModelListing, ModelRow


@click.command(short_help="List the available models and the default.")
@click.option("--all", "everything", is_flag=True, help="Also list all chat models that LiteLLM knows.")
@json_option("the models")
@trust_option
@click.pass_obj
def models(terminal: Terminal, /, everything: bool, as_json: bool) -> None:
    """List the available models with their windows and prices, and the default.

    These are the models of Ollama, of your own servers (OPENAI_API_BASE or the setting openai_api_base,
    LM_STUDIO_API_BASE, HOSTED_VLLM_API_BASE, LLAMAFILE_API_BASE), and of Groq if GROQ_API_KEY is set. Prices are US
    dollars per million tokens; a dash means unknown.
    """
    from rlm_dspy.cli import settings

    loaded = settings.load_for(terminal)
    settings.export_for(loaded, terminal)
    from rlm_dspy.lms.model_list import list_models

    env = dict(os.environ)
    if loaded.settings.model:  # a file may name it
        env["RLM_DSPY_MODEL"] = loaded.settings.model
    listing = list_models(env, everything=everything)
    keep_names(loaded.settings.home, [row.name for row in listing.rows])
    if loaded.settings.model:
        listing = replace(listing, choice=replace(listing.choice, reason=f"named by {loaded.settings.named_by}"))
    if as_json:
        terminal.answer_json(_listing_facts(listing))
        return
    _print_models(listing, terminal)


def _listing_facts(listing: ModelListing) -> dict[str, Any]:
    rows = [{**asdict(row), "default": row.name == listing.choice.model} for row in listing.rows]
    return {"default": asdict(listing.choice), "models": rows, "notes": list(listing.notes)}


def _print_models(listing: ModelListing, terminal: Terminal) -> None:
    from rlm_dspy.report import render

    if listing.rows:
        head = ["", "model", "window", "size", "in $/M", "out $/M"]
        rows = [_table_row(row, listing.choice.model) for row in listing.rows]
        terminal.answer("\n".join(render.table_lines([head, *rows], right=frozenset({2, 3, 4, 5}))))
    for note in listing.notes:
        terminal.note(note)
    if not listing.rows:
        terminal.note("`rlm-dspy init` sets a model or a server's address; `rlm-dspy models --all` lists known models.")
    terminal.answer(f"default: {listing.choice.model} ({listing.choice.reason})")


def _table_row(row: ModelRow, default: str) -> list[str]:
    window = "-" if row.window is None else f"{row.window:,}"
    size = "-" if row.bytes is None else f"{row.bytes / 1e9:.1f} GB"
    mark = "*" if row.name == default else ""
    return [mark, row.name, window, size, _price_cell(row.input_price), _price_cell(row.output_price)]


def _price_cell(price: float | None) -> str:
    if price is None:
        return "-"
    return f"{price:g}"
