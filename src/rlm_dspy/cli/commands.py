"""``rlm-dspy ask``: its options; what it does is in ``answering``."""

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
from rlm_dspy.cli.interrupts import leave
from rlm_dspy.cli.ls import ls
from rlm_dspy.cli.models_command import models
from rlm_dspy.cli.options import CHOOSING, check_unicode, choosing, paths_argument, timeout_option, trust_option
from rlm_dspy.cli.runs import runs, trace
from rlm_dspy.cli.terminal import Terminal, tolerate_any_text
from rlm_dspy.errors import RLMError

ASK_LIMITS = ("max_iters", "max_calls", "max_tokens", "max_cost", "max_seconds")
ASK_SETTINGS = ("model", "sub_model", "fallback", "mode", "timeout", *ASK_LIMITS)


@click.command(short_help="Answer a question from files, with evidence.")
@click.argument("question")
@paths_argument
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--fallback", metavar="MODEL", help="Model to ask when a provider is down or out of quota.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "rlm", "direct", "retrieve"]),
    help="rlm explores by code, direct sends the whole text in one call, retrieve the passages that fit the question "
    "best; auto goes by size and model (default: auto).",
)
@click.option(
    "--out",
    metavar="FIELDS",
    default="answer: str",
    help="Typed outputs, e.g. 'answer: str, items: list[str]'.",
)
@click.option("--max-iters", type=int, metavar="N", help="Steps at most (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls at most (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens at most, prompts and replies.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars at most.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds at most.")
@choosing
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: answer, evidence, usage, …")
@click.option(
    "--program",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A program that optimize has compiled; it explores, whatever the size.",
)
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Save the run as JSON.")
@click.option("--index", is_flag=True, help="Build or refresh the search index of the files first, and keep it.")
@click.option("--dry-run", is_flag=True, help="Tell what would be read, asked and spent; ask nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@click.option("--log-json", is_flag=True, help="Log to stderr as JSON lines.")
@timeout_option
@trust_option
@click.pass_obj
def ask(terminal: Terminal, /, question: str, paths: tuple[str, ...], **options: Any) -> int:
    """Answer QUESTION from each PATH (a file, folder, glob, or - for stdin).

    The answer goes to stdout, followed by the quotes that prove it as path:line "quote";
    everything else goes to stderr. Without a PATH, stdin is read.

    \b
    Exit codes: 0 answered, 1 failed, 2 usage, 3 stopped by a limit (best answer
    printed), 4 no model or credentials, 5 refused by the provider, 6 inputs
    unreadable or empty, 7 nothing found that answers it, 130 interrupted
    (partial run kept).
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    if terminal.verbose and terminal.quiet:
        raise click.UsageError("-q and -v exclude each other.")
    for name, value in (("QUESTION", question), ("--model", options["model"]), ("--out", options["out"])):
        check_unicode(value or "", name)
    if not question.strip():
        raise click.UsageError("QUESTION is empty. Ask something, e.g. rlm-dspy ask 'What does it do?' PATH.")
    flags = {name: options.pop(name) for name in ASK_SETTINGS}

    from rlm_dspy.cli.ask import Request, answer

    return answer(Request(question=question, paths=paths, flags=flags, **_split(options)), terminal)


def _split(options: dict[str, Any]) -> dict[str, Any]:
    """Gather the options of ``choosing`` under one name."""
    choice = {name: options.pop(name) for name in CHOOSING}
    return {**options, "choice": choice}


BATCH_SETTINGS = (
    "model",
    "sub_model",
    "mode",
    "timeout",
    "max_iters",
    "max_calls",
    "max_tokens",
    "max_cost",
    "max_seconds",
)

BATCH_OPTIONS = ("answers", "resume", "concurrency", "fields", "as_json", "log_json")


@click.command(short_help="Answer many questions of the same files; a killed batch can be resumed.")
@click.argument("questions", metavar="QUESTIONS.jsonl")
@paths_argument
@click.option(
    "--out",
    "answers",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="ANSWERS.jsonl",
    help="Where the answers go, one JSON object a line.",
)
@click.option("--resume", is_flag=True, help="Ask only what ANSWERS.jsonl does not answer yet.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=4, metavar="N", help="Questions at once (4).")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars at most, for all questions together.")
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--mode", type=click.Choice(["auto", "rlm", "direct", "retrieve"]), help="As for ask (default: auto).")
@click.option(
    "--fields",
    metavar="FIELDS",
    default="answer: str",
    help="Typed outputs of each question, e.g. 'answer: str, items: list[str]'.",
)
@click.option("--max-iters", type=int, metavar="N", help="Steps at most, per question (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls at most, per question (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens at most, per question.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds at most, per question.")
@choosing
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@click.option("--log-json", is_flag=True, help="Log to stderr as JSON lines.")
@timeout_option
@trust_option
@click.pass_obj
def batch(terminal: Terminal, /, questions: str, paths: tuple[str, ...], **options: Any) -> int:
    """Answer the questions of QUESTIONS.jsonl from each PATH (a file, folder or glob).

    A line of QUESTIONS.jsonl is a JSON object with "question" and perhaps "id", or a JSON string; - reads stdin.
    A line of ANSWERS.jsonl has the id, the question, what ask --json prints, "ok" and "error". It is on the disk
    before the next question is begun. Questions that failed are asked again by --resume; answered ones are not,
    as long as the files, the model and the limits are the same.

    Ctrl-C finishes the questions in flight and begins no other; a second one stops at once.

    \b
    Exit codes: 0 all answered, 1 some failed, 2 usage, 3 stopped by --max-cost,
    4 no model or credentials, 5 refused by the provider, 6 inputs unreadable or
    empty, 130 interrupted (finished answers kept).
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    if terminal.verbose and terminal.quiet:
        raise click.UsageError("-q and -v exclude each other.")
    for name, value in (("--model", options["model"]), ("--fields", options["fields"])):
        check_unicode(value or "", name)
    flags = {name: options.pop(name) for name in BATCH_SETTINGS}
    own = {name: options.pop(name) for name in BATCH_OPTIONS}  # what is left chooses files

    from rlm_dspy.cli.batch import Request, answer_all

    return answer_all(Request(questions=questions, paths=paths, flags=flags, choice=options, **own), terminal)


@click.command(short_help="Ask question after question of the same files.")
@paths_argument
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--fallback", metavar="MODEL", help="Model to ask when a provider is down or out of quota.")
@click.option("--mode", type=click.Choice(["auto", "rlm", "direct", "retrieve"]), help="As for ask (default: auto).")
@click.option("--max-iters", type=int, metavar="N", help="Steps of a question at most (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls of a question at most (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens of a question at most.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars of a question at most.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds of a question at most.")
@choosing
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@timeout_option
@trust_option
@click.pass_obj
def chat(terminal: Terminal, /, paths: tuple[str, ...], **options: Any) -> int:
    """Ask question after question of each PATH (a file, folder or glob), one a line.

    The files are read once, the sandbox keeps what earlier questions left in it, and each question
    knows the earlier ones with their answers. Works in a terminal and over pipes.

    \b
    /add PATH…  read more files      /files   list them
    /cost       what was spent       /trace   show the last run step by step
    /quit       end (or Ctrl-D)      /help    this list
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    if terminal.verbose and terminal.quiet:
        raise click.UsageError("-q and -v exclude each other.")
    if not paths:
        raise click.UsageError("Missing PATH: name files or folders to talk about.")
    if "-" in paths:
        raise click.UsageError("PATH '-': questions are read from stdin, so files cannot be.")
    check_unicode(options["model"] or "", "--model")
    flags = {name: options.pop(name, None) for name in ASK_SETTINGS}
    as_json = options.pop("as_json")

    from rlm_dspy.cli.chat import Chat

    return Chat(terminal, paths, flags, options, as_json=as_json).run()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@trust_option
@click.pass_obj
def config(terminal: Terminal, /, as_json: bool) -> None:
    """Show each setting and where it comes from.

    The order is: flag, RLM_DSPY_* variable, .env, ./rlm-dspy.toml, the user's config.toml, default.
    Secrets are masked.
    """
    from rlm_dspy.cli import settings
    from rlm_dspy.report import journal, render

    loaded = settings.load(trust_project=terminal.trusts_project)
    terminal.redactor.learn(loaded.secrets())
    rows = loaded.shown()
    places = [{"path": str(path), "exists": path.is_file()} for path in settings.files()]
    if as_json:
        terminal.answer(journal.dumps({"settings": rows, "files": places}, terminal.redactor, indent=2))
        return
    lines = render.table(
        [[name, "-" if row["value"] is None else str(row["value"]), row["source"]] for name, row in rows.items()]
    )
    terminal.answer("\n".join(lines))
    for place in places:
        terminal.note(f"{'read' if place['exists'] else 'absent'}: {place['path']}")


@click.command(short_help="Check that everything works, and say how to fix what does not.")
@click.option("-m", "--model", metavar="MODEL", help="Model to check (default: the one that ask would use).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@trust_option
@click.pass_obj
def doctor(terminal: Terminal, /, model: str | None, as_json: bool) -> int:
    """Check versions, sandbox, cache, providers and the model, and say how to fix what does not work.

    The model is asked a word or two; on Ollama also a few short prompts at once, which show how many it serves in
    parallel, and one longer prompt that proves its window.

    \b
    Exit codes: 0 the model would work (the offline engine counts), 4 it would
    not, 1 something else is broken.
    """
    from rlm_dspy.cli import doctor

    return doctor.diagnose(terminal, model, as_json=as_json)


EVAL_SETTINGS = ("model", "sub_model", "timeout", "max_iters", "max_calls", "max_tokens", "max_cost", "max_seconds")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("eval", short_help="Score questions with known answers.")
@click.argument("data", type=FILE)
@click.option("-m", "--model", metavar="MODEL", help="Model that steers, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option(
    "--compare",
    metavar="SIDES",
    default="rlm",
    help="What to ask, by commas: rlm (this), direct (one call), dspy.RLM (default: rlm).",
)
@click.option("--program", type=FILE, metavar="FILE", help="A compiled program for the side rlm.")
@click.option("--metric", metavar="NAME", default="graded", help="graded (as each row says), exact, f1, set_f1, …")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N questions.")
@click.option("--threads", type=click.IntRange(1, 256), default=4, metavar="N", help="Questions at once (default: 4).")
@click.option("--max-iters", type=int, metavar="N", help="Steps of a question at most (default: 20).")
@click.option("--max-calls", type=int, metavar="N", help="Sub-model calls of a question at most (default: 50).")
@click.option("--max-tokens", type=int, metavar="N", help="Tokens of a question at most.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars of a question at most.")
@click.option("--max-seconds", type=float, metavar="S", help="Seconds of a question at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: figures of each side, and every row.")
@click.option("--html", type=FILE, metavar="FILE", help="Write a page with tables and plots.")
@click.option("--journal", type=FILE, metavar="FILE", help="Keep the rows here (default: in the cache folder).")
@click.option("--fresh", is_flag=True, help="Ask everything again, whatever the journal holds.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@timeout_option
@trust_option
@click.pass_obj
def evaluate(terminal: Terminal, /, data: Path, **options: Any) -> int:
    """Put the questions of DATA (JSONL: question, answer, context) to a model, and score the answers.

    Each finished question is kept; the same command goes on where it was interrupted, asks again only what
    failed, and never asks a slow question twice. Exit code 1 if every question failed.
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    flags = {name: options.pop(name) for name in EVAL_SETTINGS}

    from rlm_dspy.cli.eval import Request, run

    return run(Request(data=data, flags=flags, **options), terminal)


@click.command("make-questions", short_help="Make questions with answers from your own files.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-n", "--count", type=click.IntRange(1, 10_000), default=40, metavar="N", help="Questions (default: 40).")
@click.option("--seed", type=int, default=0, metavar="N", help="Another seed asks other questions (default: 0).")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("questions.jsonl"),
    metavar="FILE",
    help="Where to write them (default: questions.jsonl).",
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.pass_obj
def make_questions(terminal: Terminal, /, paths: tuple[str, ...], count: int, seed: int, out: Path, force: bool) -> int:
    """Make questions about PATH... (files, folders) whose answers are computed by code, not by a model.

    Counts, look-ups, first and last, definitions, joins, and some without an answer: a dataset for
    rlm-dspy eval and rlm-dspy optimize.
    """
    if out.exists() and not force:
        raise click.UsageError(f"{out} is there already. Name another --out, or give --force.")
    if out.resolve() in [Path(path).resolve() for path in paths]:
        raise click.UsageError(f"{out} cannot be asked about: the questions are written there. Name another --out.")
    if "-" in paths:
        raise click.UsageError("questions are about files that stay where they are: stdin cannot be asked about later.")

    from rlm_dspy.cli.reading import leaving_out
    from rlm_dspy.report import render
    from rlm_dspy.tuning import data, questions

    folder = out.resolve().parent
    context = {"files": [os.path.relpath(Path(path).resolve(), folder) for path in paths]}
    # The questions, and what optimize makes of them by default, are not among the files that they are about.
    if leave := [*leaving_out(out, paths), *(f"{made}-*/" for made in leaving_out(out.with_suffix(""), paths))]:
        context["exclude"] = leave
    made = questions.make(data.context(context, folder), count, seed=seed)
    rows = [question.row(number, context) for number, question in enumerate(made)]
    data.write(out, rows)
    kinds = sorted({row["task"] for row in rows})
    terminal.answer(f"{out}: {render.counted(len(rows), 'question')} ({', '.join(kinds)})")
    if len(rows) < count:
        terminal.note(f"only {len(rows)} of {count}: there is no more in these files that code can ask about.")
    return exit_codes.ANSWERED


OPTIMIZE_SETTINGS = ("model", "sub_model", "timeout", "max_iters")
PROGRAM_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Tune the prompts on questions with known answers.")
@click.argument("data", type=PROGRAM_FILE)
@click.option(
    "--optimizer",
    type=click.Choice(["gepa", "mipro", "bootstrap", "simba"]),
    default="gepa",
    help="dspy.GEPA, MIPROv2, BootstrapFewShotWithRandomSearch or SIMBA (default: gepa).",
)
@click.option("--max-calls", type=click.IntRange(min=1), required=True, metavar="N", help="LM calls in all, at most.")
@click.option("--max-cost", type=float, metavar="USD", help="US dollars in all, at most.")
@click.option("--val", type=PROGRAM_FILE, metavar="FILE", help="Questions to choose by (default: 30% of DATA).")
@click.option("--test", type=PROGRAM_FILE, metavar="FILE", help="Questions to judge by (default: 30% of DATA).")
@click.option("--limit", type=click.IntRange(min=3), metavar="N", help="Only the first N questions of each file.")
@click.option("-m", "--model", metavar="MODEL", help="Model that is tuned, e.g. groq/openai/gpt-oss-20b.")
@click.option("--sub-model", metavar="MODEL", help="Model that answers sub-calls (default: the same).")
@click.option("--prompt-model", metavar="MODEL", help="Model that proposes instructions (default: the same).")
@click.option("--metric", metavar="NAME", default="graded", help="graded (as each row says), exact, f1, set_f1, …")
@click.option("--max-iters", type=int, metavar="N", help="Steps of a question at most (default: 20).")
@click.option("--threads", type=click.IntRange(1, 256), default=4, metavar="N", help="Questions at once (default: 4).")
@click.option("--seed", type=int, default=0, metavar="N", help="For all that is drawn (default: 0).")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Folder (default: DATA-OPTIMIZER)."
)
@click.option("--resume", is_flag=True, help="Go on with what the folder holds; nothing is paid twice.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before spending.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("-v", "--verbose", count=True, help="Log to stderr, tracebacks too; -vv logs more.")
@timeout_option
@trust_option
@click.pass_obj
def optimize(terminal: Terminal, /, data: Path, **options: Any) -> int:
    """Tune the RLM's prompts on the questions of DATA (JSONL: question, answer, context).

    The score is measured before and after on questions that the optimizer never sees. The folder gets
    program.json (for ask --program, eval --program or RLM.load), report.md, report.json and log.txt.
    Exit code 3 if a cap ended it; the best program so far is kept.
    """
    terminal.verbose, terminal.quiet = options.pop("verbose"), options.pop("quiet")
    flags = {name: options.pop(name) for name in OPTIMIZE_SETTINGS}

    from rlm_dspy.cli.optimize import Request, run

    return run(Request(data=data, flags=flags, **options), terminal)


# What DSPy and LiteLLM make as they load stays; looking through it for garbage takes a sixth of the time.
COLLECT = (20_000, 50, 100)
# What the system says where a disk, a quota or a file is full, or may not be written.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
KEPT = "Make room and run it again: `rlm-dspy trace last` has the run of an ask, `batch --resume` goes on."


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="rlm-dspy %(version)s")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Ask questions of files far larger than a model's window.

    The model explores them by writing Python in a sandbox; the answer comes with quotes that were checked
    against the files.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (ask, batch, chat, ls, models, doctor, config, evaluate, runs, trace, make_questions, optimize):
    app.add_command(_command)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; without ``args`` it is the process's own command, and ends it."""
    if args is not None:
        return _run(args)
    gc.set_threshold(*COLLECT)
    return leave(_run(None))


def _run(args: Sequence[str] | None) -> int:
    terminal = Terminal()
    sys.excepthook = terminal.excepthook
    tolerate_any_text()
    try:
        result = app.main(args=args, prog_name="rlm-dspy", standalone_mode=False, obj=terminal)
    except click.Abort:
        terminal.error("interrupted.")
        return exit_codes.INTERRUPTED
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "rlm-dspy"
        terminal.error(f"{error.format_message()} Try '{path} --help'.", where=path)
        return exit_codes.USAGE
    except RLMError as error:
        terminal.crash(error)
        terminal.error(str(error))
        return exit_codes.code(error)
    except OSError as error:
        if error.errno not in FULL:
            raise
        terminal.crash(error)
        terminal.error(f"{error.filename or 'stdout or a file'} cannot be written: {error.strerror}. {KEPT}")
        return exit_codes.FAILED
    return result if isinstance(result, int) else exit_codes.ANSWERED
