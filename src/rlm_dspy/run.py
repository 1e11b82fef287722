"""The record of a run: frozen values that can be saved as JSON and loaded again.

A step records exactly what the model was shown; contexts appear only as short renderings.
"""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlm_dspy.counting import counted_noun
from rlm_dspy.redact import Redactor

MAX_UNREAD_FILES = 1_000  # unread files named in a record

Status = Literal["submitted", "extracted", "stopped"]
EventKind = Literal["probe", "step", "code", "output", "sub_call", "wait", "text", "final"]
SubCallKind = Literal["plain", "typed", "recursive"]
SpanKind = Literal["run", "step", "lm", "cell", "sub_call", "wait"]
Content = Literal["full", "short", "none"]
UNFINISHED = "unfinished"  # ``stopped_by`` of a record that was written at the start of its run
INTERRUPTED = "interrupted"  # ``stopped_by`` of a run that Ctrl-C ended
RECORD_FORMAT = 3  # of runs as JSON; 1 had no spans, 2 did not say what can be replayed


def replace_surrogates(value: Any) -> Any:
    """Return a value whose texts can be encoded as UTF-8: lone surrogates, which models do write, become `?`."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-8", "replace").decode()
    if type(value) in (list, tuple):
        return type(value)(map(replace_surrogates, value))
    if type(value) is dict:
        return {replace_surrogates(k): replace_surrogates(v) for k, v in value.items()}
    return value


def stopping_facts(error: BaseException) -> dict[str, str]:
    """Return what a record says of the error that ended its run: its text, and the limit or class of error."""
    if isinstance(error, KeyboardInterrupt):
        return {"error": "interrupted by Ctrl-C", "stopped_by": INTERRUPTED}
    kind = type(error).__name__
    text = f"{kind}: {error}" if str(error) else kind
    return {"error": text, "stopped_by": getattr(error, "limit", None) or kind}


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _make_encodable(cls, fields: Any) -> Any:
        return replace_surrogates(fields)


class Usage(_Value):
    """Calls, tokens and US dollars; ``cost`` is None as soon as any part is unknown (never 0 for unknown).

    ``retries`` counts attempts after the first; ``waited_seconds`` is time spent waiting for a provider's limits;
    ``estimated_calls`` counts calls without reported usage, whose tokens are estimates; ``replayed_calls`` those that a
    record answered, whose tokens and cost are what was paid for them before the run was resumed; ``cached_calls`` those
    that DSPy's cache answered, which have no tokens and no cost.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float | None = 0.0
    retries: int = 0
    waited_seconds: float = 0.0
    estimated_calls: int = 0
    replayed_calls: int = 0
    cached_calls: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        unknown = self.cost is None or other.cost is None
        return Usage.model_construct(  # sums of valid numbers are valid
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cost=None if unknown else (self.cost or 0.0) + (other.cost or 0.0),
            retries=self.retries + other.retries,
            waited_seconds=self.waited_seconds + other.waited_seconds,
            estimated_calls=self.estimated_calls + other.estimated_calls,
            replayed_calls=self.replayed_calls + other.replayed_calls,
            cached_calls=self.cached_calls + other.cached_calls,
        )


class SubCall(_Value):
    """One call made by REPL code; ``prompt`` and ``output`` are shortened renderings."""

    kind: SubCallKind
    prompt: str
    output: str = ""
    error: str | None = None
    model: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0
    run: Run | None = None
    span: int | None = None


class Step(_Value):
    """One turn: the model's reply and the observation, exactly as shown."""

    index: int
    reasoning: str = ""
    code: str = ""
    output: str = ""
    error: str | None = None
    timed_out: bool = False
    submitted: bool = False
    seconds: float = 0.0
    usage: Usage = Usage()
    sub_calls: tuple[SubCall, ...] = ()
    span: int | None = None

    @property
    def total_usage(self) -> Usage:
        """The usage of the step and of its sub-calls."""
        return sum((call.usage for call in self.sub_calls), self.usage)


class Message(_Value):
    """A message of a prompt."""

    role: str
    content: str


class Span(_Value):
    """A timed part of a run: the run itself, a step, a call of a model, a cell, a sub-call or a wait.

    The spans of a tree of runs form a tree by ``parent``. ``input`` and ``output`` are the code of a cell and its raw
    output, the prompt of a sub-call and its answer, or the reply of a model; a step has its texts in the run's steps.
    A prompt is kept once: its first ``same_messages`` are those of the call ``previous`` (see :meth:`Run.prompt_of`).

    Attributes:
        id: unique in its process.
        name: the signature of a run, the model of a call, the kind of a sub-call, the provider that a wait is for.
        run: the id of its run.
        started: Unix time in seconds.
        seconds: None if it did not end.
        usage: of a call of a model, or of a wait.
        finish: why a reply ended: "stop", "length", "content_filter".
        thinking: the characters at the start of a reply that are the model's hidden thinking.
    """

    id: int
    kind: SpanKind
    started: float
    parent: int | None = None
    name: str = ""
    run: str = ""
    step: int = 0
    depth: int = 0
    seconds: float | None = None
    usage: Usage | None = None
    finish: str = ""
    error: str | None = None
    input: str = ""
    output: str = ""
    thinking: int = 0
    previous: int | None = None
    same_messages: int = 0
    messages: tuple[Message, ...] = ()


class Event(_Value):
    """An event in a run, for watchers.

    ``usage`` and ``sub_calls`` are the totals of the tree so far, and ``run_id`` is the id of its root. ``text``
    depends on the kind: the code, the output, a shortened sub-call prompt, the final status, or the provider of a
    ``wait`` of ``seconds``. An ``output`` also has the ``error``, ``seconds`` and usage of its step; ``code`` and
    ``output`` have the model's ``reasoning``. A ``text`` has a piece of the reply that answers in one call or extracts
    the answer, as it arrives, and no text when that reply begins; only watchers with an attribute ``wants_text`` get
    them.
    """

    kind: EventKind
    step: int
    max_steps: int
    depth: int = 0
    text: str = ""
    sub_calls: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    reasoning: str = ""
    error: str | None = None
    step_usage: Usage = Usage()
    run_id: str = ""


class Run(_Value):
    """The full record of one call of an RLM.

    ``status`` is how it ended: ``submitted`` by the model, ``extracted`` from the trajectory because ``stopped_by`` (a
    limit) ended it first, or ``stopped`` without an answer (the run is then attached to an exception). ``spans`` holds
    the timed parts of the whole tree, in the order of their start; the run of a child has none of its own. ``content``
    is how much of each text it keeps. ``asked`` is what ``rlm-dspy ask`` was given: paths, options, the digest of the
    files.
    """

    format: int = RECORD_FORMAT
    id: str
    started: float = 0.0
    status: Status
    stopped_by: str | None = None
    error: str | None = None
    content: Content = "full"
    signature: str = ""
    model: str = ""
    sub_model: str = ""
    depth: int = 0
    asked: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    outputs: dict[str, Any] = Field(default_factory=dict)
    probe: str = ""
    steps: tuple[Step, ...] = ()
    usage: Usage = Usage()
    usage_by_model: dict[str, Usage] = Field(default_factory=dict)
    sub_calls: int = 0
    seconds: float = 0.0
    evidence: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()

    def prompt_of(self, span: Span) -> tuple[Message, ...]:
        """Return the whole prompt of a call of a model."""
        by_id = {one.id: one for one in self.spans}
        prompt, same = span.messages, span.same_messages
        while same and span.previous is not None:
            span = by_id[span.previous]
            if same > span.same_messages:
                prompt = (*span.messages[: same - span.same_messages], *prompt)
                same = span.same_messages
        return prompt

    @property
    def trajectory(self) -> list[dict[str, str]]:
        """The steps as ``{reasoning, code, output}``, the same form as in ``dspy.RLM``."""
        return trajectory_of(self.steps)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """Yield the fields of the one-line repr: how the run ended and what it used."""
        yield "status", self.status
        if self.stopped_by is not None:
            yield "stopped_by", self.stopped_by
        if self.error is not None:
            yield "error", one_line(self.error)
        yield from self._summary_figures()
        if self.warnings:
            yield "warnings", len(self.warnings)
        yield "model", self.model

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: how the run ended, what it used, its outputs, and its steps to unfold."""
        figures = {name: f"{value:,}" for name, value in self._summary_figures() if value is not None}
        rows = [(name, figures.get(name, value)) for name, value in self.__repr_args__() if name != "warnings"]
        rows += [("warning", text) for text in self.warnings[:3]]
        rows += self.outputs.items()
        left = len(self.steps) - MAX_STEPS_IN_NOTEBOOK
        if left > 0:
            more = f"<p>… and {counted_noun(left, 'more step')}</p>"
        else:
            more = ""
        return html_table(rows) + "".join(map(html_step, self.steps[:MAX_STEPS_IN_NOTEBOOK])) + more

    def _summary_figures(self) -> Iterator[tuple[str, int | float | None]]:
        yield "steps", len(self.steps)
        yield "sub_calls", self.sub_calls
        yield "calls", self.usage.calls
        yield "tokens", self.usage.total_tokens
        yield "cost", self.usage.cost
        yield "seconds", round(self.seconds, 1)


def add_usage(by_model: dict[str, Usage], more: Mapping[str, Usage]) -> None:
    """Add usage by model to usage by model, in place."""
    for model, usage in more.items():
        by_model[model] = by_model.get(model, Usage()) + usage


def trajectory_of(steps: Iterable[Step]) -> list[dict[str, str]]:
    """Return steps as ``{reasoning, code, output}``, the same form as in ``dspy.RLM``."""
    return [{"reasoning": step.reasoning, "code": step.code, "output": step.output} for step in steps]


def unread(values: Mapping[str, Any]) -> tuple[str, ...]:
    """List the files of input corpora that were skipped, or read only in part or by guessing, with the reason."""
    problems: list[Any] = []
    skipped: list[Any] = []
    for value in values.values():
        problems += [file for file in getattr(value, "problems", ()) if not file.unread]
        skipped += getattr(value, "skipped", ())
    files = [*problems, *skipped]
    reasons = tuple(f"{file.name}: {file.reason}" for file in files[:MAX_UNREAD_FILES])
    if len(files) <= MAX_UNREAD_FILES:
        return reasons
    return (*reasons, f"… and {len(files) - MAX_UNREAD_FILES:,} more")


SubCall.model_rebuild()


def _shortened_evidence(row: Mapping[str, Any], content: Content) -> dict[str, Any]:
    quote, around = cut_content(row.get("quote"), content), cut_content(row.get("around"), content)
    return {**row, "quote": quote, "around": around}


Kept = TypeVar("Kept", bound=_Value)


def shortened(record: Kept, content: Content) -> Kept:
    """Return a run, step or sub-call with the texts that ``content`` allows: all, the beginning of each, or none."""
    if content == "full":
        return record
    changed: dict[str, Any] = {}
    for name in CONTENT_FIELDS & type(record).model_fields.keys():
        value = getattr(record, name)
        if isinstance(value, dict):
            changed[name] = {key: cut_content(item, content) for key, item in value.items()}
        elif name in {"steps", "sub_calls"} and isinstance(value, tuple):
            changed[name] = tuple(shortened(item, content) for item in value)
        elif name == "evidence":
            changed[name] = tuple(_shortened_evidence(row, content) for row in value)
        elif name == "warnings":
            changed[name] = tuple(cut_content(text, content) for text in value)
        elif name == "run":
            changed[name] = value and shortened(value, content)
        else:
            changed[name] = cut_content(value, content)
    return record.model_copy(update=changed)


def cut_content(value: Any, content: Content) -> Any:
    """Return a value of a record as ``content`` allows it."""
    if content == "full" or value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else str(value)
    if content == "none":
        if text:
            return f"({len(text):,} characters)"
        return ""
    if len(text) <= SHORT_CHARS:
        return value
    return f"{_first_words(text)}… ({len(text):,} characters)"


def _first_words(text: str) -> str:
    """Return the first ``SHORT_CHARS`` characters of a longer text, without a word that they cut.

    The word may be a key: secrets are masked later, and a part of one would not be recognized.
    """
    start = text[:SHORT_CHARS]
    if "!" <= text[SHORT_CHARS] <= "~":
        start = re.sub(r"[!-~]+\Z", "", start)
    return start


CONTENT_FIELDS = frozenset(
    {"inputs", "outputs", "probe", "error", "steps", "evidence", "warnings"}  # of a run
    | {"reasoning", "code", "output", "sub_calls", "prompt", "run"}  # of a step or a sub-call
)
SHORT_CHARS = 300  # of each text in a record with content="short"
MAX_STEPS_IN_NOTEBOOK = 50
SHOWN_CHARS = 200  # of each value
MAX_RECORDED_CHARS = 500  # of a text in the record of a call


def cut_text(text: str, limit: int = MAX_RECORDED_CHARS) -> str:
    """Return a text of at most ``limit`` characters, or its beginning and its length."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text):,} characters)"


def one_line(value: Any) -> str:
    """Return a value as one line, shortened if it is long."""
    text = " ".join(str(value)[: 10 * SHOWN_CHARS].split())
    if len(text) <= SHOWN_CHARS:
        return text
    return f"{text[:SHOWN_CHARS]}…"


def html_table(rows: Iterable[tuple[str, Any]]) -> str:
    """Return (name, value) rows as an HTML table."""
    redactor = Redactor()  # a notebook is saved and shared
    lines = []
    for name, value in rows:
        cells = [html.escape(one_line(redactor.text(str(cell)))) for cell in (name, value)]
        lines.append(f"<tr><th>{cells[0]}</th><td>{cells[1]}</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def error_text(error: str) -> str:
    """Return the exception of a traceback, with all lines of its message; any other error as it is."""
    lines = error.strip().splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last):")]
    for at in range(starts[-1] + 1 if starts else 0, len(lines)):
        if lines[at].strip() and not lines[at].startswith(" "):
            return "\n".join(lines[at:])
    return error.strip()


def html_step(step: Step) -> str:
    """Return a step as an HTML element to unfold: its reasoning, code and output."""
    title = f"step {step.index} · {step.seconds:.1f} s · {step.total_usage.total_tokens:,} tokens"
    if step.error and step.error.strip():
        title += f" · {error_text(step.error).splitlines()[0]}"
    redactor = Redactor()
    blocks = []
    for text in map(redactor.text, (step.reasoning, step.code, step.output)):
        if text.strip():
            shown = cut_content(text, "short") if len(text) > 5_000 else text
            blocks.append(f"<pre>{html.escape(shown)}</pre>")
    return f"<details><summary>{html.escape(one_line(redactor.text(title)))}</summary>{''.join(blocks)}</details>"


class ConstructorSignature:
    """Exposes a module's arguments to ``inspect``, ``help`` and notebooks; DSPy's metaclass hides them.

    Example:
        >>> class Program(dspy.Module):
        ...     __signature__ = ConstructorSignature()
    """

    def __get__(self, program: object, kind: type) -> inspect.Signature:
        """Return the constructor's arguments for the class, the call's arguments for an instance."""
        if program is not None:
            raise AttributeError("__signature__")
        whole = inspect.signature(kind.__init__)  # type: ignore[misc]
        return whole.replace(parameters=list(whole.parameters.values())[1:])
