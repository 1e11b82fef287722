"""The loop of an RLM as a generator that does no I/O.

It yields what it needs (:class:`Ask` a predictor, :class:`Execute` a cell) and is sent the result; a sync and an async
driver in ``module.py`` perform the work, with the functions of ``driving.py``. What is recorded of a step is what the
next prompt shows.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rlm_dspy.errors import ActionError, BudgetExceededError
from rlm_dspy.rlm import compaction
from rlm_dspy.rlm.compaction import Turn
from rlm_dspy.rlm.replies import ParsedReply, explain_cut, parse_code, parse_reply, visible_text
from rlm_dspy.rlm.step_texts import StepTexts
from rlm_dspy.run import Status, Step, SubCall, Usage, error_text

MAX_REASKS = 2  # consecutive unreadable replies before the run ends
MAX_REPEATS = 2  # times a cell may run with the same output before it counts as unreadable
REPEATED = "repeats"  # the limit that ends a run when a tiny model repeats a cell without effect
SPENT_LIMITS = frozenset({"max_tokens", "max_cost", "max_seconds"})  # after these, nothing is asked for twice
NOTHING_SAID = "(no reply besides thinking)"  # shown in the next prompt, which never repeats a model's thinking
# These end a run but are not limits, so there is nothing to raise.
ENDINGS = {
    "stop": "its caller stopped the run",
    "unreadable": f"{MAX_REASKS + 1} replies in a row without code that could be run ended the run",
    REPEATED: "a repeated step ended the run",
}
LOST = "[the run ended in this cell]"
MAX_SUBMIT_CHARS = 80  # characters shown of a held-back SUBMIT
MAX_REFUSALS = 3  # times bad evidence is rejected before it is accepted unverified


@dataclass(frozen=True)
class Ask:
    """Ask the action predictor for the next code."""

    history: tuple[Turn, ...]
    observation: str


@dataclass(frozen=True)
class Extract:
    """Ask the extract predictor for the outputs after ``limit`` ended the run."""

    steps: tuple[Step, ...]
    limit: str = ""


@dataclass(frozen=True)
class Execute:
    """Run one cell in the interpreter, after setting ``variables``."""

    code: str
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelReply:
    """The result of a predictor; ``text`` is the raw reply if no adapter could parse it.

    ``finish`` is the finish reason reported by the server: "stop", "length", "content_filter".
    """

    reasoning: str = ""
    code: str = ""
    text: str | None = None
    finish: str = "stop"
    outputs: dict[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


@dataclass(frozen=True)
class Overflow:
    """The prompt did not fit the model's window, as ``error`` says; there is no reply."""

    error: Exception


@dataclass(frozen=True)
class Observation:
    """The result of executing one cell; ``submitted`` holds the raw SUBMIT value if there was one.

    ``restored`` names the inputs and functions that the cell had rebound and that were restored.
    """

    text: str = ""
    restored: str = ""
    submitted: Any = None
    has_submitted: bool = False
    error: str | None = None
    timed_out: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How a run ended, and its outputs."""

    status: Status
    outputs: dict[str, Any]
    reasoning: str
    stopped_by: str | None = None


@dataclass(frozen=True)
class LoopSettings:
    """What stays the same over a run.

    Args:
        outputs: the names of the signature's outputs.
        max_iters: the most steps.
        on_limit: "extract" or "raise" at a limit.
        probe: the first observation, the host's view of the inputs.
        room: the most characters of a prompt's turns.
        texts: renders the steps for the model.
        types: names in the types of the outputs.
        past_variable: the REPL variable that keeps steps that no longer fit.
        stops_at_repeats: end the run when a repeated cell changes nothing.
    """

    outputs: tuple[str, ...]
    max_iters: int
    on_limit: str
    probe: str
    room: int
    texts: StepTexts
    types: frozenset[str] = frozenset()
    past_variable: str = compaction.VARIABLE
    stops_at_repeats: bool = False


class LoopCall(Protocol):
    """The call that a loop works for: its limits, its answer and its record. Nothing here does I/O."""

    def exhausted_limit(self, steps: tuple[Step, ...]) -> str | None:
        """Name a limit that forbids another step, or return None."""

    def is_overspent(self) -> bool:
        """Return whether the cost has passed its limit."""

    def used_text(self, limit: str) -> str:
        """Return how much of a limit was used, in parentheses, or ""."""

    def validate_answer(self, value: Any, *, strict: bool) -> tuple[dict[str, Any], str | None]:
        """Return the outputs in what was submitted, and a problem or None; ``strict`` includes the evidence."""

    def header_text(self, step: int) -> str:
        """Return the line that opens an observation, or ""."""

    def take_sub_calls(self) -> tuple[SubCall, ...]:
        """Return the sub-calls made since the last step."""

    def take_notes(self) -> list[str]:
        """Return the notes for the model about those sub-calls."""

    def record_step(self, step: Step) -> None:
        """Add a step to the record."""


Needs = Ask | Extract | Execute


def run_loop(call: LoopCall, settings: LoopSettings) -> Generator[Needs, Any, Ending]:
    """Run the loop until a SUBMIT is accepted or a limit ends it.

    Raises:
        ActionError: the model never wrote code that could be run.
        BudgetExceededError: a limit ended the run and no answer can, or may, be extracted.
    """
    state = _State(call, settings)
    while (limit := state.limit()) is None:
        ending = yield from state.step()
        if ending:
            return ending
    if not state.ran and limit != REPEATED:
        if limit == "unreadable":
            raise ActionError(
                f"the model's last {MAX_REASKS + 1} replies had no code that could be run, and no cell ever ran "
                f"(the last one: {state.steps[-1].error}); try another model or a shorter task",
                limit=limit,
            )
        raise _limit_error(call, limit, "any code ran", "raise the limit")
    if settings.on_limit == "raise":
        raise _limit_error(call, limit, "the model submitted", "raise it, or let on_limit='extract' ask for an answer")
    if call.is_overspent():
        message = f"max_cost is spent{call.used_text('max_cost')}, so no answer can be asked for; raise it"
        raise BudgetExceededError(f"{message} (the steps so far are in the run)", limit="max_cost")
    reply = yield Extract(tuple(state.steps), limit)
    if reply.finish == "bad_sample":
        reply = yield Extract(tuple(state.steps), limit)
    outputs, problem = call.validate_answer(reply.outputs, strict=False)
    if problem:
        if not reply.outputs:
            problem = f"the reply could not be read. {explain_cut(reply.finish) or _unread_reason(reply)}".strip(" .")
        raise _no_answer(state, limit, problem)
    return Ending("extracted", outputs, "Extract forced final output", limit)


def _limit_error(call: LoopCall, limit: str, what: str, advice: str) -> BudgetExceededError:
    """Return the error of a run that ended before ``what``; the advice is for a limit that can be raised."""
    message = f"{ENDINGS.get(limit, f'{limit} was reached')} before {what}{call.used_text(limit)}"
    if limit not in ENDINGS:
        message = f"{message}; {advice}"
    return BudgetExceededError(message, limit=limit)


def _unread_reason(reply: ModelReply) -> str:
    if reply.text and visible_text(reply.text) is None:
        return "It ended inside its thinking."
    return ""


def _no_answer(state: _State, limit: str, problem: str) -> ActionError | BudgetExceededError:
    """Return the error of a run that a limit ended, and from which no valid answer could be extracted."""
    ended = f"{ENDINGS.get(limit, f'{limit} ended the run')}{state.call.used_text(limit)}"
    message = f"{ended}, and the answer asked for afterwards is not valid: {problem}"
    lines = [line for line in error_text(state.steps[-1].error or "").splitlines() if line.strip()]
    if lines:
        message = f"{message}; the last step failed with {lines[0].strip()}"
    if limit in SPENT_LIMITS:
        return BudgetExceededError(f"{message}; raise the limit", limit=limit)
    hints = {"max_iters": "raise it, or try another model", "stop": "it was stopped by its caller"}
    return ActionError(f"{message}; {hints.get(limit, 'try another model or a shorter task')}", limit=limit)


class _State:
    """The turns so far; performs one step at a time."""

    def __init__(self, call: LoopCall, settings: LoopSettings) -> None:
        self.call = call
        self.settings = settings
        self.texts = settings.texts
        self.room = settings.room
        self.steps: list[Step] = []
        self.turns: list[Turn] = []
        self.observation = "\n".join(filter(None, [call.header_text(1), settings.probe]))
        self.ran = False
        self.unreadable = 0
        self.refused = 0
        self.cells: tuple[str, ...] = ()
        self.stopped_by: str | None = None
        self.ran_before: dict[tuple[str, str], list[int]] = {}  # steps by their code and output

    def limit(self) -> str | None:
        """Name the limit that forbids another step, or return None."""
        if self.stopped_by:
            return self.stopped_by
        if self.unreadable > MAX_REASKS:
            return "unreadable"
        if len(self.steps) >= self.settings.max_iters:
            return "max_iters"
        return self.call.exhausted_limit(tuple(self.steps))

    def step(self) -> Generator[Needs, Any, Ending | None]:
        """Ask for code, run it and record the step; return the ending if an answer was submitted."""
        if compaction.conversation_chars(self.turns) + len(self.observation) > self.room:
            room, variable = self.room - len(self.observation), self.settings.past_variable
            self.turns = compaction.compact_turns(self.turns, self.steps, room, variable)
            yield Execute("pass", {variable: compaction.steps_for_repl(self.steps)})
        reply: ModelReply | Overflow | str = yield Ask(tuple(self.turns), self.observation)
        if isinstance(reply, Overflow):
            self.room = compaction.smaller_room(self.turns, self.steps, self.observation, reply.error)
            return None  # the same step starts over with the smaller room
        if isinstance(reply, str):  # the name of the limit that refused or ended the call
            self.stopped_by = reply
            return None
        parsed = read_cells(reply, self.settings.outputs[0])
        if reply.text is not None and parsed.cells:
            reply = replace(reply, text=None, reasoning=parsed.reasoning, code="\n\n".join(parsed.cells))
        if parsed.problem:
            self.unreadable += 1
            if self.settings.stops_at_repeats and self.steps and self.steps[-1].reasoning == reply.text:
                self.stopped_by = REPEATED
            remarks = [self.texts.reask_text(parsed.problem, reply.text or reply.code)]
            self._record_step(reply, "", remarks, error=parsed.problem)
            return None
        texts: list[str] = []
        observed: list[Observation] = []
        for cell in parsed.cells:
            self.cells = (*self.cells, cell)
            try:
                seen: Observation = yield Execute(cell)
            except GeneratorExit:  # the driver gave up: the interpreter died, or the run was cancelled
                self._record_step(reply, self.texts.output_text([*texts, LOST]), error=LOST)
                raise
            self.ran = True
            observed.append(seen)
            texts.append(_marked_output(seen))
            if seen.error or seen.has_submitted or seen.text.strip():
                break
        return self._conclude_step(reply, parsed, observed, texts)

    def _conclude_step(
        self, reply: ModelReply, parsed: ParsedReply, observed: list[Observation], texts: list[str]
    ) -> Ending | None:
        last = observed[-1]
        texts += self.call.take_notes()
        texts += [seen.restored for seen in observed if seen.restored]
        outputs: dict[str, Any] = {}
        problem: str | None = None
        if last.has_submitted:
            outputs, problem = self.call.validate_answer(last.submitted, strict=self.refused < MAX_REFUSALS)
            if problem:
                self.refused += 1
                texts.append(self.texts.refusal_text(problem))
        accepted = last.has_submitted and problem is None
        if accepted:
            if parsed.cut:
                texts += [f"[{parsed.cut} Its last block did not run.]"]
            texts.append(f"FINAL: {outputs}")
        shown = self.texts.output_text(texts)
        self._record_step(
            reply,
            shown,
            [] if accepted else self._step_remarks(shown, parsed, observed),
            error=last.error or problem,
            timed_out=last.timed_out,
            submitted=accepted,
            seconds=sum(item.seconds for item in observed),
        )
        if accepted:
            return Ending("submitted", outputs, reply.reasoning)
        return None

    def _step_remarks(self, shown: str, parsed: ParsedReply, observed: list[Observation]) -> list[str]:
        """Return remarks for the model besides the output: blocks that did not run, repeated cells."""
        remarks: list[str] = []
        held_back = (*parsed.cells[len(observed) :], *parsed.held_back)
        if held_back:
            remarks.append(_held_back_text(held_back, printed=any(seen.text.strip() for seen in observed)))
        if parsed.cut:
            remarks.append(f"[{parsed.cut} Its last block was not whole and did not run.]")
        if parsed.ignored:
            remarks.append(
                "[An unlabelled block after the code was not run: the output above is the real one. "
                "Write code in ```python blocks.]"
            )
        cells = parsed.cells[: len(observed)]
        advice = step_advice(cells, observed[-1], self.settings.outputs, self.settings.types)
        if advice:
            remarks.append(advice)
        earlier = self.ran_before.setdefault(("\n\n".join(self.cells), _without_cell_numbers(shown)), [])
        if len(earlier) >= MAX_REPEATS:
            self.unreadable += 1
        else:
            self.unreadable = 0
        if earlier and (self.settings.stops_at_repeats or self.unreadable > MAX_REASKS):
            self.stopped_by = REPEATED
        if earlier:
            remarks.append(
                f"[You ran this same code in step {earlier[-1]}, with the same output. Running it again changes "
                "nothing: search for other words, print another part, or SUBMIT what you have seen.]"
            )
        earlier.append(len(self.steps) + 1)
        return remarks

    def _record_step(
        self, reply: ModelReply, shown: str, remarks: Sequence[str] = (), *, seconds: float = 0.0, **facts: Any
    ) -> None:
        """Record the step and add it to the history of the next prompt."""
        output = "\n".join(filter(None, [shown, *remarks]))
        if reply.text is None:
            code, reasoning = reply.code, reply.reasoning
        else:
            code, reasoning = "", reply.text
        cells, self.cells = self.cells, ()
        step = Step(
            index=len(self.steps) + 1,
            reasoning=reasoning,
            code="\n\n".join(cells) or code,
            output=output,
            seconds=reply.seconds + seconds,
            usage=reply.usage,
            sub_calls=self.call.take_sub_calls(),
            **facts,
        )
        if reply.text is not None:
            reasoning = visible_text(reply.text) or NOTHING_SAID
        texts = self.texts
        self.turns.append(Turn(step.index, self.observation, texts.turn_text(reasoning), texts.turn_text(code)))
        parts = [self.call.header_text(step.index + 1), texts.framed_text(shown), *remarks, texts.reminder]
        self.observation = "\n".join(filter(None, parts))
        self.steps.append(step)
        self.call.record_step(step)


def read_cells(reply: ModelReply, first_output: str) -> ParsedReply:
    """Parse the cells of a reply; if the server cut it short, only the complete ones."""
    if reply.text is None:
        parsed = parse_code(reply.code, first_output)
    else:
        parsed = parse_reply(reply.text, first_output)
    cut = explain_cut(reply.finish)
    if cut and parsed.problem:
        return replace(parsed, problem=f"{parsed.problem} {cut}")
    if cut and not parsed.is_closed and reply.finish != "bad_sample":
        whole = parsed.cells[:-1]
        return replace(parsed, cells=whole, problem=None if whole else cut, cut=cut)
    return parsed


# What other frameworks call the function that ends a run.
FINISHING_NAMES = frozenset({"submit", "final_answer", "finish", "final", "answer"})


def step_advice(
    cells: Sequence[str], seen: Observation, outputs: tuple[str, ...], types: frozenset[str] = frozenset()
) -> str | None:
    """Return advice for the model after a step that it seems to have misjudged, or None."""
    undefined = re.search(r"NameError: name '(\w+)' is not defined", seen.error or "")
    if undefined and undefined[1].lower() in FINISHING_NAMES:
        return f"[SUBMIT({', '.join(f'{name}=...' for name in outputs)}) ends the run.]"
    if undefined and undefined[1] in types:
        return f"[{undefined[1]} is not defined in the REPL: SUBMIT takes a dict with its fields instead.]"
    if seen.error and "'NoneType' object has no attribute 'group" in seen.error:
        return '[The pattern was not found. Look at how the text has it, with search("…") or grep("…").]'
    if seen.error and "'CorpusTexts'" in seen.error:
        return (
            "[A corpus is not a string: grep and search look in all its files, `for name, text in corpus.items()` "
            'reads each, corpus["name"] one.]'
        )
    if seen.error or seen.has_submitted:
        return None
    code = "\n".join(cells)
    if not outputs or not all(_assigns_name(code, name) for name in outputs):
        return None
    arguments = ", ".join(f"{name}={name}" for name in outputs)
    return f"[{' and '.join(f'`{name}`' for name in outputs)} set, not submitted: SUBMIT({arguments}) ends the run.]"


def _assigns_name(cell: str, name: str) -> bool:
    return re.search(rf"^{re.escape(name)}\s*=(?!=)", cell, re.MULTILINE) is not None


def _without_cell_numbers(shown: str) -> str:
    """Remove cell numbers from tracebacks, so that repeated runs of a cell compare equal."""
    return re.sub(r'File "<cell \d+>"', 'File "<cell>"', shown)


def _marked_output(seen: Observation) -> str:
    """Return a cell's output; for a failed cell it begins with "[Error]" and the exception, as in DSPy."""
    if not seen.error or seen.text.startswith("[Error]"):
        return seen.text
    error = error_text(seen.error)
    printed = seen.text.rstrip().removesuffix(error)
    return f"[Error] {error}\n{printed}".rstrip()


def _held_back_text(cells: tuple[str, ...], *, printed: bool) -> str:
    """Describe the blocks of a reply that did not run, because the model must see an earlier output first."""
    if len(cells) == 1:
        blocks = "block after it was"
    else:
        blocks = f"{len(cells)} blocks after it were"
    submits = [line.strip() for cell in cells for line in cell.splitlines() if "SUBMIT(" in line]
    named = ""
    if submits:
        call = submits[0][submits[0].index("SUBMIT(") :]
        named = f", nor was its {call[:MAX_SUBMIT_CHARS]}{'…' if len(call) > MAX_SUBMIT_CHARS else ''}"
    if printed:
        return f"[This is the output of your first code that printed something; the {blocks} not run{named}.]"
    return f"[Your code printed nothing, and the {blocks} not run{named}: print what you find, and answer from it.]"
