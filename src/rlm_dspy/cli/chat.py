"""The command ``chat``: questions about one corpus, with one sandbox and the earlier answers."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import dspy

from rlm_dspy import safe_files
from rlm_dspy.cli import conversation, exit_codes, input_paths, logs, model_choice, out_option, settings, trace
from rlm_dspy.cli.ask_request import AskRequest
from rlm_dspy.cli.conversation import AnsweredQuestion, Conversation, ConversationFile
from rlm_dspy.cli.line_editing import line_editing
from rlm_dspy.cli.own_outputs import remember_output
from rlm_dspy.cli.question import Asking
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.corpus import Corpus
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import RLMError
from rlm_dspy.report import json_output, render
from rlm_dspy.rlm.module import RLM
from rlm_dspy.rlm.talk import Talk
from rlm_dspy.run import Run, Usage

MIN_INDEXED_CHARS = 20_000_000  # characters from which a conversation builds an index
MAX_EARLIER_QUESTIONS = 40  # in a prompt; beyond it only the newest half, so that prompts keep a common beginning

HELP = """/add PATH…  read more files
/files      list the files
/cost       show calls, tokens and cost so far
/trace      show the last run step by step
/save FILE  write the conversation as Markdown
/quit       quit (or Ctrl-D)
/help       show this list"""


COMMANDS = tuple(line.split()[0] for line in HELP.splitlines())


def _without_quotes(name: str) -> str:
    """Return a file name without the quotes around it; one without any may have spaces."""
    if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'":
        return name[1:-1]
    return name


def _absolute_path(path: str) -> str:
    if "://" in path:
        return path
    return os.path.abspath(path)


class Discussion:
    """The earlier turns of a conversation, and the session in which its questions are explored."""

    def __init__(self, turns: Sequence[AnsweredQuestion]) -> None:
        self.history = newest_turns([{"question": turn.question, "answer": turn.answer} for turn in turns])
        self._talk: Talk | None = None

    def explore(self, rlm: RLM, inputs: Mapping[str, Any]) -> Any:
        """Answer a question in the session, by the program that was made for it."""
        if self._talk is None:
            self._talk = rlm.session()
        self._talk.rlm = rlm
        return self._talk(**inputs)

    def add_turn(self, history: dspy.History) -> None:
        """Keep the history that a prediction returned, with only the quotes and sources of its evidence."""
        *before, last = history.messages
        quotes = [{key: item.get(key) for key in ("quote", "source")} for item in last.get(out_option.EVIDENCE) or ()]
        self.history = newest_turns([*before, {**last, out_option.EVIDENCE: quotes}])

    def end(self) -> None:
        """End the session."""
        if self._talk is not None:
            self._talk.close()


def newest_turns(messages: list[dict[str, Any]]) -> dspy.History:
    """Return a history of the newest turns, cut rarely, so that prompts keep their beginning."""
    half = MAX_EARLIER_QUESTIONS // 2
    if len(messages) > MAX_EARLIER_QUESTIONS:
        first = max(0, len(messages) - half) // half * half
    else:
        first = 0
    return dspy.History(messages=messages[first:])


class ChatTurn(Asking):
    """One question of a conversation."""

    def __init__(
        self,
        request: AskRequest,
        terminal: Terminal,
        values: settings.Settings,
        corpus: Corpus,
        discussion: Discussion,
    ) -> None:
        super().__init__(request, terminal, values, corpus)
        self._discussion = discussion
        earlier = dspy.InputField(desc="earlier questions and answers, oldest first")
        self.signature = self.signature.append("history", earlier, type_=dspy.History)

    def asked_facts(self, chosen: model_choice.ChosenModels) -> None:
        """Record nothing to resume: a question of a conversation depends on the earlier ones."""

    def more_inputs(self) -> dict[str, Any]:
        """Return the conversation so far."""
        return {"history": self._discussion.history}

    def call_rlm(self, rlm: RLM, inputs: Mapping[str, Any]) -> Any:
        """Explore in the session of the conversation."""
        return self._discussion.explore(rlm, inputs)

    def keep_prediction(self, prediction: Any) -> None:
        """Add the answer to the conversation."""
        self._discussion.add_turn(prediction.next_history)


def _given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave."""
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ()}


class Chat:
    """Reads and answers lines until the input ends."""

    def __init__(
        self,
        terminal: Terminal,
        paths: tuple[str, ...],
        flags: Mapping[str, Any],
        choice: Mapping[str, Any],
        *,
        as_json: bool,
        events: bool,
        is_continued: bool,
    ) -> None:
        self._terminal = terminal
        self._json = as_json
        self._shows_events = events
        loaded = settings.load_for(terminal, flags)
        logs.configure(terminal)
        folder = loaded.settings.home / "chats"
        if is_continued:
            self._conversation, self._file = conversation.load_newest(folder)
        else:
            self._conversation, self._file = Conversation(), ConversationFile(folder)
        flags = {**self._conversation.flags, **_given_options(flags)}
        loaded = settings.load_for(terminal, flags)
        self._values = loaded.settings
        self._conversation.flags = flags
        self._choice = {**choice, **_given_options(choice)}
        if not paths:
            self._choice = {**choice, **self._conversation.choice, **_given_options(choice)}
        paths = paths or self._conversation.paths
        self._conversation.paths = tuple(map(_absolute_path, paths))
        self._conversation.choice = _given_options(self._choice)
        self._corpus = input_paths.read(paths, self._choice)
        input_paths.note_unused_excludes(self._corpus, self._choice, terminal)
        self._note_other_files()
        settings.export_for(loaded, terminal)
        self._spent = Usage()
        self._last: Run | None = None
        self._discussion = Discussion(self._conversation.turns)
        self._saved: set[Path] = set()  # files that /save wrote, which it may replace

    def _note_other_files(self) -> None:
        """Say so if a continued conversation is not about the same files any more."""
        files = conversation.digest_of(self._corpus.names)
        if self._conversation.files not in ("", files):
            self._terminal.note("The files are not the same as in the earlier questions; /files lists them.")
        self._conversation.files = files

    def run(self) -> int:
        """Answer each line, and return 0 if the last question was answered, else its exit code."""
        chosen = model_choice.choose_and_note(self._values, self._terminal)
        self._terminal.note(f"{self._corpus!r}; /help lists the commands.")
        if self._conversation.turns:
            many = counted_noun(len(self._conversation.turns), "earlier question")
            self._terminal.note(f"Going on with {many}; the last was: {self._conversation.turns[-1].question}")
            kept = [f"--{name.replace('_', '-')}" for name in (*self._conversation.flags, *self._conversation.choice)]
            if kept:
                self._terminal.note(f"Options in use: {', '.join(kept)}.")
        self._build_index()
        with line_editing(self._values.home / "chat_history", COMMANDS):
            return self._answer_lines(chosen)

    def _answer_lines(self, chosen: model_choice.ChosenModels) -> int:
        code = exit_codes.ANSWERED
        try:
            for line in self._input_lines():
                if line == "/quit":
                    break
                if line.startswith("/"):
                    self._run_command(line)
                else:
                    code = self._answer_question(line, chosen)
        finally:
            self._discussion.end()
        return code

    def _build_index(self) -> None:
        """Build the search index of a large corpus in the background; runs use it once it is complete."""
        if self._corpus.chars >= MIN_INDEXED_CHARS:
            threading.Thread(target=self._corpus.index.build, daemon=True, name="rlm-index").start()

    def _input_lines(self) -> Iterator[str]:
        """Yield lines from the terminal or a pipe; Ctrl-C at the prompt drops the line."""
        is_terminal = sys.stdin is not None and sys.stdin.isatty()
        if reconfigure := getattr(sys.stdin, "reconfigure", None):
            reconfigure(errors="surrogateescape")  # so that invalid text only costs its line
        while sys.stdin is not None:
            try:
                line = input("> ") if is_terminal else sys.stdin.readline()
            except EOFError:
                self._terminal.note("")
                return
            except KeyboardInterrupt:
                self._terminal.note("")
                continue
            if not line and not is_terminal:
                return
            try:
                line.encode()
            except UnicodeEncodeError:
                self._terminal.error("that line is not valid UTF-8; type it again.")
                continue
            if line.strip():
                yield line.strip()

    def _answer_question(self, question: str, chosen: model_choice.ChosenModels) -> int:
        request = AskRequest(question, (), {}, self._choice, as_json=self._json, events=self._shows_events)
        turn = ChatTurn(request, self._terminal, self._values, self._corpus, self._discussion)
        try:
            code = turn.answer(chosen)
        except KeyboardInterrupt as error:
            self._add_usage(getattr(error, "run", None))
            self._terminal.error("interrupted; ask another question, or /quit.")
            return self._print_failure(question, "interrupted", exit_codes.INTERRUPTED)
        except RLMError as error:
            self._add_usage(error.run)
            self._terminal.crash(error)
            self._terminal.error(str(error))
            return self._print_failure(question, str(error), exit_codes.code(error))
        self._add_usage(turn.result)
        if turn.result is not None:
            self._add_turn(question, turn.result)
        return code

    def _print_failure(self, question: str, error: str, code: int) -> int:
        """Print the line of a question without an answer, if lines are JSON, and return its exit code."""
        if self._json:
            self._terminal.answer_json({"question": question, "error": error, "exit_code": code}, indent=None)
        return code

    def _add_turn(self, question: str, run: Run) -> None:
        """Add an answered question to the conversation, and save that for ``chat -c``."""
        rows = [json_output.evidence_row(item, self._corpus) for item in run.evidence]
        lines = tuple(render.evidence_line(row) for row in rows if row["verified"])
        answer = str(run.outputs.get("answer", ""))
        self._conversation.turns.append(AnsweredQuestion(question=question, answer=answer, evidence=lines))
        self._save_for_later()

    def _save_for_later(self) -> None:
        """Save the conversation for ``chat -c``."""
        if settings.has_told_unsaved(self._values.home):
            return
        try:
            other = self._file.save(self._conversation, self._terminal.redactor)
        except OSError as error:
            self._terminal.note(f"warning: the conversation could not be saved in {self._file.path}: {error.strerror}")
            return
        if other:
            self._terminal.note(f"Another chat has continued this conversation too; its questions are kept in {other}.")

    def _add_usage(self, run: Run | None) -> None:
        if run is not None:
            self._last = run
            self._spent += run.usage

    def _run_command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        commands = {
            "/add": self._add_files,
            "/files": self._list_files,
            "/cost": self._show_cost,
            "/trace": self._show_trace,
            "/save": self._save_conversation,
        }
        if name in commands:
            commands[name](rest)
        elif name == "/help":
            self._show(HELP)
        else:
            self._terminal.error(f"unknown command {name}; /help lists the commands.")

    def _add_files(self, rest: str) -> None:
        try:
            paths = shlex.split(rest)
            if not paths or "-" in paths:
                raise click.UsageError("/add needs paths: /add report.pdf notes/")
            more = input_paths.read(paths, self._choice)
        except (RLMError, click.UsageError, ValueError) as error:
            self._terminal.error(str(error))
            return
        self._corpus = self._corpus.add(more)
        self._conversation.files = conversation.digest_of(self._corpus.names)
        self._conversation.paths += tuple(map(_absolute_path, paths))
        self._save_for_later()
        self._build_index()
        self._show(f"{counted_noun(len(more), 'file')} added: {self._corpus!r}")

    def _save_conversation(self, rest: str) -> None:
        if not rest.strip():
            self._terminal.error("/save needs a file: /save answers.md")
            return
        if not self._conversation.turns:
            self._terminal.error("there is nothing to save yet: no question has been answered.")
            return
        path = Path(os.path.expanduser(_without_quotes(rest.strip())))
        try:
            if path.exists() and path.resolve() not in self._saved:
                raise FileExistsError(errno.EEXIST, "it exists already; choose another name")
            text = self._terminal.redactor.text(conversation.as_markdown(self._conversation.turns))
            safe_files.replace_file(path, [text.encode("utf-8", "replace")])
            self._saved.add(path.resolve())
            remember_output(path)
        except OSError as error:
            self._terminal.error(f"{path} cannot be written: {error.strerror}")
            return
        many = counted_noun(len(self._conversation.turns), "question")
        self._show(f"{many} saved in {path}")

    def _list_files(self, rest: str) -> None:
        documents = self._corpus.documents
        self._show("\n".join(f"{document.name}  ({counted_noun(document.lines, 'line')})" for document in documents))

    def _show(self, text: str) -> None:
        """Print what a command shows; on stderr, if stdout is for programs."""
        if self._json or self._shows_events:
            self._terminal.note(text, always=True)
        else:
            self._terminal.answer(text)

    def _show_cost(self, rest: str) -> None:
        used = self._spent
        calls, tokens = counted_noun(used.calls, "call"), counted_noun(used.total_tokens, "token")
        self._show(f"{calls}, {tokens}, {render.cost_text(used.cost)}")

    def _show_trace(self, rest: str) -> None:
        if self._last is None:
            self._terminal.error("no question has been asked yet.")
        elif self._json or self._shows_events:
            self._terminal.error(f"/trace is for reading; `rlm-dspy trace {self._last.id} --json` prints the run.")
        else:
            trace.print_tree(self._terminal, self._last)
