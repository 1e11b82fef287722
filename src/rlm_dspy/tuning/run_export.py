"""Saved runs as training data: chats for supervised fine-tuning, steps with rewards, and rows of a dataset.

A row is made of what the model was shown and wrote. The files of a question are named by their SHA-256 and size; the
conversation shows of them what the model saw: the view of the inputs, and what its cells printed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dspy

from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import RLMError
from rlm_dspy.metering import PART
from rlm_dspy.report.resumed_run import reply_of_span
from rlm_dspy.report.run_store import Mark, RunStore, StoredRun
from rlm_dspy.run import Message, Run, Span
from rlm_dspy.spans import MAX_MESSAGE_CHARS
from rlm_dspy.tuning.metrics import Metric, exact

ExportFormat = Literal["sft", "rl", "dspy"]
ROLES = ("system", "user", "assistant")
OPTIONS_OF_DATASETS = frozenset({"exclude"})  # file options that a dataset can express


class SkippedRunError(RLMError):
    """A run cannot become a row; the message is the reason."""


@dataclass(frozen=True)
class ExpectedAnswer:
    """The right answer to a question about a context; ``sha256`` is that of the context's files, None if not known."""

    value: Any
    sha256: str | None


@dataclass(frozen=True)
class ExpectedAnswers:
    """The right answers by question; one question may be asked about several contexts."""

    by_question: Mapping[str, Sequence[ExpectedAnswer]]

    def answer_of(self, run: Run) -> ExpectedAnswer | None:
        """Return the answer for a run, None if its question has none.

        Raises:
            SkippedRunError: its question has several that differ, and none names the files of the run.
        """
        answers = self.by_question.get(question_of(run), ())
        own = [answer for answer in answers if answer.sha256 and answer.sha256 == context_facts(run)["sha256"]]
        fitting = own or answers
        if any(answer.value != fitting[0].value for answer in fitting):
            raise SkippedRunError("its question has several answers, which differ by files: add their sha256")
        return fitting[0] if fitting else None


@dataclass
class RunExport:
    """Makes rows of runs, and counts the runs that it leaves out by their reason.

    Args:
        form: "sft" for one chat per run, "rl" for one row per step, "dspy" for one dataset row per run.
        metric: scores a run's answer against the expected one.
        answers: the expected answers; a run without one is judged by its mark.
        statuses: only runs that ended so: "submitted", "extracted", "stopped".
        model: only runs of this model; "" for any.
        marked: only runs that a person marked "right" or "wrong"; "" for any.
        min_score: only runs with at least this score, from 0 to 1.
    """

    form: ExportFormat
    metric: Metric = exact
    answers: ExpectedAnswers = field(default_factory=lambda: ExpectedAnswers({}))
    statuses: frozenset[str] = frozenset({"submitted"})
    model: str = ""
    marked: str = ""
    min_score: float | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    def rows(self, store: RunStore) -> Iterator[dict[str, Any]]:
        """Yield the rows of a folder of runs, oldest first."""
        for stored in reversed(list(store.runs())):
            try:
                mark = store.mark_of(stored.run.id)
            except RLMError:
                self.skipped["its mark is damaged; mark it again"] += 1
                continue
            if not self._is_chosen(stored.run, mark):
                continue
            try:
                yield from self._rows_of(stored, mark)
            except SkippedRunError as error:
                self.skipped[str(error)] += 1
        if store.damaged:
            self.skipped["the file is not a readable run"] += len(store.damaged)

    def _is_chosen(self, run: Run, mark: Mark | None) -> bool:
        """Return whether a run passes the filters; those that it leaves out are not problems and are not counted."""
        if run.status not in self.statuses or (self.model and run.model != self.model):
            return False
        return not self.marked or (mark is not None and mark.mark == self.marked)

    def _rows_of(self, stored: StoredRun, mark: Mark | None) -> list[dict[str, Any]]:
        run = stored.run
        if self.form != "rl" and not self.marked and mark is not None and mark.mark == "wrong":
            raise SkippedRunError("a person marked it wrong, and --marked wrong was not given")
        score = self.score_of(run, mark)
        if self.min_score is not None:
            if score is None:
                raise SkippedRunError("no expected answer and no mark to score it by")
            if score < self.min_score:
                raise SkippedRunError("its score is below --min-score")
        facts: dict[str, Any] = {"run": run.id, "model": run.model, "score": score, "context": context_facts(run)}
        facts["mark"] = mark.mark if mark else None  # in every row, since JSON loaders expect the same fields
        if self.form == "dspy":
            row = dataset_row(run, facts)
            expected = self.answers.answer_of(run)
            return [row if expected is None else row | {"answer": expected.value}]
        if self.form == "sft":
            return [{"messages": chat_messages(run), **facts}]
        if score is None:
            raise SkippedRunError("no expected answer and no mark to score it by")
        return list(step_rows(run, facts, score))

    def score_of(self, run: Run, mark: Mark | None) -> float | None:
        """Return the score of a run: by its expected answer, else by its mark, else None."""
        if expected := self.answers.answer_of(run):
            example = dspy.Example(question=question_of(run), **{self.metric.field: expected.value})
            return self.metric.score(example.with_inputs("question"), dspy.Prediction(**run.outputs))
        if mark is not None:
            return float(mark.mark == "right")
        return None


def question_of(run: Run) -> str:
    """Return the question of a run, in full if its record has it; recorded inputs may be shortened."""
    return str(run.asked.get("question") or run.inputs.get("question", ""))


def context_facts(run: Run) -> dict[str, Any]:
    """Return the SHA-256 and the size in characters of a run's files, as far as its record has them."""
    return {"sha256": run.asked.get("texts"), "chars": run.asked.get("chars")}


def chat_messages(run: Run) -> list[dict[str, str]]:
    """Return the conversation of a run: what the model was shown before its last step, and its last reply.

    Raises:
        SkippedRunError: the record does not hold the conversation, or it cannot be a text.
    """
    last = _step_calls(run)[-1]
    return [*_prompt_messages(run, last), {"role": "assistant", "content": reply_of_span(last).text}]


def step_rows(run: Run, facts: Mapping[str, Any], reward: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each call of the root: its prompt, its completion and the reward, that of the run's answer."""
    calls = _step_calls(run)
    for number, call in enumerate(calls, 1):
        completion = [{"role": "assistant", "content": reply_of_span(call).text}]
        row = {"prompt": _prompt_messages(run, call), "completion": completion, "reward": reward}
        yield {**row, "step": call.step, "is_last": number == len(calls), **facts}


def dataset_row(run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row that ``rlm_dspy.data.load`` reads: the question, the answer, and where its files are.

    Raises:
        SkippedRunError: the record does not say which files these were, or a dataset cannot name them.
    """
    asked = run.asked
    if not asked:
        raise SkippedRunError("its record does not say which files it read")
    if "-" in asked["paths"]:
        raise SkippedRunError("it read stdin, which cannot be read again")
    choice = asked["choice"]
    others = [name for name, value in choice.items() if value and name not in OPTIONS_OF_DATASETS]
    if others:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise SkippedRunError(f"it read its files with {named}, which a dataset does not have")
    if not question_of(run) or not run.outputs:
        raise SkippedRunError("it has no question or no answer")
    outputs = {name: value for name, value in run.outputs.items() if name != "evidence"}
    answer = outputs.pop("answer", None)
    if answer is None:
        answer = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    files = [path if "://" in path else os.path.join(asked["folder"], path) for path in asked["paths"]]
    context = {"files": files, "exclude": list(choice.get("exclude") or ()), **context_facts(run)}
    row = {"id": run.id, "question": question_of(run), "answer": answer, "context": context}
    return {**{name: value for name, value in facts.items() if name != "context"}, **outputs, **row}


def _step_calls(run: Run) -> list[Span]:
    """Return the calls that a run made to its main LM, in order.

    Raises:
        SkippedRunError: there are none in the record.
    """
    if run.content != "full":
        raise SkippedRunError(f"its record keeps no whole texts (content={run.content!r})")
    steps = {span.id for span in run.spans if span.kind == "step" and span.name == "step" and not span.depth}
    calls = [span for span in run.spans if span.kind == "lm" and span.parent in steps]
    finished = [span for span in calls if span.seconds is not None and span.error is None]
    if not finished and not run.steps:
        raise SkippedRunError("it was answered in one call, whose prompt holds the files")
    if not finished:
        raise SkippedRunError("its record has no calls of the model")
    return finished


def _prompt_messages(run: Run, call: Span) -> list[dict[str, str]]:
    prompt = run.prompt_of(call)
    return [_checked_message(message) for message in prompt]


def _checked_message(message: Message) -> dict[str, str]:
    if message.role not in ROLES:
        raise SkippedRunError(f"its prompt has a message of the role {message.role!r}")
    if PART in message.content:
        raise SkippedRunError("its prompt has images")
    if len(message.content) > MAX_MESSAGE_CHARS:
        raise SkippedRunError("a message of its prompt was cut in the record")
    return {"role": message.role, "content": message.content}


def expected_answers(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> ExpectedAnswers:
    """Return the answers of a dataset's rows.

    Raises:
        RLMError: a row has no question or no answer.
    """
    found: dict[str, list[ExpectedAnswer]] = {}
    for number, row in rows:
        if not isinstance(row.get("question"), str) or "answer" not in row:
            raise RLMError(f"row {number} of the answers has no question or no answer")
        context = row.get("context")
        sha256 = context.get("sha256") if isinstance(context, Mapping) else None
        found.setdefault(row["question"], []).append(ExpectedAnswer(row["answer"], sha256))
    return ExpectedAnswers(found)


def note_skipped(export: RunExport, say: Callable[[str], None]) -> None:
    """Say how many runs were left out, a line for each reason."""
    for reason, count in export.skipped.most_common():
        say(f"{counted_noun(count, 'run')} skipped: {reason}.")
