"""Support for optimizers: failures that score, component selection, safe saving and loading."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
from pydantic import ValidationError

from rlm_dspy import safe_files
from rlm_dspy.errors import ConfigurationError, LMError, RLMError
from rlm_dspy.lms import windows
from rlm_dspy.redact import Redactor
from rlm_dspy.report import json_output
from rlm_dspy.rlm import dspy_states, small_prompts
from rlm_dspy.rlm.module import RLM
from rlm_dspy.rlm.predictor import Predictor
from rlm_dspy.tuning.typed_signature import SerializableSignature

logger = logging.getLogger(__name__)

MAX_PROGRAM_BYTES = 1_000_000
TYPED = "typed_signature"  # the name of the types in a program's metadata


class Tunable(RLM):
    """An RLM that returns failed runs as predictions without an answer, so that they can be scored and explained.

    Its state is that of an :class:`~rlm_dspy.RLM`: each can load what the other saved. A provider's failure is still
    raised, because it is not the candidate's fault. If the configured LM is a small model, its instructions start as
    those that such a model is shown, so that an optimizer improves what was scored.
    """

    def __init__(self, signature: Any, *args: Any, **options: Any) -> None:
        super().__init__(signature, *args, **options)
        action = self.generate_action
        if windows.is_small_profile(self.profile, action.lm or dspy.settings.lm):
            instructions = small_prompts.action_instructions(self.signature)
            action.signature = action.signature.with_instructions(instructions)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Answer, or return a prediction whose ``run`` says why there is no answer."""
        try:
            return super().forward(**inputs)
        except RLMError as error:
            return failed_prediction(self.signature, error)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Answer as :meth:`forward` does, without blocking."""
        try:
            return await super().aforward(**inputs)
        except RLMError as error:
            return failed_prediction(self.signature, error)


def failed_prediction(signature: Any, error: RLMError) -> dspy.Prediction:
    """Return a prediction without outputs but with the error's run; raise errors that are not the candidate's fault."""
    if isinstance(error, (LMError, ConfigurationError)):
        raise error
    run = error.run
    return dspy.Prediction(
        **dict.fromkeys(signature.output_fields),
        trajectory=run.trajectory if run else [],
        final_reasoning="",
        run=run,
        error=f"{type(error).__name__}: {error}",
    )


def ran(
    state: Any, trajectories: list[Any], subsample_scores: list[float], candidate_idx: int, candidate: dict[str, str]
) -> list[str]:
    """Choose GEPA's next component among the predictors that actually ran.

    Pass it as ``dspy.GEPA(component_selector=ran)``.
    """
    used = {call[0].signature.instructions for item in trajectories or [] for call in item["trace"]}
    names = state.list_of_named_predictors
    turn = state.named_predictor_id_to_update_next_for_program_candidate
    start = turn[candidate_idx]
    order = [names[(start + offset) % len(names)] for offset in range(len(names))]
    chosen = next((name for name in order if candidate[name] in used), order[0])
    turn[candidate_idx] = (names.index(chosen) + 1) % len(names)
    return [chosen]


def save(program: dspy.Module, path: str | Path, redactor: Redactor | None = None) -> Path:
    """Save a program's state as JSON, with the model's name but without its key, address or engine.

    Args:
        program: the program to save.
        path: the target file; its folder is created.
        redactor: masks secrets in instructions and demos; by default those of the environment.
    """
    model = _model_names(program)
    state = state_of(program)
    signature = getattr(program, "signature", None)
    state["metadata"] = {
        "signature": getattr(signature, "signature", ""),
        TYPED: typed_signature(signature),
        "model": model,
        "dependency_versions": {"dspy": dspy.__version__},
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    safe_files.replace_file(path, [json_output.redacted_json(state, redactor or Redactor(), indent=2).encode() + b"\n"])
    return path


def typed_signature(signature: Any) -> dict[str, Any] | None:
    """Return a signature with its types as JSON, None if a type has no JSON schema: the state is still saved."""
    if signature is None:
        return None
    try:
        return SerializableSignature.of(signature).model_dump(exclude_none=True)
    except ConfigurationError as error:
        logger.warning("the program is saved without the types of its signature: %s", error)
        return None


def restored_rlm(path: str | Path, **options: Any) -> RLM:
    """Return the RLM of a saved program, with the signature that was saved with it.

    Args:
        path: the file ``program.json``.
        options: arguments of :class:`~rlm_dspy.RLM`, such as ``budget``.

    Raises:
        ConfigurationError: the file is not a program, or has no types of its signature.
    """
    metadata = read_state(Path(path)).get("metadata")
    typed = metadata.get(TYPED) if isinstance(metadata, Mapping) else None
    if typed is None:
        raise ConfigurationError(f"{path} has no types of its signature: load it into an RLM of the same signature")
    try:
        signature = SerializableSignature.model_validate(typed).signature()
    except ValidationError as error:
        raise ConfigurationError(f"{path}: its signature cannot be read: {error.errors()[0]['msg']}") from error
    rlm: RLM = load(RLM(signature, **options), path)
    return rlm


def read_state(path: Path) -> dict[str, Any]:
    """Return the state in a file.

    Raises:
        ConfigurationError: it cannot be read, is too large, or is not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_PROGRAM_BYTES:
            raise ConfigurationError(f"{path} has more than {MAX_PROGRAM_BYTES:,} bytes, which no program has")
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the program {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not a saved program: {error}") from error
    if not isinstance(state, dict):
        raise ConfigurationError(f"{path} is not a program of this kind: it is not a JSON object")
    return state


def state_of(program: dspy.Module) -> dict[str, Any]:
    """Return a program's tunable state: instructions and demos, without the LM, which is chosen on loading."""
    with expose_compiled_parts(program):
        parts = program.named_parameters()
    state: dict[str, Any] = {}
    for name, part in parts:
        bare = copy.copy(part)  # the part itself may be running in another thread and needs its LM
        bare.lm = None
        state[name] = bare.dump_state()
    return state


def _model_names(program: dspy.Module) -> str:
    names = {lm.model for _, predictor in program.named_predictors() if (lm := predictor.lm)}
    default = dspy.settings.lm
    return ", ".join(sorted(names)) or str(getattr(default, "model", ""))


def load(program: dspy.Module, path: str | Path) -> dspy.Module:
    """Load a saved state into ``program``, and return it.

    Raises:
        ConfigurationError: the file cannot be read, is not a program, or was saved for another signature.
    """
    path = Path(path)
    state = read_state(path)
    with expose_compiled_parts(program):
        names = [name for name, _ in program.named_parameters()]
    if missing := [name for name in names if not isinstance(state.get(name), dict)]:
        raise ConfigurationError(f"{path} is not a program of this kind: it lacks the predictor {', '.join(missing)}")
    _check_signature(path, program, state)
    with expose_compiled_parts(program):
        for name, predictor in program.named_predictors():
            _check_fields(path, name, predictor, state[name])
        program.load_state({name: {**state[name], "lm": None} for name in names})
    return program


@contextmanager
def expose_compiled_parts(program: dspy.Module) -> Iterator[None]:
    """Make DSPy include the predictors of compiled parts, which it otherwise omits when saving."""
    parts = [part for _, part in program.named_sub_modules() if getattr(part, "_compiled", False)]
    for part in parts:
        part._compiled = False
    try:
        yield
    finally:
        for part in parts:
            part._compiled = True


def _check_signature(path: Path, program: dspy.Module, state: Mapping[str, Any]) -> None:
    metadata = state.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"{path} is not a saved program: its metadata is not an object")
    saved = str(metadata.get("signature") or "")
    here = str(getattr(getattr(program, "signature", None), "signature", ""))
    if saved and here and saved != here:
        raise ConfigurationError(
            f"{path} was saved for another signature: {saved}; here it is {here}. Load it with the signature it "
            "was compiled for."
        )


def _check_fields(path: Path, name: str, predictor: Any, state: Mapping[str, Any]) -> None:
    """Refuse a state whose fields differ from the predictor's: DSPy would zip them and silently lose some."""
    saved = state.get("signature")
    if isinstance(saved, Mapping) and "instructions" in saved:
        fields = saved.get("fields")
    else:
        fields = None
    if fields is None or not _is_object_list(fields) or "demos" not in state:
        raise ConfigurationError(f"{path}: {name} has no signature or demos; was it saved by another version of DSPy?")
    if not _is_object_list(state["demos"]):
        raise ConfigurationError(f"{path}: {name} has demos that are not objects")
    prefixes = [str(field.get("prefix")) for field in fields]
    ours = [str((field.json_schema_extra or {}).get("prefix")) for field in predictor.signature.fields.values()]
    if isinstance(predictor, Predictor):
        # The inputs of an RLM's predictors are its own, or those of dspy.RLM.
        inputs = len(predictor.signature.input_fields)
        theirs = len(prefixes) - len(predictor.signature.output_fields)
        if theirs in (inputs, len(dspy_states.input_fields(predictor.signature))):
            prefixes, ours = prefixes[theirs:], ours[inputs:]
    if len(prefixes) != len(ours) or prefixes[:-1] != ours[:-1]:  # COPRO rewrites the last one
        raise ConfigurationError(
            f"{path} was saved for another signature: {name} has the fields {_field_names(prefixes)}, "
            f"here they are {_field_names(ours)}. Load it with the signature it was compiled for."
        )


def _is_object_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _field_names(prefixes: list[str]) -> str:
    return ", ".join(prefix.rstrip(":").lower() for prefix in prefixes) or "none"


def instructions(program: dspy.Module) -> dict[str, str]:
    """Return the tunable text of each predictor."""
    return {name: predictor.signature.instructions for name, predictor in program.named_predictors()}


def demos(program: dspy.Module) -> dict[str, int]:
    """Return the number of demos of each predictor."""
    return {name: len(predictor.demos) for name, predictor in program.named_predictors()}
