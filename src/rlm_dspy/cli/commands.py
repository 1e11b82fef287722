"""The commands and their options. What each does is imported when it runs, so that ``--help`` is instant."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rlm_dspy._version import __version__
from rlm_dspy.cli import exit_codes
from rlm_dspy.cli.completion import complete_run
from rlm_dspy.cli.interrupts import leave
from rlm_dspy.cli.keys import keys
from rlm_dspy.cli.ls import ls
from rlm_dspy.cli.models import models
from rlm_dspy.cli.options import (
    FILE_CHOICE,
    FILE_PATH,
    MCP_HOSTS,
    SETTING_FLAGS,
    check_deadline,
    check_format,
    check_unicode,
    events_option,
    fallback_option,
    file_options,
    given_options,
    json_option,
    limit_option,
    limit_options,
    log_json_option,
    max_cost_option,
    max_iters_option,
    metric_option,
    mode_option,
    model_option,
    model_options,
    paths_argument,
    program_option,
    provider_batch_options,
    resume_option,
    seed_option,
    take_options,
    temperature_option,
    threads_option,
    timeout_option,
    trust_option,
    volume_options,
)
from rlm_dspy.cli.program import program
from rlm_dspy.cli.question_arguments import QuestionGroup, understood_arguments, usage_text
from rlm_dspy.cli.runs import runs, trace
from rlm_dspy.cli.terminal import Terminal, reopen_closed_streams, tolerate_any_text
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError, RLMError
from rlm_dspy.safe_files import RAISE_FILE_LIMIT


@click.command(short_help="Answer a question from files, with evidence.")
@click.argument("question", required=False)
@paths_argument
@model_options
@fallback_option
@temperature_option
@mode_option
@click.option(
    "--out",
    metavar="FIELDS",
    default="answer: str",
    help="Typed outputs, e.g. 'answer: str, items: list[str]', or a JSON schema: FILE.json.",
)
@limit_options
@file_options
@json_option("answer, evidence and usage")
@events_option
@program_option
@click.option("--mcp", multiple=True, metavar="NAME", help="Tools of an MCP server from the settings; repeatable.")
@click.option("--trace", type=FILE_PATH, metavar="FILE", help="Save the run as JSON.")
@click.option("--index", is_flag=True, help="Build or refresh the search index of the files first.")
@click.option("--dry-run", is_flag=True, help="Show the files and the estimated cost; call no model.")
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=complete_run,
    help="Resume an unfinished run; completed calls are not paid for again.",
)
@click.option("--force", is_flag=True, help="Resume even if the files have changed.")
@volume_options
@log_json_option
@timeout_option
@trust_option
@click.pass_context
def ask(ctx: click.Context, /, question: str | None, paths: tuple[str, ...], **options: Any) -> int:
    """Answer QUESTION from each PATH (a file, folder, glob, or - for stdin).

    The answer goes to stdout, followed by the quotes that prove it as path:line "quote";
    everything else goes to stderr. Without a PATH, stdin is read.
    --resume RUN continues a run that was killed, interrupted or failed, and needs no QUESTION.

    \b
    Exit codes: 0 answered, 1 failed, 2 usage, 3 stopped by a limit (best answer
    printed, if any), 4 no model or credentials, 5 refused by the provider, 6
    inputs unreadable or empty, 7 nothing found that answers it, 130 interrupted
    (partial run kept).
    """
    from rlm_dspy.cli import resume

    resume.check_options(ctx, options)
    if question is None and options["resume"] is None:
        raise click.MissingParameter(ctx=ctx, param_hint="'QUESTION'", param_type="argument")
    question, paths = understood_arguments(question, paths, ctx.obj)
    question = question or ""
    for name, value in (("QUESTION", question), ("--model", options["model"]), ("--out", options["out"])):
        check_unicode(value or "", name)
    check_format(options)
    from rlm_dspy.cli.out_option import read_out

    options["out"] = read_out(options["out"])
    if not question.strip() and options["resume"] is None:
        raise click.UsageError("QUESTION is empty. Ask something, e.g. rlm-dspy ask 'What does it do?' PATH.")
    if options["program"] and options["mode"] not in (None, "auto", "rlm"):
        raise click.UsageError(
            f"--mode {options['mode']} and --program cannot be used together: a compiled program explores."
        )
    if options["events"] and options["dry_run"]:
        raise click.UsageError("--events and --dry-run cannot be used together: without a run there are no events.")
    if options["mcp"] and options["mode"] in ("direct", "retrieve"):
        raise click.UsageError(f"--mode {options['mode']} and --mcp cannot be used together: only code calls tools.")
    flags, choice = take_options(options, SETTING_FLAGS), take_options(options, FILE_CHOICE)

    from rlm_dspy.cli.ask import answer
    from rlm_dspy.cli.ask_request import AskRequest

    return answer(AskRequest(question=question, paths=paths, flags=flags, choice=choice, **options), ctx.obj)


@click.command(short_help="Answer many questions about the same files; a killed batch can be resumed.")
@click.argument("questions", metavar="QUESTIONS.jsonl")
@paths_argument
@click.option(
    "--out",
    "answers",
    required=True,
    type=FILE_PATH,
    metavar="ANSWERS.jsonl",
    help="Where the answers go, one JSON object a line.",
)
@resume_option
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1_000),
    metavar="N",
    help="Questions at once (default: 4; with --provider-batch 1,000, or 32 that are explored).",
)
@provider_batch_options
@model_options
@temperature_option
@mode_option
@click.option(
    "--fields",
    metavar="FIELDS",
    default="answer: str",
    help="Typed outputs of each question, e.g. 'answer: str, items: list[str]', or a JSON schema: FILE.json.",
)
@limit_options
@file_options
@json_option("the report")
@volume_options
@log_json_option
@timeout_option
@trust_option
@click.pass_obj
def batch(terminal: Terminal, /, questions: str, paths: tuple[str, ...], **options: Any) -> int:
    """Answer the questions of QUESTIONS.jsonl from each PATH (a file, folder or glob).

    Each line of QUESTIONS.jsonl is a JSON object with "question" and optionally "id", or a JSON string; - reads stdin.
    Each line of ANSWERS.jsonl has the id, the question, the fields of ask --json, "ok" and "error". It is written
    to disk before the next question starts. --resume asks failed questions again and skips answered ones, as long
    as the files, the model and the limits are the same. --max-cost is for the whole batch, the other limits are for
    each question.

    Ctrl-C finishes the questions in flight and starts no others; a second Ctrl-C stops at once. With --provider-batch,
    Ctrl-C leaves the batch running, and a second one within 3 s cancels it; --resume gets its results.

    \b
    Exit codes: 0 all answered, 1 some failed, 2 usage, 3 stopped by a limit,
    4 no model or credentials, 5 refused by the provider, 6 inputs unreadable or
    empty, 130 interrupted (finished answers kept).
    """
    for name, value in (("--model", options["model"]), ("--fields", options["fields"])):
        check_unicode(value or "", name)
    check_deadline(options)
    from rlm_dspy.cli.out_option import read_out

    options["fields"] = read_out(options["fields"])
    flags, choice = take_options(options, SETTING_FLAGS), take_options(options, FILE_CHOICE)

    from rlm_dspy.cli.batch import BatchRequest, answer_all

    return answer_all(BatchRequest(questions=questions, paths=paths, flags=flags, choice=choice, **options), terminal)


@click.command(short_help="Serve files to agents over the Model Context Protocol.")
@paths_argument
@model_options
@fallback_option
@mode_option
@limit_options
@file_options
@click.option(
    "--transport", type=click.Choice(["stdio", "http"]), default="stdio", help="How clients connect (default: stdio)."
)
@click.option("--host", metavar="HOST", default="127.0.0.1", help="Address of --transport http (default: 127.0.0.1).")
@click.option("--port", type=click.IntRange(1, 65_535), metavar="PORT", default=8000, help="Its port (default: 8000).")
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Web page that may connect; repeatable.")
@click.option(
    "--confirm-above", type=click.FloatRange(0), metavar="USD", help="Ask the user before questions that may cost more."
)
@click.option("--print-config", type=click.Choice(MCP_HOSTS), help="Print what to put into a host's configuration.")
@volume_options
@timeout_option
@trust_option
@click.pass_obj
def mcp(terminal: Terminal, /, paths: tuple[str, ...], print_config: str | None, **options: Any) -> int:
    """Serve each PATH (a file or folder) as tools: ask, result, cancel; search, read, outline, ls, table.

    No path reaches beyond what is named here. Over HTTP, set tokens in RLM_DSPY_MCP_TOKENS
    as name:token pairs; an address other than loopback needs them.
    """
    from rlm_dspy.cli.mcp import command

    command.check_paths(paths)
    ignored = given_options(click.get_current_context(), ["host", "port", "origins"])
    if ignored and options["transport"] != "http":
        raise click.UsageError(f"{ignored[0]} belongs to --transport http.")
    if print_config and options["transport"] == "http":
        raise click.UsageError("--print-config is for --transport stdio: over HTTP, hosts take the server's address.")
    if print_config:
        return command.print_config(print_config, paths, terminal)
    flags = take_options(options, SETTING_FLAGS)
    chosen = take_options(options, ("transport", "host", "port", "origins", "confirm_above"))
    return command.serve_files(paths, flags, options, terminal, **chosen)


@click.command(short_help="Hold a conversation about files.")
@paths_argument
@model_options
@fallback_option
@temperature_option
@mode_option
@limit_options
@file_options
@json_option("each answer")
@events_option
@click.option("-c", "--continue", "is_continued", is_flag=True, help="Continue the last conversation.")
@volume_options
@timeout_option
@trust_option
@click.pass_obj
def chat(terminal: Terminal, /, paths: tuple[str, ...], **options: Any) -> int:
    """Ask questions about each PATH (a file, folder or glob), one per line.

    The files are read once, the sandbox keeps its variables between questions, and each question
    sees the earlier questions and answers. Works in a terminal and over pipes.

    \b
    /add PATH…  read more files
    /files      list the files
    /cost       show calls, tokens and cost so far
    /trace      show the last run step by step
    /save FILE  write the conversation as Markdown
    /quit       quit (or Ctrl-D)
    /help       show this list
    """
    check_format(options)
    if not paths and not options["is_continued"]:
        raise click.UsageError("Missing PATH: name files or folders to talk about.")
    if "-" in paths:
        raise click.UsageError("PATH '-': questions are read from stdin, so files cannot be.")
    check_unicode(options["model"] or "", "--model")
    flags = take_options(options, SETTING_FLAGS)
    chosen = take_options(options, ("as_json", "events", "is_continued"))

    from rlm_dspy.cli.chat import Chat

    return Chat(terminal, paths, flags, options, **chosen).run()


@click.command()
@json_option("the settings")
@trust_option
@click.pass_obj
def config(terminal: Terminal, /, as_json: bool) -> None:
    """Show each setting and where it comes from.

    The order is: flag, RLM_DSPY_* variable, .env, ./rlm-dspy.toml, the user's config.toml, default.
    Keys that `rlm-dspy keys` keeps come before the user's config.toml. Secrets are masked.
    """
    from rlm_dspy.cli import settings
    from rlm_dspy.report import render

    loaded = settings.load_for(terminal)
    try:
        settings.export_credentials(loaded, dict(os.environ))
    except ConfigurationError as error:  # a file of this folder may not set a key: other commands refuse it
        terminal.note(f"warning: {error}")
    rows = loaded.masked_values()
    places = [{"path": str(path), "exists": os.path.isfile(path)} for path in settings.settings_files()]
    if as_json:
        terminal.answer_json({"settings": rows, "files": places})
        return
    cells = []
    for name, row in rows.items():
        shown = "-" if row["value"] is None else str(row["value"])
        cells.append([name, shown, row["source"]])
    terminal.answer("\n".join(render.table_lines(cells)))
    for place in places:
        terminal.note(f"{'read' if place['exists'] else 'absent'}: {place['path']}")


@click.command(short_help="Take a two-minute tour of a sample folder.")
@volume_options
@trust_option
@click.pass_obj
def demo(terminal: Terminal, /) -> int:
    """Make a small folder, ask three questions with the offline engine, and one with your model if there is one.

    Each command is printed so that you can type it. The folder stays.
    """
    from rlm_dspy.cli.demo import show_tour

    return show_tour(terminal)


@click.command(short_help="Set up a model, its API key and a default folder.")
@trust_option
@click.pass_obj
def init(terminal: Terminal, /) -> int:
    """Ask which model, which key and which folder, test each answer, and write the user's config.toml.

    The answer to the first question may be the address of a server, such as http://127.0.0.1:8080/v1: it is asked for
    its models, and the address is kept too. The key goes where `rlm-dspy keys` keeps keys. The folder is read by `ask`
    without a PATH in a terminal. Other settings in the file stay.

    \b
    Exit codes: 0 written and working, 1 something that was kept does not work,
    130 left before the end; nothing is written.
    """
    from rlm_dspy.cli.init import set_up

    return set_up(terminal)


@click.command(short_help="Check the installation and the model; say how to fix problems.")
@model_option
@json_option("the checks")
@click.option("--container", "in_container", is_flag=True, help="Check what this container leaves the sandbox.")
@trust_option
@click.pass_obj
def doctor(terminal: Terminal, /, model: str | None, as_json: bool, in_container: bool) -> int:
    """Check versions, sandbox, cache, providers and the model, and say how to fix each problem.

    The model gets one short prompt. On Ollama it also gets a few short prompts at once, to measure how many it serves
    in parallel, and a longer one, to measure its window.

    \b
    Exit codes: 0 the model works (the offline engine counts), 4 it does not,
    1 something else is broken.
    """
    from rlm_dspy.cli import doctor

    return doctor.diagnose(terminal, model, as_json=as_json, in_container=in_container)


@click.command("eval", short_help="Score questions with known answers.")
@click.argument("data", type=FILE_PATH)
@model_options
@temperature_option
@click.option(
    "--compare",
    metavar="NAMES",
    default="rlm",
    help="Programs to compare, separated by commas: rlm, direct (one call), retrieve (the best passages), dspy.RLM "
    "(default: rlm).",
)
@program_option
@metric_option
@limit_option
@threads_option
@provider_batch_options
@limit_options
@json_option("the scores and every row")
@click.option("--html", type=FILE_PATH, metavar="FILE", help="Write an HTML report; the runs go to FILE-runs.")
@click.option("--journal", type=FILE_PATH, metavar="FILE", help="Store the rows here (default: in the setting home).")
@click.option("--fresh", is_flag=True, help="Ignore stored rows and ask every question again.")
@volume_options
@timeout_option
@trust_option
@click.pass_obj
def evaluate(terminal: Terminal, /, data: Path, **options: Any) -> int:
    """Ask a model the questions of DATA (JSONL: question, answer, context) and score the answers.

    Each finished question is stored. Run the same command again to resume: only failed and missing questions are
    asked. Exit code 1 if every question failed, 4 if the key is missing or refused. --provider-batch asks more at once
    than --threads says.
    """
    check_deadline(options)
    flags = take_options(options, SETTING_FLAGS)

    from rlm_dspy.cli.eval import EvalRequest, run

    return run(EvalRequest(data=data, flags=flags, **options), terminal)


@click.command("make-questions", short_help="Generate questions with answers from your own files.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-n", "--count", type=click.IntRange(1, 10_000), default=40, metavar="N", help="Questions (default: 40).")
@seed_option
@click.option(
    "--out",
    type=FILE_PATH,
    default=Path("questions.jsonl"),
    metavar="FILE",
    help="File to write (default: questions.jsonl).",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.pass_obj
def make_questions(terminal: Terminal, /, paths: tuple[str, ...], count: int, seed: int, out: Path, force: bool) -> int:
    """Generate questions about PATH... (files, folders) whose answers are computed by code, not by a model.

    Counts, look-ups, first and last, definitions, joins, and some without an answer: a dataset for
    rlm-dspy eval and rlm-dspy optimize.
    """
    if os.path.exists(out) and not force:
        raise click.UsageError(f"{out} exists already. Use another --out, or --force to replace it.")
    if out.resolve() in [Path(path).resolve() for path in paths]:
        raise click.UsageError(f"{out} is also an input: the questions would replace it. Use another --out.")
    if "-" in paths:
        raise click.UsageError("stdin cannot be used: the questions refer to files by path. Save it to a file first.")

    from rlm_dspy.cli.input_paths import leaving_out
    from rlm_dspy.cli.own_outputs import remember_output
    from rlm_dspy.tuning import data, file_questions

    folder = out.resolve().parent
    context = {"files": [os.path.relpath(Path(path).resolve(), folder) for path in paths]}
    # Leave out the questions and optimize's default output folders: the questions are not about them.
    if leave := [*leaving_out(out, paths), *(f"{place}-*/" for place in leaving_out(out.with_suffix(""), paths))]:
        context["exclude"] = leave
    questions = file_questions.make_questions(data.context(context, folder), count, seed=seed)
    rows = [question.row(number, context) for number, question in enumerate(questions)]
    try:
        data.write(out, rows)
    except OSError as error:
        raise click.UsageError(f"--out {out} cannot be written: {error.strerror}.") from error
    remember_output(out)
    kinds = sorted({row["task"] for row in rows})
    terminal.answer(f"{out}: {counted_noun(len(rows), 'question')} ({', '.join(kinds)})")
    if len(rows) < count:
        terminal.note(f"only {len(rows)} of {count}: no further questions can be generated from these files.")
    return exit_codes.ANSWERED


@click.command(short_help="Optimize the prompts on questions with known answers.")
@click.argument("data", type=FILE_PATH)
@click.option(
    "--optimizer",
    type=click.Choice(["gepa", "mipro", "bootstrap", "simba"]),
    default="gepa",
    help="dspy.GEPA, MIPROv2, BootstrapFewShotWithRandomSearch or SIMBA (default: gepa).",
)
@click.option("--max-calls", type=click.IntRange(min=1), required=True, metavar="N", help="Maximum LM calls in all.")
@max_cost_option
@click.option("--val", type=FILE_PATH, metavar="FILE", help="Validation set (default: 30% of DATA).")
@click.option("--test", type=FILE_PATH, metavar="FILE", help="Test set (default: 30% of DATA).")
@limit_option
@model_options
@click.option("--prompt-model", metavar="MODEL", help="Model that proposes instructions (default: the main model).")
@metric_option
@max_iters_option
@threads_option
@seed_option
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Folder (default: DATA-OPTIMIZER)."
)
@resume_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask before spending.")
@json_option("the report")
@volume_options
@timeout_option
@trust_option
@click.pass_obj
def optimize(terminal: Terminal, /, data: Path, **options: Any) -> int:
    """Optimize the RLM's prompts on the questions of DATA (JSONL: question, answer, context).

    The test set, which the optimizer never sees, is scored before and after. The folder gets program.json
    (for ask --program, eval --program or rlm.load()), card.md, report.html, report.md, report.json and log.txt.
    Exit code 3 if a limit ended it; the best program so far is saved.
    """
    flags = {name: options.pop(name) for name in ("model", "sub_model", "timeout", "max_iters")}

    from rlm_dspy.cli.optimize import OptimizeRequest, run

    return run(OptimizeRequest(data=data, flags=flags, **options), terminal)


# The objects that DSPy and LiteLLM make while they load live on; collecting garbage takes a sixth of that time.
GC_THRESHOLDS = (20_000, 50, 100)
# The system's errors for a full disk, quota or file, and for one that cannot be written.
FULL_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
FULL_DISK_ADVICE = "Make room and run it again: `rlm-dspy trace last` has the run of an ask, `batch --resume` goes on."


@click.group(
    cls=QuestionGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="rlm-dspy %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Ask questions about files far larger than a model's window.

    The model explores them by writing Python in a sandbox; the answer comes with quotes that were checked
    against the files.

    `rlm-dspy QUESTION PATH` is short for `rlm-dspy ask QUESTION PATH`.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (
    *(ask, batch, chat, mcp, ls, models, doctor, config, evaluate, runs, trace, make_questions, optimize),
    *(program, keys, init, demo),
):
    app.add_command(_command)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; without ``args``, run that of this process and end the process."""
    if args is not None:
        return _run_app(args)
    if not reopen_closed_streams():
        Terminal().error("stdout is closed, so there is no place for an answer: redirect it to a file or /dev/null.")
        return exit_codes.FAILED
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        return leave(_run_app(None))
    except KeyboardInterrupt:  # before or after the command itself
        Terminal().error("interrupted.")
        return exit_codes.INTERRUPTED


def _print_error_event(terminal: Terminal, error: Exception, code: int) -> None:
    """Print the last line of ``--events`` for a question that ended before it was asked."""
    if terminal.shows_events:
        from rlm_dspy.report.events import EventLines

        EventLines(terminal.answer, terminal.redactor).fail(error, code)


def _run_app(args: Sequence[str] | None) -> int:
    terminal = Terminal()
    terminal.arguments = tuple(sys.argv[1:] if args is None else args)
    sys.excepthook = terminal.excepthook
    tolerate_any_text()
    try:
        result = app.main(args=args, prog_name="rlm-dspy", standalone_mode=False, obj=terminal)
    except click.Abort:
        terminal.error("interrupted.")
        return exit_codes.INTERRUPTED
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "rlm-dspy"
        terminal.error(f"{usage_text(error)} Try '{path} --help'.", where=path)
        _print_error_event(terminal, error, exit_codes.USAGE)
        return exit_codes.USAGE
    except RLMError as error:
        terminal.crash(error)
        terminal.error(str(error))
        _print_error_event(terminal, error, exit_codes.code(error))
        return exit_codes.code(error)
    except OSError as error:
        if error.errno not in FULL_DISK_ERRORS:
            raise
        terminal.crash(error)
        reason = error.strerror or ""
        if error.errno == errno.EFBIG and RAISE_FILE_LIMIT not in reason:
            reason = f"{reason}; {RAISE_FILE_LIMIT}"
        terminal.error(f"{error.filename or 'stdout or a file'} cannot be written: {reason}. {FULL_DISK_ADVICE}")
        return exit_codes.FAILED
    if isinstance(result, int):
        return result
    return exit_codes.ANSWERED
