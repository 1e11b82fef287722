"""Sharing programs: a folder with ``program.json`` and ``card.md``, checked before it is shared or used.

Holds: a program is JSON of at most 1 MB, with instructions, demos and the types of its signature; nothing in it is
imported, unpickled or run. Does not hold: its instructions are a prompt, so they can mislead a model; they are shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError
from rlm_dspy.rlm import dspy_states
from rlm_dspy.rlm.module import RLM
from rlm_dspy.rlm.signatures import parse_untrusted_signature
from rlm_dspy.tuning.program import TYPED, read_state
from rlm_dspy.tuning.report.figure_tables import dollar_text, gain_text, interval_text, score_text
from rlm_dspy.tuning.report.outcome import failure_lines

PROGRAM, CARD = "program.json", "card.md"
MAX_SHOWN_CHARS = 2_000  # characters of a value of a demo that is shown
PICKLES = (".pkl", ".pickle", ".pt", ".bin", ".joblib")
PREDICTOR_KEYS = frozenset({"traces", "train", "demos", "signature", "lm"})
SIGNATURE_KEYS = frozenset({"instructions", "fields"})
FIELD_KEYS = frozenset({"prefix", "description"})
METADATA_KEYS = frozenset({"signature", TYPED, "model", "dependency_versions"})
NO_LICENCE = "none given"


def program_file(place: str | Path) -> Path:
    """Return the file of a program, given the file or its folder."""
    path = Path(place).expanduser()
    if path.is_dir():
        return path / PROGRAM
    return path


def checked_state(path: Path) -> dict[str, Any]:
    """Return the state of a program that somebody else may have written.

    Raises:
        ConfigurationError: it is a pickle, too large, not JSON, or has a key that a program does not need.
    """
    if path.suffix.lower() in PICKLES or _starts_as_pickle(path):
        raise ConfigurationError(f"{path} is a pickle, which runs code when it is read: a program is JSON")
    state = read_state(path)
    first = next(_problems(state), None)
    if first is not None:
        place, problem = first
        raise ConfigurationError(f"{path}: {place} {problem}; a program holds instructions and demos alone")
    return state


def _starts_as_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\x80"
    except OSError:  # ``read_state`` reports why
        return False


def _problems(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the places of a state that hold more than data for prompts, and what is wrong there."""
    for name, part in state.items():
        if not isinstance(part, Mapping):
            yield name, "is not an object"
            continue
        if name == "metadata":
            yield from _unknown_keys(name, part, METADATA_KEYS)
            continue
        yield from _unknown_keys(name, part, PREDICTOR_KEYS)
        if part.get("lm") is not None:
            yield f"{name}.lm", "names a model, which is chosen where the program is used"
        signature = part.get("signature")
        if not isinstance(signature, Mapping):
            yield f"{name}.signature", "is not an object"
            continue
        yield from _unknown_keys(f"{name}.signature", signature, SIGNATURE_KEYS)
        for field in signature.get("fields") or ():
            if isinstance(field, Mapping):
                yield from _unknown_keys(f"{name}.signature.fields", field, FIELD_KEYS)


def _unknown_keys(place: str, part: Mapping[str, Any], known: frozenset[str]) -> Iterator[tuple[str, str]]:
    for name in part:
        if name not in known:
            yield f"{place}.{name}"[:80], "is not a part of a program"


def program_digest(path: Path) -> str:
    """Return the SHA-256 of a program's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def program_facts(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a program is: its signature, model, instructions, number of demos and digest."""
    metadata = state.get("metadata") or {}
    parts = {name: part for name, part in state.items() if name != "metadata"}
    return {
        "file": str(path),
        "digest": program_digest(path),
        "signature": str(metadata.get("signature") or ""),
        "typed": metadata.get(TYPED) is not None,
        "model": str(metadata.get("model") or ""),
        "versions": metadata.get("dependency_versions") or {},
        "instructions": _model_instructions(str(metadata.get("signature") or ""), parts),
        "demos": {name: len(part.get("demos") or ()) for name, part in parts.items()},
        "card": (path.parent / CARD).is_file(),
    }


def _model_instructions(signature: str, parts: Mapping[str, Any]) -> dict[str, str]:
    """Return what each predictor tells the model: DSPy's own protocol in a state is replaced, as loading it does."""
    instructions = {name: str(part["signature"]["instructions"]) for name, part in parts.items()}
    try:
        rlm = RLM(parse_untrusted_signature(signature, {}))
    except ConfigurationError:  # no signature was saved: loading the program says so
        return {name: text.partition(dspy_states.PROTOCOL_MARK)[0] for name, text in instructions.items()}
    for name, predictor in rlm.named_predictors():
        if name in instructions and dspy_states.is_action(predictor.signature):
            instructions[name] = dspy_states.without_protocol(instructions[name], predictor.task, predictor.untuned)
    return instructions


def instructions_text(facts: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Return the instructions and the demos of a program as they are shown before its first use."""
    lines: list[str] = []
    for name, text in facts["instructions"].items():
        lines += [f"--- {name} ({counted_noun(facts['demos'][name], 'demo')})", text]
        for number, demo in enumerate(state[name].get("demos") or (), 1):
            lines.append(f"--- {name}, demo {number}")
            lines += [f"{field}: {_shown_value(value)}" for field, value in dict(demo).items()]
    return "\n".join(lines)


def _shown_value(value: Any) -> str:
    text = str(value)
    if len(text) > MAX_SHOWN_CHARS:
        return f"{text[:MAX_SHOWN_CHARS]}… ({len(text):,} characters)"
    return text


def card_text(outcome: Mapping[str, Any], *, task: str, signature: str, data_digest: str) -> str:
    """Return the card of an optimized program.

    Args:
        outcome: the report of the optimization.
        task: what the program does, in words.
        signature: the names of its inputs and outputs.
        data_digest: the SHA-256 of the file of questions.
    """
    before, after = outcome["before"], outcome["after"]
    rows = [
        ("task", " ".join(task.split())),
        ("signature", f"`{signature}`"),
        ("model", outcome["model"]),
        ("optimizer", f"{outcome['optimizer']}, instructions proposed by {outcome['prompt_model']}"),
        ("metric", outcome["metric"]),
        ("score before", f"{score_text(before)} (95% interval {interval_text(before['interval'])})"),
        ("score after", f"{score_text(after)} (95% interval {interval_text(after['interval'])})"),
        ("gain", gain_text(outcome["gain"])),
        ("n", f"{outcome['questions']['test']} test questions, which the optimizer did not see"),
        ("cost", f"{dollar_text(outcome['cost'])}, {counted_noun(outcome['calls'], 'call')}"),
        ("data", f"SHA-256 {data_digest}"),
        ("versions", outcome["versions"]),
        ("licence", NO_LICENCE),
        ("ended", " ".join([outcome["ended"], *failure_lines(outcome)])),
    ]
    lines = ["# A program of rlm-dspy", "", "| | |", "|---|---|"]
    for name, value in rows:
        shown = str(value).replace("|", "\\|")
        lines.append(f"| {name} | {shown} |")
    lines += ["", 'Use it: `rlm-dspy ask --program DIR "…" PATH` (`rlm-dspy program show DIR` shows its prompts).']
    return "\n".join(lines) + "\n"
