"""The checks of ``doctor``: each is a line with a status (ok, warning or failure) and a suggested fix."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from rlm_dspy import lms, safe_files
from rlm_dspy._version import __version__
from rlm_dspy.cli import exit_codes, key_store, settings
from rlm_dspy.cli.container import check_container
from rlm_dspy.cli.terminal import Terminal
from rlm_dspy.counting import counted_noun
from rlm_dspy.errors import ConfigurationError, SandboxError
from rlm_dspy.lms import ollama
from rlm_dspy.lms.model_list import DiagnosisLine, probe_provider
from rlm_dspy.lms.providers import GROQ_MODEL, ModelChoice
from rlm_dspy.sandbox import policy, report, selftest

DISTRIBUTION = "dspy-recursive"
SHOWN_VERSIONS = ("dspy", "litellm")  # versions that a bug report should name
NO_NATIVE = "Run it in WSL (Windows) or in Docker, where the native sandbox works."


@dataclass(frozen=True)
class PlatformFacts:
    """The facts that the line on the platform depends on; tests pass those of other platforms."""

    system: str  # as sys.platform
    machine: str
    release: str
    has_sandbox_exec: bool
    has_deno: bool


def diagnose(terminal: Terminal, model: str | None, *, as_json: bool, in_container: bool) -> int:
    """Run and print all checks, and return the exit code."""
    loaded = settings.load_for(terminal, {"model": model})
    values = loaded.settings
    keys = settings.key_origins(loaded, os.environ)
    settings.export_for(loaded, terminal)
    choice = lms.choose(values.model, os.environ, values.named_by)
    around = [
        *_check_versions(),
        platform_line(current_platform()),
        *_check_sandbox(),
        *_check_caches(values.home),
        *_check_providers(choice),
    ]
    around += _check_keys(keys)
    if in_container:
        around += check_container()
    asked = [*_check_model(choice, values), *_check_other_models(values)]
    checks = [*around, *asked]
    if as_json:
        rows = [asdict(check) for check in checks]
        facts = {"ok": _exit_code(around, asked) == 0, "model": choice.model, "reason": choice.reason, "checks": rows}
        terminal.answer_json(facts)
    else:
        terminal.answer("\n".join(_check_lines(checks)))
    return _exit_code(around, asked)


def _exit_code(around: list[DiagnosisLine], asked: list[DiagnosisLine]) -> int:
    if any(check.status == "failure" for check in asked):
        return exit_codes.NO_MODEL
    if any(check.status == "failure" for check in around):
        return exit_codes.FAILED
    return exit_codes.ANSWERED


def _check_lines(checks: list[DiagnosisLine]) -> Iterator[str]:
    for check in checks:
        yield f"{check.status:<8} {check.what}"
        if check.fix:
            yield f"{'':<8} → {check.fix}"


def _check_versions() -> Iterator[DiagnosisLine]:
    """Compare the installed packages with the requirements."""
    yield DiagnosisLine(
        "ok", f"rlm-dspy {__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    )
    try:
        wanted = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        fix = "Install it from its checkout: pip install ."
        yield DiagnosisLine("warning", "the package is not installed, so its requirements are unknown", fix)
        return
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = list(filter(None, map(_version_mismatch, wanted)))
    for line, fix in wrong:
        yield DiagnosisLine("failure", line, fix)
    if not wrong:
        shown = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN_VERSIONS)
        yield DiagnosisLine("ok", f"{shown} and {len(wanted) - len(SHOWN_VERSIONS)} more are as required")


def _version_mismatch(wanted: Requirement) -> tuple[str, str] | None:
    fix = f"pip install '{wanted}'"
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed", fix
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    return f"{wanted.name} {installed} is installed, {wanted.specifier} is required", fix


def current_platform() -> PlatformFacts:
    """Return the facts of this machine."""
    return PlatformFacts(
        system=sys.platform,
        machine=platform.machine(),
        release=platform.release(),
        has_sandbox_exec=os.access(policy.SANDBOX_EXEC, os.X_OK),
        has_deno=shutil.which("deno") is not None,
    )


def platform_line(facts: PlatformFacts) -> DiagnosisLine:
    """Return the line on a platform: native, Seatbelt, or DSPy's WASM interpreter."""
    choice = policy.choose(facts.system, facts.machine, "strong")
    where = f"platform: {facts.system} {facts.machine}"
    if choice.backend == "linux":
        inside = " in WSL" if "microsoft" in facts.release.lower() else ""
        return DiagnosisLine("ok", f"{where}{inside}, native sandbox ({choice.reason})")
    if choice.backend == "macos":
        return _macos_line(where, facts)
    if choice.backend == "refuse":
        return DiagnosisLine("warning", f"{where}, no strong sandbox: {choice.reason}", "Use x86-64 or aarch64.")
    if facts.has_deno:
        deno = "Deno is installed"
    else:
        deno = "it needs Deno, which is not installed"
    message = f"{where}, no native sandbox; DSPy's own modules can use its WASM interpreter ({deno})"
    return DiagnosisLine("warning", message, NO_NATIVE)


def _macos_line(where: str, facts: PlatformFacts) -> DiagnosisLine:
    if not facts.has_sandbox_exec:
        return DiagnosisLine("failure", f"{where}, but {policy.SANDBOX_EXEC} is missing", "Run it in Docker.")
    message = f"{where}, sandbox-exec (Seatbelt), which was never tested on a Mac"
    return DiagnosisLine("warning", message, "Docker has the tested sandbox.")


def _check_sandbox() -> Iterator[DiagnosisLine]:
    """Try each known way to escape."""
    try:
        facts, probes = report("strong"), selftest("strong")
    except SandboxError as error:
        yield DiagnosisLine("failure", "a strong sandbox is not available here", str(error))
        return
    broken = [probe.name for probe in probes if not probe.refused]
    if broken:
        yield DiagnosisLine(
            "failure", f"the sandbox allowed: {', '.join(broken)}", "Do not use it; report this as a bug."
        )
        return
    yield DiagnosisLine("ok", f"sandbox: {facts.get('reason')}; {len(probes)} escape attempts were refused")


def _check_keys(places: Mapping[str, str]) -> Iterator[DiagnosisLine]:
    """Say where each key comes from, never its value."""
    if places:
        yield DiagnosisLine("ok", f"keys: {', '.join(f'{name} ({place})' for name, place in places.items())}")
    if key_store.is_open_to_others():
        place = key_store.keys_file()
        yield DiagnosisLine("warning", f"other users may read {place}", f"chmod 600 {place}")


def _check_caches(home: Path) -> Iterator[DiagnosisLine]:
    for problem, advice in settings.blocked_folders(home):
        yield DiagnosisLine("warning", problem, advice)
    dspy_cache = os.environ.get("DSPY_CACHEDIR") or str(safe_files.user_folder() / ".dspy_cache")
    places = dict.fromkeys([home, safe_files.cache_folder(), Path(dspy_cache)])
    sizes = [f"{place} {_folder_size(place) / 1e6:,.1f} MB" for place in places]
    blocked = [str(place) for place in places if not os.access(_nearest_existing(place), os.W_OK)]
    if blocked:
        yield DiagnosisLine("warning", f"not writable: {', '.join(blocked)}", "Set RLM_DSPY_HOME or DSPY_CACHEDIR.")
    yield DiagnosisLine("ok", f"cache: {', '.join(sizes)}")


def _nearest_existing(place: Path) -> Path:
    if os.path.exists(place) or place == place.parent:
        return place
    return _nearest_existing(place.parent)


def _folder_size(place: Path) -> int:
    total = 0
    for folder, _, files in os.walk(place):
        for name in files:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # another process is cleaning its cache
                continue
    return total


def _check_providers(choice: ModelChoice) -> Iterator[DiagnosisLine]:
    """Report whether Ollama and Groq are available, unless they provide the chosen model."""
    if not choice.model.startswith(("ollama_chat/", "ollama/")):
        base = ollama.base_url(os.environ)
        try:
            yield DiagnosisLine(
                "ok", f"Ollama answers at {base} with {counted_noun(len(ollama.models(base)), 'model')}"
            )
        except ollama.OllamaUnreachableError:
            yield DiagnosisLine(
                "ok", f"no Ollama answers at {base}", "Start it (ollama serve) or set OLLAMA_HOST to use it."
            )
    if not choice.model.startswith("groq/"):
        has_key = bool(os.environ.get("GROQ_API_KEY", "").strip())
        if has_key:
            use = f"Use it with -m {GROQ_MODEL}."
        else:
            use = "Set it to use Groq."
        yield DiagnosisLine("ok", f"GROQ_API_KEY is {'set' if has_key else 'not set'}", use)


def _check_model(choice: ModelChoice, values: settings.Settings) -> Iterator[DiagnosisLine]:
    if choice.offline:
        said = f"no language model: the offline engine looks up passages by keyword ({choice.reason})"
        yield DiagnosisLine(
            "warning", said, "To use a model, set -m or RLM_DSPY_MODEL, start Ollama, or set GROQ_API_KEY."
        )
        return
    yield DiagnosisLine("ok", f"model: {choice.model} ({choice.reason})")
    yield from _probe_model(choice.model, values)


def _check_other_models(values: settings.Settings) -> Iterator[DiagnosisLine]:
    for role, name in (("sub-model", values.sub_model), ("fallback", values.fallback)):
        if name and name != "offline":
            yield DiagnosisLine("ok", f"{role}: {name}")
            yield from _probe_model(name, values)


def _probe_model(model: str, values: settings.Settings) -> Iterator[DiagnosisLine]:
    try:
        yield from probe_provider(model, num_ctx=values.num_ctx)
    except ConfigurationError as error:
        yield DiagnosisLine("failure", str(error), "Fix the model's name.")
