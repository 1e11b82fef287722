"""The settings model: flag, ``RLM_DSPY_*``, ``.env``, ``./rlm-dspy.toml``, kept keys, the user's TOML, default.

``.env`` and ``rlm-dspy.toml`` may come from somebody else, so they never decide where keys, documents or records go:
without ``--trust-project`` they cannot set keys, folders, or the address of another machine.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from rlm_dspy import safe_files
from rlm_dspy.budget import Budget
from rlm_dspy.cli.home_files import user_toml
from rlm_dspy.cli.key_store import KEYRING, StoredKey, keys_file, stored_keys
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.local_servers import OPENAI, is_loopback, key_variable
from rlm_dspy.redact import MASK, is_secret_name
from rlm_dspy.safe_files import entry_error

logger = logging.getLogger(__name__)
logging.getLogger("dotenv.main").setLevel(logging.ERROR)  # see _warn_of_bad_lines

PREFIX = "RLM_DSPY_"
PROJECT_TOML = Path("rlm-dspy.toml")
DOTENV = Path(".env")
PROJECT_FILES = (str(DOTENV), str(PROJECT_TOML))
_MODELS = ("model", "sub_model", "fallback")
_KEYS = ("groq_api_key", "openai_api_key", "anthropic_api_key")
# The settings that name a server, each with the variable of the key that this server gets.
_SERVER_KEYS = {"ollama_host": "OLLAMA_API_KEY", "openai_api_base": "OPENAI_API_KEY"}
_SET_KEYS = "set keys"
_project_addresses: set[str] = set()  # exported by this process; a second loading finds them in the environment
_told_lines: set[tuple[str, int]] = set()  # statements of a .env that this process has warned of
_told_references: set[tuple[str, str]] = set()  # variables of a .env with a reference that it has warned of
_told_names: set[tuple[str, str]] = set()  # variables that this process has warned of, each with its source
_OTHER_VARIABLES = {PREFIX + name for name in ("NO_CACHE", "TRUST_PROJECT", "MCP_TOKENS")}  # read, but not settings
_told_folders: set[str] = set()  # that cannot be entered, of which this process has warned
_LIKENESS = 0.75  # minimum similarity of a name to a setting's, to count as a typo
_PASSWORD = re.compile(r"(?<=:)[^/@\s]+(?=@)")  # the password in an address


def _provider_field(name: str, *others: str, description: str) -> Any:
    # Provider variables keep their own names, without our prefix.
    return Field(default=None, validation_alias=AliasChoices(name, name.upper(), *others), description=description)


class Settings(BaseSettings):
    """All user settings; values from every source are validated."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    model: str | None = Field(
        default=None,
        min_length=1,
        description="The model, such as groq/openai/gpt-oss-20b; without one, a model of Ollama or the offline engine.",
    )
    sub_model: str | None = Field(
        default=None, min_length=1, description="The model of sub-calls; without one, the main model."
    )
    fallback: str | None = Field(
        default=None, min_length=1, description="The model to use when the provider is down or full."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="The temperature of all models; without one, the provider's."
    )
    mode: Literal["retrieve", "auto", "rlm", "direct"] = Field(
        default="auto", description="How questions are answered, as the option --mode says."
    )
    max_iters: int = Field(default=20, ge=1, description="Maximum steps per question.")
    max_calls: int = Field(default=50, ge=0, description="Maximum sub-calls per question.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Maximum tokens per question, prompts and replies; none without it."
    )
    max_cost: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Maximum US dollars per question; none without it."
    )
    max_seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Maximum seconds per question; none without it."
    )
    direct_tokens: int = Field(
        default=16_000, ge=0, description="Files up to this many tokens are sent whole, in one call, by the mode auto."
    )
    timeout: float = Field(
        default=120,
        gt=0,
        allow_inf_nan=False,
        description="Seconds to wait for one attempt, or for the next part of a stream.",
    )
    num_ctx: int | None = Field(
        default=None, ge=1, description="The window that Ollama allocates, in tokens; without it, as the prompt needs."
    )
    mcp: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Servers whose tools --mcp NAME offers: a table [mcp.NAME] for each."
    )
    folder: Path | None = Field(default=None, description="What ask reads when no PATH is given.")
    home: Path = Field(default_factory=safe_files.cache_folder, description="The folder of saved runs and caches.")
    groq_api_key: SecretStr | None = _provider_field("groq_api_key", description="The key of Groq.")
    openai_api_key: SecretStr | None = _provider_field("openai_api_key", description="The key of OpenAI.")
    anthropic_api_key: SecretStr | None = _provider_field("anthropic_api_key", description="The key of Anthropic.")
    ollama_host: str | None = _provider_field("ollama_host", description="The address of Ollama.")
    openai_api_base: str | None = _provider_field(
        "openai_api_base", "OPENAI_BASE_URL", description="The address of a server for models under openai/."
    )
    _named_by: str = PrivateAttr("the caller")
    _project_models: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @property
    def named_by(self) -> str:
        """The source of the model's name: ``--model``, ``RLM_DSPY_MODEL``, a file."""
        return self._named_by

    @property
    def project_models(self) -> Mapping[str, str]:
        """The models that a file of the current folder sets, each with that file."""
        return self._project_models

    @property
    def budget(self) -> Budget:
        """The limits of one question."""
        return Budget(
            max_iters=self.max_iters,
            max_llm_calls=self.max_calls,
            max_tokens=self.max_tokens,
            max_cost=self.max_cost,
            max_seconds=self.max_seconds,
        )

    @field_validator("home", "folder")
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        if value:
            return Path(os.path.expanduser(value))
        return None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order, highest priority first."""
        return (init_settings, *_settings_sources(settings_cls).values())


@dataclass(frozen=True)
class LoadedSettings:
    """Settings with the source of each value (``default``, ``flag --model``, ``.env``, a path, …)."""

    settings: Settings
    origins: Mapping[str, str]
    trusts_project: bool = False
    kept: tuple[StoredKey, ...] = ()

    def is_from_project(self, name: str) -> bool:
        """Return whether a setting comes from a file of the current folder."""
        return self.origins[name] in PROJECT_FILES

    def masked_values(self) -> dict[str, dict[str, Any]]:
        """Return ``{name: {value, source}}``, with secrets masked."""
        rows: dict[str, dict[str, Any]] = {}
        for name in Settings.model_fields:
            value = getattr(self.settings, name)
            if value is not None and (isinstance(value, SecretStr) or is_secret_name(name)):
                value = MASK
            elif isinstance(value, Path):
                value = str(value)
            elif name == "mcp":
                value = list(self.settings.mcp)  # the names; the rest may hold credentials
            elif name in _SERVER_KEYS and value:
                value = _PASSWORD.sub(MASK, value)
            rows[name] = {"value": value, "source": self.origins[name]}
        return rows

    def secrets(self) -> list[str]:
        """Return the secret values, for the redactor."""
        values = (getattr(self.settings, name) for name in Settings.model_fields)
        keys = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        keys += [key.value for key in self.kept]
        for server in self.settings.mcp.values():
            keys += map(str, dict(server.get("headers") or {}).values())
            environment = dict(server.get("env") or {})
            keys += [str(value) for name, value in environment.items() if is_secret_name(name)]
        for name in _SERVER_KEYS:
            keys += _PASSWORD.findall(getattr(self.settings, name) or "")
        return keys


def load(flags: Mapping[str, Any] | None = None, *, trust_project: bool = False) -> LoadedSettings:
    """Load the settings; flags that are None are ignored.

    Args:
        flags: the options of the command line by the names of the settings.
        trust_project: let the files of the current folder set keys, addresses and folders too.

    Raises:
        ConfigurationError: a file is broken, a value is invalid, or a file of the current folder sets a protected
            setting; the message names the source.
    """
    chosen = {name: value for name, value in (flags or {}).items() if value is not None}
    origins = _value_origins(chosen)
    try:
        settings = Settings(**chosen)
    except ValidationError as error:
        raise ConfigurationError(_validation_message(error, origins)) from None
    _warn_of_unknown_names()
    settings._named_by = origins["model"].removeprefix("flag ").removeprefix("environment ")
    loaded = LoadedSettings(settings, origins, trust_project, stored_keys(os.environ))
    named = [name for name in _MODELS if loaded.is_from_project(name)]
    settings._project_models = {getattr(settings, name): origins[name] for name in named}
    for name in ("home", "folder", "mcp", *_SERVER_KEYS, *_MODELS):
        if loaded.is_from_project(name) and not trust_project:
            _check_project_value(name, getattr(settings, name), origins[name])
    return loaded


def load_for(terminal: Terminal, flags: Mapping[str, Any] | None = None) -> LoadedSettings:
    """Load the settings of a command, whose redactor learns their secrets."""
    loaded = load(flags, trust_project=terminal.trusts_project)
    terminal.redactor.learn(loaded.secrets())
    for what, advice in _blocked_settings(loaded.settings.home):
        if what not in _told_folders:
            _told_folders.add(what)
            terminal.note(f"warning: {what}. {advice}")
    return loaded


def blocked_folders(home: Path) -> list[tuple[str, str]]:
    """Return the folders of settings and runs that cannot be entered: each with the consequence and the advice."""
    blocked = _blocked_settings(home)
    home_error = entry_error(home)
    if home_error is not None and not has_told_unsaved(home):
        blocked.append((f"{home_error}, so no runs are saved", "Set RLM_DSPY_HOME to a folder of yours."))
    return blocked


def has_told_unsaved(home: Path) -> bool:
    """Return whether loading the settings already warned that no runs are saved: one folder blocks both."""
    home_error = entry_error(home)
    return home_error is not None and home_error == entry_error(user_toml().parent)


def _blocked_settings(home: Path) -> list[tuple[str, str]]:
    blocked = []
    config_error = entry_error(user_toml().parent)
    if has_told_unsaved(home):
        message = f"{config_error}, so no settings or keys are read there, and no runs are saved"
        blocked.append((message, "Set HOME, or XDG_CONFIG_HOME and RLM_DSPY_HOME."))
    elif config_error is not None:
        blocked.append((f"{config_error}, so no settings or keys are read there", "Set HOME or XDG_CONFIG_HOME."))
    if entry_error(Path()) is not None:
        message = f"the current folder cannot be entered, so {DOTENV} and {PROJECT_TOML} are not read"
        blocked.append((message, "Change to another folder."))
    return blocked


def export_for(loaded: LoadedSettings, terminal: Terminal) -> None:
    """Export keys from files for the providers' libraries; the command's redactor learns them."""
    terminal.redactor.learn(export_credentials(loaded, os.environ))


def _check_project_value(name: str, value: Any, origin: str) -> None:
    """Reject values that decide where documents and records go.

    Raises:
        ConfigurationError: the value is a folder, the address of another machine, or a model name with an address.
    """
    if name == "home":
        raise _untrusted_error(name, origin, "set where records are saved")
    if name == "folder":
        raise _untrusted_error(name, origin, "set what is read")
    if name == "mcp":
        raise _untrusted_error(name, origin, "set programs to start")
    if name in _SERVER_KEYS and not is_loopback(value):
        raise _untrusted_error(name, origin, "set a server on another machine")
    if name in _MODELS and "://" in (value or ""):
        raise _untrusted_error(name, origin, "set a server on another machine")


def _untrusted_error(name: str, origin: str, action: str) -> ConfigurationError:
    field = Settings.model_fields.get(name)
    if field is not None and origin == str(DOTENV):
        shown = _variable_name(name, field)
    else:
        shown = name
    return ConfigurationError(
        f"{origin} sets {shown}, but a file of the current folder may not {action}. Set it in your environment or in "
        f"{user_toml()}, or use --trust-project if the file is yours."
    )


def export_credentials(loaded: LoadedSettings, environ: dict[str, str] | os._Environ[str]) -> list[str]:
    """Export keys from files to the environment for the providers' libraries, and return their values.

    Variables that are already set take precedence. A key is removed from the environment if it would be sent to an
    address from another source: one that a file of the current folder sets, or one of the user's ``config.toml`` while
    the key, perhaps that of OpenAI itself, is the environment's.

    Raises:
        ConfigurationError: a file of the current folder sets a key, or a value is invalid.
    """
    keys = _keys_of_dotenv(loaded, environ)
    for name in (*_KEYS, *_SERVER_KEYS):
        value = getattr(loaded.settings, name)
        if value is None:
            continue
        if name in _KEYS and loaded.is_from_project(name) and not loaded.trusts_project:
            raise _untrusted_error(name, loaded.origins[name], _SET_KEYS)
        if isinstance(value, SecretStr):
            keys[name.upper()] = value.get_secret_value()
        else:
            keys[name.upper()] = value
    for key in loaded.kept:
        keys.setdefault(key.name, key.value)
    for name in _SERVER_KEYS:
        _withhold_key(name, loaded, keys, environ)
    for name, value in keys.items():
        if "\0" in str(value):
            raise ConfigurationError(f"{name} contains a null character. Fix the file that sets it.")
        if not environ.get(name):
            environ[name] = str(value)
    return [value for name, value in keys.items() if value and is_secret_name(name)]


def _withhold_key(
    name: str, loaded: LoadedSettings, keys: dict[str, str], environ: dict[str, str] | os._Environ[str]
) -> None:
    """Remove the key that a server would get, if the server's address comes from another source than the key."""
    variable, origin = _SERVER_KEYS[name], loaded.origins[name]
    address = keys.get(name.upper(), "")
    if loaded.is_from_project(name) and not loaded.trusts_project:
        _project_addresses.add(address)
    if is_of_project(address):
        if environ.pop(variable, "") or keys.pop(variable, ""):
            logger.warning("%s is not sent to the server set in %s", variable, origin)
        keys.pop(variable, None)
    elif name == "openai_api_base" and origin == str(user_toml()) and environ.get(variable):
        del environ[variable]
        keys.pop(variable, None)
        if own := _own_key(variable, environ):
            keys[variable] = own
        elif any((getattr(loaded.settings, role) or "").startswith(OPENAI) for role in _MODELS):
            logger.warning(
                "the environment's %s is not sent to the server set in %s. If it is that server's key, keep it with "
                "`rlm-dspy keys set %s`, or set OPENAI_API_BASE as well.",
                variable,
                origin,
                variable,
            )


def is_of_project(address: str) -> bool:
    """Return whether a file of the current folder has set this server address in this process."""
    return address in _project_addresses


def _own_key(variable: str, environ: Mapping[str, str]) -> str:
    """Return the key that ``rlm-dspy keys`` or the user's ``config.toml`` keeps, empty if there is none."""
    for key in stored_keys(environ):
        if key.name == variable:
            return key.value
    return str(_toml_values(user_toml()).get(variable.lower(), ""))


def _keys_of_dotenv(loaded: LoadedSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the keys of ``.env`` if it is trusted; if not, reject those that the models would use."""
    keys = {name: value for name, value in _dotenv_values().items() if name.endswith("_API_KEY") and value}
    if loaded.trusts_project:
        return keys
    models = [getattr(loaded.settings, name) for name in _MODELS]
    for name in ("OLLAMA_API_KEY", *(key_variable(model) for model in models if model)):
        if name in keys and not environ.get(name):
            raise _untrusted_error(name, str(DOTENV), _SET_KEYS)
    return {}


def settings_files() -> list[Path]:
    """Return the settings files, highest priority first, including missing ones."""
    return [DOTENV, PROJECT_TOML, user_toml()]


def _settings_sources(settings_cls: type[BaseSettings]) -> dict[str, PydanticBaseSettingsSource]:
    return {
        "environment": EnvSettingsSource(settings_cls),
        str(DOTENV): _dotenv_source(settings_cls),
        str(PROJECT_TOML): InitSettingsSource(settings_cls, _toml_values(PROJECT_TOML)),
        **_kept_sources(settings_cls),
        str(user_toml()): InitSettingsSource(settings_cls, _toml_values(user_toml())),
    }


def _kept_sources(settings_cls: type[BaseSettings]) -> dict[str, PydanticBaseSettingsSource]:
    """Return the kept keys that are settings, by the place where they are kept."""
    sources: dict[str, dict[str, Any]] = {str(keys_file()): {}, KEYRING: {}}
    for key in stored_keys(os.environ):
        if key.name.lower() in _KEYS:
            sources[key.place][key.name.lower()] = key.value
    return {place: InitSettingsSource(settings_cls, values) for place, values in sources.items()}


def key_origins(loaded: LoadedSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return where each key comes from, by the name of its variable; call it before the keys are exported."""
    places = {key.name: key.place for key in loaded.kept}
    for name in _KEYS:
        if getattr(loaded.settings, name) is not None:
            places[name.upper()] = loaded.origins[name]
    for name, value in environ.items():
        if name.endswith("_API_KEY") and value.strip():
            places[name] = "environment"
    return dict(sorted(places.items()))


def _dotenv_source(settings_cls: type[BaseSettings]) -> PydanticBaseSettingsSource:
    if entry_error(Path()) is not None:
        return DotEnvSettingsSource(settings_cls, env_file=None)
    _refuse_special(DOTENV)
    try:
        _warn_of_bad_lines()
        _warn_of_references()
        return DotenvSource(settings_cls, env_file=DOTENV, dotenv_filtering="only_existing")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{DOTENV} cannot be read: {error}. Fix or remove the file.") from error


def _dotenv_values() -> dict[str, str | None]:
    if entry_error(Path()) is None:
        return dotenv_values(DOTENV, encoding="utf-8-sig", interpolate=False)
    return {}


class DotenvSource(DotEnvSettingsSource):
    """The settings in ``.env``, read as they are written.

    A reference such as ``${OPENAI_API_KEY}`` is not replaced: with it, a file of a project could put the user's keys
    into a model's name or an address, which are sent. References to references also make gigabytes of a short file.
    """

    def _read_env_files(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in _dotenv_values().items() if value != ""}


def _warn_of_references() -> None:
    """Warn once of each setting in ``.env`` with a reference to a variable, which is not replaced."""
    for name, value in _dotenv_values().items():
        place = (str(DOTENV.absolute()), name)
        variable = name.upper()  # settings are read in either case
        is_setting = variable.startswith(PREFIX) or variable.endswith(("_API_KEY", "_API_BASE", "_BASE_URL", "_HOST"))
        if is_setting and "${" in (value or "") and place not in _told_references:
            _told_references.add(place)
            logger.warning("%s: %s has a reference to a variable, which is not replaced; write its value", DOTENV, name)


def _warn_of_bad_lines() -> None:
    """Warn once of each statement of ``.env`` that cannot be read; python-dotenv does so at each reading, unnamed."""
    if not os.path.isfile(DOTENV):
        return
    with DOTENV.open(encoding="utf-8-sig") as file:
        lines = [statement.original.line for statement in parse_stream(file) if statement.error]
    for line in lines:
        place = (str(DOTENV.absolute()), line)
        if place not in _told_lines:
            _told_lines.add(place)
            logger.warning("%s: line %d cannot be read, such as for an unclosed quote; it is ignored", DOTENV, line)


def _warn_of_unknown_names() -> None:
    """Warn once of variables with our prefix that set nothing; those of the environment only if they resemble one."""
    variables = {_variable_name(name, field) for name, field in Settings.model_fields.items()} | _OTHER_VARIABLES
    known = {name.removeprefix(PREFIX): name for name in variables}
    names = [("the environment", name) for name in os.environ]
    names += [(str(DOTENV), name) for name in _dotenv_values()]
    for origin, name in names:
        if not name.startswith(PREFIX) or name in variables or (origin, name) in _told_names:
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=2, cutoff=_LIKENESS)
        if near or origin == str(DOTENV):
            _told_names.add((origin, name))
            meant = " or ".join(known[one] for one in near)
            if near:
                hint = f"Did you mean {meant}?"
            else:
                hint = "`rlm-dspy config` lists the settings."
            logger.warning("%s sets %s, which is not a setting. %s", origin, name, hint)


def _refuse_special(path: Path) -> None:
    """Refuse a named pipe or a device as a settings file, because reading it could block forever.

    Raises:
        ConfigurationError: it is one.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ConfigurationError(f"{path} is not a regular file, so it is not read. Remove or rename it.")


def _toml_values(path: Path) -> dict[str, Any]:
    if entry_error(path.parent) is not None:
        return {}
    _refuse_special(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Fix or remove the file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}. Fix the file.") from error
    for name in values:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            if near:
                hint = f" Did you mean {near[0]!r}?"
            else:
                hint = " `rlm-dspy config` lists the names."
            raise ConfigurationError(f"{path} sets {name!r}, which is not a setting.{hint}")
    if values.get("home") == "":  # as if it were not set, not the current folder
        del values["home"]
    return values


def _value_origins(flags: Mapping[str, Any]) -> dict[str, str]:
    layers = {"flag": flags, **{label: source() for label, source in _settings_sources(Settings).items()}}
    return {name: _origin_label(name, field, layers) for name, field in Settings.model_fields.items()}


def _origin_label(name: str, field: FieldInfo, layers: Mapping[str, Mapping[str, Any]]) -> str:
    spellings = {name, name.upper()}
    for label, values in layers.items():
        if spellings & values.keys():
            if label == "flag":
                return f"flag --{name.replace('_', '-')}"
            if label == "environment":
                return f"environment {_variable_name(name, field)}"
            return label
    return "default"


def _variable_name(name: str, field: FieldInfo) -> str:
    if not isinstance(field.validation_alias, AliasChoices):
        return PREFIX + name.upper()
    spellings = [str(spelling) for spelling in field.validation_alias.choices[1:]]
    return next((spelling for spelling in spellings if os.environ.get(spelling)), name.upper())


def _validation_message(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]).lower()
    origin = origins.get(name, "a setting")
    if origin.startswith("flag"):
        place = origin.removeprefix("flag ")
    else:
        place = f"{name} ({origin})"
    # Never echo the value of a secret, even an invalid one.
    got = "" if is_secret_name(name) else f", got {first['input']!r}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{place}: {message}{got}."
