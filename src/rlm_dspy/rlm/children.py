"""Recursive sub-calls: a child RLM over a text, with its own REPL, charged to the tree's ledger.

A child sees the instruction and the text, and nothing of its parent. At the depth limit, the policy decides: a plain
call answers instead (over pieces if the text exceeds the sub-model's window), or the call is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import dspy
from dspy.utils.exceptions import LMError as DSPyLMError

from rlm_dspy.errors import BudgetExceededError, ConfigurationError, DepthExceededError, RLMError
from rlm_dspy.lms import windows
from rlm_dspy.rlm.signatures import parse_untrusted_signature, validate_names
from rlm_dspy.rlm.step_texts import without_markers
from rlm_dspy.rlm.subcalls import (
    CallError,
    Outputs,
    SubCalls,
    failed_call,
    sendable_prompt,
    wrong_inputs_message,
)
from rlm_dspy.run import Run, SubCall, Usage, cut_text

SAME_TEXT_SHARE = 0.9  # a text that covers this share of the run's own context ...
SAME_INSTRUCTION_LIKENESS = 0.85  # ... with an instruction this similar to its own does not divide the work
COMPARED_CHARS = 500  # characters compared of each

# Runs a child on a signature and its inputs, below a span.
Child = Callable[[type[dspy.Signature], dict[str, Any], int], tuple[dict[str, Any], Run]]


class Children:
    """The recursive sub-calls of one run.

    Args:
        calls: makes and records plain and typed calls.
        child: runs a child on a signature and its inputs.
        policy: what to do at the depth limit, ``"plain"`` or ``"raise"``.
        text: the run's own main context, or None.
        task: the run's own instruction or question.
    """

    def __init__(self, calls: SubCalls, child: Child, policy: str, text: str | None, task: str) -> None:
        self._calls = calls
        self._child = child
        self._policy = policy
        self._text = text
        self._task = task

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """The functions to install in the REPL; ``prelude`` wraps them."""
        return {"__rlm_subcall__": self.subcall, "__rlm_program__": self.run_program}

    def run_program(
        self, signature: str, types: dict[str, Any], inputs: dict[str, Any], instruction: str | None = None
    ) -> Outputs | CallError:
        """Run a child on its own signature, for ``dspy.RLM(signature)(**inputs)`` in a cell."""
        read = parse_untrusted_signature(signature, types)
        validate_names(read, {})
        if instruction is not None:
            read = read.with_instructions(without_markers(sendable_prompt(instruction)))
        if set(inputs) != set(read.input_fields):
            raise ConfigurationError(wrong_inputs_message(signature, read, inputs))
        values = {name: self._resolved_value(value) for name, value in inputs.items()}
        if self._may_go_deeper():
            (result,) = self._calls.batch(lambda item: self._run_child(read, item, with_steps=True), [values])
        else:
            (result,) = self._calls.typed_each(read, [values])
        return result

    def _may_go_deeper(self) -> bool:
        """Return whether a child may run; at the limit, plain calls answer, or the call is refused."""
        ledger = self._calls.ledger
        depth, most = ledger.depth + 1, ledger.root.budget.max_depth
        if depth > most and self._policy == "raise":
            raise DepthExceededError(depth, most)
        return depth <= most

    def subcall(
        self, items: list[dict[str, Any]], output: str | None, types: dict[str, Any]
    ) -> list[Outputs | CallError]:
        """Run a child for each item ``{"text", "instruction"}``; answers keep the order of the items.

        Raises:
            ConfigurationError: ``output`` cannot be parsed, or uses a name that predictions reserve.
            DepthExceededError: the call is too deep, and the policy is to raise.
            BudgetExceededError: not enough calls are left.
            ValueError: an item hands over the run's own input.
        """
        signature = parse_untrusted_signature(f"text, instruction -> {output or 'output: str'}", types)
        validate_names(signature, {})
        resolved = [self._resolve_item(item) for item in items]
        if self._may_go_deeper():
            return self._calls.batch(lambda item: self._run_child(signature, item), resolved)
        return self._calls.batch(
            lambda item: self._answer_by_plain_calls(signature, item, typed=bool(output)), resolved
        )

    def _resolve_item(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Resolve a text sent as a place in the main context; refuse one that is nearly all of it."""
        text, instruction = self._resolved_value(item["text"]), sendable_prompt(item["instruction"])
        if isinstance(text, str):
            text = sendable_prompt(text)
            matcher = SequenceMatcher(None, instruction[:COMPARED_CHARS], self._task[:COMPARED_CHARS])
            is_same_task = matcher.ratio() >= SAME_INSTRUCTION_LIKENESS
            if is_same_task and self._text is not None and len(text) >= SAME_TEXT_SHARE * len(self._text):
                raise ValueError(
                    "this hands over nearly all of your own context with your own instruction, which divides nothing: "
                    "give a piece of it, or a narrower instruction, or answer it here"
                )
        return {"text": text, "instruction": instruction}

    def _resolved_value(self, value: Any) -> Any:
        """Return the text at a place in the main context, or the value itself if it is not a place."""
        if isinstance(value, dict) and set(value) == {"start", "end"} and self._text is not None:
            return self._text[int(value["start"]) : int(value["end"])]
        return value

    def _run_child(
        self, signature: type[dspy.Signature], item: dict[str, Any], *, with_steps: bool = False
    ) -> Outputs | CallError:
        started = time.perf_counter()
        prompt = cut_text("\n".join(str(value) for value in reversed(item.values())))
        span = self._calls.start_span("recursive", prompt)
        run: Run | None = None
        result: Outputs | CallError
        try:
            values, run = self._child(signature, item, span)
            reasoning = run.steps[-1].reasoning if run.steps else ""
            if with_steps:
                values = {**values, "trajectory": run.trajectory, "final_reasoning": reasoning}
            result = Outputs(values)
        except (RLMError, DSPyLMError) as error:
            run = getattr(error, "run", None)
            if isinstance(error, BudgetExceededError) and run is None:
                self._calls.recorder.end(span, error=str(error))
                raise
            result = failed_call(error)
        if isinstance(result, CallError):
            output, problem = "", result.error
        else:
            output, problem = cut_text(str(result.values)), None
        self._calls.record_call(
            SubCall(
                kind="recursive",
                prompt=prompt,
                output=output,
                error=problem,
                model=run.model if run else "",
                usage=run.usage if run else Usage(),
                seconds=time.perf_counter() - started,
                run=run,
                span=span,
            ),
            None,
        )
        return result

    def _answer_by_plain_calls(
        self, signature: type[dspy.Signature], item: dict[str, Any], *, typed: bool
    ) -> Outputs | CallError:
        """Answer with plain calls: one if the text fits the window, else one per piece and one to combine them."""
        text = str(item["text"])
        room = windows.prompt_capacity_chars(self._calls.lm) - len(item["instruction"])
        pieces = cut_into_pieces(text, max(1_000, room))
        if len(pieces) == 1:
            return self._make_single_call(signature, item["instruction"], text, typed)
        if len(pieces) + 1 > (left := self._calls.ledger.calls_left):
            raise BudgetExceededError(
                f"LLM call limit exceeded: the text needs {len(pieces)} + 1 calls to read and combine, {left} left. "
                "Give a shorter text.",
                limit="max_llm_calls",
            )
        self._calls.add_note(
            f"[subcall: at the depth limit, so plain calls answered over {len(pieces)} pieces of "
            f"{len(pieces[0]):,} characters each, and one combined them]"
        )
        partial = self._calls.batch(
            lambda piece: self._make_single_call(signature, item["instruction"], piece, typed), pieces
        )
        for result in partial:
            if isinstance(result, CallError):
                return result
        combining = f"{item['instruction']}\n(The text was read in pieces; below is what each gave. Combine it.)"
        return self._make_single_call(signature, combining, self._joined_answers(partial, max(1_000, room)), typed)

    def _joined_answers(self, partial: Sequence[Any], room: int) -> str:
        """Join the answers of all pieces, each cut to its share if they exceed ``room`` characters."""
        found = [f"From piece {n}: {part.values}" for n, part in enumerate(partial, 1)]
        share = room // len(found) - 40  # what a cut adds
        if sum(map(len, found)) + 2 * len(found) > room:
            self._calls.add_note(f"[subcall: the answers over the pieces were cut to {share:,} characters each]")
            found = [cut_text(text, share) for text in found]
        return "\n\n".join(found)

    def _make_single_call(
        self, signature: type[dspy.Signature], instruction: str, text: str, typed: bool
    ) -> Outputs | CallError:
        if typed:
            return self._calls.typed(signature, {"text": text, "instruction": instruction})
        answer = self._calls.plain(f"{instruction}\n\n{text}")
        if isinstance(answer, CallError):
            return answer
        return Outputs({"output": answer})


def cut_into_pieces(text: str, room: int) -> Sequence[str]:
    """Cut a text into pieces of at most ``room`` characters, at line ends where possible."""
    pieces = []
    start = 0
    while start < len(text):
        end = start + room
        if end < len(text):
            line = text.rfind("\n", start + room // 2, end)
            end = line + 1 if line >= 0 else end
        pieces.append(text[start:end])
        start = end
    return pieces or [""]
