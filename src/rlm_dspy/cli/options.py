"""Options that several commands share, and checks of what arrives as arguments."""

from __future__ import annotations

import codecs
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rlm_dspy.cli.completion import complete_model, complete_path
from rlm_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from rlm_dspy.tuning.metrics import Metric

FILE_CHOICE = (
    "include", "exclude", "hidden", "no_ignore", "url", "include_secrets", "encoding", "max_file_mb", "max_files",
    "max_gb",
)  # fmt: skip
SETTING_FLAGS = (
    "model", "sub_model", "fallback", "temperature", "mode", "timeout", "max_iters", "max_calls", "max_tokens",
    "max_cost", "max_seconds",
)  # fmt: skip
FILE_PATH = click.Path(dir_okay=False, path_type=Path)

_POSITIVE = click.FloatRange(0, min_open=True)
_MOST_SIZE = 1e12  # of a limit in MB or GB; more than any disk has


class _SizeLimit(click.FloatRange):
    """A positive number of MB or GB, not NaN or infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it as a usage error."""
        size = super().convert(value, param, ctx)
        if not size <= _MOST_SIZE:
            self.fail(f"{value} is not a number up to {_MOST_SIZE:,.0f}.", param, ctx)
        return size


_SIZE = _SizeLimit(0, min_open=True)

Command = TypeVar("Command", bound=Callable[..., Any])


def option_group(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds these options in this order."""

    def add_options(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add_options


model_option = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_model,
    help="Main model, e.g. groq/openai/gpt-oss-20b.",
)
model_options = option_group(
    model_option,
    click.option(
        "--sub-model",
        metavar="MODEL",
        shell_complete=complete_model,
        help="Model for sub-calls (default: the main model).",
    ),
)
temperature_option = click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    metavar="T",
    help="Temperature of all models, e.g. 0 (default: the provider's).",
)
fallback_option = click.option(
    "--fallback",
    metavar="MODEL",
    shell_complete=complete_model,
    help="Model to use when the provider is down or full.",
)
mode_option = click.option(
    "--mode",
    type=click.Choice(["auto", "rlm", "direct", "retrieve"]),
    help="rlm explores by code, direct sends the whole text in one call, retrieve sends the passages that fit the "
    "question best; auto picks by size and model (default: auto).",
)
max_iters_option = click.option("--max-iters", type=int, metavar="N", help="Maximum steps per question (default: 20).")
max_cost_option = click.option(
    "--max-cost", type=float, metavar="USD", help="Maximum US dollars per question (batch, optimize: in all)."
)
limit_options = option_group(
    max_iters_option,
    click.option("--max-calls", type=int, metavar="N", help="Maximum sub-calls per question (default: 50)."),
    click.option("--max-tokens", type=int, metavar="N", help="Maximum tokens per question, prompts and replies."),
    max_cost_option,
    click.option("--max-seconds", type=float, metavar="S", help="Maximum seconds per question."),
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 256), default=4, metavar="N", help="Questions at once (default: 4)."
)
metric_option = click.option(
    "--metric", metavar="NAME", default="graded", help="graded (as each row says), exact, f1, set_f1, …"
)
timeout_option = click.option(
    "--timeout",
    type=_POSITIVE,
    metavar="S",
    help="Seconds to wait for one attempt, or for the next part of a stream (default: 120).",
)
provider_batch_options = option_group(
    click.option(
        "--provider-batch",
        is_flag=True,
        help="Send the calls to the provider in batches: cheaper, but it takes minutes to hours.",
    ),
    click.option(
        "--deadline",
        type=_POSITIVE,
        metavar="S",
        help="Seconds after which --provider-batch makes ordinary calls instead.",
    ),
)
seed_option = click.option("--seed", type=int, default=0, metavar="N", help="Random seed (default: 0).")
resume_option = click.option("--resume", is_flag=True, help="Resume; finished calls are not repeated.")
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Use only the first N questions of a file."
)
program_option = click.option(
    "--program",
    metavar="PROGRAM",
    help="Program that optimize has compiled, which always explores: DIR, FILE or hf://user/repo@COMMIT.",
)
log_json_option = click.option("--log-json", is_flag=True, help="Log to stderr as JSON lines.")
file_options = option_group(
    click.option("--include", multiple=True, metavar="GLOB", help="Read only files that match (repeatable)."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Skip files that match (repeatable)."),
    click.option("--hidden", is_flag=True, help="Read hidden files and folders too."),
    click.option("--no-ignore", is_flag=True, help="Read files that .gitignore excludes."),
    click.option("--url", is_flag=True, help="Fetch a PATH that begins with https:// or http://."),
    click.option("--include-secrets", is_flag=True, help="Read .env files, keys and the like."),
    click.option("--encoding", metavar="NAME", help="Encoding of files that are not UTF-8, e.g. cp1252."),
    click.option("--max-file-mb", type=_SIZE, metavar="N", help="Skip larger files (default: 200)."),
    click.option("--max-files", type=click.IntRange(1), metavar="N", help="Maximum files (default: 500,000)."),
    click.option("--max-gb", type=_SIZE, metavar="N", help="Maximum text in all (default: 8)."),
)


MCP_HOSTS = ("claude-code", "claude-desktop", "codex", "cursor", "vs-code")


def json_option(what: str) -> Callable[[Command], Command]:
    """Return the option ``--json``, which prints ``what`` instead of text."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


def _set_events(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.obj.shows_events = value
    return value


def check_format(options: dict[str, Any]) -> None:
    """Refuse two forms of output at once.

    Raises:
        click.UsageError: ``--json`` and ``--events`` are given.
    """
    if options["as_json"] and options["events"]:
        raise click.UsageError("--json and --events are mutually exclusive.")


events_option = click.option(
    "--events", is_flag=True, callback=_set_events, help="Print each event and the answer as lines of JSON."
)


def _set_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.obj.quiet = value
    _check_volume(ctx)


def _set_verbose(ctx: click.Context, _: click.Parameter, value: int) -> None:
    ctx.obj.verbose = value
    _check_volume(ctx)


def _set_tracing(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.obj.sends_spans = value


def _check_volume(ctx: click.Context) -> None:
    if ctx.obj.quiet and ctx.obj.verbose:
        raise click.UsageError("-q and -v cannot be used together.")


volume_options = option_group(
    click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_set_quiet, help="Print only errors to stderr."
    ),
    click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_set_verbose,
        help="Log to stderr, with tracebacks; -vv logs more.",
    ),
    click.option(
        "--otel",
        is_flag=True,
        expose_value=False,
        callback=_set_tracing,
        help="Send runs as OpenTelemetry spans (OTEL_EXPORTER_OTLP_ENDPOINT).",
    ),
)


def _trust_project(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.obj.trusts_project = value


trust_option = click.option(
    "--trust-project",
    is_flag=True,
    envvar="RLM_DSPY_TRUST_PROJECT",
    expose_value=False,
    callback=_trust_project,
    help="Let .env and rlm-dspy.toml of this folder set keys, addresses and folders.",
)


def take_options(options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Remove the options of these names from ``options`` and return them."""
    return {name: options.pop(name) for name in names if name in options}


def paths_argument(command: Command) -> Command:
    """Add ``[PATH]...``: files, folders, globs, or ``-`` for stdin, and those that ``--files-from`` lists."""

    @functools.wraps(command)
    def with_listed(*args: Any, paths: tuple[str, ...], files_from: str | None, null: bool, **options: Any) -> Any:
        listed = listed_paths(files_from, null=null)
        if files_from == "-" and "-" in (*paths, *listed):
            raise click.UsageError("stdin cannot be both the list of --files-from and a text.")
        return command(*args, paths=(*paths, *listed), **options)

    decorated: Any = option_group(
        click.argument("paths", nargs=-1, metavar="[PATH]...", shell_complete=complete_path),
        click.option("--files-from", metavar="FILE", help="Also read the paths listed in FILE (- for stdin)."),
        click.option("-0", "--null", is_flag=True, help="Paths in --files-from end with NUL, as in find -print0."),
    )(with_listed)
    return decorated  # type: ignore[no-any-return]


def listed_paths(source: str | None, *, null: bool) -> tuple[str, ...]:
    """Return the paths that a file or stdin lists, one a line or each before a NUL.

    Raises:
        click.UsageError: the list cannot be read or is empty, or there is none to end with NUL.
    """
    if source is None:
        if null:
            raise click.UsageError("-0 belongs to --files-from.")
        return ()
    try:
        if source == "-":
            data = sys.stdin.buffer.read()
        else:
            data = Path(os.path.expanduser(source)).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--files-from {source} cannot be read: {error.strerror}.") from None
    data = data.removeprefix(codecs.BOM_UTF8)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise click.UsageError(f"--files-from {source} is UTF-16: save the list as UTF-8.")
    if b"\0" in data and not null:
        raise click.UsageError(f"--files-from {source} has NULs: add -0 if its paths end with NUL, as in find -print0.")
    paths = data.split(b"\0") if null else data.splitlines()
    listed = tuple(os.fsdecode(path) for path in paths if path.strip())
    if not listed:
        raise click.UsageError(f"--files-from {source} lists no paths.")
    return listed


def check_deadline(options: dict[str, Any]) -> None:
    """Refuse a deadline without batches.

    Raises:
        click.UsageError: ``--deadline`` is given without ``--provider-batch``.
    """
    if options["deadline"] is not None and not options["provider_batch"]:
        raise click.UsageError("--deadline belongs to --provider-batch.")


def given_options(ctx: click.Context, names: Sequence[str] = ()) -> list[str]:
    """Return the options that the user gave, as messages spell them; if ``names`` are given, only of these."""
    spellings = []
    for param in ctx.command.params:
        wanted = isinstance(param, click.Option) and (not names or param.name in names)
        if wanted and ctx.get_parameter_source(str(param.name)) == click.core.ParameterSource.COMMANDLINE:
            spellings.append(longest_spelling(param))
    return spellings


def longest_spelling(param: click.Parameter) -> str:
    """Return how a message names a parameter: ``--model``, ``QUESTION``."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return param.human_readable_name


def check_writable(path: Path | None, name: str) -> None:
    """Refuse an output file that could not be written, before anything is spent.

    Raises:
        click.UsageError: the path is a folder, or its folder is missing or may not be written.
    """
    if path is None:
        return
    if str(path) == "-":
        raise click.UsageError(f"{name} needs the name of a file, not -.")
    folder = path.absolute().parent
    if os.path.isdir(path):
        raise click.UsageError(f"{name} {path} cannot be written: it is a folder.")
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise click.UsageError(f"{name} {path} cannot be written: {folder} is not a folder that you may write to.")


def find_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        click.UsageError: the name is unknown.
    """
    from rlm_dspy.tuning import metrics

    if name == "graded":
        return metrics.graded
    try:
        return metrics.of(name)
    except ConfigurationError as error:
        raise click.UsageError(f"--metric: {error}, and graded.") from error


def check_unicode(value: str, name: str) -> None:
    """Refuse an argument whose bytes were not text in the terminal's encoding.

    Raises:
        click.UsageError: the argument has bytes that are not valid UTF-8.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.UsageError(
            f"{name} is not valid UTF-8 (at character {error.start + 1}). Type it again in a UTF-8 terminal."
        ) from error
