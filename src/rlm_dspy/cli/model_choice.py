"""The models of a command, chosen by the LM layer."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import dspy

from rlm_dspy import lms, safe_files
from rlm_dspy._dspy import get_litellm
from rlm_dspy.cli import logs
from rlm_dspy.cli.settings import Settings, export_for, load_for
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.lms.model_list import check_name, served_models
from rlm_dspy.local_servers import is_loopback, shown_address

_LEAVE_OUT = "leave out --temperature (or the setting temperature)"


@dataclass(frozen=True)
class ChosenModels:
    """The main LM, the sub-LM (None: the same), and a notice about the choice for the user."""

    lm: Any
    sub_lm: Any
    notice: str = ""
    is_offline: bool = False  # the offline engine answers, which the notice says
    unused_model: str = ""  # a notice of a server that would have answered

    @property
    def name(self) -> str:
        """The main model's name."""
        return str(self.lm.model)

    def with_lms(self, change: Callable[[Any], Any]) -> ChosenModels:
        """Return the choice with both LMs changed."""
        return replace(self, lm=change(self.lm), sub_lm=change(self.sub_lm) if self.sub_lm else None)

    def active(self) -> AbstractContextManager[None]:
        """Return the DSPy context with this LM configured."""
        return dspy.context(lm=self.lm)  # type: ignore[no-any-return]


def choose(values: Settings) -> ChosenModels:
    """Choose the models, with a notice if the offline engine will answer.

    Raises:
        ConfigurationError: a name is not a valid model name, or a model does not take the temperature.
        LMUnavailableError: a name has no provider, or one that LiteLLM does not know.
    """
    safe_files.protect_dspy_cache()
    choice = lms.choose(values.model, os.environ, values.named_by)
    names = [name for name in (choice.model, values.sub_model, values.fallback) if name and name != lms.OFFLINE]
    for name in names:
        check_name(name)
        if values.temperature is not None:
            _check_temperature(name, values.temperature)
    options: dict[str, Any] = {"fallback": values.fallback, "num_ctx": values.num_ctx, "timeout": values.timeout}
    options["temperature"] = values.temperature
    options = {name: value for name, value in options.items() if value is not None}
    lm = lms.lm(choice.model, **options)  # the offline engine has no temperature, which the notice says
    sub_lm = lms.lm(values.sub_model, **options) if values.sub_model else None
    if choice.offline:
        notice = OFFLINE if values.model is None else CHOSEN_OFFLINE
        notice = notice.format(reason=choice.reason, by=values.named_by)
        if values.temperature is not None:
            notice += f" It has no temperature: {values.temperature:g} is ignored."
    else:
        notice = "\n".join(_describe_destinations(dict.fromkeys(names), values))
    if choice.offline and values.model is None:
        unused_model = _describe_unused_model()
    else:
        unused_model = ""
    return ChosenModels(lm=lm, sub_lm=sub_lm, notice=notice, is_offline=choice.offline, unused_model=unused_model)


def choose_and_note(values: Settings, terminal: Terminal) -> ChosenModels:
    """Choose the models as ``choose`` does, and print its notice; with ``--otel``, start sending spans before."""
    terminal.start_tracing()
    chosen = choose(values)
    if notice := chosen.unused_model or chosen.notice:
        terminal.note(notice)
    return chosen


def prepare_model(
    flags: Mapping[str, Any], terminal: Terminal, *, fallback: bool = True
) -> tuple[Settings, ChosenModels]:
    """Return settings and model, with or without its fallback, and export the credentials."""
    loaded = load_for(terminal, flags)
    logs.configure(terminal)
    export_for(loaded, terminal)
    if fallback:
        values = loaded.settings
    else:
        values = loaded.settings.model_copy(update={"fallback": None})
    return values, choose_and_note(values, terminal)


def _describe_unused_model() -> str:
    """Return a notice of the first model of the user's own servers, empty if none answers."""
    for name, server in served_models(os.environ):
        place = f"{server.kind} at {shown_address(server.base)}"
        return (
            f"No model is set, so the offline engine answers. {place} has {name}: "
            f"ask it with -m {shlex.quote(name)}, or keep it with `rlm-dspy init`."
        )
    return ""


def _check_temperature(name: str, temperature: float) -> None:
    """Refuse a temperature that LiteLLM knows the model to refuse, before anything is asked.

    Raises:
        ConfigurationError: the model takes no such temperature.
    """
    litellm = get_litellm(feature="--temperature")
    model, provider, *_ = litellm.get_llm_provider(lms.lm(name).model)
    try:
        litellm.utils.get_optional_params(model=model, custom_llm_provider=provider, temperature=temperature)
    except litellm.exceptions.UnsupportedParamsError as error:
        raise ConfigurationError(f"{name} does not take a temperature of {temperature:g}: {_LEAVE_OUT}") from error


def _describe_destinations(names: Iterable[str], values: Settings) -> Iterator[str]:
    """Yield a notice for each destination that the user may not expect.

    That is a remote server that is not the provider's own, or a cloud model that a file of the current folder sets.
    """
    described = set()
    for name in names:
        address = lms.server_address(lms.lm(name))
        if address is not None and is_loopback(address):
            continue
        if address is not None and address not in described:
            described.add(address)
            yield f"{name} is served at {address}: your questions and text from the files are sent there."
        elif file := values.project_models.get(name):
            yield f"{file} sets the model {name}: your questions and text from the files are sent there."


CHOSEN_OFFLINE = "No language model: the offline engine looks up passages by keyword, as {by} says."
OFFLINE = (
    "No language model: the offline engine looks up passages by keyword ({reason}). "
    "To use a model, set -m or RLM_DSPY_MODEL, e.g. ollama_chat/qwen3:8b, or set GROQ_API_KEY."
)
