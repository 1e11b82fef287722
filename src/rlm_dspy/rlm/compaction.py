"""Compact a long conversation in a few large moves, so that a prefix cache survives between them.

First, long outputs are replaced by a reference that states their length and how to print them again. Then steps that
failed and were fixed are folded. Only then are the oldest steps summarised. The record and the REPL keep everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlm_dspy.run import Step

VARIABLE = "past_steps"  # REPL variable with the code and output of every step so far
UNTOUCHED_TURNS = 2  # newest turns, which are never touched
TARGET_SHARE = 0.45  # share of the limit that the conversation may fill after a move
SHRINK_FACTOR = 0.9  # after a refusal, the room is this share of the refused prompt's characters
MIN_MOVED_CHARS = 240  # shortest output, in characters, that is replaced by a reference


@dataclass(frozen=True)
class Turn:
    """One past exchange, as the model saw and wrote it; ``number`` is the step it led to."""

    number: int
    observation: str
    reasoning: str
    code: str


def conversation_chars(turns: Sequence[Turn]) -> int:
    """Count the characters of a conversation."""
    return sum(len(turn.observation) + len(turn.reasoning) + len(turn.code) for turn in turns)


def compact_turns(turns: Sequence[Turn], steps: Sequence[Step], limit: int, variable: str = VARIABLE) -> list[Turn]:
    """Shorten the turns to ``TARGET_SHARE`` of ``limit`` characters, as far as possible.

    Args:
        turns: the conversation so far; the first turn holds the probe and is kept.
        steps: the steps of the whole run.
        limit: maximum characters of the conversation.
        variable: the REPL variable that holds the steps.
    """
    if not turns:
        return []
    goal = int(limit * TARGET_SHARE)
    shorter = list(turns)
    if conversation_chars(shorter) > goal:
        shorter = [*_elide_outputs(shorter[:-UNTOUCHED_TURNS], variable), *shorter[-UNTOUCHED_TURNS:]]
    if conversation_chars(shorter) > goal:
        shorter = [*_fold_failed_steps(shorter[:-UNTOUCHED_TURNS], steps), *shorter[-UNTOUCHED_TURNS:]]
    if conversation_chars(shorter) <= goal:
        return shorter
    return min(shorter, _summarise_oldest(shorter, goal, variable), key=conversation_chars)


def smaller_room(turns: Sequence[Turn], steps: Sequence[Step], observation: str, refused: Exception) -> int:
    """Return the new room after a conversation and its newest observation were refused as too long.

    Raises:
        Exception: ``refused``, if nothing can be removed from the conversation.
    """
    room = int((conversation_chars(turns) + len(observation)) * SHRINK_FACTOR)
    if conversation_chars(compact_turns(turns, steps, room - len(observation))) >= conversation_chars(turns):
        raise refused
    return room


def steps_for_repl(steps: Sequence[Step]) -> list[dict[str, str]]:
    """Return the steps in the form of the REPL variable."""
    return [{"code": step.code, "output": step.output} for step in steps]


def _elide_outputs(turns: list[Turn], variable: str) -> list[Turn]:
    """Replace long outputs by references; the first observation is the probe and is kept."""
    shorter = turns[:1]
    for turn in turns[1:]:
        shorter.append(replace(turn, observation=_shortened_observation(turn, variable)))
    return shorter


def _shortened_observation(turn: Turn, variable: str) -> str:
    header, _, body = turn.observation.partition("\n")
    if len(body) <= MIN_MOVED_CHARS:
        return turn.observation
    number = turn.number - 1
    again = f"print({variable}[{number - 1}]['output'])"
    head = body[: MIN_MOVED_CHARS // 4]
    return f"{header}\n{head} [… output of step {number}, {len(body):,} characters, left out; {again} …]"


def _fold_failed_steps(turns: list[Turn], steps: Sequence[Step]) -> list[Turn]:
    """Drop the code of failed steps that a later step fixed."""
    fixed = max((step.index for step in steps if not step.error), default=0)
    failed = {step.index for step in steps if step.error and step.index < fixed}
    notes = {turn.number: f"# step {turn.number} failed and was fixed later" for turn in turns if turn.number in failed}
    return [replace(turn, code=min(turn.code, notes.get(turn.number, turn.code), key=len)) for turn in turns]


def _summarise_oldest(turns: list[Turn], goal: int, variable: str) -> list[Turn]:
    """Merge the oldest turns after the probe into a summary until the rest fits."""
    first, rest = turns[0], turns[1:]
    digest = [_digest_line(first)]
    while (
        len(rest) > UNTOUCHED_TURNS and len(first.observation) + sum(map(len, digest)) + conversation_chars(rest) > goal
    ):
        digest.append(_digest_line(rest.pop(0)))
    kept = "\n".join(digest[-40:])
    summary = f"The steps before step {rest[0].number if rest else first.number + 1}, in short:\n{kept}"
    return [replace(first, reasoning=summary, code=f"# their code and outputs are in {variable}"), *rest]


def _digest_line(turn: Turn) -> str:
    if turn.reasoning.startswith("The steps before step"):
        return turn.reasoning.partition("\n")[2]
    words = " ".join(turn.reasoning.split())
    return f"- {turn.number}: {words[:160]}"
