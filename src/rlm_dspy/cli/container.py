"""The checks of ``doctor --container``: what the container leaves the sandbox and the service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rlm_dspy.errors import SandboxError
from rlm_dspy.lms.model_list import DiagnosisLine
from rlm_dspy.sandbox import report

MIN_PROCESSES = 64  # for 16 questions at once
MIN_MEMORY = 512 << 20  # bytes
PROFILE = "Allow seccomp and landlock_* in the container's seccomp profile (Docker's default does)."


def check_container(root: Path = Path("/")) -> Iterator[DiagnosisLine]:
    """Yield a line for each thing that a container may withhold.

    Args:
        root: the root of the file system, for tests.
    """
    yield DiagnosisLine("ok", f"container: {_container_kind(root) or 'none found, checked as if in one'}")
    if not hasattr(os, "geteuid"):
        yield DiagnosisLine("failure", "this is not a Linux container", "Run it inside the container.")
        return
    if os.geteuid() == 0:
        yield DiagnosisLine("warning", "runs as root", "Add USER to the Dockerfile: the sandbox does not need root.")
    else:
        yield DiagnosisLine("ok", f"runs as user {os.geteuid()}")
    yield from _check_layers()
    yield from _check_limits(root)


def _check_layers() -> Iterator[DiagnosisLine]:
    try:
        facts = report("best-effort")
    except SandboxError as error:
        yield DiagnosisLine("failure", f"no sandbox is possible in this container: {error}", PROFILE)
        return
    layers = {
        "seccomp": (facts.get("seccomp"), PROFILE),
        "Landlock": (facts.get("landlock"), "It needs Linux 5.13 and the landlock_* system calls in the profile."),
        "user namespaces": (facts.get("namespaces"), "Containers usually block them; seccomp and Landlock suffice."),
    }
    for name, (is_there, fix) in layers.items():
        suffices = facts.get("strong")
        if is_there:
            yield DiagnosisLine("ok", f"{name}: yes")
        else:
            yield DiagnosisLine("ok" if suffices else "warning", f"{name}: no", fix)
    if facts.get("strong"):
        yield DiagnosisLine("ok", f"isolation is strong: {facts.get('reason')}")
    else:
        said = f"isolation is not strong: {facts.get('reason')}"
        yield DiagnosisLine("failure", said, f"{PROFILE} Sandbox(isolation='best-effort') accepts what there is.")


def _check_limits(root: Path) -> Iterator[DiagnosisLine]:
    group = root / "sys" / "fs" / "cgroup"
    processes, memory = _read_limit(group / "pids.max"), _read_limit(group / "memory.max")
    if processes is not None and processes < MIN_PROCESSES:
        fix = f"Set --pids-limit to {MIN_PROCESSES} or more, or lower SERVICE_MAX_AT_ONCE."
        yield DiagnosisLine("warning", f"at most {'1 process' if processes == 1 else f'{processes} processes'}", fix)
    else:
        yield DiagnosisLine("ok", f"processes: {'no limit' if processes is None else f'at most {processes:,}'}")
    if memory is not None and memory < MIN_MEMORY:
        yield DiagnosisLine(
            "warning", f"at most {memory >> 20} MB of memory", f"Set --memory to {MIN_MEMORY >> 20}m or more."
        )
    else:
        yield DiagnosisLine("ok", f"memory: {'no limit' if memory is None else f'at most {memory >> 20:,} MB'}")


def _container_kind(root: Path) -> str:
    """Return what kind of container this is, "" if no sign of one is found."""
    if os.path.exists(root / ".dockerenv"):
        return "Docker"
    if os.path.exists(root / "run" / ".containerenv"):
        return "Podman"
    if os.path.exists(root / "var/run/secrets/kubernetes.io"):
        return "Kubernetes"
    return ""


def _read_limit(path: Path) -> int | None:
    """Return a limit of a control group; None if there is none or it cannot be read."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    if text.isdigit():
        return int(text)
    return None
