"""What confines the code of a model on this platform, in one line of ``doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass

from rlm_dspy.lms.model_list import DiagnosisLine
from rlm_dspy.sandbox import policy

NO_NATIVE = "Run it in WSL (Windows) or in Docker, where the native sandbox works."


@dataclass(frozen=True)
class PlatformFacts:
    """What the line depends on; tests make those of other platforms."""

    system: str  # as sys.platform
    machine: str
    release: str
    has_sandbox_exec: bool
    has_deno: bool


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
    deno = "Deno is installed" if facts.has_deno else "it needs Deno, which is not installed"
    told = f"{where}, no native sandbox; DSPy's own modules can use its WASM interpreter ({deno})"
    return DiagnosisLine("warning", told, NO_NATIVE)


def _macos_line(where: str, facts: PlatformFacts) -> DiagnosisLine:
    if not facts.has_sandbox_exec:
        return DiagnosisLine("failure", f"{where}, but {policy.SANDBOX_EXEC} is missing", "Run it in Docker.")
    told = f"{where}, sandbox-exec (Seatbelt), which was never tested on a Mac"
    return DiagnosisLine("warning", told, "Docker has the tested sandbox.")
